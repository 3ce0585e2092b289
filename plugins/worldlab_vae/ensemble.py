"""An ensemble: K members of any registered dynamics, which share the memory and predict the next latent each alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from worldlab import tree
from worldlab.distributions import Distribution, expectation
from worldlab.errors import ConfigError
from worldlab.interfaces import (
    ActionSpec,
    Alarm,
    Context,
    Dynamics,
    LatentSpec,
    ParallelDynamics,
    Player,
    ScoresLatent,
    SharesPast,
    Specs,
    State,
)
from worldlab_vae.configs import EnsembleDynamicsConfig


@final
class EnsembleDynamics(Dynamics):
    """Members p_1 .. p_K of p(z | h), each with initial weights of its own and trained on rows of its own.

        h' = f(h, z, a),  z' ~ p_k(z' | h'),  k drawn once for each imagined row
        disagreement(h) = mean_d Var_k E_{p_k}[z_d | h]

    Lakshminarayanan et al. 2016 (deep ensembles), arXiv:1612.01474; Chua et al. 2018 (PETS), arXiv:1805.12114, section
    4 (a member is kept along a rollout); Sekar et al. 2020 (Plan2Explore), arXiv:2005.05960, eq. 4 (disagreement).

    Deviations. The members share the memory f, as the heads of Plan2Explore do, so that features mean the same to the
    reward head, the decoder and the agent whichever member imagined them; PETS's members share nothing. The bootstrap
    is drawn anew at each update (Poisson weights: Oza & Russell 2001) instead of once for the data. The first member is
    the prior where one is wanted (`predict`: bits, health, dreams without noise). K = 1 is the member itself, bit for
    bit.
    """

    Config = EnsembleDynamicsConfig

    def __init__(self, config: EnsembleDynamicsConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        cls, options = _member(config)
        self.members = nn.ModuleList(cls(options, specs) for _ in range(config.count))
        shared = memory_parameters(self.first, specs)
        for member in self.each()[1:]:
            share(member, self.first, shared)
            if not list(member.parameters()):
                raise ConfigError(
                    f"dynamics '{config.member}' predicts with the weights of its memory alone",
                    cause="the members of an ensemble share the memory, so they would be equal",
                    fix="--dynamics.member NAME of another dynamics",
                )
        self.prior_kind = self.first.prior_kind
        self.reparameterised = self.first.reparameterised
        self.loss_weights = self.first.loss_weights
        if isinstance(self.first, ParallelDynamics):
            self.advance_sequence = self.first.advance_sequence
        if isinstance(self.first, SharesPast):
            self.fork = self.first.fork
        if isinstance(self.first, ScoresLatent):
            self.score_latent = self.first.score_latent

    # ---- the members ----

    @property
    def first(self) -> Dynamics:
        """The member that computes the memory."""
        return cast(Dynamics, self.members[0])

    def each(self) -> Sequence[Dynamics]:
        return cast(Sequence[Dynamics], self.members)

    def row_weights(self, ctx: Context) -> Tensor:
        shape = (len(self.members), len(ctx.row))
        ones = torch.ones(shape, device=ctx.row.device)
        return ones if len(self.members) == 1 else torch.poisson(ones, generator=ctx.generator)

    # ---- the memory, which is the first member's ----

    @classmethod
    def memory_size(cls, config: EnsembleDynamicsConfig, latent: LatentSpec, action: ActionSpec) -> int:
        member, options = _member(config)
        return member.memory_size(options, latent, action)

    @classmethod
    def holds(cls, config: EnsembleDynamicsConfig, latent: LatentSpec) -> int:
        member, options = _member(config)
        return member.holds(options, latent)

    @classmethod
    def runs_in_parallel(cls, config: EnsembleDynamicsConfig) -> bool:
        member, options = _member(config)
        return member.runs_in_parallel(options)

    def initial(self, n: int) -> State:
        return self.first.initial(n)

    def advance(self, state: State, z: Tensor, action: Tensor) -> State:
        return self.first.advance(state, z, action)

    def memory(self, state: State) -> Tensor:
        return self.first.memory(state)

    def predict(self, memory: Tensor) -> Distribution:
        return self.first.predict(memory)

    # ---- learning ----

    def players(self) -> dict[str, Player]:
        """Return the players of the members, merged by name; the memory's parameters belong to one player once."""
        merged: dict[str, Player] = {}
        for member in self.each():
            for name, player in member.players().items():
                merged.setdefault(name, replace(player, parameters=[])).parameters.extend(player.parameters)
        return {
            name: replace(player, parameters=list(dict.fromkeys(player.parameters))) for name, player in merged.items()
        }

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        """Return the means of the members' own terms, each weighted by the rows that train the member."""
        first = self.first.losses(ctx, player)
        if not first:
            return {}
        each = [first, *(member.losses(_context_of(member, ctx, player), player) for member in self.each()[1:])]
        weight = self.row_weights(ctx)[..., None]
        return {name: (weight * torch.stack([terms[name] for terms in each])).mean(0) for name in first}

    def after_step(self, player: str) -> None:
        for member in self.each():
            member.after_step(player)

    def metrics(self, ctx: Context) -> dict[str, Tensor]:
        """Return the metrics of the first member and `disagreement`, the mean over the batch, in units of z squared."""
        if len(self.members) == 1:
            return self.first.metrics(ctx)
        memory = ctx.memory.flatten(0, 1)
        expected = torch.stack([expectation(member.predict(memory)) for member in self.each()])
        return {**self.first.metrics(ctx), "disagreement": expected.var(0).mean()}

    def alarms(self, values: dict[str, float]) -> dict[str, Alarm]:
        return self.first.alarms(values)


def _member(config: EnsembleDynamicsConfig) -> tuple[type[Dynamics], Any]:
    """Return the class and the configuration of the members."""
    chosen = config.chosen("member")
    return chosen.registration.load(), chosen.options


def _context_of(member: Dynamics, ctx: Context, player: str) -> Context:
    """Return a context with the member's own prior, detached as all of a context is for players other than "main"."""
    prior = member.predict(ctx.memory.flatten(0, 1))
    return replace(ctx, prior=prior if player == "main" else tree.detach(prior))


def memory_parameters(dynamics: Dynamics, specs: Specs) -> set[nn.Parameter]:
    """Return the parameters from which the memory is computed: those that a gradient of the memory reaches."""
    parameters = [p for p in dynamics.parameters() if p.requires_grad]
    z, action = torch.zeros(1, specs.latent.dim), torch.zeros(1, specs.action.dim)
    with torch.enable_grad():
        state = dynamics.initial(1)
        for _ in range(2):  # the second step also reads what the first has stored
            state = dynamics.advance(state, z, action)
        found = torch.autograd.grad(dynamics.memory(state).sum(), parameters, allow_unused=True)
    return {p for p, grad in zip(parameters, found, strict=True) if grad is not None}


def share(module: nn.Module, source: nn.Module, shared: set[nn.Parameter]) -> None:
    """Let a module use the parts of an equally built `source` whose parameters are all `shared`.

    What is shared is a plain attribute, so that only `source` lists and saves it.
    """
    for name, child in list(module.named_children()):
        original = source.get_submodule(name)
        own = set(original.parameters())
        if own and own <= shared and not isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            del module._modules[name]
            module.__dict__[name] = original
        else:
            share(child, original, shared)
    for name, parameter in list(source.named_parameters(recurse=False)):
        if parameter in shared:
            del module._parameters[name]
            module.__dict__[name] = parameter
