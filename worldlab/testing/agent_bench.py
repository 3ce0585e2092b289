"""The bench of an agent: the agent inside a world model whose rewards are known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from worldlab.agent import Agent, Experience, OwnLearner
from worldlab.errors import ConfigError, one_line
from worldlab.interfaces import State
from worldlab.model.noise import stream
from worldlab.registry.faults import where
from worldlab.rollout import Carry
from worldlab.settings import Config, TrainSettings
from worldlab.specs import Specs
from worldlab.testing import known_world, toys
from worldlab.testing.bench import Choice, log
from worldlab.testing.checks import CannotRun, CheckFailure, NotApplicable
from worldlab.training.trainer import Generators, Trainer
from worldlab.world_model import WorldModel

STARTS = 32
"""States from which an agent imagines in one update."""


@dataclass(frozen=True)
class AgentBench:
    """An agent and a world model in which it acts and learns."""

    agent: Agent
    model: WorldModel

    @property
    def specs(self) -> Specs:
        return self.model.specs

    @property
    def learns(self) -> bool:
        """Whether the agent learns in the world model."""
        return isinstance(self.agent, OwnLearner) or bool(self.agent.players())

    def carry(self, n: int, seed: int = 0) -> Carry:
        """Return states of n episodes after a zero action; every other one has a negative x."""
        x = known_world.starts(n, stream(seed))
        return Carry({"z": x.clone(), "action": torch.zeros(n, self.specs.action.dim)}, x)

    def act(
        self, carry: Carry, state: State | None = None, seed: int = 0, explore: bool = False
    ) -> tuple[Tensor, State]:
        """Let the agent act on a carry [N, ...]. state: None is that of `initial`. Returns action [N, A] and state."""
        before = self.agent.initial(len(carry.z)) if state is None else state
        features = self.model.features(carry)
        with torch.no_grad():
            return self.agent.act(self.model, carry, features, before, stream(seed), explore)

    def reward(self, carry: Carry, action: Tensor) -> Tensor:
        """Return the reward [N] of actions [N, A] at a carry: nearly 1 for the best, on average 0 for random ones."""
        return known_world.reward_of(carry.z[:, 0], action, self.specs.action)

    def trainer(self, seed: int = 0) -> Trainer:
        """Return the trainer of the agent, with optimisers in their initial state."""
        settings = TrainSettings(starts=STARTS)
        return Trainer(self.model, self.agent, settings, Generators(stream(seed + 1), stream(seed + 2)))

    def experience(self, trainer: Trainer, seed: int = 0) -> Experience:
        """Return the data of one update: states of replayed random actions."""
        batch = known_world.known_batch(self.specs.action, 8, 4, stream(1000 + seed))
        with torch.no_grad():
            return trainer.starts(*self.model.observe(batch, stream(2000 + seed)))

    def updates(self, trainer: Trainer, count: int, first: int = 0) -> Iterator[dict[str, Tensor]]:
        """Let the agent learn `count` times as in a run; yield the scalars of each update."""
        for number in range(first, first + count):
            yield trainer.learn(self.experience(trainer, number))


@dataclass(frozen=True)
class AgentSubject:
    """An agent as the subject of a check."""

    label: str
    choice: Choice
    registration: Any = None
    role: str = field(default="agent", init=False)

    def with_config(self, config: Config) -> AgentSubject:
        """Return the same agent with another configuration."""
        return AgentSubject(self.label, Choice(self.choice.cls, config), self.registration)

    def bench(self, action: str, seed: int = 0) -> AgentBench:
        """Build the agent. action: a name in toys.ACTIONS.

        Raises: NotApplicable if the agent does not support the action, CannotRun if it cannot be built.
        """
        model = known_world.known_world(toys.ACTIONS[action])
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                agent = self.choice.cls(self.choice.config, model.specs)
        except ConfigError as exc:
            raise NotApplicable(f"does not support {action} actions: {exc.message}") from exc
        except Exception as exc:
            raise CannotRun(
                f"it cannot be built: {type(exc).__name__}: {one_line(exc, 160)} (at {where(exc)})",
                "build it as Cls(config, specs), and call super().__init__(config, specs) first",
            ) from exc
        log.debug("builds %s for %s actions in worldlab.testing.known_world", self.choice, action)
        return AgentBench(agent, model)

    def benches(self) -> Iterator[AgentBench]:
        """Yield a bench for each kind of action that the agent supports.

        Raises: CheckFailure if it supports none.
        """
        reasons = []
        for action in toys.ACTIONS:
            try:
                yield self.bench(action)
            except NotApplicable as exc:
                reasons.append(str(exc))
        if len(reasons) == len(toys.ACTIONS):
            raise CheckFailure("; ".join(reasons), "support discrete or continuous actions")


def flip_row(carry: Carry, row: int) -> Carry:
    """Return a carry in which x has the other sign in one row."""
    sign = torch.ones_like(carry.z)
    sign[row] = -1
    return Carry({**carry.state, "z": carry.state["z"] * sign}, carry.z * sign)
