"""How much the latent retains of task-irrelevant noise; lower is better.

The setting follows Nguyen et al. 2021 (TPC), arXiv:2106.07156, who use moving backgrounds. Here the noise factors are
known, so probes measure directly what a latent retains of them, beside what it retains of the state.
"""

from __future__ import annotations

from worldlab.study.measures.measured_model import MeasuredModel
from worldlab.study.measures.probe import predict_with_probes
from worldlab.study.measures.r2 import R2Scores
from worldlab.study.measures.supervised import predict_supervised
from worldlab.study.measures.undefined import Undefined
from worldlab.study.results import Measurement


def measure(subject: MeasuredModel) -> dict[str, Measurement]:
    """Measure distractor/... Raises: Undefined where observations contain no distractors."""
    if subject.recording.noise is None:
        raise Undefined("this environment shows no distractors: env.distractors is 0")
    target = subject.standardise(subject.recording.noise)
    predictions = predict_with_probes(subject, target, "noise_r2", "noise_mlp_r2")
    frames = subject.frames("test")
    predictions["supervised_r2"] = predict_supervised(subject, target)[frames]
    r2 = R2Scores.compute(predictions, target[frames], frames[0])
    return {f"distractor/{name}": r2.score(name) for name in predictions}
