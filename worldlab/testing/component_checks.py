"""Checks that hold for every component, whatever its role."""

from __future__ import annotations

import copy
import os
import random
import tempfile
import tomllib
import warnings
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import tomli_w
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from worldlab.errors import DivergedError, one_line
from worldlab.interfaces import Batch, Component, Context, misdeclared
from worldlab.model.noise import noise_batch
from worldlab.registry.discovery import where
from worldlab.testing.bench import Bench, Subject, clone
from worldlab.testing.checks import CheckFailure, check
from worldlab.testing.probes import same


@check("P1", role="component", title="the configuration is closed, valid by default and survives TOML")
def configuration(subject: Subject) -> None:
    """The default configuration is valid, round-trips through TOML, and an unknown key is refused.

    Catches defaults that break their own rules, values a run folder cannot store, misspelt keys that pass silently.
    Fix: subclass worldlab.Config; use plain numbers, texts, booleans, lists.
    """
    cls = type(subject.choice.config)
    default = cls()
    written = tomli_w.dumps({k: v for k, v in default.model_dump(mode="json").items() if v is not None})
    if cls.model_validate(tomllib.loads(written)) != default:
        raise CheckFailure("the configuration read back from TOML is another one", "use values TOML can hold")
    try:
        cls.model_validate({"no_such_setting": 1})
    except ValidationError:
        return
    raise CheckFailure(
        "the configuration accepts a key it does not know", "subclass worldlab.Config, which forbids extras"
    )


@check("P2", role="component", title="the same seed builds the same parameters")
def seeded_parameters(subject: Subject) -> None:
    """Two builds under one seed have equal parameters and buffers.

    Catches initialisation from numpy, `random`, time or an own unseeded generator. Fix: initialise with torch.nn.init.
    """
    first, second = (subject.bench(fresh=True, seed=3).part.state_dict() for _ in range(2))
    for name, value in first.items():
        if not torch.equal(value, second[name]):
            raise CheckFailure(
                f"'{name}' differs between two builds with one seed",
                "initialise with torch.nn.init, which the core seeds",
            )


@check("P3", role="component", title="each parameter belongs to exactly one player")
def players_partition(subject: Subject) -> None:
    """players() lists every trainable parameter once, "main" among the players.

    Catches a parameter stepped by two optimisers, or by none. Fix: build the groups from disjoint submodules.
    """
    part = subject.bench().part
    names = {id(p): name for name, p in part.named_parameters()}
    owner: dict[int, str] = {}
    players = part.players()
    if "main" not in players:
        raise CheckFailure(
            f'players() has no "main": {", ".join(players) or "nobody"}', 'the core trains "main"; name yours so'
        )
    for player, group in players.items():
        for p in group:
            name = names.get(id(p), "a parameter that is not this component's")
            if id(p) in owner or id(p) not in names:
                raise CheckFailure(
                    f"players(): '{name}' is in {owner.get(id(p), 'no module')} and in {player}",
                    "give each parameter to one player",
                )
            owner[id(p)] = player
    for name, p in part.named_parameters():
        if p.requires_grad and id(p) not in owner:
            raise CheckFailure(
                f"players(): nobody optimises '{name}'",
                "add it to a player, or set requires_grad=False if it is a target",
            )


@check("P4", role="component", title="every trainable parameter is trained")
def gradients_arrive(subject: Subject) -> None:
    """Within a few updates of a whole model, each trainable parameter gets a gradient that is not 0 from its player.

    Catches dead branches, a stray detach, losses that forget a head. Fix: use it in losses, or requires_grad=False.
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
        f"'{name}'{more} never gets a gradient", "use it in a loss or drop it; look for a detach on its way"
    )


@check("P5", role="component", title="loss terms are named, per frame and finite")
def loss_terms(subject: Subject) -> None:
    """losses() returns {name: [B, T]} for each player, finite at initialisation.

    Catches losses averaged by the plugin (masks and weights then cannot apply) and infinities at the start.
    Fix: sum over latent or pixel dimensions only; leave batch and time to the core.
    """
    bench = subject.bench(fresh=True)
    batch = bench.batch()
    ctx = bench.context(batch)
    for player in bench.part.players():
        for name, term in _loss_terms(bench.part, ctx if player == "main" else ctx.detach(), player).items():
            if tuple(term.shape) != tuple(batch.mask.shape):
                raise CheckFailure(
                    f"loss '{name}' has shape {list(term.shape)}, not [B, T] = {list(batch.mask.shape)}",
                    "return one value a frame; the core averages",
                )
            if not torch.isfinite(term).all():
                raise CheckFailure(
                    f"loss '{name}' is not finite at initialisation", "bound scales and logs away from 0"
                )


@check("P6", role="component", title="20 updates at ten times the input scale stay finite")
def large_inputs(subject: Subject) -> None:
    """Training on observations and rewards ten times too large stays finite.

    Catches exp() of unbounded outputs, missing normalisation, std that reaches 0. Fix: bound what is exponentiated.
    """
    bench = subject.bench(fresh=True)
    specs = bench.specs
    try:
        for _ in bench.updates(20, lambda gen: noise_batch(specs.obs, specs.action, 3, 5, gen, scale=10.0)):
            pass
    except DivergedError as exc:
        raise CheckFailure(f"diverges on inputs at 10x scale: {exc.message}", "bound scales; clamp logs") from exc


@check("P7", role="component", title="a critic's step moves only the critic")
def critic_isolation(subject: Subject) -> None:
    """A critic's losses, on the detached context, give no gradient to main; unknown players have no losses.

    Catches a generator run inside the critic's loss without detach, and parts that ignore `player`, so that their
    main losses are counted twice. Fix: detach what main produced; `if player != "main": return {}`.
    """
    bench = subject.bench()
    part, ctx = bench.part, bench.context()
    groups = part.players()
    if part.losses(ctx.detach(), "nobody"):
        raise CheckFailure(
            "losses() answers a player it does not have: its losses would train another part's critic",
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
                f"the {player}'s loss trains '{names[id(leaks[0])]}', which is main's: the critic leaks into main",
                f"detach what main produced inside losses(ctx, '{player}')",
            )
        if not any(grad is not None and grad.abs().sum() > 0 for grad in _gradients(total, group)):
            raise CheckFailure(f"the {player}'s loss does not train the {player}", f"check losses(ctx, '{player}')")


@check("P8", role="component", title="saving and copying keep every number")
def state_round_trip(subject: Subject) -> None:
    """A state_dict loaded into another build, and a deep copy, give bit-equal losses; it holds tensors only.

    Catches weights kept outside the module (plain tensors, lists of modules) and state that cannot be checkpointed.
    Fix: register_buffer, nn.ModuleList, nn.ParameterDict.
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
                "register_buffer what is not trained; nn.ModuleList for lists of modules",
            )


@check("P9", role="component", title="no global random numbers are drawn")
def global_randomness(subject: Subject) -> None:
    """The forward pass and losses leave torch's, numpy's and Python's global random states as they were.

    Catches torch.randn, dropout, torch.distributions' sample(), numpy.random: runs that no seed repeats.
    Fix: draw from the generator that is handed in (worldlab.distributions.normal_like).
    """
    bench = subject.bench()
    before = torch.get_rng_state(), repr(np.random.get_state()), random.getstate()
    _losses(bench)
    with torch.no_grad():
        bench.part.metrics(bench.context().detach())
    after = torch.get_rng_state(), repr(np.random.get_state()), random.getstate()
    for source, a, b in zip(("torch", "numpy", "random"), before, after):
        if not (torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b):
            raise CheckFailure(
                f"it draws from {source}'s global random stream", "draw from ctx.generator or the generator argument"
            )


@check("P10", role="component", title="what it is given stays as it was")
def inputs_unchanged(subject: Subject) -> None:
    """The forward pass and losses change neither the batch nor the context.

    Catches in-place arithmetic on observations, actions or states that others read afterwards.
    Fix: x = x + 1 instead of x += 1; clone before writing.
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
            raise CheckFailure(f"it changes {what} in place", "write x = x + 1, not x += 1; clone before writing")


@check("P11", role="component", title="the same seed gives the same losses")
def seeded_losses(subject: Subject) -> None:
    """Two forward passes from generators of one seed give bit-equal losses.

    Catches generators of its own and state kept between calls. Fix: pass the given generator on; keep no caches.
    """
    bench = subject.bench()
    if not same(_losses(bench), _losses(bench), 0.0):
        raise CheckFailure(
            "two passes with one seed give different losses",
            "draw only from the given generator; keep no state in self",
        )


@check("P12", role="component", title="it is silent and writes no files")
def no_output(subject: Subject) -> None:
    """Building, running and training print nothing and create no files.

    Catches leftover prints and debug dumps: a command with --json must print one object. Fix: use metrics(ctx).
    """
    out = StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        chdir(folder),
        redirect_stdout(out),
        redirect_stderr(out),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("always")  # a warning that another check saw is not given a second time
        bench = subject.bench()
        for _ in bench.updates(1, lambda gen: bench.batch()):
            pass
        with torch.no_grad():
            bench.part.metrics(bench.context().detach())
        files = os.listdir(folder)
    if out.getvalue():
        raise CheckFailure(f"it prints {out.getvalue().strip()[:40]!r}", "return numbers from metrics(ctx) instead")
    if files:
        raise CheckFailure(f"it writes the file {Path(files[0]).name!r}", "leave files to the core")


@check("P13", role="component", title="bfloat16 autocast stays finite")
def mixed_precision(subject: Subject) -> None:
    """A forward pass with losses under bfloat16 autocast is finite.

    Catches hard-coded float32 buffers in matrix products, and exponentials or logs that overflow in 8 bits.
    Fix: cast explicitly where precision matters (x.float()).
    """
    bench = subject.bench(fresh=True)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            terms = _losses(bench)
    except RuntimeError as exc:
        raise CheckFailure(
            f"it fails under bfloat16 autocast at {where(exc)}: {one_line(exc, 90)}",
            "let dtypes promote (a + w * (b - a), not torch.lerp); cast explicitly where two meet",
        ) from exc
    for name, term in terms.items():
        if not torch.isfinite(term).all():
            raise CheckFailure(f"loss '{name}' is not finite in bfloat16", "compute logs and exps in float32")


@check("P14", role="component", title="metrics are scalars")
def scalar_metrics(subject: Subject) -> None:
    """metrics(ctx) returns finite scalar tensors from a detached context.

    Catches curves and pictures in the metrics stream, which is JSON numbers. Fix: reduce to one number each.
    """
    bench = subject.bench()
    with torch.no_grad():
        values = bench.part.metrics(bench.context().detach())
    for name, value in values.items():
        if torch.as_tensor(value).numel() != 1 or not torch.isfinite(torch.as_tensor(value)).all():
            raise CheckFailure(f"metric '{name}' is not one finite number", "reduce it, e.g. with mean()")


@check("P15", role="component", title="what it declares are words that the core knows")
def declared_kinds(subject: Subject) -> None:
    """posterior, prior, score_kind, likelihood and draws are each one of the words in worldlab.interfaces.

    Catches a misspelt ability: what is not known is not asked, and an encoder whose posterior is "analytical" would be trained
    without a KL. Fix: copy the word.
    """
    if wrong := misdeclared(subject.bench().part):
        raise CheckFailure(wrong, "copy the word from worldlab.interfaces")


@check("P16", role="component", title="it runs in its default sizes")
def default_sizes(subject: Subject) -> None:
    """A world model with the default configuration sees a batch, and has finite losses.

    Catches layers that do not fit together where there are more than one: all other checks shrink stacks to one.
    Fix: build with the defaults and look at the shapes.
    """
    bench = subject.with_config(type(subject.choice.config)()).bench(fresh=True)
    with torch.no_grad():
        for name, term in _losses(bench, bench.batch(2, 3)).items():
            if not torch.isfinite(term).all():
                raise CheckFailure(f"'{name}' is not finite in the default sizes", "bound scales and logs away from 0")


def _losses(bench: Bench, batch: Batch | None = None) -> dict[str, Tensor]:
    """The component's terms for all its players, on a fixed batch and seed."""
    ctx = bench.context(batch)
    out = {}
    for player in bench.part.players():
        terms = _loss_terms(bench.part, ctx if player == "main" else ctx.detach(), player)
        out.update({f"{player}/{name}": term for name, term in terms.items()})
    # A component may train through the matching rule alone; then its part in the context is what counts.
    return {**out, "features": ctx.features}


def _loss_terms(part: Component, ctx: Context, player: str) -> dict[str, Tensor]:
    """What losses() gives. Raises: CheckFailure if that is no dict of tensors."""
    terms = part.losses(ctx, player)
    if not isinstance(terms, dict) or not all(isinstance(term, Tensor) for term in terms.values()):
        raise CheckFailure(
            f"losses(ctx, {player!r}) gives {one_line(repr(terms), 60)}, not {{name: tensor [B, T]}}",
            "return a dict; {} where there is nothing to learn",
        )
    return terms


def _total(terms: dict[str, Tensor]) -> Tensor:
    if not terms:
        raise CheckFailure("losses() gives a player that it has nothing to learn", "give it a loss, or drop the player")
    return torch.stack([term.sum() for term in terms.values()]).sum()


def _gradients(total: Tensor, parameters: list[nn.Parameter]) -> list[Tensor | None]:
    if not total.requires_grad or not parameters:
        return [None] * len(parameters)
    return list(torch.autograd.grad(total, parameters, allow_unused=True, retain_graph=True))
