"""A world model and an agent as something that acts: Stable-Baselines3's `predict`, used for collecting and judging alike."""

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
    """Follows real observations with the model's filter and lets the agent choose; keeps actions within their bounds.

    noise: added to actions while exploring: the std of Gaussian noise (continuous), or the chance of a uniform action.

    `predict` is Stable-Baselines3's, so `stable_baselines3.common.evaluation.evaluate_policy` takes it as it is. It may
    be driven with any number of environments; the number may not change while a state is handed on.
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
        """One step for N environments. obs {key: [N, ...]} raw; is_first [N] bool. Returns encoded actions [N, A], state."""
        device, n = self.model.device, len(is_first)
        first = torch.as_tensor(is_first, dtype=torch.bool, device=device)
        fresh = self._initial(n)
        state = fresh if state is None else tree.where(first, fresh, state)
        tensors = {key: torch.as_tensor(value).to(device) for key, value in obs.items()}
        noise = self.generator if explore and self.agent.sampled_latents else None
        carry, features = self.model.filter(state["carry"], tensors, state["action"], first, noise)
        action, plan = self.agent.act(self.model, carry, features, state["agent"], self.generator, explore)
        if explore and self.noise:
            action = perturbed(action, self.model.specs.action, self.noise, self.generator)
        if self.model.specs.action.kind == "continuous":
            action = action.clamp(-1, 1)
        return action.cpu().numpy(), {"carry": carry, "action": action, "agent": plan}

    def _initial(self, n: int) -> dict[str, Any]:
        action = torch.zeros(n, self.model.specs.action.dim, device=self.model.device)
        return {"carry": self.model.initial(n), "action": action, "agent": self.agent.initial(n)}

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Stable-Baselines3's signature. observation: {key: [N, ...]} or, for a single entry, the array [N, ...]; without N it
        is one environment's, and so is the action. Raises: ConfigError for another observation.
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
        """Whether the entries have no leading N. Raises: ConfigError where they are not those of the model, all alike."""
        axes = {key: len(spec.shape) for key, spec in self.model.specs.obs.entries}
        extra = {value.ndim - axes[key] for key, value in obs.items()} if obs.keys() == axes.keys() else set()
        if extra not in ({0}, {1}):
            got = {key: value.ndim for key, value in obs.items()}
            raise ConfigError(
                "the observation is not one that this model was trained on",
                cause=f"axes of each entry: expected {axes}, or one more; got {got}"[:400],
                fix="make the environment with run.make_env()",
            )
        return extra == {0}


def perturbed(action: Tensor, spec: ActionSpec, noise: float, generator: torch.Generator) -> Tensor:
    """Encoded actions [N, A] with exploration noise: Gaussian of std `noise`, or with that chance a uniform choice."""
    if spec.kind == "continuous":
        return action + noise * normal_like(action, generator)
    other = torch.randint(spec.dim, (len(action),), generator=generator, device=action.device)
    swap = torch.rand(len(action), generator=generator, device=action.device) < noise
    return torch.where(swap[:, None], F.one_hot(other, spec.dim).to(action.dtype), action)
