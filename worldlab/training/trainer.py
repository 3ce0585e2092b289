"""One update of everything: critics on a detached context, the world model with critics frozen, then the agent.
A stage (worldlab.model.schedule) may leave some of them out.

Owns every optimiser, clips, and skips and names updates that are not finite. Read `update` first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldlab import tree
from worldlab.agent import Agent, Experience, OwnLearner
from worldlab.errors import DivergedError
from worldlab.interfaces import Batch, Context
from worldlab.model.schedule import JOINT, Stage
from worldlab.nn import frozen, frozen_parameters
from worldlab.rollout import Carry, Observed
from worldlab.settings import TrainSettings
from worldlab.world_model import WorldModel


@dataclass(frozen=True)
class Generators:
    """The random streams an update draws from."""

    model: torch.Generator
    agent: torch.Generator


class Trainer:
    """Steps the optimisers of a world model and an agent."""

    def __init__(self, model: WorldModel, agent: Agent, settings: TrainSettings, generators: Generators):
        self.model = model
        self.agent = agent
        self.settings = settings
        self.generators = generators
        self.skips = 0
        self.updates = 0
        self._skipped = False
        groups = model.players()
        self.groups: dict[str, list[nn.Parameter]] = {f"model/{player}": group for player, group in groups.items()}
        rates = {name: settings.critic_learning_rate for name in self.groups}
        rates["model/main"] = settings.learning_rate
        for player, (group, rate) in agent.players().items():
            self.groups[f"agent/{player}"] = group
            rates[f"agent/{player}"] = rate
        self.rates = rates
        # An adversarial critic forgets fast (beta1 = 0), as Karras et al. 2019 train theirs; all else is plain Adam.
        self.optimizers = {
            name: torch.optim.Adam(group, rates[name], betas=(0.9 if self._plain(name) else 0.0, 0.999), fused=True)
            for name, group in self.groups.items()
        }

    @staticmethod
    def _plain(name: str) -> bool:
        return name == "model/main" or name.startswith("agent/")

    def anneal(self, progress: float) -> None:
        """Set learning rates for a run that is `progress` (0 to 1) of its way."""
        share = 1 - (1 - self.settings.final_rate) * min(progress, 1.0)
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self.rates[name] * share

    def update(self, batch: Batch, stage: Stage = JOINT) -> dict[str, Tensor]:
        """One update on a preprocessed batch. Returns scalars to log, on the device. Raises DivergedError."""
        self.updates += 1
        self._skipped = False
        out: dict[str, Tensor] = {}
        with frozen(*self._resting(stage)), torch.set_grad_enabled(stage.model):
            ctx, seen = self.model.observe(batch, self.generators.model)
            if stage.model:
                out.update(self._update_critics(ctx, stage))
                out.update(self._update_main(ctx, stage))
        if stage.agent:
            out.update(self._update_agent(ctx, seen))
        if not self._skipped:
            self.skips = 0
        return out

    # ---- the world model ----

    def _resting(self, stage: Stage) -> Sequence[nn.Module]:
        """What does not learn in a stage."""
        parts = [part for role, part in self.model.parts.items() if role not in stage.parts]
        return parts if stage.heads else [*parts, self.model.reward, self.model.cont]

    def _update_critics(self, ctx: Context, stage: Stage = JOINT) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        for name in self.groups:
            player = name.removeprefix("model/")
            if self._plain(name):
                continue
            losses = self.model.losses(ctx.detach(), player, stage)
            out.update(self._step(name, losses, ctx.batch.mask))
            self._after(player, stage)
        return out

    def _update_main(self, ctx: Context, stage: Stage = JOINT) -> dict[str, Tensor]:
        critics = [p for name, group in self.groups.items() if not self._plain(name) for p in group]
        with frozen_parameters(critics):
            losses = self.model.losses(ctx, "main", stage)
            out = self._step("model/main", losses, ctx.batch.mask)
        self._after("main", stage)
        return out

    def _after(self, player: str, stage: Stage) -> None:
        for role in sorted(stage.parts):
            self.model.parts[role].after_step(player)

    def _step(self, name: str, losses: dict[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        scalars = {key: _average(term, mask) for key, term in losses.items()}
        if not scalars:
            return {}
        total = torch.stack(list(scalars.values())).sum()
        out = {f"loss/{key}": value.detach() for key, value in scalars.items()}
        out[f"grad_norm/{name}"] = self._apply({name: total}, scalars)
        return out

    # ---- the agent ----

    def _update_agent(self, ctx: Context, seen: Observed) -> dict[str, Tensor]:
        alone = isinstance(self.agent, OwnLearner)
        if not (alone or self.agent.players()):
            return {}
        experience = self.starts(ctx, seen)
        with frozen(self.model):
            if isinstance(self.agent, OwnLearner):
                return self.agent.learn(self.model, experience, self.generators.agent)
            losses, metrics = self.agent.losses(self.model, experience, self.generators.agent)
        named = {f"agent/{player}": loss for player, loss in losses.items()}
        out = {f"loss/{name}": loss.detach() for name, loss in named.items()}
        out.update(metrics)
        out["grad_norm/agent"] = self._apply(named, named)
        self.agent.after_step()
        return out

    def starts(self, ctx: Context, seen: Observed) -> Experience:
        """Random posterior states of the batch, cut from the graph, from which to imagine."""
        batch = ctx.batch
        rows, length = batch.is_first.shape
        count = min(self.settings.starts, rows * length)
        device = batch.is_first.device
        chosen = torch.randperm(rows * length, generator=self.generators.agent, device=device)[:count]
        row, time = chosen // length, chosen % length
        carry: Carry = tree.detach(seen.at(row, time))
        return Experience(carry, batch.reward[row, time], batch.cont[row, time], ctx.detach())

    # ---- optimisers ----

    def _apply(self, losses: dict[str, Tensor], terms: dict[str, Tensor]) -> Tensor:
        """Backward and step the named players, or skip all of them if anything is not finite. Returns the gradient norm."""
        for name in losses:
            self.optimizers[name].zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        norms = [
            torch.nn.utils.clip_grad_norm_(self.groups[name], self.settings.clip, error_if_nonfinite=False)
            for name in losses
        ]
        norm = torch.stack(norms).max()
        if not torch.isfinite(norm):
            self._skip(losses, terms)
            return norm
        for name in losses:
            self.optimizers[name].step()
        return norm

    def _skip(self, losses: dict[str, Tensor], terms: dict[str, Tensor]) -> None:
        # One count for all players: a healthy critic or agent must not hide a model that no longer learns.
        self.skips += not self._skipped
        self._skipped = True
        for name in losses:
            self.optimizers[name].zero_grad(set_to_none=True)
        if self.skips >= self.settings.max_skips:
            bad = [key for key, value in terms.items() if not torch.isfinite(value)]
            blame = f"loss '{bad[0]}'" if bad else f"a gradient of {', '.join(losses)}"
            raise DivergedError(
                f"{blame} is not finite at update {self.updates}; {self.skips} updates skipped in a row",
                cause="the loss or its gradient left the finite numbers; a skipped update changes none of its player's weights",
                fix="resume from the last checkpoint with a lower --train.learning-rate",
            )


def _average(term: Tensor, mask: Tensor) -> Tensor:
    """Mean over valid steps of [B, T]; a decoder's chosen frames [M, 1] are all valid."""
    if term.shape != mask.shape:
        return term.mean()
    return (term * mask).sum() / mask.sum().clamp(min=1.0)
