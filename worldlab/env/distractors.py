"""Distractors: blobs that move independently over every image, which test whether a latent ignores irrelevant
content.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldlab.errors import EnvError

COLOURS = np.array([[255, 140, 0], [0, 200, 255], [220, 60, 220]], np.float32)
"""Colour of each blob, levels 0 to 255."""
RADIUS = 0.16
"""Radius of a blob, relative to the image's shorter side; the three blobs cover about a quarter of a square image."""
DRIFT, KICK = 0.95, 0.02
"""Velocity, in image sides per decision: v' = DRIFT v + KICK noise. Its std is 0.064; a blob crosses the image in about
16 decisions."""
STREAM = 0xB10B5
"""Separates the blobs' random stream from the environment's, which has the same episode seeds."""


class Distractors(gymnasium.Wrapper):
    """Blends three soft blobs over every image: level' = level + strength mask (colour - level), mask in [0, 1].

    Their velocity is a random walk, with reflection at the borders. It is independent of state, action and reward, and
    equal for all episodes of one seed. No mask of the scene is needed: the scene shows through a blob with weight 1 -
    strength. An alpha channel is not changed. Raises: EnvError if no image is observed.
    """

    def __init__(self, env: gymnasium.Env, strength: float):
        super().__init__(env)
        assert isinstance(env.observation_space, spaces.Dict)
        parts = env.observation_space.spaces
        self._pictures = {key for key, part in parts.items() if part.dtype == np.uint8 and part.shape}
        if not self._pictures:
            raise EnvError(
                "env.distractors needs image observations, and this environment has none",
                cause=f"observations: {', '.join(parts)}",
                fix="--env.pixels observes rendered images; or unset --env.distractors",
            )
        self._strength = strength
        self._rng = np.random.default_rng()
        self._place = np.full((len(COLOURS), 2), 0.5)
        self._velocity = np.zeros_like(self._place)

    def noise_factors(self) -> dict[str, np.ndarray]:
        """Return the blobs' centres in the last observation: x and y, [3] each, in image sides from the top left."""
        return {"x": self._place[:, 0].copy(), "y": self._place[:, 1].copy()}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._rng = np.random.default_rng([seed, STREAM])
        self._place = self._rng.random(self._place.shape)
        self._velocity = self._rng.normal(0, KICK / (1 - DRIFT**2) ** 0.5, self._place.shape)
        return self._blend(obs), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._velocity = DRIFT * self._velocity + self._rng.normal(0, KICK, self._place.shape)
        place = self._place + self._velocity
        out = (place < 0) | (place > 1)
        self._velocity = np.where(out, -self._velocity, self._velocity)
        self._place = np.clip(np.where(place > 1, 2 - place, np.abs(place)), 0, 1)
        return self._blend(obs), float(reward), terminated, truncated, info

    def _blend(self, obs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {key: self._draw_blobs(value) if key in self._pictures else value for key, value in obs.items()}

    def _draw_blobs(self, image: np.ndarray) -> np.ndarray:
        """Return the image uint8 [H, W, C] with the blobs."""
        height, width, channels = image.shape
        rows, columns = (np.arange(height) + 0.5)[:, None], np.arange(width) + 0.5
        picture = image.astype(np.float32)
        seen = min(channels, 3)
        for (x, y), colour in zip(self._place, COLOURS, strict=True):
            square = (rows - y * height) ** 2 + (columns - x * width) ** 2
            mask = np.exp(-((square / (RADIUS * min(height, width)) ** 2) ** 2)).astype(np.float32)[..., None]
            own = colour if seen == 3 else colour.mean(keepdims=True)
            picture[..., :seen] += self._strength * mask * (own - picture[..., :seen])
        return (picture + 0.5).astype(np.uint8)
