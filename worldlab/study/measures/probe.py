"""What a latent knows of the true state: linear and small nonlinear readings, between a random and a supervised encoder.

Alain & Bengio 2016, arXiv:1610.01644. The latents are the most likely ones, without sampling noise: what a deterministic agent
has, and what an untrained encoder's are comparable with.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldlab.study.measures.explained import Explained
from worldlab.study.measures.regress import Examples, network, ridge
from worldlab.study.measures.specimen import Specimen
from worldlab.study.measures.supervised import supervised_reading
from worldlab.study.results import Measurement

LATENTS = {"z": "", "features": "_features"}
"""What is read, and how the names of its quantities end."""


def measured(specimen: Specimen) -> dict[str, Measurement]:
    """probe/... Raises: Undefined where the true state is not known."""
    target = specimen.truth
    readings = readings_of(specimen, target)
    episode, time = specimen.frames("test")
    readings["supervised"] = supervised_reading(specimen, target)[episode, time]
    explained = Explained.of(readings, target[episode, time], episode)
    out = {"probe/supervised_r2": explained.score("supervised")}
    for kind in ("linear", "mlp"):
        for ending in LATENTS.values():
            name = f"{kind}_r2{ending}"
            out[f"probe/{name}"] = explained.score(name)
            out[f"probe/{name}_random"] = explained.score(f"{name}_random")
            out[f"probe/{kind}_normalised{ending}"] = explained.between(name, f"{name}_random", "supervised")
    return out


def readings_of(
    specimen: Specimen, target: Tensor, linear: str = "linear_r2", nonlinear: str = "mlp_r2"
) -> dict[str, Tensor]:
    """Readings of the judged frames by quantity, off the trained model's latents and off the untrained one's. linear, nonlinear:
    how the names of their quantities begin."""
    out = {}
    for trace, whose in ((specimen.quiet, ""), (specimen.untrained, "_random")):
        for latent, ending in LATENTS.items():
            inputs = trace.z if latent == "z" else trace.features
            both = read_both(specimen, inputs, target)
            out |= {f"{kind}{ending}{whose}": read for kind, read in zip((linear, nonlinear), both, strict=True)}
    return out


def read_both(specimen: Specimen, inputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Linear and nonlinear readings [N, K] of the judged frames, off inputs [E, T, F], of targets [E, T, K]."""
    examples = examples_of(specimen, inputs, target)
    judged = inputs[specimen.frames("test")]
    reading = network(examples, specimen.sizes.probe_epochs, torch.Generator().manual_seed(specimen.seed))
    return ridge(examples)(judged), reading(judged)


def examples_of(specimen: Specimen, inputs: Tensor, target: Tensor) -> Examples:
    """The frames that readings of targets [E, T, K] off inputs [E, T, F] are fitted to, and those that stop the fitting."""
    fit, stop = specimen.frames("fit"), specimen.frames("stop")
    return Examples((inputs[fit], target[fit]), (inputs[stop], target[stop]))
