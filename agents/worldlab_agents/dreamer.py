"""Actor-critic in imagination. Hafner et al. 2023 (DreamerV3), arXiv:2301.04104, section "Actor critic".

Five defaults differ: the gradient is pathwise where possible (DreamerV2's choice for continuous actions), entropy weighs
3e-3 instead of 3e-4, returns bootstrap with the slow critic, a target network, a value is the smaller one of two critics, and
values start at the return of the first data where it is negative. `gradient = "reinforce"`, `entropy = 3e-4` and
`critic = "single"` are the paper's. The mean of continuous actions is projected onto its bounds (actor.py), not a tanh.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, TypeVar, final

import torch
from torch import Tensor
from torch.func import functional_call

from worldlab.agent import Agent, Experience
from worldlab.interfaces import Player, State
from worldlab.nn import ema_update
from worldlab.rollout import Carry
from worldlab.specs import Specs
from worldlab.world_model import Dream, WorldModel
from worldlab_agents.actor import Actor, ReturnRange, clip_action, log_prob
from worldlab_agents.cloning import cloning_loss
from worldlab_agents.configs import DreamerConfig
from worldlab_agents.critic import Critics
from worldlab_agents.disagreement import bonus_of, reads_disagreement, step_weights, with_bonus

ValueT = TypeVar("ValueT")


def lasting_return(reward: Tensor, cont: Tensor, gamma: float) -> Tensor:
    """Return the discounted return of a state if rewards and ends [N] go on at their mean rates, a scalar.

    V = mean(r) / (1 - gamma mean(c))
    """
    return reward.mean() / (1 - gamma * cont.mean())


def lambda_returns(reward: Tensor, discount: Tensor, value: Tensor, lambda_: float) -> Tensor:
    """Return lambda-returns at features[:, 0..H-1]. reward, discount [N, H] belong to arrival at k+1; value [N, H+1].

        R_k = r_{k+1} + d_{k+1} ((1 - lambda) v_{k+1} + lambda R_{k+1}), R_H = v_H

    Sutton & Barto 2018, section 12.3.
    """
    next_return = value[:, -1]
    returns = []
    for k in reversed(range(reward.shape[1])):
        next_return = reward[:, k] + discount[:, k] * ((1 - lambda_) * value[:, k + 1] + lambda_ * next_return)
        returns.append(next_return)
    return torch.stack(returns[::-1], 1)


@dataclass(frozen=True)
class _Targets:
    """Training targets from one dream: returns and weights [N, H]; predicted value [N, H+1]; scale of the returns."""

    returns: Tensor
    weight: Tensor
    value: Tensor
    scale: Tensor


@final
class DreamerAgent(Agent):
    """Trains an actor and two-hot critics on imagined steps; acts with the actor."""

    reads_sequences = False

    def __init__(self, config: DreamerConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.config = config
        self.continuous = specs.action.kind == "continuous"
        self.actor = Actor(specs, config.units, config.layers, config.min_std, config.unimix)
        # Averaged weights perform better than the last iterate: a policy gradient circles around its optimum
        # (Polyak & Juditsky 1992). Exploration uses the last iterate.
        self.averaged_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.critic = Critics(specs.feature_dim, config.units, config.layers, 2 if config.critic == "twin" else 1)
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.range = ReturnRange()
        self.bonus = bonus_of(config, explore=False)
        self.reads_disagreement = reads_disagreement(config) or bool(config.confidence)
        self.explorer = self._build_explorer(specs) if config.curiosity else None
        self.reads_sequences = config.penalty > 0
        self.behaviour = (
            Actor(specs, config.units, config.layers, config.min_std, config.unimix) if config.penalty else None
        )

    def _build_explorer(self, specs: Specs) -> DreamerAgent:
        """Return the actor-critic that collects the data: it values disagreement, which the evaluated one does not."""
        explorer = DreamerAgent(self.config.model_copy(update={"curiosity": 0.0, "penalty": 0.0}), specs)
        explorer.bonus = bonus_of(self.config, explore=True)
        return explorer

    def act(
        self,
        model: WorldModel,
        carry: Carry,
        features: Tensor,
        state: State,
        generator: torch.Generator,
        explore: bool,
    ) -> tuple[Tensor, State]:
        if explore and self.explorer is not None:
            return self.explorer.act(model, carry, features, state, generator, explore)
        action = self.actor(features).sample(generator) if explore else self.averaged_actor(features).mode
        return (clip_action(action) if self.continuous else action).detach(), state

    def value(self, features: Tensor) -> Tensor:
        """Return the value [*] of features [*, F]. Gradients reach the features and no critic."""
        if self.config.critic == "twin":
            return self.slow_critic(features)
        frozen = {name: weight.detach() for name, weight in self.critic.named_parameters()}
        return functional_call(self.critic, frozen, (features,))

    def players(self) -> dict[str, Player]:
        own = {
            "actor": Player(list(self.actor.parameters()), self.config.actor_rate),
            "critic": Player(list(self.critic.parameters()), self.config.critic_rate),
        }
        if self.behaviour is not None:
            own["behaviour"] = Player(list(self.behaviour.parameters()), self.config.critic_rate)
        return own if self.explorer is None else own | _prefixed("explorer_", self.explorer.players())

    def losses(
        self, model: WorldModel, seen: Experience, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        losses, metrics = self._own_losses(model, seen, generator)
        if self.explorer is not None:
            extra, found = self.explorer.losses(model, seen, generator)
            losses |= _prefixed("explorer_", extra)
            metrics |= {name.replace("/", "/explorer_", 1): value for name, value in found.items()}
        return losses, metrics

    def _own_losses(
        self, model: WorldModel, seen: Experience, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        # Never above 0: states that were never seen must not look better than known ones.
        start = lasting_return(seen.reward, seen.cont, self.config.gamma).clamp(max=0)
        self.critic.start_at(start)
        self.slow_critic.start_at(start)
        pathwise = self._pathwise(model)
        with torch.set_grad_enabled(pathwise):
            dream = model.imagine(
                model.fork(seen.carry, 1), lambda f: self._sample_action(f, generator), self.config.horizon, generator
            )
            dream = with_bonus(dream, model, self.bonus)
            targets = self._targets(dream, seen, step_weights(dream, model, self.config.confidence))
        before = dream.features[:, :-1].detach().contiguous()  # a strided input would make linear layers a bmm
        policy = self.actor(before)
        entropy = policy.entropy()
        if pathwise:
            gain = targets.returns / targets.scale
        else:
            advantage = (targets.returns - targets.value[:, :-1]) / targets.scale
            gain = log_prob(policy, dream.action.detach()) * advantage.detach()
        actor_loss = -(targets.weight * (gain + self.config.entropy * entropy)).mean()
        losses = {"critic": self._critic_loss(before, targets)}
        if self.behaviour is not None:
            assert seen.sequence is not None
            losses["behaviour"] = cloning_loss(self.behaviour, seen.sequence)
            actor_loss = actor_loss + self.config.penalty * self._distance(policy, before, targets.weight)
        metrics = {
            "agent/return": targets.returns.mean(),
            "agent/value": targets.value.mean(),
            "agent/return_scale": targets.scale,
            "agent/entropy": entropy.mean(),
            "agent/reward": dream.reward.mean(),
            "agent/cont": dream.cont.mean(),
        }
        return {"actor": actor_loss, **losses}, {k: v.detach() for k, v in metrics.items()}

    def _distance(self, policy: Any, features: Tensor, weight: Tensor) -> Tensor:
        """Return KL(policy || behaviour) at dreamt features, weighted. Wu et al. 2019 (BRAC), arXiv:1911.11361, section 3.

        Where the data have no such actions, the model was never corrected, and returns dreamt there may be wrong.
        """
        assert self.behaviour is not None
        with torch.no_grad():
            behaviour = self.behaviour(features)
        return (weight * policy.kl(behaviour)).mean()

    def _pathwise(self, model: WorldModel) -> bool:
        """Return whether to differentiate returns through the dream; otherwise use the score function."""
        if self.config.gradient != "auto":
            return self.config.gradient == "pathwise"
        return self.continuous and model.dynamics.reparameterised

    def _sample_action(self, features: Tensor, generator: torch.Generator) -> Tensor:
        # The actor's input is detached; only the action carries a gradient back into the dream.
        action = self.actor(features.detach()).sample(generator)
        return clip_action(action) if self.continuous else action

    def _targets(self, dream: Dream, seen: Experience, trust: Tensor | float = 1.0) -> _Targets:
        value = self.value(dream.features)
        discount = self.config.gamma * dream.cont
        returns = lambda_returns(dream.reward, discount, value, self.config.lambda_)
        # A step is weighted by the probability that the episode continues up to it, including the start state.
        alive = torch.cat([seen.cont[:, None], discount[:, :-1]], 1).cumprod(1).detach()
        return _Targets(returns, alive * trust, value.detach(), self.range.update(returns.detach()))

    def _critic_loss(self, features: Tensor, targets: _Targets) -> Tensor:
        with torch.no_grad():
            slow = targets.value[:, :-1] if self.config.critic == "twin" else self.slow_critic(features)
        both = torch.stack([targets.returns.detach(), slow], -1)
        fit, slow_fit = self.critic.loss(features, both).unbind(-1)
        return (targets.weight * (fit + self.config.slow_weight * slow_fit)).mean()

    def after_step(self) -> None:
        ema_update(self.slow_critic, self.critic, self.config.slow_rate)
        ema_update(self.averaged_actor, self.actor, self.config.average_rate)
        if self.explorer is not None:
            self.explorer.after_step()


def _prefixed(prefix: str, table: dict[str, ValueT]) -> dict[str, ValueT]:
    return {prefix + name: value for name, value in table.items()}


__all__ = ["DreamerAgent", "lambda_returns"]
