"""CarRacing with lazy rendering: rendering takes 98% of a step, and action repeat discards most frames."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np


class LazyRendering(gymnasium.Wrapper):
    """Delays Gymnasium's rendering until an observation leaves this wrapper, which is placed after the action repeat.

    The returned frames equal Gymnasium's bit for bit. observe: false never renders the observation, for a run that
    observes `render()` instead (the observation is then black).
    """

    def __init__(self, env: gymnasium.Env, observe: bool = True):
        super().__init__(env)
        self._observe = observe
        self._car: Any = env.unwrapped
        self._own_render = self._car._render
        self._reward_shown = 0.0
        space = env.observation_space
        self._unseen = np.zeros(space.shape or (), space.dtype)
        self._car._render = self._render
        _draw_only_visible(self._car)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        _, info = self.env.reset(seed=seed, options=options)
        return self._draw(), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        _, reward, terminated, truncated, info = self.env.step(action)
        return self._draw(), float(reward), terminated, truncated, info

    def _render(self, mode: str) -> Any:
        """Replace CarRacing._render: skip the observation, render everything else as usual."""
        if mode != "state_pixels":
            return self._own_render(mode)
        self._reward_shown = self._car.reward
        return self._unseen

    def _draw(self) -> np.ndarray:
        if not self._observe:
            return self._unseen
        # A step renders before it subtracts the 0.1 of this frame, so the image shows the reward before that.
        now, self._car.reward = self._car.reward, self._reward_shown
        try:
            return np.ascontiguousarray(self._own_render("state_pixels"))
        finally:
            self._car.reward = now


def _draw_only_visible(car: Any) -> None:
    """Skip the transformation of polygons far outside of the window in CarRacing's rendering.

    CarRacing rotates some 800 polygons per frame in Python and then draws about ten. Its own test (a corner within
    MAX_SHAPE_DIM of the window) still decides. This function skips only polygons that cannot pass it: those whose
    corners are all farther from the window's centre than the corners of that larger window.
    """
    from gymnasium.envs.box2d import car_racing as source

    if not all(hasattr(car, name) for name in ("_render_road", "_draw_colored_polygon")):
        return  # another version of Gymnasium: leave its rendering unchanged
    own_road, own_polygon = car._render_road, car._draw_colored_polygon
    margin = source.MAX_SHAPE_DIM
    reach = math.hypot(source.WINDOW_W / 2 + margin, source.WINDOW_H / 2 + margin) + 1  # pixels, 1 for rounding
    grass_size = math.hypot(source.GRASS_DIM, source.GRASS_DIM)
    view = [0.0, 0.0, math.inf]  # centre of the window in the world, square of the reach
    cache: list[Any] = [None, np.zeros((0, 4, 2))]  # the last track and its corners

    def render_road(zoom: float, translation: Any, angle: float) -> None:
        x, y = (source.WINDOW_W / 2 - translation[0]) / zoom, (source.WINDOW_H / 2 - translation[1]) / zoom
        cos, sin = math.cos(-angle), math.sin(-angle)
        view[:] = [x * cos - y * sin, x * sin + y * cos, (reach / zoom + grass_size) ** 2]
        track = car.road_poly
        if cache[0] is not track:
            cache[:] = [track, np.array([corners for corners, _ in track], dtype=np.float64)]
        distance = ((cache[1] - np.array(view[:2])) ** 2).sum(-1)  # [P, 4]
        near = np.flatnonzero((distance <= (reach / zoom) ** 2).any(-1))
        car.road_poly = [track[index] for index in near.tolist()]
        try:
            own_road(zoom, translation, angle)
        finally:
            car.road_poly = track

    def draw_colored_polygon(surface: Any, poly: Any, *rest: Any, **options: Any) -> None:
        x, y = poly[0]
        # A polygon is never wider than a patch of grass, so testing one corner is enough.
        if not options and (x - view[0]) ** 2 + (y - view[1]) ** 2 > view[2]:
            return
        own_polygon(surface, poly, *rest, **options)

    car._render_road = render_road
    car._draw_colored_polygon = draw_colored_polygon
