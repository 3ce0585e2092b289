"""What a latent knows of noise that has nothing to do with the task: the less the better.

As in Nguyen et al. 2021 (TPC), arXiv:2106.07156, who play on backgrounds that move; here the factors of the noise are known, so
that what a latent keeps of them can be read directly, beside what it keeps of the state.
"""

from __future__ import annotations

from worldlab.study.measures.explained import Explained
from worldlab.study.measures.probe import readings_of
from worldlab.study.measures.specimen import Specimen
from worldlab.study.measures.supervised import supervised_reading
from worldlab.study.measures.undefined import Undefined
from worldlab.study.results import Measurement


def measured(specimen: Specimen) -> dict[str, Measurement]:
    """distractor/... Raises: Undefined where observations show no noise."""
    if specimen.recording.noise is None:
        raise Undefined("this environment shows no distractors: env.distractors is 0")
    target = specimen.standardised(specimen.recording.noise)
    readings = readings_of(specimen, target, "noise_r2", "noise_mlp_r2")
    frames = specimen.frames("test")
    readings["supervised_r2"] = supervised_reading(specimen, target)[frames]
    explained = Explained.of(readings, target[frames], frames[0])
    return {f"distractor/{name}": explained.score(name) for name in readings}
