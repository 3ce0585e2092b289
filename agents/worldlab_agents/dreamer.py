"""Actor-critic in imagination. Hafner et al. 2023 (DreamerV3), arXiv:2301.04104, section "Actor critic"."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from worldlab.agent import Agent, Experience
from worldlab.distributions import Normal, OneHot
from worldlab.heads import TwoHotHead
from worldlab.interfaces import State
from worldlab.nn import ema_update, mlp
from worldlab.rollout import Carry
from worldlab.specs import ActionSpec, Specs
from worldlab.world_model import Dream, WorldModel
from worldlab_agents.configs import DreamerConfig


def lambda_returns(reward: Tensor, discount: Tensor, value: Tensor, lambda_: float) -> Tensor:
    """Returns at features[:, 0..H-1]. reward, discount [N, H] belong to arrival at k+1; value [N, H+1].

    R_k = r_{k+1} + d_{k+1} ((1 - lambda) v_{k+1} + lambda R_{k+1}), R_H = v_H. Sutton & Barto 2018, section 12.3.
    """
    following = value[:, -1]
    returns = []
    for k in reversed(range(reward.shape[1])):
        following = reward[:, k] + discount[:, k] * ((1 - lambda_) * value[:, k + 1] + lambda_ * following)
        returns.append(following)
    return torch.stack(returns[::-1], 1)


class Actor(nn.Module):
    """features [*, F] -> a distribution over encoded actions: Normal with tanh mean and bounded std, or one OneHot."""

    def __init__(self, features: int, action: ActionSpec, config: DreamerConfig):
        super().__init__()
        self.discrete = action.kind == "discrete"
        self.min_std, self.unimix = config.min_std, config.unimix
        outputs = action.dim if self.discrete else 2 * action.dim
        self.net = mlp(features, config.units, config.layers, outputs)
        with torch.no_grad():  # start near uniform: no direction is preferred before anything was learned
            self.net[-1].weight.mul_(0.01)  # type: ignore[operator,union-attr]
            self.net[-1].bias.zero_()  # type: ignore[operator,union-attr]

    def forward(self, features: Tensor) -> Normal | OneHot:
        out = self.net(features)
        if self.discrete:
            return OneHot.with_unimix(out[..., None, :], self.unimix)
        mean, raw = out.chunk(2, -1)
        return Normal(torch.tanh(mean), (1 - self.min_std) * torch.sigmoid(raw + 2.0) + self.min_std)


def bounded(action: Tensor) -> Tensor:
    """Clip a continuous action to [-1, 1], as the environment will; the gradient passes straight through."""
    return action + (action.clamp(-1, 1) - action).detach()


def clipped_log_prob(policy: Normal, action: Tensor) -> Tensor:
    """log-probability [*] of an action [*, A] that `bounded` has clipped: a density inside, a mass at the bounds.

    The density alone would bias the score function wherever a wide policy is clipped.
    """
    inside = Normal(policy.mean[..., None], policy.std[..., None]).log_prob(action[..., None])
    beyond = torch.special.log_ndtr((action * policy.mean - 1) / policy.std)  # P(sign(a) x > 1), for a = -1 or 1
    return torch.where(action.abs() >= 1, beyond, inside).sum(-1)


class ReturnRange(nn.Module):
    """The scale of returns: a moving average of their 5th to 95th percentile range, never below 1.

    Dividing by it makes one entropy weight fit all tasks; the floor keeps sparse rewards from being blown up
    (arXiv:2301.04104, eq. 11).
    """

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("started", torch.zeros(()))

    @torch.no_grad()
    def update(self, returns: Tensor) -> Tensor:
        """Take in returns of any shape and give the scale."""
        levels = torch.tensor([0.05, 0.95], device=returns.device)
        low, high = torch.quantile(returns.flatten().float(), levels)
        started = self.get_buffer("started")
        rate = 0.01 if started else 1.0
        self.low.lerp_(low, rate)
        self.high.lerp_(high, rate)
        started.fill_(1.0)
        return (self.high - self.low).clamp(min=1.0)


@dataclass(frozen=True)
class _Targets:
    """What one dream teaches: returns and weights [N, H]; value [N, H+1] of the slow critic; scale of the returns."""

    returns: Tensor
    weight: Tensor
    value: Tensor
    scale: Tensor


@final
class DreamerAgent(Agent):
    """Learns an actor and a two-hot critic on imagined steps; acts with the actor."""

    def __init__(self, config: DreamerConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.config = config
        self.continuous = specs.action.kind == "continuous"
        self.actor = Actor(specs.feature_dim, specs.action, config)
        # Averaged weights judge better than the last iterate: a policy gradient circles around its optimum
        # (Polyak & Juditsky 1992). Exploring goes on with the iterate.
        self.averaged_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.critic = TwoHotHead(specs.feature_dim, config.units, config.layers)
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.range = ReturnRange()

    def act(
        self,
        model: WorldModel,
        carry: Carry,
        features: Tensor,
        state: State,
        generator: torch.Generator,
        explore: bool,
    ) -> tuple[Tensor, State]:
        action = self.actor(features).sample(generator) if explore else self.averaged_actor(features).mode
        return (bounded(action) if self.continuous else action).detach(), state

    def players(self) -> dict[str, tuple[list[nn.Parameter], float]]:
        return {
            "actor": (list(self.actor.parameters()), self.config.actor_rate),
            "critic": (list(self.critic.parameters()), self.config.critic_rate),
        }

    def losses(
        self, model: WorldModel, seen: Experience, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        pathwise = self._pathwise(model)
        with torch.set_grad_enabled(pathwise):
            dream = model.imagine(seen.carry, lambda f: self.explore(f, generator), self.config.horizon, generator)
            targets = self._targets(dream, seen)
        before = dream.features[:, :-1].detach().contiguous()  # a strided input would make every linear layer a bmm
        policy = self.actor(before)
        entropy = policy.entropy()
        if pathwise:
            gain = targets.returns / targets.scale
        else:
            advantage = (targets.returns - targets.value[:, :-1]) / targets.scale
            gain = self._log_prob(policy, dream.action.detach()) * advantage.detach()
        actor_loss = -(targets.weight * (gain + self.config.entropy * entropy)).mean()
        critic_loss = self._critic_loss(before, targets)
        metrics = {
            "agent/return": targets.returns.mean(),
            "agent/value": targets.value.mean(),
            "agent/return_scale": targets.scale,
            "agent/entropy": entropy.mean(),
            "agent/reward": dream.reward.mean(),
            "agent/cont": dream.cont.mean(),
        }
        return {"actor": actor_loss, "critic": critic_loss}, {k: v.detach() for k, v in metrics.items()}

    def _pathwise(self, model: WorldModel) -> bool:
        """Differentiate the returns through the dream, or use the score function: chosen by ability."""
        if self.config.gradient != "auto":
            return self.config.gradient == "pathwise"
        return self.continuous and model.dynamics.reparameterised

    def _log_prob(self, policy: Normal | OneHot, action: Tensor) -> Tensor:
        return clipped_log_prob(policy, action) if isinstance(policy, Normal) else policy.log_prob(action)

    def explore(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Actions [N, A] drawn from the policy at features [N, F]."""
        # The actor decides from what it is given; only the action carries gradient back into the dream.
        action = self.actor(features.detach()).sample(generator)
        return bounded(action) if self.continuous else action

    def _targets(self, dream: Dream, seen: Experience) -> _Targets:
        value = self.slow_critic(dream.features).mean
        discount = self.config.gamma * dream.cont
        returns = lambda_returns(dream.reward, discount, value, self.config.lambda_)
        # A step counts by the probability that the dream is still going on there, from the start's own ending.
        alive = torch.cat([seen.cont[:, None], discount[:, :-1]], 1).cumprod(1).detach()
        return _Targets(returns, alive, value.detach(), self.range.update(returns.detach()))

    def _critic_loss(self, features: Tensor, targets: _Targets) -> Tensor:
        prediction = self.critic(features)
        fit = -prediction.log_prob(targets.returns.detach())
        steady = -prediction.log_prob(targets.value[:, :-1])
        return (targets.weight * (fit + self.config.slow_weight * steady)).mean()

    def after_step(self) -> None:
        ema_update(self.slow_critic, self.critic, self.config.slow_rate)
        ema_update(self.averaged_actor, self.actor, self.config.average_rate)


__all__ = ["Actor", "DreamerAgent", "ReturnRange", "bounded", "clipped_log_prob", "lambda_returns"]
