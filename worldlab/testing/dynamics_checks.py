"""Checks of one step of a dynamics: its state, its memory and its prior. Checks of sequences are in time_checks."""

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
    """Yield a bench with Gaussian latents and one with categorical latents, where the dynamics supports them.

    The two kinds of prior share little code, so both are checked.
    """
    for kind in ("gaussian", "categorical"):
        with suppress(NotApplicable):
            yield subject.with_latent(kind=kind).bench("vector")


def warm_state(bench: Bench, rows: int, steps: int = 3, seed: int = 0) -> State:
    """Return a state [rows, ...] after `steps` steps with random latents and actions."""
    state = bench.dynamics.initial(rows)
    z, action = bench.latents(rows, steps, seed=seed), bench.actions(rows, steps, seed=seed)
    for t in range(steps):
        state = bench.dynamics.advance(state, z[:, t], action[:, t])
    return tree.detach(state)


@check("D1", role="dynamics", title="shapes, devices and finite values for every kind of latent and action")
def shapes(subject: Subject) -> None:
    """A State is a tree of tensors [N, ...] on the device of the weights, and advance keeps every shape and dtype of
    initial(n), whose rows are equal; memory is [N, H], samples and modes of the prior are [N, D].

    Catches wrong widths, squeeze() on a batch of one, states that change shape between steps (the core stacks them over
    time), initial rows that differ, and a hard-coded CPU. Fix: allocate every leaf in initial; pad caches to a fixed
    size.
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
        raise CheckFailure("it supports no kind of latent and action", "support at least gaussian latents")


def _device(bench: Bench) -> None:
    """Check that initial(n) allocates on the device of the weights. The meta device replaces a GPU, so none is
    needed."""
    try:
        state = copy.deepcopy(bench.dynamics).to("meta").initial(2)
    except Exception:  # code that reads values cannot run on the meta device
        return
    for leaf in tree.leaves(state):
        if leaf.device.type != "meta":
            raise CheckFailure(
                f"initial(n) creates a leaf on the {leaf.device} although the weights are on another device",
                "torch.zeros(n, H, device=self.device)",
            )


def _step_shapes(bench: Bench, rows: int) -> None:
    dynamics = bench.dynamics
    start = dynamics.initial(rows)
    require_rows(start, rows, "initial(n)")
    if not same(start, tree.select(start, torch.zeros(rows, dtype=torch.long)), 0.0):
        raise CheckFailure(
            "the rows of initial(n) differ", "use the same initial state in every row; expand a learned one"
        )
    state = dynamics.advance(start, bench.latents(rows), bench.actions(rows))
    for before, after in zip(tree.leaves(start), tree.leaves(state), strict=True):
        if before.shape != after.shape or before.dtype != after.dtype:
            raise CheckFailure(
                f"advance changes a leaf {list(before.shape)} {before.dtype} to {list(after.shape)} {after.dtype}",
                "keep the shape and dtype that each leaf has in initial(n); pad caches to their full size",
            )
    memory = dynamics.memory(state)
    require_shape(memory, (rows, bench.specs.memory_dim), "memory(state)")
    prior = dynamics.predict(memory)
    require_shape(prior.mode, (rows, bench.specs.latent.dim), "the prior's mode")
    require_shape(prior.sample(stream(0)), (rows, bench.specs.latent.dim), "the prior's sample")


@check("D2", role="dynamics", title="rows of a batch are independent")
def batch_independence(subject: Subject) -> None:
    """Row j of the state, z or action does not influence the next state, memory and prior of row i, in eval and train
    mode.

    Catches attention over the batch dimension (a transformer without batch_first=True) and BatchNorm.
    Fix: attend over time; use LayerNorm, not BatchNorm.
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


@check("D3", role="dynamics", title="rows of the state can be repeated, selected and reordered")
def state_algebra(subject: Subject) -> None:
    """Advancing repeated, selected or reordered rows equals repeating, selecting or reordering the advanced rows.

    Catches positions shared by the batch, caches indexed by row number, and leaves without a batch dimension: planners
    branch one state into many candidate plans. Fix: keep positions and caches per row.
    """
    bench = subject.bench()
    state, z, action = warm_state(bench, 4), bench.latents(4), bench.actions(4)
    with torch.no_grad():
        expected = bench.dynamics.advance(state, z, action)
        for index in (torch.tensor([2, 0, 3, 1]), torch.tensor([1]), torch.arange(4).repeat_interleave(3)):
            found = bench.dynamics.advance(tree.select(state, index), z[index], action[index])
            if not same(tree.select(expected, index), found):
                raise CheckFailure(
                    "advancing selected or repeated rows differs from selecting advanced rows",
                    "keep positions and caches per row; share nothing between rows",
                )


@check("D4", role="dynamics", title="inputs are not modified")
def inputs_unchanged(subject: Subject) -> None:
    """advance, memory and predict do not modify their inputs.

    Catches caches written in place: a planner that branches one state would corrupt the other branches.
    Fix: build new tensors (torch.where, torch.cat, index_copy without underscore), or clone before writing.
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
            "advance modifies its inputs in place", "return new tensors; clone a cache before writing into it"
        )


@check("D5", role="dynamics", title="the State holds all state")
def no_hidden_state(subject: Subject) -> None:
    """Advancing state A, then B, then a copy of A gives the same memory for A both times.

    Catches state hidden in the module (self.h, self.cache): it leaks across resets and rows, and from data collection
    into training. Fix: keep everything that changes from step to step in the State.
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
            "the same state, z and action give a different memory the second time: "
            "hidden state in the module leaks over resets",
            "move everything that changes from step to step from self into the State",
        )


@check("D6", role="dynamics", title="every leaf of the state is used")
def leaves_carried(subject: Subject) -> None:
    """After four steps, each float leaf of the state influences the memory now or after one or two further steps.

    Catches a part of the state that is returned and never read (an LSTM whose cell state is ignored).
    Fix: read every leaf in advance; remove unused leaves.
    """
    bench = subject.bench()
    state, z, action = warm_state(bench, 2, steps=4), bench.latents(2), bench.actions(2)
    leaves = tree.leaves(state)

    def memories(perturbed: int) -> Any:
        chosen = iter([perturb(leaf) if i == perturbed else leaf for i, leaf in enumerate(leaves)])
        start = tree.tree_map(lambda _: next(chosen), state)
        after = bench.dynamics.advance(start, z, action)
        # Now: a transformer stores its last output only for memory(). One step: a convolution reads a leaf only once.
        # Two: a leaf may act through another leaf.
        return [bench.dynamics.memory(s) for s in (start, after, bench.dynamics.advance(after, z, action))]

    with torch.no_grad():
        base = memories(-1)
        for i, leaf in enumerate(leaves):
            if leaf.is_floating_point() and same(base, memories(i), 0.0):
                raise CheckFailure(
                    f"state leaf {_paths(state)[i]} is never read: it does not affect the memory",
                    "use it in advance, or remove it from the state",
                )


def _paths(value: Any, prefix: str = "") -> list[str]:
    if isinstance(value, dict):
        return [path for key, inner in value.items() for path in _paths(inner, f"{prefix}[{key!r}]")]
    return [prefix or "(root)"] * len(tree.leaves(value))


@check("D7", role="dynamics", title="the memory and the prior depend on the action")
def action_sensitivity(subject: Subject) -> None:
    """The memory after a step, and the prior predicted from it, depend on the action, for continuous and discrete
    actions.

    Catches a dynamics that ignores the action: all plans would then have the same value. Fix: feed cat(z, action) into
    advance.
    """
    for kind in toys.ACTIONS:
        try:
            bench = subject.bench(action=kind)
        except CheckFailure:
            continue  # D1 reports unsupported actions
        state, z = warm_state(bench, 3), bench.latents(3)

        def run(action: Tensor, bench: Bench = bench, state: State = state, z: Tensor = z) -> list[Tensor]:
            memory = bench.dynamics.memory(bench.dynamics.advance(state, z, action))
            return [memory, bench.dynamics.predict(memory).sample(stream(0))]

        if not depends(run, bench.actions(3)):
            raise CheckFailure(
                f"neither the memory nor the prior depends on a {kind} action", "feed the action into advance"
            )


@check("D8", role="dynamics", title="the flag reparameterised is correct")
def reparameterised_truthful(subject: Subject) -> None:
    """The gradient of a prior sample with respect to the memory is non-zero if and only if `reparameterised` is True.

    Catches samples that a distribution library detaches: an agent that differentiates through imagination would learn
    nothing.
    Fix: use rsample or a straight-through estimator, or declare reparameterised = False.
    """
    for bench in benches_by_latent_kind(subject):
        dynamics, memory = bench.dynamics, bench.dynamics.memory(warm_state(bench, 4))
        found = gradient_reaches(lambda m, dynamics=dynamics: dynamics.predict(m).sample(stream(0)), memory)
        if found != dynamics.reparameterised:
            raise CheckFailure(
                f"reparameterised = {dynamics.reparameterised}, but {bench.specs.latent.kind} samples "
                f"{'do' if found else 'do not'} carry gradients to the memory",
                "use mean + std * noise or a straight-through sample, or change the declared flag",
            )


@check("D9", role="dynamics", title="the prior offers what prior_kind declares")
def declared_prior(subject: Subject) -> None:
    """prior_kind "analytic": the prior has log_prob and kl; "log_prob": it has log_prob. score_latent, if there is one,
    returns [N] and has a gradient with respect to z. detach() cuts the prior from the memory.

    Catches a declared method that is missing, and a prior that detach() does not cut from the memory.
    Fix: make the prior a frozen dataclass of tensors; declare only what the distribution offers.
    """
    bench = subject.bench()
    dynamics = bench.dynamics
    memory = dynamics.memory(warm_state(bench, 4)).requires_grad_()
    prior, z = dynamics.predict(memory), bench.latents(4)
    if dynamics.prior_kind in ("analytic", "log_prob"):
        if not isinstance(prior, HasLogProb):
            raise CheckFailure(
                f"prior_kind is '{dynamics.prior_kind}' but the prior has no log_prob",
                "implement log_prob, or declare 'sampler'",
            )
        require_shape(prior.log_prob(z), (4,), "log_prob(z)")
    if dynamics.prior_kind == "analytic" and not isinstance(prior, HasKL):
        raise CheckFailure(
            "prior_kind is 'analytic' but the prior has no kl", "implement kl(other), or declare 'log_prob'"
        )
    cut = tree.detach(prior).sample(stream(0))
    if cut.requires_grad and torch.autograd.grad(cut.sum(), memory, allow_unused=True)[0] is not None:
        raise CheckFailure("detach() does not cut the prior from the memory", "make it a frozen dataclass of tensors")
    if isinstance(dynamics, ScoresLatent):
        require_shape(dynamics.score_latent(memory, z), (4,), "score_latent")
        if not gradient_reaches(lambda x: dynamics.score_latent(memory, x), z):
            raise CheckFailure(
                "score_latent has no gradient with respect to z: it cannot train an encoder", "do not detach z"
            )


@check("D10", role="dynamics", title="the prior's density integrates to 1 and matches its samples")
def density_matches_samples(subject: Subject) -> None:
    """For a one-dimensional latent, the density integrates to 1 and its distribution function fits 4000 samples; for
    one categorical variable of six classes, the probabilities sum to 1. For an eight-dimensional latent, and for two
    categorical variables of four classes, log_prob matches 4000 samples: the mean of r(z) / p(z) is 1 for a known
    density r, and dimensions sampled jointly are also scored jointly, not as a product of marginals. The entropy, if
    offered, is the mean of -log p(z).

    Catches a missing log std or log-determinant, a mean over dimensions in place of a sum, a joint mixture scored as a
    factorised one, and a log_prob that belongs to a different distribution than the samples.
    Fix: for a Gaussian, sum -0.5 ((z - mean) / std)^2 - log std - 0.5 log 2 pi over D.
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
            raise NotApplicable(f"prior_kind is {bench.dynamics.prior_kind}")
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
        raise NotApplicable("the prior has no density, or the dynamics does not support these latents")


def _require_samples_match(bench: Bench) -> None:
    latent, memory = bench.specs.latent, bench.dynamics.memory(warm_state(bench, 1))
    block = latent.classes if latent.kind == "categorical" else 1
    for separated in _separated_priors(bench, memory):
        require_joint(separated.sample(stream(1)), separated.log_prob, block)
    prior: Any = bench.dynamics.predict(memory.expand(4000, -1))
    samples = prior.sample(stream(0))
    log_prob = prior.log_prob(samples)
    codes = latent.classes**latent.groups if latent.kind == "categorical" else 0
    bias = log_density_bias(samples, log_prob, codes)
    if abs(bias) > 5:
        raise CheckFailure(
            f"log_prob is too {'low' if bias > 0 else 'high'} for {latent.kind} samples, by {abs(bias):.0f} standard errors",
            "sum log_prob over the dimensions; sample from the distribution that log_prob describes",
        )
    if isinstance(prior, HasEntropy):
        require_entropy(prior.entropy(), log_prob)


def _separated_priors(bench: Bench, memory: Tensor) -> Iterator[Any]:
    """Yield 4000 rows of priors whose components lie apart: those of an untrained mixture nearly coincide.

    The memory is ten times as large, or has a std of 10, and then the weights are perturbed too.
    """
    wide = 10 * torch.randn(memory.shape, generator=stream(6))
    yield bench.dynamics.predict(10 * memory.expand(4000, -1))
    yield bench.dynamics.predict(wide.expand(4000, -1))
    perturbed = copy.deepcopy(bench.dynamics)
    gen = stream(7)
    for p in perturbed.parameters():
        p.add_(0.1 * torch.randn(p.shape, generator=gen))
    yield perturbed.predict(wide.expand(4000, -1))


def _log_density(bench: Bench, memory: Tensor, z: Tensor) -> Tensor:
    prior: Any = bench.dynamics.predict(memory.expand(len(z), -1))
    return prior.log_prob(z)


def _require_unit_integral(bench: Bench, memory: Tensor) -> None:
    samples = bench.dynamics.predict(memory.expand(4000, -1)).sample(stream(0))
    require_density(samples[:, 0], lambda z: _log_density(bench, memory, z[:, None]), "the prior")


def _require_unit_sum(bench: Bench, memory: Tensor) -> None:
    total = float(_log_density(bench, memory, torch.eye(6)).double().exp().sum())
    if abs(total - 1) > 1e-3:
        raise CheckFailure(f"the probabilities of all classes sum to {total:.3f}, not 1", "normalise the logits")


@check("D11", role="dynamics", title="the same generator seed gives the same sample")
def seeded_samples(subject: Subject) -> None:
    """Two samples of a prior with the same seed are equal; if the prior has a density, samples with different seeds
    differ. The mode is float and never changes.

    Catches a hidden random generator: dreams would not be reproducible from their seed. Fix: draw from the generator
    that sample() is given.
    """
    for bench in benches_by_latent_kind(subject):
        prior = bench.dynamics.predict(bench.dynamics.memory(warm_state(bench, 64)))
        if not same(prior.sample(stream(1)), prior.sample(stream(1)), 0.0):
            raise CheckFailure(
                "two samples with the same seed differ", "draw from the generator that sample() is given"
            )
        dense = bench.dynamics.prior_kind in ("analytic", "log_prob")
        if dense and same(prior.sample(stream(1)), prior.sample(stream(2)), 0.0):
            raise CheckFailure(
                "samples with different seeds are the same", "draw from the generator that sample() is given"
            )
        if not same(prior.mode, prior.mode, 0.0):
            raise CheckFailure("two modes of the same prior differ", "compute the mode without noise")
        if not float_leaves(prior.mode):
            raise CheckFailure("the mode is not float", "return floats")


@check("D12", role="dynamics", title="its own losses do not train the latents they predict")
def stopped_targets(subject: Subject) -> None:
    """With an encoder that has a density, the dynamics' main losses give ctx.latent no gradient except through the
    memory.

    Catches a likelihood of the next latent without a stop-gradient: collapsing the latent would minimise it.
    Fix: detach ctx.latent where it is the target; the matching rule trains the encoder.
    """
    bench = subject.bench()
    ctx = bench.context()
    target = with_grad(ctx.latent)
    ctx = replace(ctx, latent=target, features=torch.cat([ctx.memory, target.z], -1))
    terms = bench.dynamics.losses(ctx, "main")
    if not terms:
        raise NotApplicable("it has no losses of its own")
    total = torch.stack([term.sum() for term in terms.values()]).sum()
    found = torch.autograd.grad(total, float_leaves(target), allow_unused=True) if total.requires_grad else ()
    if any(grad is not None and grad.abs().sum() > 0 for grad in found):
        raise CheckFailure(
            f"its losses ({', '.join(terms)}) train the latents they predict, which rewards a collapsed latent",
            "detach ctx.latent; the matching rule trains the encoder",
        )
