"""Agents with one bug each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from worldlab.agent import Agent
from worldlab.interfaces import Player
from worldlab.settings import Config
from zoo.registry import broken


class ShootingConfig(Config):
    """Settings of a planner that takes the best of random plans."""

    candidates: int = 64


class Shooting(Agent):
    """The correct planner that the broken ones change: the first action of the best of random plans of two steps."""

    Config = ShootingConfig

    def __init__(self, config, specs):
        super().__init__(config, specs)
        self.config, self.specs = config, specs

    def act(self, model, carry, features, state, generator, explore):
        n, count, action = len(features), self.config.candidates, self.specs.action
        plans = 2 * torch.rand(n, count, 2, action.dim, generator=generator) - 1
        if action.kind == "discrete":
            plans = F.one_hot(plans.argmax(-1), action.dim).float()
        dream = model.imagine(model.fork(carry, count), plans.flatten(0, 1), 2, generator)
        best = dream.reward.sum(1).view(n, count).argmax(1)
        return plans[torch.arange(n), best, 0], state


class LearningConfig(Config):
    """A configuration without settings."""


class Learning(Agent):
    """The correct learner that the broken ones change: a linear policy that follows the gradient of imagined rewards."""

    Config = LearningConfig

    def __init__(self, config, specs):
        super().__init__(config, specs)
        self.specs = specs
        self.actor = nn.Linear(specs.feature_dim, specs.action.dim)
        self.critic = nn.Linear(specs.feature_dim, 1)

    def policy(self, features, generator):
        out = self.actor(features)
        if self.specs.action.kind == "continuous":
            return torch.tanh(out)
        probs = torch.softmax(out, -1)
        return F.one_hot(out.argmax(-1), self.specs.action.dim) + probs - probs.detach()

    def act(self, model, carry, features, state, generator, explore):
        action = self.policy(features, generator).detach()
        discrete = self.specs.action.kind == "discrete"
        return (action.round() if discrete else action), state

    def players(self):
        return {
            "actor": Player(list(self.actor.parameters()), 1e-2),
            "critic": Player(list(self.critic.parameters()), 1e-2),
        }

    def losses(self, model, seen, generator):
        dream = model.imagine(seen.carry, lambda features: self.policy(features, generator), 1, generator)
        value = self.critic(dream.features[:, 0].detach())[:, 0]
        losses = {"actor": -dream.reward.mean(), "critic": (value - dream.reward[:, 0].detach()).square().mean()}
        return losses, {"value": value.mean().detach()}


@broken("A1", "has shape")
class Indices(Shooting):
    """Returns indices for one-hots."""

    def act(self, *args):
        action, state = super().act(*args)
        return action.argmax(-1).float(), state


@broken("A1", "initial(n) has|leaf")
class ForgetsItsRows(Shooting):
    """Keeps one step counter for all environments."""

    def initial(self, n):
        return {"steps": torch.zeros(())}


@broken("A1", "after act")
class GrowingState(Shooting):
    """Appends to its state at every step."""

    def initial(self, n):
        return {"past": torch.zeros(n, 1)}

    def act(self, model, carry, features, state, generator, explore):
        action, _ = super().act(model, carry, features, state, generator, explore)
        return action, {"past": torch.cat([state["past"], state["past"]], -1)}


@broken("A2", "no one-hot|more than 1")
class SoftActions(Shooting):
    """Returns half-soft choices, and continuous actions beyond the bounds."""

    def act(self, *args):
        action, state = super().act(*args)
        return 1.3 * action - 0.1, state


@broken("A3", "influences environment")
class OtherRow(Shooting):
    """Returns the plan of another row."""

    def act(self, *args):
        action, state = super().act(*args)
        return action.flip(0), state


@broken("A3", "influences environment")
class OnePlanForAll(Shooting):
    """Executes the plan whose reward is best over all rows."""

    def act(self, model, carry, features, state, generator, explore):
        action, state = super().act(model, carry, features, state, generator, explore)
        _, _, reward, _ = model.step(carry, action, None)
        return action[reward.argmax()].expand_as(action), state


@broken("A4", "global random generator")
class GlobalNoise(Shooting):
    """Draws from torch's global generator."""

    def act(self, *args):
        torch.rand(1)
        return super().act(*args)


@broken("A4", "different actions")
class HiddenCount(Shooting):
    """Keeps what changes from step to step in self."""

    calls = 0

    def act(self, model, carry, features, state, generator, explore):
        self.calls += 1
        return super().act(model, carry, features, state, torch.Generator().manual_seed(self.calls), explore)


@broken("A4", "modifies the carry")
class InPlace(Shooting):
    """Changes the carry that it was given."""

    def act(self, model, carry, *args):
        answer = super().act(model, carry, *args)
        carry.z.mul_(0.5)
        return answer


@broken("A5", "changed the world model's")
class TrainsTheModel(Learning):
    """Nudges the weights of the world model when it learns."""

    def losses(self, model, seen, generator):
        for p in model.parameters():
            p.data.mul_(0.999)
        return super().losses(model, seen, generator)


@broken("A6", "not a scalar")
class LossPerRow(Learning):
    """Returns a loss for each row."""

    def losses(self, model, seen, generator):
        losses, metrics = super().losses(model, seen, generator)
        return {name: loss.expand(4) for name, loss in losses.items()}, metrics


@broken("A6", "'valu'")
class UnknownPlayer(Learning):
    """Misspells a player."""

    def losses(self, model, seen, generator):
        losses, metrics = super().losses(model, seen, generator)
        return {"actor": losses["actor"], "valu": losses["critic"]}, metrics


@broken("A6", "lists 'critic.weight' 0 times")
class ForgottenNetwork(Learning):
    """Leaves a network out of its players."""

    def players(self):
        return {"actor": super().players()["actor"]}


@broken("A7", "also trains player 'critic'")
class LeakyActor(Learning):
    """Trains the critic by the actor's loss."""

    def losses(self, model, seen, generator):
        losses, metrics = super().losses(model, seen, generator)
        return {**losses, "actor": losses["actor"] - self.critic(model.features(seen.carry)).mean()}, metrics


@broken("A8", "the next update differs|acts differently")
class PlainAttribute(Learning):
    """Keeps the scale of its loss outside the state_dict."""

    scale = 1.0

    def losses(self, model, seen, generator):
        losses, metrics = super().losses(model, seen, generator)
        self.scale *= 0.5
        return {name: self.scale * loss for name, loss in losses.items()}, metrics


@broken("A9", "on average")
class WrongSign(Learning):
    """Minimises the return."""

    def losses(self, model, seen, generator):
        losses, metrics = super().losses(model, seen, generator)
        return {**losses, "actor": -losses["actor"]}, metrics


@broken("A9", "on average")
class LastAction(Shooting):
    """Executes the last action of the best plan, not the first: the rewards are another step's."""

    def act(self, model, carry, features, state, generator, explore):
        n, count, action = len(features), self.config.candidates, self.specs.action
        plans = 2 * torch.rand(n, count, 2, action.dim, generator=generator) - 1
        if action.kind == "discrete":
            plans = F.one_hot(plans.argmax(-1), action.dim).float()
        dream = model.imagine(model.fork(carry, count), plans.flatten(0, 1), 2, generator)
        best = dream.reward[:, 0].view(n, count).argmax(1)
        return plans[torch.arange(n), best, 1], state


CORRECT_AGENTS = (Shooting, Learning)
