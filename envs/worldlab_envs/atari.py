"""Games of the Arcade Learning Environment, by the protocol of Atari 100k."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldlab.env.wrappers import wrap
from worldlab.settings import EnvSettings
from worldlab_envs.package_adapter import PackageAdapter

NOOPS = 30
"""The largest number of frames without an action at the start of an episode; it is uniform over 1 to this number."""
FRAMES = 108_000
"""Frames of an episode: 30 minutes of play."""


class AtariGame(gymnasium.Env):
    """A game by the protocol of Atari 100k (Kaiser et al. 2020, arXiv:1903.00374; choices as in DreamerV3).

    One step is one frame; `env.repeat` is 4 by default. Sticky actions are off, actions are the game's own (the
    "minimal" set), rewards are not clipped, and an episode ends when the game is over, not when a life is lost.

    ## Spaces
    Action: Discrete. Observation: Box uint8 (210, 160, 3), black until `PooledFrames` draws it; `env.size` is 64 by
    default.

    ## Ends
    Terminates when the game is over. The limit of 108,000 frames is the wrappers', which truncate.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, game: str):
        ale_py: Any = importlib.import_module("ale_py")  # by name, as it may be missing
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # it announces itself otherwise
        self._ale = ale_py.ALEInterface()
        self._ale.setFloat("repeat_action_probability", 0.0)
        self._rom = ale_py.roms.get_rom_path(game)
        self._load(0)
        self._actions = self._ale.getMinimalActionSet()
        self.action_space = spaces.Discrete(len(self._actions))
        height, width = self._ale.getScreenDims()
        self._unseen = np.zeros((height, width, 3), np.uint8)
        self._screens = [self._unseen, self._unseen]
        self._frame = 0
        self.observation_space = spaces.Box(0, 255, self._unseen.shape, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._load(seed % 2**31)
        self._ale.reset_game()
        for _ in range(int(self.np_random.integers(1, NOOPS + 1))):
            self._ale.act(self._actions[0])
            if self._ale.game_over():
                self._ale.reset_game()
        self._screens = [self._ale.getScreenRGB()] * 2
        return self._unseen, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = self._ale.act(self._actions[int(action)])
        self._screens = [self._screens[1], self._ale.getScreenRGB()]
        return self._unseen, float(reward), self._ale.game_over(), False, {}

    def render(self) -> Any:
        return self._screens[1]

    def get_action_meanings(self) -> list[str]:
        """Return the names of the actions, as Gymnasium's Atari environments do: worldlab play maps keys to them."""
        return [action.name for action in self._actions]

    def pooled(self) -> np.ndarray:
        """Return the larger level of each pixel in the last two frames: sprites flicker in many games."""
        return np.maximum(*self._screens)

    def _load(self, seed: int) -> None:
        """Load the game, which reads the seed at that moment only."""
        self._ale.setInt("random_seed", seed)
        self._ale.loadROM(self._rom)


class PooledFrames(gymnasium.ObservationWrapper):
    """Draws the observation of an `AtariGame`, once per decision. It is placed after the action repeat."""

    def observation(self, observation: Any) -> np.ndarray:
        game: Any = self.env.unwrapped
        return game.pooled()


def _tasks() -> list[str]:
    """Return the games that ale-py ships, without importing it."""
    spec = importlib.util.find_spec("ale_py")
    folders = spec.submodule_search_locations if spec is not None else None
    return sorted(
        path.stem.replace("_", "-") for folder in folders or () for path in Path(folder, "roms").glob("*.bin")
    )


def _build(task: str, settings: EnvSettings) -> gymnasium.Env:
    game = AtariGame(task.replace("-", "_"))
    return wrap(game, settings, name=f"atari:{task}", frame_limit=FRAMES, draw=PooledFrames)


ADAPTER = PackageAdapter("atari", "ale_py", _tasks, _build)
