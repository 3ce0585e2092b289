"""What an agent makes of the disagreement of an ensemble in its dreams: a bonus, a penalty, or the weight of a step."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from worldlab.world_model import Dream, WorldModel


class Attitude(Protocol):
    """The settings that say what disagreement is worth, per unit."""

    @property
    def pessimism(self) -> float: ...

    @property
    def curiosity(self) -> float: ...


def reads_disagreement(attitude: Attitude) -> bool:
    """Return whether any of the settings needs the disagreement."""
    return bool(attitude.pessimism or attitude.curiosity)


def bonus_of(attitude: Attitude, explore: bool) -> float:
    """Return the reward per unit of disagreement: the curiosity while collecting, else minus the pessimism.

    Curiosity: Sekar et al. 2020 (Plan2Explore), arXiv:2005.05960. Pessimism: Yu et al. 2020 (MOPO), arXiv:2005.13239,
    eq. 6, with the variance between the members as the error of the model.
    """
    return attitude.curiosity if explore and attitude.curiosity else -attitude.pessimism


def with_bonus(dream: Dream, model: WorldModel, bonus: float) -> Dream:
    """Return a dream whose reward on each arrival contains `bonus` times the disagreement about that arrival."""
    if not bonus:
        return dream
    return replace(dream, reward=dream.reward + bonus * model.disagreement(dream.features[:, 1:]))


@torch.no_grad()
def step_weights(dream: Dream, model: WorldModel, confidence: float) -> Tensor | float:
    """Return the weight [N, H] of each imagined step: 1 / (1 + confidence * disagreement / its mean), 1 without any.

    It is the inverse variance of the next latent with a floor, as Aghabozorgi et al. 2026 (WIMLE), arXiv:2602.14351, weigh
    imagined transitions. There the variance also contains the noise of each member. Here it is that between the members
    alone, relative to its mean over the batch, so that one setting suits latents of any scale.
    """
    if not confidence:
        return 1.0
    variance = model.disagreement(dream.features[:, 1:])
    return 1 / (1 + confidence * variance / variance.mean().clamp(min=1e-12))
