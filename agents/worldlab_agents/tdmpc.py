"""TD-MPC: short plans with a terminal value from a Q-ensemble, and a policy that proposes candidates.

Hansen et al. 2022 (TD-MPC), arXiv:2203.04955; 2023 (TD-MPC2), arXiv:2310.16828. There, one loss trains encoder,
dynamics, reward and value. Here any world model is trained by its own losses (its `dyn` term corresponds to latent
consistency), and the Q-functions read its features without training them. With `dreams` the Q-functions also train on
lambda-returns of the policy in dreams, which look more than one step ahead, as Dreamer's critic does.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import final

import torch
from torch import Tensor, nn

from worldlab.agent import Agent, Experience
from worldlab.heads import TwoHotHead
from worldlab.interfaces import Batch, Player, State
from worldlab.nn import ema_update, frozen, may_read
from worldlab.rollout import Carry
from worldlab.specs import Specs
from worldlab.world_model import WorldModel
from worldlab_agents.actor import Actor, ReturnRange, sample_action
from worldlab_agents.cloning import transition_mask
from worldlab_agents.configs import TDMPCConfig
from worldlab_agents.disagreement import bonus_of, reads_disagreement, with_bonus
from worldlab_agents.dreamer import lambda_returns
from worldlab_agents.plans import initial_plans, planning_state, restore_plans
from worldlab_agents.search import Budget, PlanningTask, SearchRule, propose, search, weigh_boltzmann
from worldlab_agents.stopwatch import Stopwatch


class Ensemble(nn.Module):
    """Q-functions as two-hot distributions over cat(features, action). q: [E, *]."""

    def __init__(self, specs: Specs, size: int, units: int, layers: int):
        super().__init__()
        width = specs.feature_dim + specs.action.dim
        self.members = nn.ModuleList(TwoHotHead(width, units, layers) for _ in range(size))

    def q(self, features: Tensor, action: Tensor) -> Tensor:
        """Return values [E, *] of features [*, F] and actions [*, A]."""
        inputs = torch.cat([features, action], -1)
        return torch.stack([member(inputs).mean for member in self.members])

    def loss(self, features: Tensor, action: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy to the targets [*], averaged over the members: [*]."""
        inputs = torch.cat([features, action], -1)
        return torch.stack([-member(inputs).log_prob(target) for member in self.members]).mean(0)

    def min_of_two(self, features: Tensor, action: Tensor, generator: torch.Generator) -> Tensor:
        """Return the smaller value of two random members, [*]: planning would exploit optimistic values."""
        pair = torch.randperm(len(self.members), generator=generator, device=generator.device)[:2]
        if not may_read(pair):  # all members cost less than to wait for a GPU
            return self.q(features, action)[pair].amin(0)
        inputs = torch.cat([features, action], -1)
        return torch.stack([self.members[index](inputs).mean for index in pair.tolist()]).amin(0)


@final
class TDMPCAgent(Agent):
    """Plans by MPPI over short horizons; trains Q-ensemble and policy on replayed experience and on dreams."""

    def __init__(self, config: TDMPCConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.config = config
        self.specs = specs
        self.noise = config.exploration
        self.rule = SearchRule(weigh_boltzmann(config.temperature, config.elites), floor=config.min_std)
        self.budget = Budget(config.candidates, config.iterations, milliseconds=config.budget_ms)
        self.actor = Actor(specs, config.units, config.layers, config.policy_min_std, 0.01)
        self.critic = Ensemble(specs, config.ensemble, config.units, config.layers)
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.range = ReturnRange()
        self.stopwatch = Stopwatch(config.budget_ms)
        self.reads_disagreement = reads_disagreement(config)

    def initial(self, n: int) -> State:
        device = next(self.actor.parameters()).device
        plans = initial_plans(n, self.config.horizon, self.specs.action, device)
        return planning_state(plans, plans.best[:, None][:, :0])

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
        self.stopwatch.start()
        config, policy = self.config, partial(sample_action, self.actor, generator=generator)
        proposals = propose(model, carry, policy, config.proposals, config.horizon, generator)
        bonus = bonus_of(config, explore)
        task = PlanningTask(model, carry, config.gamma, config.noise, self._value, bonus)
        result = search(
            task, restore_plans(state), self.rule, self.budget, generator, proposals=proposals, stopwatch=self.stopwatch
        )
        return result.plans.best[:, 0], result.next_state(0)

    def _value(self, features: Tensor) -> Tensor:
        """Return Q of the policy's most likely action, averaged over the ensemble: [*]."""
        return self.critic.q(features, self.actor(features).mode).mean(0)

    def players(self) -> dict[str, Player]:
        return {
            "actor": Player(list(self.actor.parameters()), self.config.actor_rate),
            "critic": Player(list(self.critic.parameters()), self.config.critic_rate),
        }

    def losses(
        self, model: WorldModel, seen: Experience, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        assert seen.sequence is not None
        features, batch = seen.sequence.features, seen.sequence.batch
        target = self._targets(features, batch, generator)
        is_transition = transition_mask(batch)
        fit = self.critic.loss(features[:, :-1], batch.prev_action[:, 1:], target)
        critic = (fit * is_transition).sum() / is_transition.sum().clamp(min=1)
        states = features.flatten(0, 1)
        if self.config.dreams:
            dream_loss, reached = self._dream_loss(model, seen, generator)
            critic, states = critic + dream_loss, torch.cat([states, reached])
        actor, q, entropy = self._actor_loss(states, generator)
        losses = {"actor": actor, "critic": critic}
        metrics = {"agent/q": q, "agent/target": target.mean(), "agent/entropy": entropy}
        return losses, {name: value.detach() for name, value in metrics.items()}

    @torch.no_grad()
    def _targets(self, features: Tensor, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return r + gamma cont min Q(s', pi(s')) for each step but the last: [B, T - 1]. arXiv:2310.16828, eq. 4."""
        next_features = features[:, 1:]
        action = sample_action(self.actor, next_features.flatten(0, 1), generator).unflatten(0, next_features.shape[:2])
        value = self.slow_critic.min_of_two(next_features, action, generator)
        return batch.reward[:, 1:] + self.config.gamma * batch.cont[:, 1:] * value

    def _dream_loss(self, model: WorldModel, seen: Experience, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the critic's loss towards lambda-returns of the policy's dreams, and the features of the dreams [*,
        F].
        """
        with torch.no_grad():
            policy = partial(sample_action, self.actor, generator=generator)
            dream = model.imagine(model.fork(seen.carry, 1), policy, self.config.dreams, generator)
            dream = with_bonus(dream, model, bonus_of(self.config, explore=False))
            features = dream.features.contiguous()
            action = policy(features.flatten(0, 1)).unflatten(0, features.shape[:2])
            value = self.slow_critic.min_of_two(features, action, generator)
            discount = self.config.gamma * dream.cont
            target = lambda_returns(dream.reward, discount, value, self.config.lambda_)
            alive = torch.cat([seen.cont[:, None], discount[:, :-1]], 1).cumprod(1)
        before = features[:, :-1].contiguous()
        return (alive * self.critic.loss(before, dream.action, target)).mean(), before.flatten(0, 1)

    def _actor_loss(self, features: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Compute -Q / scale - entropy, averaged over features [N, F]. Returns the loss, mean Q and mean entropy."""
        policy = self.actor(features)
        with frozen(self.critic):
            if self.actor.discrete:
                choices = torch.eye(self.specs.action.dim, device=features.device)
                each = torch.stack(
                    [self.critic.q(features, choice.expand(len(features), -1)).mean(0) for choice in choices], -1
                )
                q = (policy.probs[:, 0] * each).sum(-1)
            else:
                q = self.critic.q(features, sample_action(self.actor, features, generator)).mean(0)
        scale = self.range.update(q.detach())
        return -(q / scale + self.config.entropy * policy.entropy()).mean(), q.mean(), policy.entropy().mean()

    def after_step(self) -> None:
        ema_update(self.slow_critic, self.critic, self.config.slow_rate)


__all__ = ["Ensemble", "TDMPCAgent"]
