"""An image world with known branching probabilities, which tests whether a model keeps every mode with its
probability.
"""

from __future__ import annotations

import functools
from itertools import combinations
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldlab_envs.gymnasium_adapter import NamedAdapter

ID = "worldlab/Branch-v0"
ADAPTER = NamedAdapter("branch", ID, __name__)

SIDE = 4
"""Cells along a side; cell = SIDE * row + column."""
BLOCK = 4
"""Pixels along a side of a cell."""
START, GOAL = 0, 15
BRANCH_CELLS = frozenset({5, 6, 9, 10})
"""The inner cells. Their four neighbours are distinct, so a branch has exactly four outcomes."""
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""Row and column steps of the actions up, right, down, left: clockwise."""
ODDS = (0.4, 0.3, 0.2, 0.1)
"""Probabilities, at a branch cell, of the chosen direction and of each following direction clockwise."""
LIMIT = 50

_FLOOR, _CROSSING, _GOAL, _DOT = (40, 40, 40), (40, 40, 140), (40, 140, 40), (240, 220, 60)


class Branch(gymnasium.Env):
    """A dot on a 4 x 4 grid moves towards a goal; at the four inner cells it moves in a random direction.

    ## Spaces
    Action: Discrete(4), up, right, down, left. Observation: Box uint8 (16, 16, 3).

    ## Dynamics
    The dot starts at cell 0 (top left). At an outer cell it moves in the chosen direction, or stays in place at a wall.
    At a branch cell it moves in the chosen direction with probability 0.4, and in the directions that follow clockwise
    with 0.3, 0.2, 0.1.
    The image is a deterministic function of the cell: grey floor, blue branch cells, a green goal, a yellow dot.

    ## Reward
    `reward_of(cell)` of the new cell: 1 at the goal, -0.5 at cell 3 and at cell 12, else -0.01.

    ## Ends
    Terminates at cell 15 (bottom right). Registered with a limit of 50 steps.

    ## Exact quantities
    `branch_probabilities(cell, action)`, `reward_of(cell)`, `picture_of(cell)`, `cell_of(image)`. `info["cell"]`. For
    worldlab.study.measures: `truth()`, `transition_probs()`, `state_of(obs)`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (SIDE * BLOCK, SIDE * BLOCK, 3), np.uint8)
        self.action_space = spaces.Discrete(4)
        self._cell = START

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._cell = START
        return picture_of(self._cell), {"cell": self._cell}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        cells, odds = zip(*branch_probabilities(self._cell, int(action)).items(), strict=True)
        self._cell = int(self.np_random.choice(cells, p=odds))
        reward, done = reward_of(self._cell), self._cell == GOAL
        return picture_of(self._cell), reward, done, False, {"cell": self._cell}

    def render(self) -> Any:
        return picture_of(self._cell)

    def truth(self) -> dict[str, np.ndarray]:
        """Return row and column of the dot, 0 to 3."""
        return {"row": np.array([self._cell // SIDE], float), "column": np.array([self._cell % SIDE], float)}

    def transition_probs(self) -> np.ndarray:
        """Return P(next cell | cell, action), float64 [cell, action, next cell]."""
        odds = np.zeros((SIDE * SIDE, len(MOVES), SIDE * SIDE))
        for cell, action in np.ndindex(odds.shape[:2]):
            for next_cell, probability in branch_probabilities(cell, action).items():
                odds[cell, action, next_cell] = probability
        return odds

    def state_of(self, obs: dict[str, np.ndarray]) -> np.ndarray:
        """Return the cells int [N] shown by images obs["image"] uint8 [N, H, W, 3] of any size. An image that is
        farther from the nearest cell's image than a quarter of the distance between two cells' images is invalid and
        gets 16.
        """
        images = obs["image"]
        known = _pictures_of_size(*images.shape[1:3])
        seen = images.reshape(-1, known.shape[1]).astype(np.float64)
        distance = (seen**2).sum(1)[:, None] - 2 * seen @ known.T + (known**2).sum(1)
        apart = min(((one - other) ** 2).sum() for one, other in combinations(known, 2))
        return np.where(distance.min(1) > apart / 4, len(known), distance.argmin(1))


def branch_probabilities(cell: int, action: int) -> dict[int, float]:
    """Return {next cell: probability} for an action taken at a cell; a certain move is {next: 1.0}."""
    if cell not in BRANCH_CELLS:
        return {_move(cell, action): 1.0}
    return {_move(cell, (action + turn) % 4): odds for turn, odds in enumerate(ODDS)}


def reward_of(cell: int) -> float:
    """Return the reward for moving to a cell."""
    return {GOAL: 1.0, 3: -0.5, 12: -0.5}.get(cell, -0.01)


def picture_of(cell: int) -> np.ndarray:
    """Return the image uint8 [16, 16, 3] that shows the dot at a cell."""
    image = np.empty((SIDE, BLOCK, SIDE, BLOCK, 3), np.uint8)
    image[:] = _FLOOR
    for crossing in BRANCH_CELLS:
        image[crossing // SIDE, :, crossing % SIDE] = _CROSSING
    image[GOAL // SIDE, :, GOAL % SIDE] = _GOAL
    image[cell // SIDE, 1:-1, cell % SIDE, 1:-1] = _DOT
    return image.reshape(SIDE * BLOCK, SIDE * BLOCK, 3)


def cell_of(image: np.ndarray) -> int:
    """Return the cell that an image [16, 16, 3] shows, in levels 0 to 255: the cell whose image is nearest.

    A decoded image may be imperfect; for an image of `picture_of` the result is exact. Raises: ValueError.
    """
    expected = (SIDE * BLOCK, SIDE * BLOCK, 3)
    if image.shape != expected:
        raise ValueError(f"expected an image of shape {expected}, got {image.shape}")
    return int(((_pictures_of_size(*expected[:2]) - image.reshape(-1)) ** 2).sum(1).argmin())


def _move(cell: int, direction: int) -> int:
    row, column = cell // SIDE + MOVES[direction][0], cell % SIDE + MOVES[direction][1]
    return SIDE * row + column if 0 <= row < SIDE and 0 <= column < SIDE else cell


@functools.cache
def _pictures_of_size(height: int, width: int) -> np.ndarray:
    """Return the cells' images as the wrappers resize them, float64 [cell, height * width * 3]."""
    from worldlab.env.resize import area_weights, resize

    own = [picture_of(cell) for cell in range(SIDE * SIDE)]
    if (height, width) != own[0].shape[:2]:
        rows, columns = area_weights(SIDE * BLOCK, height), area_weights(SIDE * BLOCK, width)
        own = [resize(picture, rows, columns) for picture in own]
    return np.stack(own).reshape(SIDE * SIDE, -1).astype(np.float64)


if ID not in gymnasium.registry:
    gymnasium.register(ID, entry_point=f"{__name__}:Branch", max_episode_steps=LIMIT)
