"""Makes one update: critics on a detached context, the world model with frozen critics, then the agent.

A stage (worldlab.model.schedule) may omit some of these. The trainer owns every optimiser, clips gradients, and skips
non-finite updates. The agent may learn in a process of its own, beside the next update of the model (`beside`). On a GPU the
update is one graph (`static`): so what `compute` calls reads no value on the host there. Start reading at `Trainer.update`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from worldlab import tree
from worldlab.agent import Agent, Experience, OwnLearner
from worldlab.distributions import exact
from worldlab.interfaces import Batch, Context, Player
from worldlab.model import particles
from worldlab.model.losses import Term, model_losses
from worldlab.model.schedule import JOINT, Stage
from worldlab.nn import frozen, frozen_parameters, may_read
from worldlab.rollout import Carry, Observed
from worldlab.settings import TrainSettings
from worldlab.training.adam import Adam
from worldlab.training.finite import BadUpdates, Finite
from worldlab.training.machine import large_products
from worldlab.world_model import WorldModel

log = logging.getLogger("worldlab")


class BesideError(Exception):
    """The process in which the agent learns does not start, has died or cannot learn. The message is the reason."""


class Beside(Protocol):
    """Makes the updates of the agent in another process (worldlab.training.agent_process)."""

    def learn(self, trainer: Trainer, experience: Experience) -> dict[str, Tensor]:
        """Start an update of the agent. Returns the metrics of the previous one, after loading its weights.

        Raises: BesideError; DivergedError of the previous update.
        """
        ...

    def synchronise(self, trainer: Trainer) -> None:
        """Wait for the update in progress; load the agent's weights and the states of its optimisers.

        Raises: BesideError; DivergedError of that update.
        """
        ...

    def close(self, seconds: float = 2.0) -> None:
        """End the process."""
        ...


@dataclass(frozen=True)
class Generators:
    """The random streams of an update."""

    model: torch.Generator
    agent: torch.Generator


@dataclass(frozen=True)
class Outcome:
    """The result of an update, on the device."""

    metrics: dict[str, Tensor]
    """Scalars to log."""
    steps: Sequence[Finite]
    """The steps that the host has not examined (`BadUpdates`)."""


class Static(Protocol):
    """Makes updates from buffers of fixed shapes (worldlab.training.graph)."""

    def run(self, batch: Batch, stage: Stage) -> Outcome:
        """Make one update, as `Trainer.compute` does."""
        ...


class Trainer:
    """Steps the optimisers of a world model and an agent."""

    def __init__(self, model: WorldModel, agent: Agent, settings: TrainSettings, generators: Generators):
        self.model = model
        self.agent = agent
        self.settings = settings
        self.generators = generators
        self.bad = BadUpdates(settings.max_skips)
        self.updates = 0
        self.progress = 0.0
        self.beside: Beside | None = None
        self.static: Static | None = None
        self.products: torch.dtype | None = None
        """The type to which autocast converts the inputs of matrix products and convolutions; None leaves them."""
        self._steps: list[Finite] = []
        players = model.players()
        self.main = _adam(players.pop("main"), settings.learning_rate)
        self.critics = {name: _adam(player, settings.critic_learning_rate) for name, player in players.items()}
        self.agents = {name: _adam(player) for name, player in agent.players().items()}

    @property
    def skips(self) -> int:
        """The number of bad updates in a row."""
        return self.bad.skips

    @property
    def optimizers(self) -> dict[str, Adam]:
        """Every optimiser by its name in a checkpoint."""
        model = {"main": self.main, **self.critics}
        return {f"model/{k}": v for k, v in model.items()} | {f"agent/{k}": v for k, v in self.agents.items()}

    def anneal(self, progress: float) -> None:
        """Set the learning rates for a run at `progress` (0 to 1)."""
        self.progress = progress
        share = 1 - (1 - self.settings.final_rate) * min(progress, 1.0)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * share

    def update(self, batch: Batch, stage: Stage = JOINT) -> dict[str, Tensor]:
        """Make one update on a preprocessed batch. Returns scalars to log, on the device.

        Raises: DivergedError; on a GPU that of an update up to `IN_FLIGHT` earlier.
        """
        self.updates += 1
        outcome = self.compute(batch, stage) if self.static is None else self.static.run(batch, stage)
        self.bad.finish(self.updates, outcome.steps)
        return outcome.metrics

    def compute(self, batch: Batch, stage: Stage) -> Outcome:
        """Make one update. Nothing else of the trainer changes but weights, optimisers and random streams.

        Raises: DivergedError where the host may read values (`may_read`).
        """
        self._steps = []
        out: dict[str, Tensor] = {}
        with (
            self.large_products(self.settings.batch_size),
            frozen(*self._frozen_parts(stage)),
            torch.set_grad_enabled(stage.model),
        ):
            with self._autocast():
                ctx, seen = self.model.observe_to_learn(batch, self.generators.model)
            if stage.model:
                out.update(self._update_critics(ctx, stage))
                out.update(self._update_main(ctx, stage))
        if stage.agent:
            out.update(self._update_agent(ctx, seen))
        return Outcome(out, self._steps)

    # ---- the world model ----

    def _frozen_parts(self, stage: Stage) -> Sequence[nn.Module]:
        """Return the modules that do not learn in a stage."""
        parts = [part for role, part in self.model.parts.items() if role not in stage.parts]
        return parts if stage.heads else [*parts, self.model.reward, self.model.cont]

    def _update_critics(self, ctx: Context, stage: Stage) -> dict[str, Tensor]:
        """Step each critic on a detached context."""
        out: dict[str, Tensor] = {}
        for player, optimizer in self.critics.items():
            with self._autocast():
                losses = model_losses(self.model, ctx.detach(), player, stage)
            out.update(self._step(player, optimizer, losses, ctx))
            self._after(player, stage)
        return out

    def _update_main(self, ctx: Context, stage: Stage) -> dict[str, Tensor]:
        """Step the "main" player, with the weights of the critics frozen."""
        with frozen_parameters(p for optimizer in self.critics.values() for p in _parameters(optimizer)):
            with self._autocast():
                losses = model_losses(self.model, ctx, "main", stage)
            out = self._step("main", self.main, losses, ctx)
        self._after("main", stage)
        return out

    def _after(self, player: str, stage: Stage) -> None:
        for role in sorted(stage.parts):
            self.model.parts[role].after_step(player)

    def _step(self, player: str, optimizer: Adam, losses: dict[str, Term], ctx: Context) -> dict[str, Tensor]:
        scalars = {name: term.mean() for name, term in losses.items()}
        if not scalars:
            return {}
        total = torch.stack(list(scalars.values())).sum()
        out = {f"loss/{name}": value.detach() for name, value in scalars.items()}
        steps = {f"model/{player}": (total, optimizer)}
        out[f"grad_norm/model/{player}"] = self._apply(steps, scalars, ctx)
        return out

    # ---- the agent ----

    def _update_agent(self, ctx: Context, seen: Observed) -> dict[str, Tensor]:
        if not (isinstance(self.agent, OwnLearner) or self.agent.players()):
            return {}
        experience = self.starts(ctx, seen)
        if self.beside is None:
            return self.learn(experience)
        try:
            return self.beside.learn(self, experience)
        except BesideError as error:
            self._leave_process(error)
            return self.learn(experience)

    def synchronise(self) -> None:
        """Complete the agent's update if it runs in another process. Before weights are saved or evaluated.

        Raises: DivergedError.
        """
        self.bad.wait()
        if self.beside is None:
            return
        try:
            self.beside.synchronise(self)
        except BesideError as error:
            self._leave_process(error)

    def _leave_process(self, reason: BesideError) -> None:
        """Learn in this process from now on, from the agent's last weights."""
        log.warning("the agent now learns in the main process, which is slower: %s", reason)
        assert self.beside is not None
        self.beside.close()
        self.beside = None

    def learn(self, experience: Experience) -> dict[str, Tensor]:
        """Make one update of the agent. Returns scalars to log. Raises: DivergedError."""
        with self.large_products(self.settings.starts):
            return self._learn(experience)

    def _learn(self, experience: Experience) -> dict[str, Tensor]:
        with frozen(self.model):
            if isinstance(self.agent, OwnLearner):
                return self.agent.learn(self.model, experience, self.generators.agent)
            with self._autocast():
                losses, metrics = self.agent.losses(self.model, experience, self.generators.agent)
        named = {f"agent/{player}": loss for player, loss in losses.items()}
        out = {f"loss/{name}": loss.detach() for name, loss in named.items()}
        out.update(metrics)
        steps = {f"agent/{player}": (loss, self.agents[player]) for player, loss in losses.items()}
        out["grad_norm/agent"] = self._apply(steps, named)
        self.agent.after_step()
        return out

    def learn_alone(self, experience: Experience, progress: float, update: int) -> dict[str, Tensor]:
        """Make the agent's part of update number `update`, in a process that has no other part. Raises: DivergedError."""
        self.anneal(progress)
        self.updates = update
        out = self.learn(experience)
        self.bad.finish(update)
        return out

    def starts(self, ctx: Context, seen: Observed) -> Experience:
        """Sample posterior states of the batch, detached from the graph, from which to imagine."""
        batch = ctx.batch
        rows, length = batch.is_first.shape
        count = min(self.settings.starts, rows * length)
        device = batch.is_first.device
        chosen = torch.randperm(rows * length, generator=self.generators.agent, device=device)[:count]
        # How many starts share a past depends on the draw, and so do the shapes of what they share.
        if seen.shared_at is None or self.agent.reads_sequences or exact() or not may_read(chosen):
            at = seen.at
        else:
            at, chosen = seen.shared_at, chosen.sort().values
        row, time = chosen // length, chosen % length
        carry: Carry = tree.detach(at(row, time))
        return Experience(carry, batch.reward[row, time], batch.cont[row, time], self._sequence(ctx))

    def _sequence(self, ctx: Context) -> Context | None:
        """Return the whole batch for an agent that reads it: what it sees when it acts."""
        if not self.agent.reads_sequences:
            return None
        samples = self.model.settings.samples
        return (ctx if samples == 1 else particles.average(ctx, samples)).detach()

    def large_products(self, rows: int) -> AbstractContextManager[None]:
        """Return the context for products of `rows` with the weights of the memory."""
        if self.model.device.type != "cpu":
            return nullcontext()
        return large_products(rows * 4 * self.model.specs.memory_dim**2)

    def _autocast(self) -> AbstractContextManager[Any]:
        """Return the context of a forward pass. Losses, distributions and the state of a recurrence stay float32 in it.

        Without autocast's cache of converted weights: a recorded graph must convert them at each replay, and the optimisers
        change them between two forward passes.
        """
        if self.products is None:
            return nullcontext()
        return torch.autocast(self.model.device.type, self.products, cache_enabled=False)

    # ---- optimisers ----

    def _apply(
        self,
        steps: dict[str, tuple[Tensor, Adam]],
        terms: dict[str, Tensor],
        ctx: Context | None = None,
    ) -> Tensor:
        """Backpropagate and step, or skip all players if any gradient is not finite. Returns the largest gradient norm.

        A loss that is not finite counts as bad even where its gradient is finite. steps: a scalar loss and its optimiser,
        by name. terms: scalars that an error can name. ctx: the forward pass of a world model's losses.
        """
        for _, optimizer in steps.values():
            optimizer.zero_grad(set_to_none=True)
        total = torch.stack([loss for loss, _ in steps.values()]).sum()
        total.backward()
        norms = [
            torch.nn.utils.clip_grad_norm_(_parameters(optimizer), self.settings.clip, error_if_nonfinite=False)
            for _, optimizer in steps.values()
        ]
        norm = torch.stack(norms).max()
        finite = Finite.of(list(steps), norm, total, terms)
        optimizers = [optimizer for _, optimizer in steps.values()]
        if not may_read(norm):
            self._steps.append(finite)
            for optimizer in optimizers:
                optimizer.step_if(finite.flags[0])
        elif self.bad.examine(self.updates, finite, ctx):
            for optimizer in optimizers:
                optimizer.step()
        return norm


def _adam(player: Player, rate: float | None = None) -> Adam:
    """Build a player's optimiser. rate: the learning rate of a player that declares none."""
    chosen = rate if player.rate is None else player.rate
    assert chosen is not None, "an agent's player declares its learning rate"
    return Adam(player.parameters, chosen, betas=player.betas, fused=True)


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]
