"""Algorithms of Stable-Baselines3, trained in imagination with their own code, losses and optimisers.

Raffin et al. 2021, JMLR 22(268). The dream is a VecEnv (worldlab.evaluation.dream_env). Every `every` updates of the
world model the algorithm trains for a round in dreams that start at current posterior states of replayed experience.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import numpy as np
import stable_baselines3
import torch
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from worldlab import tree
from worldlab.agent import Agent, Experience
from worldlab.errors import ConfigError
from worldlab.evaluation.dream_env import DreamPool, DreamVecEnv, Starts, dream_action_space, feature_space
from worldlab.interfaces import State
from worldlab.rollout import Carry
from worldlab.specs import Specs
from worldlab.world_model import WorldModel
from worldlab_agents.configs import SB3Config

SPACES = {
    "PPO": spaces.Space, "A2C": spaces.Space, "DQN": spaces.Discrete,
    "SAC": spaces.Box, "TD3": spaces.Box, "DDPG": spaces.Box,
}  # fmt: skip
"""The action space that each algorithm supports."""


NUMBERS = (
    "num_timesteps", "_total_timesteps", "_num_timesteps_at_start", "_episode_num", "_n_updates", "_n_calls",
    "_current_progress_remaining", "exploration_rate",
)  # fmt: skip
"""Numbers of an algorithm on which its further learning depends; which of them it has differs."""


@contextmanager
def seed_global_streams(generator: torch.Generator) -> Iterator[None]:
    """Within the block, seed the global random streams, which Stable-Baselines3 uses, from `generator`; restore them
    afterwards.
    """
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    previous = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[generator.device] if generator.device.type == "cuda" else []):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(previous[0])
            random.setstate(previous[1])


class PlaceholderVecEnv(VecEnv):
    """An environment with spaces only, which an algorithm is built with before a dream exists."""

    render_mode = None

    def reset(self) -> Any:
        raise AssertionError("a placeholder environment cannot be stepped")

    def step_async(self, actions: Any) -> None:
        self.reset()

    def step_wait(self) -> Any:
        self.reset()

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        self.reset()

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> Any:
        self.reset()

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]


def build_algorithm(config: SB3Config, specs: Specs) -> BaseAlgorithm:
    """Build the algorithm of a configuration, over features. Raises: ConfigError if it does not support the action
    space.
    """
    action = dream_action_space(specs.action)
    if not isinstance(action, SPACES[config.algorithm]):
        supporting = ", ".join(name.lower() for name, kind in SPACES.items() if isinstance(action, kind))
        raise ConfigError(
            f"{config.algorithm} does not support {specs.action.kind} actions",
            cause=f"the environment's actions are {specs.action.kind}",
            fix=f"--agent sb3 --agent.algorithm NAME, with one of: {supporting}",
        )
    env = PlaceholderVecEnv(config.num_envs, feature_space(specs), action)
    options: dict[str, Any] = {
        "gamma": config.gamma,
        "learning_rate": config.learning_rate,
        "policy_kwargs": {"net_arch": [config.units] * config.layers},
        "device": "cpu",
    }
    cls = getattr(stable_baselines3, config.algorithm)
    if issubclass(cls, OffPolicyAlgorithm):
        options.update(
            buffer_size=max(config.buffer, config.num_envs), batch_size=config.batch_size, learning_starts=0,
            train_freq=1, gradient_steps=config.gradient_steps,
        )  # fmt: skip
        if config.algorithm == "DQN":  # its default updates the target every 10,000 steps, which is tens of rounds
            options.update(target_update_interval=config.steps, exploration_final_eps=config.exploration)
        if config.algorithm in ("TD3", "DDPG"):  # it trains on dreams only, and its policy is deterministic
            zeros = np.zeros(specs.action.dim)
            options["action_noise"] = NormalActionNoise(zeros, zeros + config.exploration)
    else:
        options.update(n_steps=max(1, config.steps // config.num_envs), ent_coef=config.entropy)
        if options["n_steps"] * config.num_envs < 2:
            raise ConfigError(
                f"{config.algorithm} cannot learn from a round of one step",
                cause=f"agent.steps {config.steps} over agent.num_envs {config.num_envs}",
                fix="--agent.steps 1024",
            )
    if config.algorithm == "PPO":
        options.update(batch_size=config.batch_size, n_epochs=config.epochs)
    algorithm = cls("MlpPolicy", env, **options)
    algorithm.set_logger(Logger(None, []))  # metrics are read from the logger; nothing is printed or written
    return algorithm


@final
class SB3Agent(Agent):
    """Acts with the algorithm's policy and trains it in dreams. See worldlab.agent.OwnLearner."""

    def __init__(self, config: SB3Config, specs: Specs) -> None:
        super().__init__(config, specs)
        self.config = config
        self.discrete = specs.action.kind == "discrete"
        self.choices = specs.action.dim
        self.noise = config.exploration if config.algorithm in ("DQN", "TD3", "DDPG") else 0.0
        self.dream_temperature = config.temperature
        self.algorithm = build_algorithm(config, specs)
        # A multiple of whole rollouts, because the algorithm would complete a partial one as another round.
        rollout = self.algorithm.n_steps if isinstance(self.algorithm, OnPolicyAlgorithm) else 0
        self.steps = rollout * config.num_envs or config.steps
        self.policy: nn.Module = self.algorithm.policy
        self._adopt_variables()
        self.updates = 0
        self._pool: DreamPool | None = None

    def _adopt_variables(self) -> None:
        """Register parameters that an algorithm keeps outside its policy (SAC's entropy weight) with this module."""
        names, variables = self.algorithm._get_torch_save_params()
        self._optimizers = [name for name in names if name.endswith("optimizer")]
        for name in variables:
            value = getattr(self.algorithm, name)
            if value is None:
                continue
            parameter = nn.Parameter(value.detach().clone())
            self.register_parameter(name, parameter)
            setattr(self.algorithm, name, parameter)
            for optimizer in self.optimizers().values():
                for group in optimizer.param_groups:
                    group["params"] = [parameter if p is value else p for p in group["params"]]

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        optimizers_by_name = {}
        for path in self._optimizers:
            owner: Any = self.algorithm
            for part in path.split("."):
                owner = getattr(owner, part, None)
            if isinstance(owner, torch.optim.Optimizer):
                optimizers_by_name[path.replace(".", "_")] = owner
        return optimizers_by_name

    def own_state(self) -> dict[str, Tensor]:
        """Return the algorithm's numbers and the part of its replay buffer that is filled (worldlab.agent.HasOwnState)."""
        numbers = {name: getattr(self.algorithm, name) for name in NUMBERS if hasattr(self.algorithm, name)}
        state = {name: torch.tensor(float(value), dtype=torch.float64) for name, value in numbers.items()}
        state["updates"] = torch.tensor(self.updates)
        buffer: ReplayBuffer | None = getattr(self.algorithm, "replay_buffer", None)
        if buffer is not None:
            state["buffer_position"] = torch.tensor([buffer.pos, buffer.full])
            state |= {name: torch.from_numpy(array[: buffer.size()]) for name, array in _arrays(buffer).items()}
        return state

    def load_own_state(self, state: dict[str, Tensor]) -> None:
        self.updates = int(state["updates"])
        for name in NUMBERS:
            if hasattr(self.algorithm, name):
                kind = type(getattr(self.algorithm, name))
                setattr(self.algorithm, name, kind(state[name].item()))
        buffer: ReplayBuffer | None = getattr(self.algorithm, "replay_buffer", None)
        if buffer is None:
            return
        position, full = state["buffer_position"].tolist()
        count = buffer.buffer_size if full else position
        for name, array in _arrays(buffer).items():
            if not 0 <= position < buffer.buffer_size or state[name].shape != array[:count].shape:
                raise ValueError(f"{name} has shape {tuple(state[name].shape)}, expected {array[:count].shape}")
            array[:count] = state[name].numpy()
        buffer.pos, buffer.full = position, bool(full)

    @torch.no_grad()
    def act(
        self,
        model: WorldModel,
        carry: Carry,
        features: Tensor,
        state: State,
        generator: torch.Generator,
        explore: bool,
    ) -> tuple[Tensor, State]:
        with seed_global_streams(generator):
            action = self.policy._predict(features, deterministic=not explore)  # type: ignore[operator]
        if self.discrete:
            return F.one_hot(action.long().flatten(), self.choices).float(), state
        return action.clamp(-1, 1), state

    def learn(self, model: WorldModel, seen: Experience, generator: torch.Generator) -> dict[str, Tensor]:
        self.updates += 1
        if self.updates % self.config.every:
            return {}
        algorithm = self.algorithm
        with seed_global_streams(generator):
            self._attach_dream(model, make_starts(seen), generator)
            self.policy.train()
            algorithm.learn(self.steps, log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]
            self.policy.eval()
        numbers = {k.removeprefix("train/"): v for k, v in algorithm.logger.name_to_value.items() if "train/" in k}
        return {f"agent/{name}": torch.as_tensor(float(value)) for name, value in numbers.items()}

    def _attach_dream(self, model: WorldModel, starts: Starts, generator: torch.Generator) -> None:
        """Connect the algorithm to dreams in the current model, from new start states."""
        config, algorithm = self.config, self.algorithm
        if self._pool is None or self._pool.model is not model:
            pool = DreamPool(model, starts, config.num_envs, config.horizon, temperature=config.temperature)
            self._pool = pool
            algorithm.set_env(DreamVecEnv(pool))
            algorithm.device = model.device
            for buffer in (getattr(algorithm, "rollout_buffer", None), getattr(algorithm, "replay_buffer", None)):
                if buffer is not None:
                    buffer.device = model.device
        self._pool.starts = starts
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        self._pool.seed(seed)
        algorithm.action_space.seed(seed)  # from which DQN explores
        algorithm._last_obs = None  # start new dreams, because the model has changed since the last round


def _arrays(buffer: ReplayBuffer) -> dict[str, np.ndarray]:
    """Return the arrays of a buffer, one row for each step of all environments."""
    found = {f"buffer_{name}": value for name, value in vars(buffer).items() if isinstance(value, np.ndarray)}
    return {name: array for name, array in found.items() if array.shape[:1] == (buffer.buffer_size,)}


def make_starts(seen: Experience) -> Starts:
    """Return a sampler of start states: states of an experience whose episodes continue."""
    ongoing = torch.nonzero(seen.cont > 0)[:, 0]
    ongoing = ongoing if len(ongoing) else torch.arange(len(seen.cont), device=seen.cont.device)

    def draw(n: int, generator: torch.Generator) -> Carry:
        return tree.select(
            seen.carry, ongoing[torch.randint(len(ongoing), (n,), generator=generator, device=ongoing.device)]
        )

    return draw
