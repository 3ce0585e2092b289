"""Defines the agent: it acts on features and learns inside the world model, through the `WorldModel` facade only."""

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
    """The data of one agent update: posterior states of replayed data, detached from the graph."""

    carry: Carry
    """The states [N, ...] from which to imagine."""
    reward: Tensor
    """The reward [N] received on arrival at each state."""
    cont: Tensor
    """0 where the episode terminated on arrival, else 1: [N]."""
    sequence: Context | None = None
    """The whole batch [B, T] from the model's forward pass, if the agent's `reads_sequences`; else None."""


class Agent(nn.Module, ABC):
    """Chooses actions and may learn from imagined or replayed data.

    An agent is built as `Cls(config, specs)`. The trainer owns its optimisers.
    """

    noise: float = 0.0
    """Exploration noise that the core adds during collection.

    It is the standard deviation for continuous actions, and the probability of a uniform action for discrete ones.
    """
    sampled_latents: bool = True
    """Whether data collection samples latents. If False, it uses the most likely latent.

    Evolution strategies set False: they explore with their weights, and latent noise only adds variance to the fitness.
    """
    imitates: bool = False
    """Whether it learns to repeat recorded actions, not to earn rewards."""
    reads_sequences: bool = True
    """Whether `losses` reads `Experience.sequence`. An agent that learns from dreams alone sets False.

    Such an agent may learn in a process of its own, beside the next update of the model.
    """
    dream_temperature: float = 1.0
    """Temperature of the prior in the agent's dreams. A value other than 1 needs a prior with a temperature."""
    reads_disagreement: bool = False
    """Whether the agent reads `WorldModel.disagreement`, which needs a dynamics of several members."""

    @abstractmethod
    def __init__(self, config: Any, specs: Specs) -> None:
        super().__init__()
        self.register_buffer("_anchor", torch.empty(0), persistent=False)

    @property
    def device(self) -> torch.device:
        """The device of the agent, also if it has no parameters."""
        return self.get_buffer("_anchor").device

    def initial(self, n: int) -> State:
        """Return the agent's own state between steps (a planner's last plan), a tree [n, ...]; {} by default."""
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
        """Choose encoded actions [N, A] at the carry's features [N, F].

        state: from `initial` or the last call; the core resets the rows of ended episodes. explore: False returns the
        best known action. Returns the actions and the next state.
        """

    def players(self) -> dict[str, Player]:
        """Return the players, each with its learning rate; {} by default, for agents that do not learn."""
        return {}

    def losses(
        self, model: WorldModel, seen: Experience, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return one scalar loss for each player, and metrics. The weights of the model are frozen during the call."""
        return {}, {}

    def after_step(self) -> None:
        """Update slow targets. Called after each update."""


@runtime_checkable
class HasValue(Protocol):
    """An agent that predicts the discounted return that it will earn from a state on."""

    def value(self, features: Tensor) -> Tensor:
        """Return the value [*] of features [*, F]."""
        ...


@runtime_checkable
class LearnsFromEpisodes(Protocol):
    """An agent that learns from the returns of the episodes it plays during collection, each from its start."""

    def after_episode(self, state: State, ret: float) -> None:
        """Receive the return of a finished episode. state: the agent's last state there, without batch."""
        ...

    def metrics(self) -> dict[str, float]:
        """Return numbers to log, by name."""
        ...

    def idle(self, state: State) -> Tensor:
        """Return which environments [N] bool need no step because they have no episode to play. state: from `act`."""
        ...


@runtime_checkable
class OwnLearner(Protocol):
    """An agent that steps its own optimisers, as library algorithms do: it has `learn` instead of players and `losses`.

    Checkpoints save `optimizers`. For other state outside the agent's parameters and buffers see `HasOwnState`.
    """

    def learn(self, model: WorldModel, seen: Experience, generator: torch.Generator) -> dict[str, Tensor]:
        """Learn for one update, while the weights of the model are frozen. Returns metrics."""
        ...

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the optimisers by name, in a fixed order. They exist from the start."""
        ...


@runtime_checkable
class HasOwnState(Protocol):
    """An agent that saves what it keeps outside of its parameters, buffers and optimisers, such as a library's memory.

    Without it, a run of an `OwnLearner` resumes approximately.
    """

    def own_state(self) -> dict[str, Tensor]:
        """Return the state as tensors, on the CPU; values that are not finite are allowed."""
        ...

    def load_own_state(self, state: dict[str, Tensor]) -> None:
        """Restore the state, after parameters and buffers. Raises: any exception for a state of another form."""
        ...
