"""How well dreams predict the true state: proper scoring rules in a space that is the same for every kind of dynamics.

A dream consists of samples of features, and a ridge regression predicts a state from each. A later state's forecast is

    prediction from the features sampled there + a residual of the regression,    both in std of the state

with residuals from episodes that the regression was not fitted to. Without residuals, a poor regression would look like
an overconfident dream. The forecast is scored against the true state, beside two baselines that use no model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldlab.evaluation.scoring_rules import coverage_90, crps, energy_score
from worldlab.study.measures.measured_model import MeasuredModel, choose_dream_starts, gather_actions, gather_future
from worldlab.study.measures.probe import split_examples
from worldlab.study.measures.quantities import HORIZONS
from worldlab.study.measures.regression import Predictor, check_finite, fit_ridge
from worldlab.study.measures.standard_errors import average_frames
from worldlab.study.results import Measurement

CHUNK = 16
"""Starting frames whose dreams are in memory at a time."""


@dataclass(frozen=True)
class StateForecaster:
    """A ridge regression from features to the state, with its residuals float64 [R, K].

    Residuals are sampled as whole rows, which preserves the correlation between factors.
    """

    predict: Predictor
    residuals: Tensor

    @classmethod
    def fit(cls, subject: MeasuredModel) -> StateForecaster:
        """Fit to sampled latents, since dreams consist of samples. Raises: Undefined where the state is not exposed."""
        features, validation = subject.sampled_trace.features, subject.frames("validation")
        predict = fit_ridge(split_examples(subject, features, subject.truth))
        return cls(predict, subject.truth[validation] - predict(features[validation]))

    def sample(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Sample states float64 [N, K] given features [N, F]."""
        chosen = torch.randint(len(self.residuals), (len(features),), generator=generator)
        return self.predict(features) + self.residuals[chosen]


def measure(subject: MeasuredModel) -> dict[str, Measurement]:
    """Measure energy/... Raises: Undefined where the state is not exposed, or no episode is long enough for a dream."""
    truth, recording = subject.truth, subject.recording
    episode, time = choose_dream_starts(subject, max(HORIZONS))
    dreamt = dream_states(subject, episode, time)
    marginal = _sample_marginal(subject, len(episode))
    out: dict[str, Measurement] = {}
    for k, states in zip(HORIZONS, dreamt, strict=True):
        target, exists = gather_future(recording, truth, episode, time, k)
        if not len(target):
            why = f"no recorded episode continues for {k} decisions after the context of a dream"
            out |= {f"energy/{name}_{k}": Measurement(None, why=why) for name in NAMES}
            continue
        persistent = truth[episode[exists], time[exists]][None]
        scores = {
            "score": energy_score(states[:, exists], target),
            "crps": crps(states[:, exists], target),
            "inside90": coverage_90(states[:, exists], target),
            "persistence": energy_score(persistent, target),
            "marginal": energy_score(marginal[:, exists], target),
        }
        out |= {f"energy/{name}_{k}": average_frames(value, episode[exists]) for name, value in scores.items()}
    return out


NAMES = ("score", "crps", "inside90", "persistence", "marginal")
"""Quantities measured at each horizon."""


@torch.no_grad()
def dream_states(subject: MeasuredModel, episode: Tensor, time: Tensor) -> Tensor:
    """Sample states in dreams from frames (episode, time) [M] along the recorded actions.

    Returns: float64 [len(HORIZONS), S, M, K].
    """
    model, samples = subject.model, subject.sizes.samples
    generator, noise = subject.generator("energy"), torch.Generator().manual_seed(subject.seed)
    forecaster, observed = StateForecaster.fit(subject), subject.sampled_trace
    actions = gather_actions(subject.recording, episode, time, max(HORIZONS)).to(model.device)
    out = []
    for rows in torch.arange(len(episode)).split(CHUNK):
        carry = observed.at(episode[rows].to(model.device), time[rows].to(model.device))
        many = actions[rows].repeat_interleave(samples, 0)
        dream = model.imagine(model.fork(carry, samples), many, max(HORIZONS), generator)
        features = check_finite(
            dream.features[:, list(HORIZONS)].cpu(), "the dreams of this model"
        )  # [M S, horizons, F]
        states = torch.stack([forecaster.sample(features[:, i], noise) for i in range(len(HORIZONS))])
        out.append(states.unflatten(1, (len(rows), samples)).transpose(1, 2))
    return torch.cat(out, 2)


def _sample_marginal(subject: MeasuredModel, count: int) -> Tensor:
    """Sample states [S, count, K] from random frames of the fit episodes: a forecast that ignores the present."""
    states = subject.truth[subject.frames("fit")]
    generator = torch.Generator().manual_seed(subject.seed)
    return states[torch.randint(len(states), (subject.sizes.samples, count), generator=generator)]
