"""What one model makes of one moment: its filtered state, its dream, its predictions, and their pictures."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from worldlab.agent import Agent, HasValue
from worldlab.errors import ConfigError
from worldlab.rollout import Carry
from worldlab.world_model import WorldModel

Pictures = dict[str, np.ndarray]
"""An observation as a model draws it, in the environment's units: {key: uint8 [H, W, C] or float32 [n]}."""


@dataclass(frozen=True)
class PlayedModel:
    """A trained model that is played. name: what people call it, for example the name of its run."""

    name: str
    model: WorldModel
    agent: Agent

    @property
    def draws(self) -> bool:
        """Whether the model can draw: its decoder renders, or a probe stands in for it."""
        return self.model.decoder.renders or self.model.probe is not None

    @property
    def has_temperature(self) -> bool:
        """Whether the dynamics has a temperature."""
        try:
            self.model.check_temperature(2.0)
        except ConfigError:
            return False
        return True

    @torch.no_grad()
    def predict(self, features: Tensor) -> dict[str, np.ndarray]:
        """Return what the heads and the agent predict at features [N, F]: reward, cont and, if there is one, value, [N]."""
        found = {"reward": self.model.reward(features).mean, "cont": self.model.cont(features).mean}
        if isinstance(self.agent, HasValue):
            found["value"] = self.agent.value(features)
        return {name: value.cpu().numpy() for name, value in found.items()}

    @torch.no_grad()
    def draw(self, features: Tensor, seed: int = 0) -> dict[str, np.ndarray]:
        """Draw features [N, F]: {key: [N, ...]} in the environment's units. seed: of decoders that draw a sample."""
        generator = torch.Generator(self.model.device).manual_seed(seed)
        return {key: value.cpu().numpy() for key, value in self.model.render(features, generator).items()}


@dataclass(frozen=True)
class Drawing:
    """The pictures of a view. error: root mean squared error of the dream in the first entry drawn, in its units."""

    reconstruction: Pictures
    dream: Pictures
    error: float
    seconds: float
    """How long the model took to draw them."""


@dataclass
class View:
    """One model at one moment. Until the dream begins, it is the filtered state.

    carry, features: after the real observation, one row. dream_carry, dream_features: the same actions without
    observations since the dream began. seen, dreamt: the predictions at both, by name.
    """

    carry: Carry
    features: Tensor
    dream_carry: Carry
    dream_features: Tensor
    seen: dict[str, float]
    dreamt: dict[str, float]
    drawing: Drawing | None = field(default=None, repr=False)
    """Set once it has been drawn."""


@torch.no_grad()
def view_after(
    played: PlayedModel,
    before: View | None,
    action: np.ndarray,
    obs: dict[str, np.ndarray],
    *,
    dreaming: bool,
    generator: torch.Generator | None,
    temperature: float,
) -> View:
    """Return the view after an encoded action [A] led to a raw observation.

    before: the view at the last moment; None at the start of an episode. dreaming: whether the dream goes on without the
    observation; else it begins anew at this moment. generator: of the dream, None takes the most likely latents.
    """
    model = played.model
    encoded = torch.as_tensor(action, dtype=torch.float32, device=model.device)[None]
    tensors = {key: torch.as_tensor(value)[None].to(model.device) for key, value in obs.items()}
    first = torch.tensor([before is None], device=model.device)
    carry = model.initial(1) if before is None else before.carry
    carry, features = model.filter(carry, tensors, encoded, first, None)
    dream_carry, dream_features = carry, features
    if dreaming and before is not None:
        dream_carry, dream_features, _, _ = model.step(before.dream_carry, encoded, generator, temperature)
    numbers = played.predict(torch.cat([features, dream_features]))
    seen, dreamt = ({name: float(value[row]) for name, value in numbers.items()} for row in (0, 1))
    return View(carry, features, dream_carry, dream_features, seen, dreamt)


def draw_view(played: PlayedModel, view: View, obs: dict[str, np.ndarray]) -> Drawing:
    """Draw a view, unless it has been drawn; obs: the real observation of its moment."""
    if view.drawing is None:
        begin = time.perf_counter()
        drawn = played.draw(torch.cat([view.features, view.dream_features]))
        reconstruction, dream = ({key: value[row] for key, value in drawn.items()} for row in (0, 1))
        key = main_key(obs)
        difference = dream[key].astype(np.float32) - obs[key].astype(np.float32)
        error = float(np.sqrt(np.square(difference).mean()))
        view.drawing = Drawing(reconstruction, dream, error, time.perf_counter() - begin)
    return view.drawing


def main_key(obs: dict[str, np.ndarray]) -> str:
    """Return the entry of an observation that is shown: the first image, else the first vector."""
    return max(obs, key=lambda key: obs[key].ndim)
