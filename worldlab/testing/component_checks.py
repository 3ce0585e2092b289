"""Checks that apply to every component, whatever its role."""

from __future__ import annotations

import copy
import os
import tempfile
import tomllib
import warnings
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import tomli_w
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from worldlab.errors import DivergedError, one_line
from worldlab.interfaces import Batch, Component, Context, declaration_error
from worldlab.model.noise import noise_batch
from worldlab.registry.faults import where
from worldlab.testing.bench import Bench, Subject, clone
from worldlab.testing.checks import CheckFailure, check
from worldlab.testing.probes import random_states, same


@check("P1", role="component", title="the configuration rejects unknown keys, has valid defaults and survives TOML")
def configuration(subject: Subject) -> None:
    """The default configuration is valid and round-trips through TOML, and an unknown key raises an error.

    Catches defaults that violate their own validation rules, values that a run folder cannot store, and misspelt keys
    that are silently ignored. Fix: subclass worldlab.Config; use only numbers, strings, booleans and lists as values.
    """
    cls = type(subject.choice.config)
    default = cls()
    written = tomli_w.dumps({k: v for k, v in default.model_dump(mode="json").items() if v is not None})
    if cls.model_validate(tomllib.loads(written)) != default:
        raise CheckFailure(
            "the configuration differs after a round trip through TOML", "use values that TOML can represent"
        )
    try:
        cls.model_validate({"no_such_setting": 1})
    except ValidationError:
        return
    raise CheckFailure(
        "the configuration accepts an unknown key", "subclass worldlab.Config, which forbids unknown keys"
    )


@check("P2", role="component", title="the same seed builds the same parameters")
def seeded_parameters(subject: Subject) -> None:
    """Two components built with the same seed have equal parameters and buffers.

    Catches initialisation from numpy, `random`, the clock or an unseeded generator. Fix: initialise with torch.nn.init,
    which the core seeds.
    """
    first, second = (subject.bench(fresh=True, seed=3).part.state_dict() for _ in range(2))
    for name, value in first.items():
        if not torch.equal(value, second[name]):
            raise CheckFailure(
                f"'{name}' differs between two builds with the same seed",
                "initialise with torch.nn.init, which the core seeds",
            )


@check("P3", role="component", title="each parameter belongs to exactly one player")
def players_partition(subject: Subject) -> None:
    """players() lists every trainable parameter exactly once, and one of the players is "main". A player is a set of
    parameters with its own optimiser.

    Catches a parameter that two optimisers update, or none. Fix: build the parameter lists from disjoint submodules.
    """
    part = subject.bench().part
    names = {id(p): name for name, p in part.named_parameters()}
    owner: dict[int, str] = {}
    players = part.players()
    if "main" not in players:
        raise CheckFailure(
            f'players() has no "main", only {", ".join(players) or "no players"}',
            'name the player that trains the model "main"',
        )
    for player, group in players.items():
        for p in group.parameters:
            name = names.get(id(p), "a parameter of another component")
            if id(p) in owner or id(p) not in names:
                raise CheckFailure(
                    f"players(): '{name}' is in {owner.get(id(p), 'no module')} and in {player}",
                    "list each parameter under exactly one player",
                )
            owner[id(p)] = player
    for name, p in part.named_parameters():
        if p.requires_grad and id(p) not in owner:
            raise CheckFailure(
                f"players(): no player optimises '{name}'",
                "add it to a player, or set requires_grad=False if it is a target network",
            )


@check("P4", role="component", title="every trainable parameter is trained")
def gradients_arrive(subject: Subject) -> None:
    """Within six updates of a whole model, each trainable parameter receives a non-zero gradient from its player.

    Catches unused layers, a stray detach, and losses that leave out a head. Fix: use the parameter in a loss, or set
    requires_grad=False.
    """
    bench = subject.bench(fresh=True)
    waiting = {name: p for name, p in bench.part.named_parameters() if p.requires_grad}
    for _ in bench.updates(6, lambda gen: noise_batch(bench.specs.obs, bench.specs.action, 6, 12, gen)):
        waiting = {name: p for name, p in waiting.items() if p.grad is None or not p.grad.abs().sum() > 0}
        if not waiting:
            return
    name = next(iter(waiting))
    more = f" (and {len(waiting) - 1} more)" if len(waiting) > 1 else ""
    raise CheckFailure(
        f"'{name}'{more} never gets a gradient",
        "use it in a loss or remove it; look for a detach between it and the loss",
    )


@check("P5", role="component", title="loss terms are named, finite and have one value per frame")
def loss_terms(subject: Subject) -> None:
    """losses() returns {name: [B, T]} for each player, and every value is finite at initialisation.

    Catches losses that the plugin has already averaged (so that masks and weights cannot be applied) and infinite
    losses at initialisation. Fix: sum over latent or pixel dimensions only; the core averages over batch and time.
    """
    bench = subject.bench(fresh=True)
    batch = bench.batch()
    ctx = bench.context(batch)
    for player in bench.part.players():
        for name, term in _loss_terms(bench.part, ctx if player == "main" else ctx.detach(), player).items():
            if tuple(term.shape) != tuple(batch.mask.shape):
                raise CheckFailure(
                    f"loss '{name}' has shape {list(term.shape)}, not [B, T] = {list(batch.mask.shape)}",
                    "return one value per frame; the core averages",
                )
            if not torch.isfinite(term).all():
                raise CheckFailure(
                    f"loss '{name}' is not finite at initialisation", "keep scales and arguments of log away from 0"
                )


@check("P6", role="component", title="20 updates at ten times the input scale stay finite")
def large_inputs(subject: Subject) -> None:
    """Training stays finite on observations and rewards that are ten times as large as usual.

    Catches exp() of unbounded outputs, missing normalisation, and a std that reaches 0. Fix: bound the argument of
    exp().
    """
    bench = subject.bench(fresh=True)
    specs = bench.specs
    try:
        for _ in bench.updates(20, lambda gen: noise_batch(specs.obs, specs.action, 3, 5, gen, scale=10.0)):
            pass
    except DivergedError as exc:
        origin = (exc.cause or "").partition("; the first value that is not finite: ")[2]
        raise CheckFailure(
            f"diverges on inputs at 10x scale: {exc.message}" + (f" (first not finite: {origin})" if origin else ""),
            "bound scales; clamp log-scales",
        ) from exc


@check("P7", role="component", title="a critic's loss trains only the critic")
def critic_isolation(subject: Subject) -> None:
    """A critic's losses, on a detached context, give no gradient to main's parameters, and a player that the component
    does not have gets no losses.

    Catches a generator that runs inside the critic's loss without a detach, and a component that ignores `player`, so
    that its main losses count twice. Fix: detach main's outputs in the critic's loss; `if player != "main": return {}`.
    """
    bench = subject.bench()
    part, ctx = bench.part, bench.context()
    groups = {name: player.parameters for name, player in part.players().items()}
    if part.losses(ctx.detach(), "nobody"):
        raise CheckFailure(
            "losses() returns losses for a player it does not have: they would train another component's critic",
            'return {} unless player is one of players(): if player != "main": return {}',
        )
    for player, group in groups.items():
        if player == "main":
            continue
        names = {id(p): name for name, p in part.named_parameters()}
        total = _total(_loss_terms(part, ctx.detach(), player))
        others = [p for other, held in groups.items() if other != player for p in held]
        leaks = [p for p, grad in zip(others, _gradients(total, others)) if grad is not None and grad.abs().sum() > 0]
        if leaks:
            raise CheckFailure(
                f"the {player}'s loss trains '{names[id(leaks[0])]}', of main: the critic leaks into main",
                f"detach main's outputs inside losses(ctx, '{player}')",
            )
        if not any(grad is not None and grad.abs().sum() > 0 for grad in _gradients(total, group)):
            raise CheckFailure(f"the {player}'s loss gives the {player} no gradient", f"check losses(ctx, '{player}')")


@check("P8", role="component", title="saving, loading and copying reproduce the losses bit for bit")
def state_round_trip(subject: Subject) -> None:
    """Loading the state_dict into a second instance, and a deep copy, give bit-equal losses; the state_dict holds only
    tensors.

    Catches weights kept outside the module (plain tensors, Python lists of modules) and state that cannot be
    checkpointed.
    Fix: use register_buffer, nn.ModuleList and nn.ParameterDict.
    """
    trained, other = subject.bench(seed=1), subject.bench(seed=2)
    for _ in trained.updates(2, lambda gen: trained.batch()):
        pass
    for name, value in trained.part.state_dict().items():
        if not isinstance(value, Tensor):
            raise CheckFailure(f"state_dict holds a {type(value).__name__} at '{name}'", "keep state in buffers")
    other.model.load_state_dict(trained.model.state_dict())
    expected = _losses(trained)
    for made, how in ((other.model, "state_dict"), (copy.deepcopy(trained.model), "deepcopy")):
        if not same(expected, _losses(Bench(subject.role, trained.mix, made)), 0.0):
            raise CheckFailure(
                f"after {how} the losses differ: some state is outside parameters and buffers",
                "use register_buffer for untrained tensors, nn.ModuleList for lists of modules",
            )


@check("P9", role="component", title="no random numbers come from global generators")
def global_randomness(subject: Subject) -> None:
    """The forward pass, the losses and the metrics do not change the global random states of torch, numpy and Python.

    Catches torch.randn, dropout, sample() of torch.distributions and numpy.random: such a run cannot be reproduced from
    its seed. Fix: draw from the generator you are given (worldlab.distributions.normal_like).
    """
    bench = subject.bench()
    before = random_states()
    _losses(bench)
    with torch.no_grad():
        bench.part.metrics(bench.context().detach())
    after = random_states()
    for source, state in before.items():
        if state != after[source]:
            raise CheckFailure(
                f"it draws from {source}'s global random generator", "draw from ctx.generator or the generator argument"
            )


@check("P10", role="component", title="the batch and the context are not modified")
def inputs_unchanged(subject: Subject) -> None:
    """The forward pass and the losses modify neither the batch nor the context.

    Catches in-place arithmetic on observations, actions or states that other components read later.
    Fix: write x = x + 1 instead of x += 1; clone before writing.
    """
    bench = subject.bench()
    batch = bench.batch()
    kept = clone(batch)
    ctx = bench.context(batch)
    given = ctx.detach()
    snapshot = clone(given)
    for player in bench.part.players():
        bench.part.losses(given, player)
    for was, now, what in ((kept, batch, "the batch"), (snapshot, given, "the context")):
        if not same(was, now, 0.0):
            raise CheckFailure(f"it modifies {what} in place", "write x = x + 1, not x += 1; clone before writing")


@check("P11", role="component", title="the same seed gives the same losses")
def seeded_losses(subject: Subject) -> None:
    """Two forward passes with generators of the same seed give bit-equal losses.

    Catches a private generator and state kept between calls. Fix: draw from the given generator; keep no caches in
    self.
    """
    bench = subject.bench()
    if not same(_losses(bench), _losses(bench), 0.0):
        raise CheckFailure(
            "two passes with the same seed give different losses",
            "draw only from the given generator; keep no state in self",
        )


@check("P12", role="component", title="it prints nothing and writes no files")
def no_output(subject: Subject) -> None:
    """Building, running and training the component print nothing and create no files.

    Catches leftover prints and debug dumps: a command with --json must print exactly one object. Fix: return the
    numbers from metrics(ctx).
    """
    out = StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        chdir(folder),
        redirect_stdout(out),
        redirect_stderr(out),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("always")  # else a warning that an earlier check triggered is not shown again
        bench = subject.bench()
        for _ in bench.updates(1, lambda gen: bench.batch()):
            pass
        with torch.no_grad():
            bench.part.metrics(bench.context().detach())
        files = os.listdir(folder)
    if out.getvalue():
        raise CheckFailure(f"it prints {out.getvalue().strip()[:40]!r}", "return numbers from metrics(ctx) instead")
    if files:
        raise CheckFailure(
            f"it writes the file {Path(files[0]).name!r}",
            "write no files; the core stores checkpoints, metrics and videos",
        )


@check("P13", role="component", title="losses stay finite under bfloat16 autocast")
def mixed_precision(subject: Subject) -> None:
    """A forward pass and its losses run without an error and stay finite under bfloat16 autocast.

    Catches hard-coded float32 buffers in matrix products, and exponentials or logs that overflow with 8 bits of
    precision.
    Fix: cast explicitly where precision matters (x.float()).
    """
    bench = subject.bench(fresh=True)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            terms = _losses(bench)
    except RuntimeError as exc:
        raise CheckFailure(
            f"it fails under bfloat16 autocast at {where(exc)}: {one_line(exc, 90)}",
            "use operations that promote dtypes (a + w * (b - a), not torch.lerp), or cast explicitly",
        ) from exc
    for name, term in terms.items():
        if not torch.isfinite(term).all():
            raise CheckFailure(f"loss '{name}' is not finite in bfloat16", "compute log and exp in float32")


@check("P14", role="component", title="metrics are finite scalars")
def scalar_metrics(subject: Subject) -> None:
    """metrics(ctx) returns finite scalar tensors, computed from a detached context.

    Catches curves and images among the metrics, which are stored as JSON numbers. Fix: reduce each to one number.
    """
    bench = subject.bench()
    with torch.no_grad():
        values = bench.part.metrics(bench.context().detach())
    for name, value in values.items():
        if torch.as_tensor(value).numel() != 1 or not torch.isfinite(torch.as_tensor(value)).all():
            raise CheckFailure(f"metric '{name}' is not one finite number", "reduce it, e.g. with mean()")


@check("P15", role="component", title="declared kinds are ones that the core knows")
def declared_kinds(subject: Subject) -> None:
    """posterior_kind, prior_kind, score_kind, likelihood and draws each have one of the values listed in
    worldlab.interfaces.

    Catches a misspelt kind: the core would treat it as an unknown kind, and train an encoder whose posterior_kind is
    "analytical" without a KL. Fix: copy the value from worldlab.interfaces.
    """
    if wrong := declaration_error(subject.bench().part):
        raise CheckFailure(wrong, "copy the value from worldlab.interfaces")


@check("P16", role="component", title="it runs at its default sizes")
def default_sizes(subject: Subject) -> None:
    """A world model with the default configuration processes a batch and has finite losses.

    Catches layers whose sizes do not match when there are several: the other checks use small sizes, often with one
    layer.
    Fix: build the component with its defaults and compare the layers' input and output sizes.
    """
    bench = subject.with_config(type(subject.choice.config)()).bench(fresh=True)
    with torch.no_grad():
        for name, term in _losses(bench, bench.batch(2, 3)).items():
            if not torch.isfinite(term).all():
                raise CheckFailure(
                    f"'{name}' is not finite at the default sizes", "keep scales and arguments of log away from 0"
                )


def _losses(bench: Bench, batch: Batch | None = None) -> dict[str, Tensor]:
    """Return the component's loss terms for all its players, on a fixed batch and seed, and the features."""
    ctx = bench.context(batch)
    out = {}
    for player in bench.part.players():
        terms = _loss_terms(bench.part, ctx if player == "main" else ctx.detach(), player)
        out.update({f"{player}/{name}": term for name, term in terms.items()})
    # A component may train through the matching rule alone; then only the features show a change.
    return {**out, "features": ctx.features}


def _loss_terms(part: Component, ctx: Context, player: str) -> dict[str, Tensor]:
    """Return losses(ctx, player). Raises: CheckFailure if the result is not a dict of tensors."""
    terms = part.losses(ctx, player)
    if not isinstance(terms, dict) or not all(isinstance(term, Tensor) for term in terms.values()):
        raise CheckFailure(
            f"losses(ctx, {player!r}) returns {one_line(repr(terms), 60)}, not {{name: tensor [B, T]}}",
            "return a dict; {} if the player has no losses",
        )
    return terms


def _total(terms: dict[str, Tensor]) -> Tensor:
    if not terms:
        raise CheckFailure("losses() returns no losses for one of its players", "add a loss, or remove the player")
    return torch.stack([term.sum() for term in terms.values()]).sum()


def _gradients(total: Tensor, parameters: list[nn.Parameter]) -> list[Tensor | None]:
    if not total.requires_grad or not parameters:
        return [None] * len(parameters)
    return list(torch.autograd.grad(total, parameters, allow_unused=True, retain_graph=True))
