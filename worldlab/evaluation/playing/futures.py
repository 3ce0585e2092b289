"""Dreams several futures of one moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldlab import tree
from worldlab.evaluation.playing.noise import Noise
from worldlab.evaluation.playing.views import PlayedModel
from worldlab.rollout import Carry

Act = Callable[[Carry, Tensor, int], Tensor]
"""Maps a carry [K, ...], its features [K, F] and the number of the step to encoded actions [K, A]."""
DRAWING_SECONDS = 3.0
"""How long all pictures of a fan may take to draw; a slow decoder draws every n-th step only."""


@dataclass(frozen=True)
class Futures:
    """K dreams of H steps from one moment, aligned by arrival as `worldlab.world_model.Dream` is.

    features: [K, H+1, F]. actions: encoded, [K, H, A]. numbers: {name: [K, H+1]}, predictions at each state; the first
    column is the start. labels: what distinguishes each future.
    """

    features: Tensor
    actions: np.ndarray
    numbers: dict[str, np.ndarray]
    labels: tuple[str, ...]

    @property
    def returns(self) -> np.ndarray:
        """The predicted undiscounted return [K]; a reward counts with the probability that the episode reaches it."""
        reward, cont = self.numbers["reward"][:, 1:], self.numbers["cont"][:, 1:]
        alive = np.cumprod(np.concatenate([np.ones_like(cont[:, :1]), cont[:, :-1]], 1), 1)
        return (alive * reward).sum(1)


@torch.no_grad()
def dream_futures(
    played: PlayedModel, start: Carry, act: Act, horizon: int, noise: Noise, labels: tuple[str, ...]
) -> Futures:
    """Dream one future for each label from a carry of one row, in which `act` chooses the actions."""
    model = played.model
    generator = noise.generator(model.device)
    carry = tree.repeat(start, len(labels))
    features, actions = [model.features(carry)], []
    for step in range(horizon):
        actions.append(act(carry, features[-1], step))
        carry, reached, _, _ = model.step(carry, actions[-1], generator, noise.temperature)
        features.append(reached)
    stacked = torch.stack(features, 1)
    predicted = played.predict(stacked.flatten(0, 1))
    numbers = {name: value.reshape(len(labels), horizon + 1) for name, value in predicted.items()}
    return Futures(stacked, torch.stack(actions, 1).cpu().numpy(), numbers, labels)


def follow_agent(played: PlayedModel, count: int) -> Act:
    """Return the `act` of the agent, without exploration noise, in each of `count` futures."""
    state = {"plan": played.agent.initial(count)}
    generator = torch.Generator(played.model.device).manual_seed(0)

    def act(carry: Carry, features: Tensor, step: int) -> Tensor:
        action, state["plan"] = played.agent.act(played.model, carry, features, state["plan"], generator, explore=False)
        return action.clamp(-1, 1) if played.model.specs.action.kind == "continuous" else action

    return act


def follow_plan(plan: np.ndarray, device: torch.device) -> Act:
    """Return the `act` of a plan [K, H, A]; after its end it repeats the last action."""
    tensor = torch.as_tensor(plan, dtype=torch.float32, device=device)
    return lambda carry, features, step: tensor[:, min(step, tensor.shape[1] - 1)]


def drawn_steps(horizon: int, count: int, seconds: float) -> list[int]:
    """Return the steps of `count` futures to draw, if one picture takes `seconds`: all, or evenly spaced ones with 0."""
    most = max(2, int(DRAWING_SECONDS / max(seconds * count, 1e-6)))
    stride = -(-(horizon + 1) // most)
    return list(range(0, horizon + 1, stride))


def draw_futures(played: PlayedModel, futures: Futures, steps: list[int]) -> dict[str, np.ndarray]:
    """Draw the chosen steps of all futures: {key: [K, len(steps), ...]} in the environment's units."""
    chosen = futures.features[:, steps]
    drawn = played.draw(chosen.flatten(0, 1))
    return {key: value.reshape(*chosen.shape[:2], *value.shape[1:]) for key, value in drawn.items()}
