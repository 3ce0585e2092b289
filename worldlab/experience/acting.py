"""Acts in real environments with a world model and an agent, for collection and for evaluation."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldlab import tree
from worldlab.agent import Agent
from worldlab.distributions import normal_like
from worldlab.env.spaces import decode_action
from worldlab.errors import ConfigError
from worldlab.specs import ActionSpec
from worldlab.world_model import WorldModel


class ActingAgent:
    """Filters real observations with the model, lets the agent choose actions, and clips them to their bounds.

    noise: exploration noise: the std of Gaussian noise (continuous), or the probability of a uniform action (discrete).

    `predict` has Stable-Baselines3's signature, so `stable_baselines3.common.evaluation.evaluate_policy` accepts an
    ActingAgent. Any number of environments works, but the number may not change while a state is passed on.
    """

    def __init__(
        self,
        model: WorldModel,
        agent: Agent,
        action_space: gymnasium.Space,
        generator: torch.Generator,
        noise: float = 0.0,
    ) -> None:
        self.noise = noise
        self.model = model
        self.agent = agent
        self.action_space = action_space
        self.generator = generator

    @torch.no_grad()
    def choose(
        self, obs: dict[str, np.ndarray], state: Any, is_first: np.ndarray, explore: bool
    ) -> tuple[np.ndarray, Any]:
        """Choose encoded actions [N, A]; return them and the state. obs: {key: [N, ...]}, raw. is_first: bool [N]."""
        device, n = self.model.device, len(is_first)
        first = torch.as_tensor(is_first, dtype=torch.bool, device=device)
        fresh = self.initial(n)
        state = fresh if state is None else tree.where(first, fresh, state)
        tensors = {key: torch.as_tensor(value).to(device) for key, value in obs.items()}
        sampled = (explore and self.agent.sampled_latents) or self.model.settings.samples > 1
        noise = self.generator if sampled else None
        carry, features = self.model.filter(state["carry"], tensors, state["action"], first, noise)
        action, plan = self.agent.act(self.model, carry, features, state["agent"], self.generator, explore)
        if explore and self.noise:
            action = perturb(action, self.model.specs.action, self.noise, self.generator)
        if self.model.specs.action.kind == "continuous":
            action = action.clamp(-1, 1)
        return action.cpu().numpy(), {"carry": carry, "action": action, "agent": plan}

    def initial(self, n: int) -> dict[str, Any]:
        """Return the state of n environments before their first step."""
        action = torch.zeros(n, self.model.specs.action.dim, device=self.model.device)
        return {"carry": self.model.initial(n), "action": action, "agent": self.agent.initial(n)}

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Choose native actions, with Stable-Baselines3's signature.

        observation: {key: [N, ...]}, or the array [N, ...] of a single entry. Without N, observation and action belong
        to one environment. Raises: ConfigError if the observation does not match the model's.
        """
        obs = observation if isinstance(observation, dict) else {self.model.specs.obs.keys[0]: observation}
        obs = {key: np.asarray(value) for key, value in obs.items()}
        single = self._is_single(obs)
        if single:
            obs = {key: value[None] for key, value in obs.items()}
            episode_start = None if episode_start is None else np.reshape(episode_start, 1)
        n = len(next(iter(obs.values())))
        first = np.ones(n, bool) if state is None or episode_start is None else np.asarray(episode_start, bool)
        if state is not None and episode_start is None:
            first = np.zeros(n, bool)
        encoded, state = self.choose(obs, state, first, explore=not deterministic)
        action = decode_action(self.action_space, encoded)
        return action[0] if single else action, state

    def _is_single(self, obs: dict[str, np.ndarray]) -> bool:
        """Return whether all entries lack the leading N. Raises: ConfigError if keys or axes do not fit the model."""
        axes = {key: len(spec.shape) for key, spec in self.model.specs.obs.entries}
        extra = {value.ndim - axes[key] for key, value in obs.items()} if obs.keys() == axes.keys() else set()
        if extra not in ({0}, {1}):
            got = {key: value.ndim for key, value in obs.items()}
            raise ConfigError(
                "the observation does not match the observations this model was trained on",
                cause=f"axes of each entry: expected {axes}, or one more; got {got}"[:400],
                fix="make the environment with run.make_env()",
            )
        return extra == {0}


def perturb(action: Tensor, spec: ActionSpec, noise: float, generator: torch.Generator) -> Tensor:
    """Add noise to encoded actions [N, A]: Gaussian of std `noise`, or a uniform action with that probability."""
    if spec.kind == "continuous":
        return action + noise * normal_like(action, generator)
    other = torch.randint(spec.dim, (len(action),), generator=generator, device=action.device)
    swap = torch.rand(len(action), generator=generator, device=action.device) < noise
    return torch.where(swap[:, None], F.one_hot(other, spec.dim).to(action.dtype), action)
