"""Whether one dreamt step reaches every next state, with the right probability. Needs known transition probabilities.

For each state with several possible outcomes, every action is imagined many times from recorded contexts. The decoder
(or the probe, if the decoder does not draw) renders each dreamt step, and the environment identifies the state in the
image.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from worldlab.rollout import Carry
from worldlab.study.measures.ground_truth import HasTransitionProbs, find_layer
from worldlab.study.measures.measured_model import CONTEXT, MeasuredModel
from worldlab.study.measures.standard_errors import make_measurement
from worldlab.study.measures.undefined import Undefined
from worldlab.study.results import Measurement
from worldlab.world_model import WorldModel

REACHED = 0.01
"""Share of the samples above which a next state counts as reached."""
CHUNK = 256
"""Dreamt steps rendered per forward pass."""

StateOf = Callable[[dict[str, np.ndarray]], np.ndarray]
"""HasTransitionProbs.state_of."""


def measure(subject: MeasuredModel) -> dict[str, Measurement]:
    """Measure coverage/...

    Raises: Undefined where transition probabilities are not known, every transition is deterministic, or no frame of a
    stochastic state was recorded.
    """
    env = subject.make_env()
    try:
        world = find_layer(env, HasTransitionProbs)
        if world is None or subject.model.specs.action.kind != "discrete":
            raise Undefined("the transition probabilities of this environment are not known")
        if not subject.model.decoder.renders and subject.model.probe is None:
            raise Undefined("neither the decoder nor a probe draws images")
        return _compare(subject, world)
    finally:
        env.close()


def _compare(subject: MeasuredModel, world: HasTransitionProbs) -> dict[str, Measurement]:
    truth, outcomes, model = world.transition_probs(), subject.sizes.outcomes, subject.model
    generator = subject.generator("coverage")
    values: dict[str, list[float]] = {"total_variation": [], "distinct": [], "nowhere": [], "by_chance": []}
    for state, (episode, time) in _find_contexts(subject, truth, world.state_of).items():
        carry = subject.sampled_trace.at(episode.to(model.device), time.to(model.device))
        for action, exact in enumerate(truth[state]):
            probs = estimate_transition_probs(model, carry, action, outcomes, world.state_of, len(truth), generator)
            values["total_variation"].append(total_variation(probs, exact))
            values["distinct"].append(float((probs[:-1][exact > 0] > REACHED).mean()))
            values["nowhere"].append(float(probs[-1]))
            values["by_chance"].append(expected_variation(exact, outcomes * len(episode)))
    return {f"coverage/{name}": _average(value) for name, value in values.items()}


def _find_contexts(subject: MeasuredModel, truth: np.ndarray, state_of: StateOf) -> dict[int, tuple[Tensor, Tensor]]:
    """Find test frames (episode, time) for each state in which some action has several possible outcomes."""
    episode, time = subject.frames("test")
    late = time >= CONTEXT - 1
    episode, time = episode[late], time[late]
    if not len(episode):
        raise Undefined(f"no recorded episode has {CONTEXT} observations")
    data, keys = subject.recording.data, subject.model.specs.obs.keys
    states = state_of({key: data[key][episode.numpy(), time.numpy()] for key in keys})
    out = {}
    for state in np.flatnonzero(((truth > 0).sum(2) > 1).any(1)).tolist():
        frames = np.flatnonzero(states == state)
        if len(frames):
            spread = np.unique(np.linspace(0, len(frames) - 1, subject.sizes.contexts).round().astype(int))
            chosen = torch.from_numpy(frames[spread])
            out[state] = (episode[chosen], time[chosen])
    if not out:
        raise Undefined("no recorded frame shows a state with several possible outcomes")
    return out


@torch.no_grad()
def estimate_transition_probs(
    model: WorldModel,
    carry: Carry,
    action: int,
    samples: int,
    state_of: StateOf,
    states: int,
    generator: torch.Generator,
) -> np.ndarray:
    """Estimate the distribution of next states under the model after a discrete action.

    carry: contexts [M, ...], each imagined `samples` times. Returns: float64 [states + 1]; the last entry is the share
    of images that show no state.
    """
    many = model.fork(carry, samples)
    step = torch.eye(model.specs.action.dim, device=model.device)[action].expand(len(many.z), -1)
    _, features, _, _ = model.step(many, step, generator)
    reached = []
    for rows in features.split(CHUNK):
        reached.append(state_of({key: value.cpu().numpy() for key, value in model.render(rows, generator).items()}))
    return np.bincount(np.concatenate(reached), minlength=states + 1) / len(features)


def total_variation(dreamt: np.ndarray, exact: np.ndarray) -> float:
    """Return the total variation between dreamt shares [S + 1], last entry "no state", and probabilities [S]."""
    return float(0.5 * (np.abs(dreamt[:-1] - exact).sum() + dreamt[-1]))


def expected_variation(probs: np.ndarray, draws: int) -> float:
    """Return the expected total variation between `draws` samples of probabilities [S] and the probabilities.

    No model can be expected to score below it. It is half the sum of mean absolute deviations of binomials,
    2 v (1 - p) P(X = v), v = floor(n p) + 1 (de Moivre 1730).
    """
    from scipy.stats import binom  # imported late: it takes over a second, and few environments need it

    v = np.floor(draws * probs) + 1
    return float((v * (1 - probs) * binom.pmf(v, draws, probs)).sum() / draws)


def _average(values: list[float]) -> Measurement:
    """Average over pairs of state and action; the standard error treats these as a sample of all such pairs."""
    error = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    return make_measurement(float(np.mean(values)), error)
