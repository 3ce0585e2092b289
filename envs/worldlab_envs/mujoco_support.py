"""Faster MuJoCo rendering, MuJoCo's warnings in the log, and simulations that diverge as crashes of the environment."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium

from worldlab.errors import EnvCrashedError, EnvError

_log = logging.getLogger("worldlab.mujoco")


@contextmanager
def log_warnings() -> Iterator[None]:
    """Send MuJoCo's warnings to the log; by default it writes MUJOCO_LOG.TXT into the working folder.

    Models are compiled inside the context. What the compiler warns of, such as an outdated attribute in the model of
    HalfCheetah, is for the authors of the model, so it is logged below the level that is shown.
    """
    import mujoco

    set_callback = getattr(mujoco, "set_mju_user_warning", lambda _: None)
    set_callback(_log.debug)
    try:
        yield
    finally:
        set_callback(_log.warning)


class DivergenceCheck(gymnasium.Wrapper):
    """Raises when the simulation diverges: MuJoCo then resets it in the middle of the episode, and only warns.

    The step after which that happened would be a transition that the physics does not have.
    """

    def __init__(self, env: gymnasium.Env):
        import mujoco

        super().__init__(env)
        kinds: Any = getattr(mujoco, "mjtWarning")  # noqa: B009  (pyright cannot see into the compiled module)
        inner: Any = env.unwrapped
        first, last = int(kinds.mjWARN_BADQPOS), int(kinds.mjWARN_BADQACC)
        self._counts = inner.data.warning.number[first : last + 1]  # a view: MuJoCo counts in it

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        answer = self.env.step(action)
        if self._counts.any():
            raise EnvCrashedError(
                "the simulation diverged",
                cause="MuJoCo found NaN, inf or a huge value in its positions, velocities or accelerations",
                fix="a smaller timestep in the model, or smaller actions",
            )
        return answer


def disable_render_effects(env: gymnasium.Env) -> None:
    """Render without shadows, reflections and multi-sampling: 3 to 33 times faster. Call it before the first image.

    Raises: EnvError when no rendering context can be created.
    """
    import mujoco

    inner: Any = env.unwrapped
    inner.model.vis.quality.offsamples = 0
    try:
        scene = inner.mujoco_renderer._get_viewer("rgb_array").scn
    except Exception as error:  # OpenGL loaders raise their own kinds
        raise EnvError(
            "MuJoCo cannot render on this machine",
            cause=f"{type(error).__name__}: {error}",
            fix="install libegl1 or libosmesa6, or set MUJOCO_GL; or unset env.pixels",
        ) from error
    flags: Any = getattr(mujoco, "mjtRndFlag")  # noqa: B009  (pyright cannot see into the compiled module)
    scene.flags[flags.mjRND_SHADOW] = 0
    scene.flags[flags.mjRND_REFLECTION] = 0
