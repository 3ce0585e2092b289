"""Wraps the learned world model as an environment, with the interfaces of Gymnasium and Stable-Baselines3.

    DreamPool        steps all dreams together, one batched forward pass per step
    DreamVecEnv      a Stable-Baselines3 VecEnv:    PPO("MlpPolicy", DreamVecEnv(pool)).learn(10_000)
    DreamVectorEnv   a gymnasium.vector.VectorEnv; an episode that ends restarts in the same step
    DreamEnv         a plain gymnasium.Env of one dream

Observations are features = cat(memory, z), float32 [F]. Dreams start at posterior states of replayed experience. They
end with the probability that the continue head predicts (`terminated`), or at the horizon (`truncated`). Reward and end
belong to the state arrived at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from worldlab import tree
from worldlab.env.spaces import encode_action
from worldlab.interfaces import Batch
from worldlab.rollout import Carry, choose_members
from worldlab.specs import ActionSpec, Specs
from worldlab.world_model import WorldModel

Starts = Callable[[int, torch.Generator], Carry]
"""Draws n states from which to dream: a carry [n, ...]."""


def feature_space(specs: Specs) -> spaces.Box:
    """Return the observation space of a dream: features [F]."""
    return spaces.Box(-np.inf, np.inf, (specs.feature_dim,), np.float32)


def dream_action_space(action: ActionSpec) -> spaces.Space:
    """Return the action space of a dream: Discrete, or a Box in [-1, 1]."""
    return spaces.Discrete(action.dim) if action.kind == "discrete" else spaces.Box(-1, 1, (action.dim,), np.float32)


@torch.no_grad()
def starts_from(model: WorldModel, batch: Batch, generator: torch.Generator) -> Starts:
    """Return a function that draws dream starts uniformly from the posterior states of a preprocessed batch [B, T].

    Terminal states are left out. Raises: ValueError if every step of the batch is terminal.
    """
    _, seen = model.observe(batch, generator)
    rows, times = torch.nonzero((batch.cont > 0) & (batch.mask > 0), as_tuple=True)
    if not len(rows):
        raise ValueError("every step of the batch is the end of an episode: there is nowhere to start a dream")

    def draw(n: int, generator: torch.Generator) -> Carry:
        chosen = torch.randint(len(rows), (n,), generator=generator, device=generator.device)
        return tree.detach(seen.at(rows[chosen], times[chosen]))

    return draw


@dataclass(frozen=True)
class DreamStep:
    """The result of one step of all dreams, as numpy arrays.

    final: [N, F], the features arrived at. features: [N, F], those to act on next: the new start's where an episode
    ended, else the same. reward: float32 [N]. terminated, truncated: bool [N].
    """

    features: np.ndarray
    final: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray

    @property
    def done(self) -> np.ndarray:
        return self.terminated | self.truncated


class DreamPool:
    """Steps `num_envs` dreams as one batch. It only reads the model, so the dreams follow further training.

    horizon: steps after which a dream is truncated. temperature: of the prior (worldlab.distributions.tempered).
    """

    def __init__(
        self,
        model: WorldModel,
        starts: Starts,
        num_envs: int,
        horizon: int,
        *,
        temperature: float = 1.0,
        seed: int = 0,
    ):
        self.model = model
        self.starts = starts
        self.num_envs = num_envs
        self.horizon = horizon
        self.temperature = temperature
        self.observation_space = feature_space(model.specs)
        self.action_space = dream_action_space(model.specs.action)
        self.generator = torch.Generator(model.device).manual_seed(seed)
        self._carry: Carry | None = None
        self._ages = np.zeros(num_envs, int)

    def seed(self, seed: int) -> None:
        self.generator.manual_seed(seed)

    @torch.no_grad()
    def reset(self) -> np.ndarray:
        """Restart every dream. Returns: features [N, F]."""
        self._carry = self._start()
        self._ages[:] = 0
        return _numpy(self.model.features(self._carry))

    @torch.no_grad()
    def step(self, action: Any) -> DreamStep:
        """Take one step in every dream. action: N actions of the action space, [N, ...]."""
        assert self._carry is not None, "reset comes before step"
        encoded = torch.from_numpy(np.asarray(encode_action(self.action_space, action), np.float32))
        carry, features, reward, cont = self.model.step(
            self._carry, encoded.to(self.model.device), self.generator, self.temperature
        )
        chance = torch.rand(cont.shape, generator=self.generator, device=cont.device)
        terminated = _numpy(chance >= cont)
        self._ages += 1
        truncated = (self._ages >= self.horizon) & ~terminated
        final = _numpy(features)
        carry, going = self._restart(carry, features, terminated | truncated)
        self._carry = carry
        return DreamStep(going, final, _numpy(reward).astype(np.float32), terminated, truncated)

    def _start(self) -> Carry:
        """Draw starts, each with the member of an ensemble that dreams it, so that the others keep theirs."""
        return choose_members(self.model.dynamics, self.starts(self.num_envs, self.generator), self.generator)

    def _restart(self, carry: Carry, features: Tensor, done: np.ndarray) -> tuple[Carry, np.ndarray]:
        if not done.any():
            return carry, _numpy(features)
        over = torch.from_numpy(done).to(features.device)
        fresh = self._start()
        carry = tree.where(over, fresh, carry)
        self._ages[done] = 0
        return carry, _numpy(torch.where(over[:, None], self.model.features(fresh), features))


class DreamVecEnv(VecEnv):
    """Dreams as a Stable-Baselines3 VecEnv."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012
    render_mode = None

    def __init__(self, pool: DreamPool):
        self.pool = pool
        super().__init__(pool.num_envs, pool.observation_space, pool.action_space)
        self._actions: Any = None

    def reset(self) -> np.ndarray:
        seeds = [seed for seed in self._seeds if seed is not None]
        if seeds:
            self.pool.seed(seeds[0])
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return self.pool.reset()

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        result = self.pool.step(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for env in np.flatnonzero(result.done):
            infos[env] = {"terminal_observation": result.final[env], "TimeLimit.truncated": bool(result.truncated[env])}
        return result.features, result.reward, result.done, infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(f"the dreams share one model; {attr_name!r} cannot be set for a single dream")

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        raise AttributeError(f"the dreams share one model; {method_name!r} cannot be called on a single dream")

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]


class DreamVectorEnv(VectorEnv):
    """Dreams as a Gymnasium vector environment, SAME_STEP autoreset: final observations are in `infos["final_obs"]`."""

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
    render_mode = None

    def __init__(self, pool: DreamPool):
        self.pool = pool
        self.num_envs = pool.num_envs
        self.single_observation_space = pool.observation_space
        self.single_action_space = pool.action_space
        self.observation_space = gymnasium.vector.utils.batch_space(pool.observation_space, self.num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(pool.action_space, self.num_envs)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        if seed is not None:
            first = (
                int(seed) if isinstance(seed, int | np.integer) else next((one for one in seed if one is not None), 0)
            )
            self.pool.seed(first)
        return self.pool.reset(), {}

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        result = self.pool.step(actions)
        infos: dict[str, Any] = {}
        if result.done.any():
            final = np.empty(self.num_envs, object)
            for env in np.flatnonzero(result.done):
                final[env] = result.final[env]
            infos = {"final_obs": final, "_final_obs": result.done.copy()}
        return result.features, result.reward.astype(np.float64), result.terminated, result.truncated, infos


class DreamEnv(gymnasium.Env):
    """One dream as a plain Gymnasium environment; `pool` must hold exactly one."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, pool: DreamPool):
        assert pool.num_envs == 1, "a DreamEnv is one dream"
        self.pool = pool
        self.observation_space = pool.observation_space
        self.action_space = pool.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.pool.seed(seed)
        return self.pool.reset()[0], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        result = self.pool.step(np.asarray(action)[None])
        return result.final[0], float(result.reward[0]), bool(result.terminated[0]), bool(result.truncated[0]), {}


def _numpy(value: Tensor) -> np.ndarray:
    return value.cpu().numpy()


__all__ = ["DreamEnv", "DreamPool", "DreamStep", "DreamVecEnv", "DreamVectorEnv", "Starts", "starts_from"]
