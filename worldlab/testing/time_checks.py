"""Checks of a dynamics over a sequence: memory, resets, causality, long rollouts and forks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from worldlab import rollout, tree
from worldlab.errors import one_line
from worldlab.interfaces import ParallelDynamics, SharesPast, State, Unrolled
from worldlab.model.noise import stream
from worldlab.testing.bench import Bench, Subject
from worldlab.testing.checks import CheckFailure, NotApplicable, check
from worldlab.testing.dynamics_checks import warm_state
from worldlab.testing.probes import depends, perturb, relative_error, same

LENGTH = 8
RESET = 4
"""Where row 0 of the sequences starts a new episode."""


def _is_first(rows: int) -> Tensor:
    is_first = torch.zeros(rows, LENGTH, dtype=torch.bool)
    is_first[0, RESET] = True
    return is_first


def _scan(bench: Bench, state: State, z: Tensor, action: Tensor, is_first: Tensor) -> list[State]:
    """Return the state after each step, with resets applied by the core."""
    states = []
    for t in range(z.shape[1]):
        carry, taken = rollout.reset_rows(bench.dynamics, rollout.Carry(state, z[:, t]), action[:, t], is_first[:, t])
        state = bench.dynamics.advance(carry.state, carry.z, taken)
        states.append(state)
    return states


def _sequence(bench: Bench, state: State, z: Tensor, action: Tensor, is_first: Tensor) -> Unrolled:
    """Call advance_sequence as the core does: z and action are 0 at a reset."""
    dynamics = bench.dynamics
    assert isinstance(dynamics, ParallelDynamics)
    keep = (~is_first)[..., None]
    return dynamics.advance_sequence(state, z * keep, action * keep, is_first)


def _parallel(subject: Subject) -> Bench:
    bench = subject.bench()
    if not isinstance(bench.dynamics, ParallelDynamics):
        raise NotApplicable("it has no advance_sequence: the core advances it step by step")
    return bench


@check("T1", role="dynamics", title="the memory depends on past latents and actions")
def memory(subject: Subject) -> None:
    """After six steps, the memory depends on z and the action of the first step and on z and the action of the last
    step.

    Catches a dynamics that ignores its state: a world model without memory passes every shape test.
    Fix: use the state in advance; check that a cache is written before it is read.
    """
    bench = subject.bench()
    z, action = bench.latents(2, 6), bench.actions(2, 6)

    def final(z: Tensor, action: Tensor) -> Tensor:
        state = bench.dynamics.initial(2)
        for t in range(6):
            state = bench.dynamics.advance(state, z[:, t], action[:, t])
        return bench.dynamics.memory(state)

    for what, run, x in (
        ("z of the first step", lambda x: final(torch.cat([x, z[:, 1:]], 1), action), z[:, :1]),
        ("the action of the first step", lambda x: final(z, torch.cat([x, action[:, 1:]], 1)), action[:, :1]),
        ("the action of the last step", lambda x: final(z, torch.cat([action[:, :5], x], 1)), action[:, 5:]),
        ("z of the last step", lambda x: final(torch.cat([z[:, :5], x], 1), action), z[:, 5:]),
    ):
        if not depends(run, x):
            raise CheckFailure(
                f"after 6 steps the memory does not depend on {what}: the dynamics forgets",
                "use state, z and action in advance",
            )


@check("T2", role="dynamics", title="nothing leaks across a reset")
def reset_isolation(subject: Subject) -> None:
    """In rollout.observe, step by step and (if there is an advance_sequence) in one pass: inputs before a reset do not
    influence later steps, and the step at the reset equals the first step of a new sequence.

    Catches resets applied one step late, state kept outside the State, and an advance_sequence that ignores is_first.
    Fix: keep no state in self; mask attention across is_first; restart the recurrence where is_first is True.
    """
    for use_memory in (True, False):
        bench = subject.bench(use_memory=use_memory)
        rows = 3
        embed = torch.randn(rows, LENGTH, _embed_width(bench), generator=stream(4))
        action, is_first = bench.actions(rows, LENGTH), _is_first(rows)
        seen = _observe(bench, embed, action, is_first)
        how = (
            "step by step" if use_memory or not isinstance(bench.dynamics, ParallelDynamics) else "in advance_sequence"
        )
        before = torch.arange(LENGTH)[:, None] < RESET
        other = _observe(
            bench,
            torch.where(before, perturb(embed), embed),
            torch.where(before, perturb(action), action),
            is_first,
        )
        _same_after_reset(seen, other, f"inputs before a reset influence later steps ({how})")
        started = is_first.clone()
        started[:, RESET] = True
        fresh = _observe(bench, embed[:, RESET:], action[:, RESET:], started[:, RESET:])
        _same_after_reset(seen, fresh, f"the step at a reset differs from the first step of a new sequence ({how})")


def _embed_width(bench: Bench) -> int:
    return bench.encoder.embed(bench.obs(1)).shape[-1]


@torch.no_grad()
def _observe(bench: Bench, embed: Tensor, action: Tensor, is_first: Tensor) -> Tensor:
    """Return the features [B, T, F], computed without noise."""
    carry = rollout.initial_carry(bench.dynamics, len(embed), bench.specs.latent.dim)
    seen = rollout.observe(bench.encoder, bench.dynamics, embed, action, is_first, None, bench.specs.use_memory, carry)
    return torch.cat([seen.memory, seen.latent.z], -1)


def _same_after_reset(a: Tensor, b: Tensor, cause: str) -> None:
    tail = LENGTH - RESET
    if not same(a[0, -tail:], b[0, -tail:]):
        raise CheckFailure(
            cause, "keep no state in self; where is_first, start from initial(n) and attend to no earlier step"
        )


@check("T3", role="dynamics", title="advance_sequence does not look ahead")
def causality(subject: Subject) -> None:
    """Changing z, actions or resets after step t leaves the memory up to step t unchanged.

    Catches a missing or shifted causal mask: training losses look excellent, but imagined rollouts fail.
    Fix: use a lower-triangular mask over time (is_causal=True).
    """
    bench = _parallel(subject)
    state, z, action = warm_state(bench, 2), bench.latents(2, LENGTH), bench.actions(2, LENGTH)
    is_first, late = _is_first(2), torch.arange(LENGTH)[:, None] > RESET
    base = _sequence(bench, state, z, action, is_first).memory
    moved = is_first.clone()
    moved[1, RESET + 1] = True
    for what, run in (
        ("z", _sequence(bench, state, torch.where(late, perturb(z), z), action, is_first)),
        ("actions", _sequence(bench, state, z, torch.where(late, perturb(action), action), is_first)),
        ("resets", _sequence(bench, state, z, action, moved)),
    ):
        leaks = (relative_error(base, run.memory) > 1e-4).flatten(2).any(2).any(0)[: RESET + 1]
        if leaks.any():
            t = int(leaks.nonzero()[0])
            raise CheckFailure(
                f"{what} after step {RESET} change the memory at step {t}: advance_sequence looks ahead",
                "mask attention so that step t reads only steps <= t",
            )


@check("T4", role="dynamics", title="advance_sequence equals the step-by-step scan")
def sequence_is_scan(subject: Subject) -> None:
    """Starting from initial(n) and from a warm state, with and without a reset in the sequence, advance_sequence gives
    the memories of the step-by-step scan, and its states `final` and `at` continue like the scan's.

    Catches shifted positions, caches passed on incorrectly, and is_first ignored in the parallel path: the model that
    is trained would differ from the model that acts. Fix: build both paths from one function.
    """
    bench = _parallel(subject)
    rows, dynamics = 3, bench.dynamics
    z, action = bench.latents(rows, LENGTH), bench.actions(rows, LENGTH)
    for begin, start in (("an initial", dynamics.initial(rows)), ("a warm", warm_state(bench, rows))):
        for is_first, when in ((torch.zeros(rows, LENGTH, dtype=torch.bool), ""), (_is_first(rows), " with a reset")):
            with torch.no_grad():
                states = _scan(bench, start, z, action, is_first)
                run = _sequence(bench, start, z, action, is_first)
                expected = torch.stack([dynamics.memory(state) for state in states], 1)
                where = f"from {begin} state{when}"
                _require_same(expected, run.memory, f"advance_sequence differs from the scan {where}")
                _require_same_continuation(
                    bench, run.final, states[-1], f"`final` continues differently from the scan {where}"
                )
                row, time = torch.tensor([0, 1, 2]), torch.tensor([RESET, 1, LENGTH - 1])
                chosen = tree.select(tree.stack(states), (row, time))
                _require_same_continuation(
                    bench, run.at(row, time), chosen, f"`at` continues differently from the scan {where}"
                )


def _require_same(a: Tensor, b: Tensor, cause: str) -> None:
    if not same(a, b):
        raise CheckFailure(
            cause, "treat is_first, positions and caches equally in both paths; build both from one function"
        )


def _require_same_continuation(bench: Bench, found: State, expected: State, cause: str) -> None:
    """Compare the memories two steps after each state, not the states: a cache may have another layout."""
    z, action = bench.latents(3, seed=9), bench.actions(3, seed=9)
    for _ in range(2):
        found, expected = (bench.dynamics.advance(state, z, action) for state in (found, expected))
        _require_same(bench.dynamics.memory(expected), bench.dynamics.memory(found), cause)


@check("T5", role="dynamics", title="rollouts work far beyond the context length")
def long_rollout(subject: Subject) -> None:
    """A rollout of 96 steps (or of three times `config.context`, if that is longer) stays finite, the state keeps its
    size, and the memory still depends on the newest z and action.

    Catches learned absolute positions in a sliding window, caches that run full, and states that grow or diverge.
    Fix: use a ring buffer with per-row positions, and relative or rotary position embeddings.
    """
    bench = subject.bench()
    steps = max(96, 3 * int(getattr(bench.config, "context", 0)))
    z, action = bench.latents(2, steps), bench.actions(2, steps)
    state = bench.dynamics.initial(2)
    size = _numel(state)
    with torch.no_grad():
        for t in range(steps):
            try:
                state = bench.dynamics.advance(state, z[:, t], action[:, t])
            except Exception as exc:
                ends = ": a cache or position table ends there" if t else ""
                raise CheckFailure(
                    f"step {t + 1} of a rollout fails ({type(exc).__name__}: {one_line(exc, 80)}){ends}",
                    "use a ring buffer with per-row positions, and relative or rotary positions",
                ) from exc
            if _numel(state) != size:
                raise CheckFailure(
                    f"the state grows from {size} to {_numel(state)} numbers", "bound it with a ring buffer"
                )
            if not torch.isfinite(bench.dynamics.memory(state)).all():
                raise CheckFailure(f"the memory is not finite after {t + 1} steps", "normalise the recurrence")
    _require_inputs_read(bench, tree.detach(state), steps)


def _require_inputs_read(bench: Bench, state: State, steps: int) -> None:
    z, action = bench.latents(2), bench.actions(2)
    advance: Callable[..., Any] = bench.dynamics.advance
    for what, run, x in (
        ("z", lambda x: bench.dynamics.memory(advance(state, x, action)), z),
        ("the action", lambda x: bench.dynamics.memory(advance(state, z, x)), action),
    ):
        if not depends(run, x):
            raise CheckFailure(
                f"after {steps} steps the memory no longer depends on {what}: the cache is full and drops new entries",
                "overwrite the oldest entry",
            )


@check("T6", role="dynamics", title="fork equals copying the state")
def forked_futures(subject: Subject) -> None:
    """For 12 steps, the futures from `fork` have the same memories as copies of the state.

    Catches futures in a different order, positions counted from the fork, and a shared past that is read beyond its
    window: a planner would evaluate its candidate plans in the wrong states. Fix: put the futures of row i at rows i *
    count to i * count + count - 1; compare with tree.repeat.
    """
    bench = subject.bench()
    dynamics, count, length = bench.dynamics, 3, 12
    if not isinstance(dynamics, SharesPast):
        raise NotApplicable("it has no fork: the core copies its state")
    rows = 2 * count
    z, action = bench.latents(rows, length, seed=7), bench.actions(rows, length, seed=7)
    for begin, start in (("an initial", dynamics.initial(2)), ("a warm", warm_state(bench, 2))):
        with torch.no_grad():
            copied, shared = tree.repeat(start, count), dynamics.fork(start, count)
            for t in range(length):
                copied, shared = (dynamics.advance(state, z[:, t], action[:, t]) for state in (copied, shared))
                if not same(dynamics.memory(copied), dynamics.memory(shared)):
                    raise CheckFailure(
                        f"fork of {begin} state continues differently from copies of it at step {t + 1}",
                        "put row i's futures at rows i * count to (i + 1) * count - 1; continue its positions",
                    )


def _numel(state: State) -> int:
    return sum(leaf.numel() for leaf in tree.leaves(state))
