"""Checks of one step of a dynamics: its state, its memory and its prior. Checks over time are in time_checks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from worldlab import tree
from worldlab.distributions import HasEntropy, HasKL, HasLogProb
from worldlab.interfaces import ScoresLatent, State
from worldlab.model.noise import stream
from worldlab.testing import toys
from worldlab.testing.bench import Bench, Subject, clone
from worldlab.testing.checks import CheckFailure, NotApplicable, check
from worldlab.testing.probes import (
    depends,
    float_leaves,
    gradient_reaches,
    log_density_bias,
    perturb,
    require_density,
    require_entropy,
    require_independent_rows,
    require_joint,
    require_rows,
    require_shape,
    same,
    with_grad,
)


def benches_by_latent_kind(subject: Subject) -> Iterator[Bench]:
    """A bench for numbers and one for codes, as far as they are accepted. Priors of the two share little code."""
    for kind in ("gaussian", "categorical"):
        with suppress(NotApplicable):
            yield subject.with_latent(kind=kind).bench("vector")


def warm_state(bench: Bench, rows: int, steps: int = 3, seed: int = 0) -> State:
    """A state [rows, ...] after a few random steps."""
    state = bench.dynamics.initial(rows)
    z, action = bench.latents(rows, steps, seed=seed), bench.actions(rows, steps, seed=seed)
    for t in range(steps):
        state = bench.dynamics.advance(state, z[:, t], action[:, t])
    return tree.detach(state)


@check("D1", role="dynamics", title="shapes, rows and finite values for every latent and action kind")
def shapes(subject: Subject) -> None:
    """States are trees of [N, ...] with one structure from initial on, on the weights' device; memory is [N, H], samples and
    modes [N, D].

    Catches wrong widths, a squeezed batch of one, states that change shape between steps (they are stacked over time),
    initial rows that differ, and a hard-coded CPU. Fix: allocate every leaf in initial; pad caches to a fixed size.
    """
    accepted = 0
    for kind in ("gaussian", "point", "categorical"):
        for action in toys.ACTIONS:
            try:
                bench = subject.with_latent(kind=kind).bench("vector", action)
            except NotApplicable:
                continue
            accepted += 1
            for rows in (1, 7):
                _step_shapes(bench, rows)
            _device(bench)
    if not accepted:
        raise CheckFailure("it refuses every kind of latent and action", "support at least gaussian latents")


def _device(bench: Bench) -> None:
    """The meta device stands for a GPU: what is made on another one than the weights' shows without having one."""
    try:
        state = copy.deepcopy(bench.dynamics).to("meta").initial(2)
    except Exception:  # what reads numbers cannot run without them
        return
    for leaf in tree.leaves(state):
        if leaf.device.type != "meta":
            raise CheckFailure(
                f"initial(n) makes a leaf on the {leaf.device} although the weights are elsewhere",
                "torch.zeros(n, H, device=self.device)",
            )


def _step_shapes(bench: Bench, rows: int) -> None:
    dynamics = bench.dynamics
    start = dynamics.initial(rows)
    require_rows(start, rows, "initial(n)")
    if not same(start, tree.select(start, torch.zeros(rows, dtype=torch.long)), 0.0):
        raise CheckFailure(
            "the rows of initial(n) differ", "every row starts alike; learn one initial state and expand it"
        )
    state = dynamics.advance(start, bench.latents(rows), bench.actions(rows))
    for before, after in zip(tree.leaves(start), tree.leaves(state), strict=True):
        if before.shape != after.shape or before.dtype != after.dtype:
            raise CheckFailure(
                f"advance turns a leaf {list(before.shape)} {before.dtype} into {list(after.shape)} {after.dtype}",
                "keep each leaf's shape and dtype from initial on: pad caches to their full size",
            )
    memory = dynamics.memory(state)
    require_shape(memory, (rows, bench.specs.memory_dim), "memory(state)")
    prior = dynamics.predict(memory)
    require_shape(prior.mode, (rows, bench.specs.latent.dim), "the prior's mode")
    require_shape(prior.sample(stream(0)), (rows, bench.specs.latent.dim), "the prior's sample")


@check("D2", role="dynamics", title="rows of a batch do not see each other")
def batch_independence(subject: Subject) -> None:
    """Row j of state, z or action has no influence on row i's next state, memory and prediction, in both modes.

    Catches attention over the batch (a transformer without batch_first=True) and BatchNorm.
    Fix: attend over time; LayerNorm, not BatchNorm.
    """
    bench = subject.bench()
    inputs = {"state": warm_state(bench, 4), "z": bench.latents(4), "action": bench.actions(4)}

    def run(given: dict[str, Any]) -> list[Any]:
        state = bench.dynamics.advance(given["state"], given["z"], given["action"])
        memory = bench.dynamics.memory(state)
        prior = bench.dynamics.predict(memory)
        return [state, memory, prior.mode, prior.sample(stream(0))]

    for mode in (False, True):
        bench.dynamics.train(mode)
        require_independent_rows(run, inputs, f"the dynamics in {'train' if mode else 'eval'} mode")


@check("D3", role="dynamics", title="rows can be repeated, picked and shuffled")
def state_algebra(subject: Subject) -> None:
    """Advancing repeated or re-ordered rows equals repeating or re-ordering the advanced rows.

    Catches global positions, caches indexed by row number, leaves without a batch dimension: agents branch one state
    into many candidate plans. Fix: keep everything per row.
    """
    bench = subject.bench()
    state, z, action = warm_state(bench, 4), bench.latents(4), bench.actions(4)
    with torch.no_grad():
        expected = bench.dynamics.advance(state, z, action)
        for index in (torch.tensor([2, 0, 3, 1]), torch.tensor([1]), torch.arange(4).repeat_interleave(3)):
            found = bench.dynamics.advance(tree.select(state, index), z[index], action[index])
            if not same(tree.select(expected, index), found):
                raise CheckFailure(
                    "advancing picked or repeated rows differs from picking advanced rows",
                    "keep positions and caches per row, nothing shared by the batch",
                )


@check("D4", role="dynamics", title="inputs stay as they were")
def inputs_unchanged(subject: Subject) -> None:
    """advance, memory and predict change nothing they are given.

    Catches caches written in place: a planner that branches one state would corrupt its siblings.
    Fix: build new tensors (torch.where, cat, index_copy without underscore), or clone before writing.
    """
    bench = subject.bench()
    given = warm_state(bench, 3), bench.latents(3), bench.actions(3)
    kept = clone(given)
    with torch.no_grad():
        memory = bench.dynamics.memory(bench.dynamics.advance(*given))
        before = memory.clone()
        bench.dynamics.predict(memory).sample(stream(0))
    if not same(kept, given, 0.0) or not same(before, memory, 0.0):
        raise CheckFailure(
            "advance changes its inputs in place", "return new tensors; clone a cache before writing into it"
        )


@check("D5", role="dynamics", title="the state is all the state")
def no_hidden_state(subject: Subject) -> None:
    """Advancing A, then B, then A again gives the same for A; a copied state continues alike.

    Catches hidden module state (self.h, self.cache): it leaks over resets, rows, and from collecting into training.
    Fix: everything that changes from step to step lives in the State.
    """
    bench = subject.bench()
    state, z, action = warm_state(bench, 3), bench.latents(3), bench.actions(3)
    with torch.no_grad():
        after = bench.dynamics.advance(state, z, action)
        first = bench.dynamics.memory(after)
        warm_state(bench, 3, seed=5)
        read = bench.dynamics.memory(after)
        again = bench.dynamics.memory(bench.dynamics.advance(clone(state), z, action))
    if not same(first, again, 0.0) or not same(first, read, 0.0):
        raise CheckFailure(
            "the same state, z and action give another memory the second time: "
            "hidden state in the module leaks over resets",
            "move what changes from step to step from self into the State",
        )


@check("D6", role="dynamics", title="every leaf of the state is carried on")
def leaves_carried(subject: Subject) -> None:
    """Each float leaf of a warm state influences the memory, at once or after further steps.

    Catches a part of the state that is returned but never read again (an LSTM whose cell is dropped).
    Fix: read every leaf in advance; drop those that nothing needs.
    """
    bench = subject.bench()
    state, z, action = warm_state(bench, 2, steps=4), bench.latents(2), bench.actions(2)
    leaves = tree.leaves(state)

    def following(moved: int) -> Any:
        chosen = iter([perturb(leaf) if i == moved else leaf for i, leaf in enumerate(leaves)])
        moved_state = tree.tree_map(lambda _: next(chosen), state)
        after = bench.dynamics.advance(moved_state, z, action)
        # At once: a transformer keeps its last output only to be read. Two steps: a leaf may act on one that is read.
        return [bench.dynamics.memory(s) for s in (moved_state, bench.dynamics.advance(after, z, action))]

    with torch.no_grad():
        base = following(-1)
        for i, leaf in enumerate(leaves):
            if leaf.is_floating_point() and same(base, following(i), 0.0):
                raise CheckFailure(
                    f"state leaf {_paths(state)[i]} is never read: it is dropped at every step",
                    "use it in advance, or take it out of the state",
                )


def _paths(value: Any, prefix: str = "") -> list[str]:
    if isinstance(value, dict):
        return [path for key, inner in value.items() for path in _paths(inner, f"{prefix}[{key!r}]")]
    return [prefix or "(root)"] * len(tree.leaves(value))


@check("D7", role="dynamics", title="the action matters")
def action_sensitivity(subject: Subject) -> None:
    """The memory after a step, and the prediction from it, depend on the action taken, continuous and discrete.

    Catches a dynamics that ignores its action: every plan then looks equally good. Fix: feed cat(z, action).
    """
    for kind in toys.ACTIONS:
        try:
            bench = subject.bench(action=kind)
        except CheckFailure:
            continue  # D1 judges what is refused
        state, z = warm_state(bench, 3), bench.latents(3)

        def run(action: Tensor, bench: Bench = bench, state: State = state, z: Tensor = z) -> list[Tensor]:
            memory = bench.dynamics.memory(bench.dynamics.advance(state, z, action))
            return [memory, bench.dynamics.predict(memory).sample(stream(0))]

        if not depends(run, bench.actions(3)):
            raise CheckFailure(
                f"neither memory nor prediction depends on a {kind} action", "feed the action into advance"
            )


@check("D8", role="dynamics", title="the reparameterised flag is true")
def reparameterised_truthful(subject: Subject) -> None:
    """A sample's gradient with respect to the memory is non-zero if and only if `reparameterised`.

    Catches samples detached inside a distribution library: an agent that differentiates through the dream learns
    nothing. Fix: rsample or straight-through, or declare reparameterised = False.
    """
    for bench in benches_by_latent_kind(subject):
        dynamics, memory = bench.dynamics, bench.dynamics.memory(warm_state(bench, 4))
        found = gradient_reaches(lambda m, dynamics=dynamics: dynamics.predict(m).sample(stream(0)), memory)
        if found != dynamics.reparameterised:
            raise CheckFailure(
                f"reparameterised = {dynamics.reparameterised}, but {bench.specs.latent.kind} samples "
                f"{'do' if found else 'do not'} carry gradients to the memory",
                "mean + std * noise or straight-through; or declare it the other way",
            )


@check("D9", role="dynamics", title="what it declares of p is there")
def declared_prior(subject: Subject) -> None:
    """analytic: log_prob and kl; log_prob: log_prob; critic and sampler with score_latent: [N], with gradient to z.

    Catches abilities claimed and not given, and a prior that detach() does not cut from the memory.
    Fix: a frozen dataclass of tensors; declare what the distribution offers.
    """
    bench = subject.bench()
    dynamics = bench.dynamics
    memory = dynamics.memory(warm_state(bench, 4)).requires_grad_()
    prior, z = dynamics.predict(memory), bench.latents(4)
    if dynamics.prior_kind in ("analytic", "log_prob"):
        if not isinstance(prior, HasLogProb):
            raise CheckFailure(
                f"prior is '{dynamics.prior_kind}' but has no log_prob", "offer log_prob, or declare 'sampler'"
            )
        require_shape(prior.log_prob(z), (4,), "log_prob(z)")
    if dynamics.prior_kind == "analytic" and not isinstance(prior, HasKL):
        raise CheckFailure("prior is 'analytic' but has no kl", "offer kl(other), or declare 'log_prob'")
    cut = tree.detach(prior).sample(stream(0))
    if cut.requires_grad and torch.autograd.grad(cut.sum(), memory, allow_unused=True)[0] is not None:
        raise CheckFailure("detach() does not cut the prior from the memory", "make it a frozen dataclass of tensors")
    if isinstance(dynamics, ScoresLatent):
        require_shape(dynamics.score_latent(memory, z), (4,), "score_latent")
        if not gradient_reaches(lambda x: dynamics.score_latent(memory, x), z):
            raise CheckFailure("score_latent gives z no gradient: it cannot train an encoder", "do not detach z")


@check("D10", role="dynamics", title="the prior's density integrates to 1 and is that of its samples")
def density_matches_samples(subject: Subject) -> None:
    """On a one-dimensional latent the density integrates to 1 and its distribution function fits 4000 samples; on six codes
    the probabilities sum to 1. On eight numbers, and on two codes of four, 4000 samples are as likely as the density says,
    and what is drawn together is scored together; entropy, where it is offered, is what their log-densities average to.

    Catches a missing log std or log-determinant, a mean where a sum over dimensions belongs, a joint mixture scored as a
    factorised one, and samples from another distribution than the one scored.
    Fix: sum over D of -0.5 ((z - mean) / std)^2 - log std - 0.5 log 2 pi.
    """
    tested = 0
    for settings in ({"kind": "gaussian", "latent_dim": 1}, {"kind": "categorical", "groups": 1, "classes": 6}):
        try:
            bench = subject.with_latent(**settings).bench("vector")
        except NotApplicable:
            continue
        memory = bench.dynamics.memory(warm_state(bench, 1)).detach()
        prior = bench.dynamics.predict(memory)
        if not isinstance(prior, HasLogProb) or bench.dynamics.prior_kind not in ("analytic", "log_prob"):
            raise NotApplicable(f"the prior is {bench.dynamics.prior_kind}")
        tested += 1
        with torch.no_grad():
            _require_unit_integral(bench, memory) if settings["kind"] == "gaussian" else _require_unit_sum(
                bench, memory
            )
    for settings in ({"kind": "gaussian", "latent_dim": 8}, {"kind": "categorical", "groups": 2, "classes": 4}):
        with suppress(NotApplicable), torch.no_grad():
            bench = subject.with_latent(**settings).bench("vector")
            if bench.dynamics.prior_kind in ("analytic", "log_prob"):
                tested += 1
                _require_samples_match(bench)
    if not tested:
        raise NotApplicable("the prior has no density, or it refuses what it was asked about")


def _require_samples_match(bench: Bench) -> None:
    latent, memory = bench.specs.latent, bench.dynamics.memory(warm_state(bench, 1))
    # An untrained mixture's components lie on each other; a memory ten times as large draws them apart.
    apart: Any = bench.dynamics.predict(10 * memory.expand(4000, -1))
    block = latent.classes if latent.kind == "categorical" else 1
    require_joint(apart.sample(stream(1)), apart.log_prob, block)
    prior: Any = bench.dynamics.predict(memory.expand(4000, -1))
    samples = prior.sample(stream(0))
    log_prob = prior.log_prob(samples)
    codes = latent.classes**latent.groups if latent.kind == "categorical" else 0
    bias = log_density_bias(samples, log_prob, codes)
    if abs(bias) > 5:
        raise CheckFailure(
            f"{latent.kind} samples are not as likely as log_prob says (E[r / p] is {bias:.0f} standard errors from 1)",
            "sum log_prob over the dimensions; sample what is scored",
        )
    if isinstance(prior, HasEntropy):
        require_entropy(prior.entropy(), log_prob)


def _log_density(bench: Bench, memory: Tensor, z: Tensor) -> Tensor:
    prior: Any = bench.dynamics.predict(memory.expand(len(z), -1))
    return prior.log_prob(z)


def _require_unit_integral(bench: Bench, memory: Tensor) -> None:
    samples = bench.dynamics.predict(memory.expand(4000, -1)).sample(stream(0))
    require_density(samples[:, 0], lambda z: _log_density(bench, memory, z[:, None]), "the prior")


def _require_unit_sum(bench: Bench, memory: Tensor) -> None:
    total = float(_log_density(bench, memory, torch.eye(6)).double().exp().sum())
    if abs(total - 1) > 1e-3:
        raise CheckFailure(f"the probabilities of all codes sum to {total:.3f}, not 1", "normalise the logits")


@check("D11", role="dynamics", title="the same generator seed gives the same sample")
def seeded_samples(subject: Subject) -> None:
    """Two samples of one prior with one seed agree, of a density those of two seeds do not; the mode never changes.

    Catches a hidden random stream: dreams no seed repeats. Fix: draw from the generator that sample() is given.
    """
    for bench in benches_by_latent_kind(subject):
        prior = bench.dynamics.predict(bench.dynamics.memory(warm_state(bench, 64)))
        if not same(prior.sample(stream(1)), prior.sample(stream(1)), 0.0):
            raise CheckFailure("two samples with one seed differ", "draw from the generator that sample() is given")
        dense = bench.dynamics.prior_kind in ("analytic", "log_prob")
        if dense and same(prior.sample(stream(1)), prior.sample(stream(2)), 0.0):
            raise CheckFailure("samples of two seeds are the same", "draw from the generator that sample() is given")
        if not same(prior.mode, prior.mode, 0.0):
            raise CheckFailure("two modes of one prior differ", "the mode is without noise")
        if not float_leaves(prior.mode):
            raise CheckFailure("the mode is not float", "return floats")


@check("D12", role="dynamics", title="its own losses do not train the latents they predict")
def stopped_targets(subject: Subject) -> None:
    """Beside a posterior with a density, the dynamics' main losses give its latents no gradient but through the memory.

    Catches an un-stopped likelihood of the next latent: it is minimised by killing the latent.
    Fix: detach ctx.latent where it is the target; the matching rule trains the encoder.
    """
    bench = subject.bench()
    ctx = bench.context()
    apart = with_grad(ctx.latent)
    ctx = replace(ctx, latent=apart, features=torch.cat([ctx.memory, apart.z], -1))
    terms = bench.dynamics.losses(ctx, "main")
    if not terms:
        raise NotApplicable("it has no losses of its own")
    total = torch.stack([term.sum() for term in terms.values()]).sum()
    found = torch.autograd.grad(total, float_leaves(apart), allow_unused=True) if total.requires_grad else ()
    if any(grad is not None and grad.abs().sum() > 0 for grad in found):
        raise CheckFailure(
            f"its losses ({', '.join(terms)}) train the latents they predict: a dead latent is the easiest to predict",
            "detach ctx.latent; the matching rule trains the encoder",
        )
