"""Does one dreamt step reach every next state, as often as it should? Asked where the true odds are known.

From remembered pasts of each state in which more than one thing may happen, every action is dreamt many times; what was dreamt is
drawn as a picture, by the decoder or by the probe where it draws none, and read by the environment itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from worldlab.rollout import Carry
from worldlab.study.measures.abilities import KnowsOdds, able
from worldlab.study.measures.intervals import measurement
from worldlab.study.measures.specimen import SEEN, Specimen
from worldlab.study.measures.undefined import Undefined
from worldlab.study.results import Measurement
from worldlab.world_model import WorldModel

REACHED = 0.01
"""Share of the draws above which a next state counts as dreamt."""
CHUNK = 256
"""Dreams drawn at a time."""

StateOf = Callable[[dict[str, np.ndarray]], np.ndarray]
"""KnowsOdds.state_of."""


def measured(specimen: Specimen) -> dict[str, Measurement]:
    """coverage/... Raises: Undefined where the odds are not known, nothing is left to chance, or nothing was recorded of it."""
    env = specimen.make()
    try:
        knows = able(env, KnowsOdds)
        if knows is None or specimen.model.specs.action.kind != "discrete":
            raise Undefined("the odds of this environment's next states are not known")
        if not specimen.model.decoder.renders and specimen.model.probe is None:
            raise Undefined("neither the decoder nor a probe draws pictures")
        return _against(specimen, knows)
    finally:
        env.close()


def _against(specimen: Specimen, knows: KnowsOdds) -> dict[str, Measurement]:
    truth, outcomes, model = knows.odds(), specimen.sizes.outcomes, specimen.model
    generator = specimen.generator("coverage")
    found: dict[str, list[float]] = {"total_variation": [], "distinct": [], "nowhere": [], "by_chance": []}
    for state, (episode, time) in _pasts(specimen, truth, knows.state_of).items():
        carry = specimen.noisy.at(episode.to(model.device), time.to(model.device))
        for action, exact in enumerate(truth[state]):
            odds = dreamt_odds(model, carry, action, outcomes, knows.state_of, len(truth), generator)
            found["total_variation"].append(total_variation(odds, exact))
            found["distinct"].append(float((odds[:-1][exact > 0] > REACHED).mean()))
            found["nowhere"].append(float(odds[-1]))
            found["by_chance"].append(variation_by_chance(exact, outcomes * len(episode)))
    return {f"coverage/{name}": _over_questions(values) for name, values in found.items()}


def _pasts(specimen: Specimen, truth: np.ndarray, state_of: StateOf) -> dict[int, tuple[Tensor, Tensor]]:
    """Frames (episode, time) of the judged episodes by state, of states from which an action may lead to more than one."""
    episode, time = specimen.frames("test")
    later = time >= SEEN - 1
    episode, time = episode[later], time[later]
    if not len(episode):
        raise Undefined(f"no recorded episode has {SEEN} observations")
    data, keys = specimen.recording.data, specimen.model.specs.obs.keys
    states = state_of({key: data[key][episode.numpy(), time.numpy()] for key in keys})
    out = {}
    for state in np.flatnonzero(((truth > 0).sum(2) > 1).any(1)).tolist():
        there = np.flatnonzero(states == state)
        if len(there):
            spread = np.unique(np.linspace(0, len(there) - 1, specimen.sizes.contexts).round().astype(int))
            chosen = torch.from_numpy(there[spread])
            out[state] = (episode[chosen], time[chosen])
    if not out:
        raise Undefined("no recorded frame shows a state in which more than one thing may happen")
    return out


@torch.no_grad()
def dreamt_odds(
    model: WorldModel,
    carry: Carry,
    action: int,
    samples: int,
    state_of: StateOf,
    states: int,
    generator: torch.Generator,
) -> np.ndarray:
    """Shares float64 [states + 1] of the states that one step along a discrete action leads to from a carry [M, ...], each dreamt
    `samples` times; the last is that of pictures that show none."""
    many = model.fork(carry, samples)
    step = torch.eye(model.specs.action.dim, device=model.device)[action].expand(len(many.z), -1)
    _, features, _, _ = model.step(many, step, generator)
    found = []
    for some in features.split(CHUNK):
        found.append(state_of({key: value.cpu().numpy() for key, value in model.render(some, generator).items()}))
    return np.bincount(np.concatenate(found), minlength=states + 1) / len(features)


def total_variation(dreamt: np.ndarray, exact: np.ndarray) -> float:
    """Half the summed difference between dreamt shares [S + 1], the last of which is no state, and odds [S]."""
    return float(0.5 * (np.abs(dreamt[:-1] - exact).sum() + dreamt[-1]))


def variation_by_chance(odds: np.ndarray, draws: int) -> float:
    """The total variation expected of shares among `draws` draws from the exact odds [S]: what no model can be below.

    Half the sum of mean absolute deviations of binomials, 2 v (1 - p) P(X = v), v = floor(n p) + 1 (de Moivre 1730).
    """
    from scipy.stats import binom  # a second and more, and few environments know their odds

    v = np.floor(draws * odds) + 1
    return float((v * (1 - odds) * binom.pmf(v, draws, odds)).sum() / draws)


def _over_questions(values: list[float]) -> Measurement:
    """The mean over states and actions; the error takes those that were asked for a sample of those that could be."""
    spread = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    return measurement(float(np.mean(values)), spread)
