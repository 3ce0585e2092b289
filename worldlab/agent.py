"""What an agent is: it acts on features and learns inside the world model, of which it sees only the facade."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from worldlab.interfaces import Context, Player, State
from worldlab.rollout import Carry
from worldlab.specs import Specs
from worldlab.world_model import WorldModel


@dataclass(frozen=True)
class Experience:
    """What an agent learns from in one update: posterior states of replayed data, cut from the graph.

    carry: [N, ...], the states from which to imagine. reward, cont: [N], received on arriving there.
    sequence: the whole batch [B, T] as the model saw it, for agents that also learn from what really happened.
    """

    carry: Carry
    reward: Tensor
    cont: Tensor
    sequence: Context | None = None


class Agent(nn.Module, ABC):
    """Acts, and learns if it can. Built as `Cls(config, specs)`; its optimisers belong to the trainer.

    noise: what the core adds to its actions while collecting, where they do not explore by themselves: a std for
    continuous actions, the chance of a uniform one for discrete. sampled_latents: whether collecting shows it sampled
    latents; false for agents that explore with their weights, to which they are noise on the score. dream_temperature: of
    the prior in its dreams; at another than 1 the dynamics must have one (worldlab.distributions.tempered).
    """

    noise: float = 0.0
    sampled_latents: bool = True
    dream_temperature: float = 1.0

    @abstractmethod
    def __init__(self, config: Any, specs: Specs) -> None:
        super().__init__()
        self.register_buffer("_anchor", torch.empty(0), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the agent computes, also for an agent without parameters."""
        return self.get_buffer("_anchor").device

    def initial(self, n: int) -> State:
        """The agent's own memory between steps (a planner's last plan): a tree, [n, ...]; nothing by default."""
        return {}

    @abstractmethod
    def act(
        self,
        model: WorldModel,
        carry: Carry,
        features: Tensor,
        state: State,
        generator: torch.Generator,
        explore: bool,
    ) -> tuple[Tensor, State]:
        """Choose encoded actions [N, A] at the carry's features [N, F]. explore false asks for the best known action.

        state: what `initial` gave or the last call returned, rows of ended episodes replaced by the core.
        """

    def players(self) -> dict[str, Player]:
        """Return the players, each with its learning rate; none by default, for agents that do not learn."""
        return {}

    def losses(
        self, model: WorldModel, seen: Experience, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One scalar loss per player, and metrics. The model's weights are frozen meanwhile."""
        return {}, {}

    def after_step(self) -> None:
        """Called after each update: slow targets."""


@runtime_checkable
class LearnsFromEpisodes(Protocol):
    """An agent that wants to know what the episodes it played while collecting came to; it plays them from their start."""

    def after_episode(self, state: State, ret: float) -> None:
        """An episode ended with return `ret`; state: what the agent last returned for that environment, without a batch."""
        ...

    def metrics(self) -> dict[str, float]:
        """What is worth logging: numbers by name."""
        ...

    def idle(self, state: State) -> Tensor:
        """Environments [N] bool that should not be stepped: nobody is there to play in them. state: as `act` returned it."""
        ...


@runtime_checkable
class OwnLearner(Protocol):
    """An agent that steps its own optimisers, because a library does: it has no players, and `learn` in place of `losses`.

    `optimizers` are saved with checkpoints; what else it keeps outside its parameters begins anew when a run resumes.
    """

    def learn(self, model: WorldModel, seen: Experience, generator: torch.Generator) -> dict[str, Tensor]:
        """Called once an update, the model's weights frozen. Returns metrics."""
        ...

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """By name, in a fixed order; there from the start."""
        ...
