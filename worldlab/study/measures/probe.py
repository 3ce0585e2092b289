"""How well the true state can be predicted from the latent, on a scale between an untrained and a supervised encoder.

Linear and small nonlinear probes; Alain & Bengio 2016, arXiv:1610.01644. The probes read the most likely latents,
without sampling noise: they are what a deterministic agent uses, and the sampling noise of an untrained encoder would
hide its signal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldlab.study.measures.measured_model import MeasuredModel
from worldlab.study.measures.r2 import R2Scores
from worldlab.study.measures.regression import Examples, fit_mlp, fit_ridge
from worldlab.study.measures.supervised import predict_supervised
from worldlab.study.results import Measurement

LATENTS = {"z": "", "features": "_features"}
"""Inputs of the probes, and the suffixes of their quantities."""


def measure(subject: MeasuredModel) -> dict[str, Measurement]:
    """Measure probe/... Raises: Undefined where the environment does not expose its state."""
    target = subject.truth
    predictions = predict_with_probes(subject, target)
    episode, time = subject.frames("test")
    predictions["supervised"] = predict_supervised(subject, target)[episode, time]
    r2 = R2Scores.compute(predictions, target[episode, time], episode)
    out = {"probe/supervised_r2": r2.score("supervised")}
    for kind in ("linear", "mlp"):
        for suffix in LATENTS.values():
            name = f"{kind}_r2{suffix}"
            out[f"probe/{name}"] = r2.score(name)
            out[f"probe/{name}_random"] = r2.score(f"{name}_random")
            out[f"probe/{kind}_normalised{suffix}"] = r2.normalise(name, f"{name}_random", "supervised")
    return out


def predict_with_probes(
    subject: MeasuredModel, target: Tensor, linear: str = "linear_r2", nonlinear: str = "mlp_r2"
) -> dict[str, Tensor]:
    """Predict targets [E, T, K] in the test frames from the latents of the trained and of the untrained model.

    linear, nonlinear: prefixes of the quantities. Returns: predictions [N, K] by quantity.
    """
    out = {}
    for trace, model_suffix in ((subject.mode_trace, ""), (subject.untrained_trace, "_random")):
        for latent, suffix in LATENTS.items():
            inputs = trace.z if latent == "z" else trace.features
            both = predict_both(subject, inputs, target)
            out |= {f"{kind}{suffix}{model_suffix}": read for kind, read in zip((linear, nonlinear), both, strict=True)}
    return out


def predict_both(subject: MeasuredModel, inputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return linear and nonlinear predictions [N, K] of targets [E, T, K] from inputs [E, T, F], in the test frames."""
    examples = split_examples(subject, inputs, target)
    test = inputs[subject.frames("test")]
    predict = fit_mlp(examples, subject.sizes.probe_epochs, torch.Generator().manual_seed(subject.seed))
    return fit_ridge(examples)(test), predict(test)


def split_examples(subject: MeasuredModel, inputs: Tensor, target: Tensor) -> Examples:
    """Select the frames that fit and validate probes of targets [E, T, K] from inputs [E, T, F]."""
    fit, validation = subject.frames("fit"), subject.frames("validation")
    return Examples((inputs[fit], target[fit]), (inputs[validation], target[validation]))
