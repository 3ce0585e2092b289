"""Counts the updates whose losses or gradients are not finite, reports them, and ends a run that no longer learns.

On the CPU an update is examined before its optimisers step. On a GPU nothing waits for the numbers: an optimiser skips a bad
step by itself (`Adam.step_if`), and the flags of an update are examined when they have arrived, up to `IN_FLIGHT` updates
later.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import cast

import torch
from torch import Tensor

from worldlab.errors import DivergedError
from worldlab.interfaces import Context
from worldlab.model.health import first_nonfinite

log = logging.getLogger("worldlab")
REPORTS = 5
"""How many bad updates, or series of them, are reported; metrics.jsonl has all."""
IN_FLIGHT = 2
"""Updates that the host may be ahead of a GPU: it waits for the flags of the one before these."""


@dataclass(frozen=True)
class Finite:
    """Which numbers of a step are finite."""

    players: tuple[str, ...]
    """The players that step together."""
    terms: tuple[str, ...]
    """The names of the loss terms."""
    flags: Tensor
    """[2 + terms] bool: all gradients, the sum of the terms, and each term."""

    @classmethod
    def of(cls, players: Sequence[str], norm: Tensor, total: Tensor, terms: dict[str, Tensor]) -> Finite:
        """Build it from the norm of the gradients and the losses, scalars each."""
        values = [norm, *(value.detach().to(norm) for value in (total, *terms.values()))]
        return cls(tuple(players), tuple(terms), torch.isfinite(torch.stack(values)))


def _send_to_host(flags: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Return flags on the host and the event after which they have their values there, None if they have them now."""
    if not flags.is_cuda:
        return flags, None
    arriving = torch.empty(flags.shape, dtype=torch.bool, pin_memory=True)
    arriving.copy_(flags, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return arriving, event


@dataclass(frozen=True)
class _Waiting:
    update: int
    steps: Sequence[Finite]
    flags: Tensor
    event: torch.cuda.Event | None


class BadUpdates:
    """The bad updates of a run. max_skips: how many in a row end it. skips: how many there are in a row so far."""

    def __init__(self, max_skips: int):
        self.max_skips = max_skips
        self.skips = 0
        self._last = -1
        self._reports = 0
        self._waiting: deque[_Waiting] = deque()

    def examine(self, update: int, step: Finite, ctx: Context | None = None) -> bool:
        """Count a step whose flags the host may read. Returns whether its gradients are finite, so that it may be made.

        ctx: the forward pass of a world model's losses, in which a report names the first value that is not finite.
        Raises: DivergedError after `max_skips` bad updates in a row.
        """
        return self._count(update, step, cast(list[bool], step.flags.tolist()), ctx)  # pyright: ignore[reportUnknownMemberType]

    def finish(self, update: int, steps: Sequence[Finite] = ()) -> None:
        """End an update. steps: those that were not examined yet; they will be when their flags have arrived.

        Raises: DivergedError of this update or of an earlier one.
        """
        if not steps:
            self._end(update)
            return
        flags = torch.cat([step.flags for step in steps])
        self._waiting.append(_Waiting(update, steps, *_send_to_host(flags)))
        while self._waiting and self._has_arrived(self._waiting[0]):
            self._examine_oldest()

    def wait(self) -> None:
        """Examine all updates so far. Raises: DivergedError."""
        while self._waiting:
            self._examine_oldest()

    def _has_arrived(self, waiting: _Waiting) -> bool:
        return waiting.event is None or waiting.event.query() or len(self._waiting) > IN_FLIGHT

    def _examine_oldest(self) -> None:
        waiting = self._waiting.popleft()
        if waiting.event is not None:
            waiting.event.synchronize()
        flags = iter(cast(list[bool], waiting.flags.tolist()))  # pyright: ignore[reportUnknownMemberType]
        for step in waiting.steps:
            self._count(waiting.update, step, list(islice(flags, len(step.flags))))
        self._end(waiting.update)

    def _end(self, update: int) -> None:
        if self._last != update:
            self.skips = 0

    def _count(self, update: int, step: Finite, flags: list[bool], ctx: Context | None = None) -> bool:
        finite_gradient, finite_loss, *terms = flags
        if not (finite_gradient and finite_loss):
            self._note(update, step, terms, ctx, skipped=not finite_gradient)
        return finite_gradient

    def _note(self, update: int, step: Finite, terms: list[bool], ctx: Context | None, skipped: bool) -> None:
        """Count a bad update, and report the first of several in a row. Raises: DivergedError after `max_skips`."""
        # One count for all players: a working critic or agent must not hide a model that no longer learns.
        self.skips += self._last != update
        self._last = update
        bad = [name for name, finite in zip(step.terms, terms, strict=True) if not finite]
        culprit = f"loss '{bad[0]}'" if bad else f"a gradient of {', '.join(step.players)}"
        first = None if ctx is None else first_nonfinite(ctx)
        origin = f"; the first value that is not finite: {first}" if first else ""
        what = "this update changes no weight of its player" if skipped else "its gradient is finite and is used"
        if self.skips == 1 and self._reports < REPORTS:
            self._reports += 1
            last = "; later ones are not reported" if self._reports == REPORTS else ""
            log.warning("update %d: %s is not finite%s; %s%s", update, culprit, origin, what, last)
        if self.skips >= self.max_skips:
            how = "skipped in a row" if skipped else "in a row"
            raise DivergedError(
                f"{culprit} is not finite at update {update}; {self.skips} updates {how}",
                cause=f"the loss or its gradient became NaN or inf; {what}{origin}",
                fix="resume from the last checkpoint with a lower --train.learning-rate",
            )
