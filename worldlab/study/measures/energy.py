"""How well a dream foretells the true state, by proper scores in a space that is the same for every kind of dynamics.

A dream is a set of draws of features; a ridge reading turns each into a state. So the forecast of the state at a later step is

    reading(features drawn there) + a residual of that reading,    both in standard deviations of the state

with residuals taken from episodes that the reading was not fitted to: without them a poor reading would pass for a dream too sure
of itself. What comes out is scored against the state that came, together with two forecasts that know no model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldlab.study.measures.intervals import mean
from worldlab.study.measures.probe import examples_of
from worldlab.study.measures.quantities import HORIZONS
from worldlab.study.measures.regress import Reading, finite, ridge
from worldlab.study.measures.scores import crps, energy_score, inside
from worldlab.study.measures.specimen import Specimen, future, plan, where_dreams_begin
from worldlab.study.results import Measurement

CHUNK = 16
"""Starts whose dreams are in memory at a time."""


@dataclass(frozen=True)
class StateReading:
    """A reading of the state with its residuals float64 [R, K], drawn from as they are: whole rows, so that factors stay together."""

    read: Reading
    residuals: Tensor

    @classmethod
    def of(cls, specimen: Specimen) -> StateReading:
        """Fitted to sampled latents, as dreams hold them. Raises: Undefined where the state is not known."""
        features, stop = specimen.noisy.features, specimen.frames("stop")
        read = ridge(examples_of(specimen, features, specimen.truth))
        return cls(read, specimen.truth[stop] - read(features[stop]))

    def draw(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """States float64 [N, K] that features [N, F] stand for."""
        chosen = torch.randint(len(self.residuals), (len(features),), generator=generator)
        return self.read(features) + self.residuals[chosen]


def measured(specimen: Specimen) -> dict[str, Measurement]:
    """energy/... Raises: Undefined where the true state is not known, or no episode is long enough to dream in."""
    truth, recording = specimen.truth, specimen.recording
    episode, time = where_dreams_begin(specimen, max(HORIZONS))
    dreamt = dreamt_states(specimen, episode, time)
    marginal = _marginal(specimen, len(episode))
    out: dict[str, Measurement] = {}
    for k, states in zip(HORIZONS, dreamt, strict=True):
        came, there = future(recording, truth, episode, time, k)
        if not len(came):
            why = f"no recorded episode goes on for {k} decisions after the observations that a dream begins from"
            out |= {f"energy/{name}_{k}": Measurement(None, why=why) for name in NAMES}
            continue
        persistent = truth[episode[there], time[there]][None]
        scores = {
            "score": energy_score(states[:, there], came),
            "crps": crps(states[:, there], came),
            "inside90": inside(states[:, there], came),
            "persistence": energy_score(persistent, came),
            "marginal": energy_score(marginal[:, there], came),
        }
        out |= {f"energy/{name}_{k}": mean(value, episode[there]) for name, value in scores.items()}
    return out


NAMES = ("score", "crps", "inside90", "persistence", "marginal")
"""What is said of each horizon."""


@torch.no_grad()
def dreamt_states(specimen: Specimen, episode: Tensor, time: Tensor) -> Tensor:
    """States float64 [len(HORIZONS), S, M, K] dreamt from frames (episode, time) [M] along the actions that were taken."""
    model, samples = specimen.model, specimen.sizes.samples
    generator, noise = specimen.generator("energy"), torch.Generator().manual_seed(specimen.seed)
    reading, seen = StateReading.of(specimen), specimen.noisy
    actions = plan(specimen.recording, episode, time, max(HORIZONS)).to(model.device)
    out = []
    for rows in torch.arange(len(episode)).split(CHUNK):
        carry = seen.at(episode[rows].to(model.device), time[rows].to(model.device))
        many = actions[rows].repeat_interleave(samples, 0)
        dream = model.imagine(model.fork(carry, samples), many, max(HORIZONS), generator)
        features = finite(dream.features[:, list(HORIZONS)].cpu(), "the dreams of this model")  # [M S, horizons, F]
        states = torch.stack([reading.draw(features[:, i], noise) for i in range(len(HORIZONS))])
        out.append(states.unflatten(1, (len(rows), samples)).transpose(1, 2))
    return torch.cat(out, 2)


def _marginal(specimen: Specimen, count: int) -> Tensor:
    """States [S, count, K] of random frames that are learned from: a forecast that knows nothing of the moment."""
    states = specimen.truth[specimen.frames("fit")]
    generator = torch.Generator().manual_seed(specimen.seed)
    return states[torch.randint(len(states), (specimen.sizes.samples, count), generator=generator)]
