"""Run `worldlab train` without what makes runs reliable: benchmarks/reliability_cost.py measures the difference.

Left out: the checkpoint after the prefill and those because of the time, the writes of steps between checkpoints, the
recorded actions, the digests of texts and the time limit of environments.
"""

from __future__ import annotations

import contextlib
import math
import sys

from worldlab.cli import main
from worldlab.env import episodes, pool
from worldlab.experience import replay
from worldlab.runs import folder
from worldlab.training.loop import Loop


def leave_out() -> None:
    Loop._save_by_time = lambda self: None  # type: ignore[method-assign]
    replay.PENDING_SECONDS = math.inf
    for name in ("record_digest", "confirm_digest", "record_prefix"):
        setattr(folder, name, lambda *_: None)
    episodes.Limit = lambda seconds: contextlib.nullcontext()  # type: ignore[assignment, misc]
    pool.Episode.actions = property(lambda self: _Nothing(), lambda self, value: None)  # type: ignore[assignment]
    pretrain, save = Loop._pretrain, Loop._save

    def without_first_save(self: Loop) -> None:
        self._save = (lambda: None) if not self.session.counters.updates else lambda: save(self)  # type: ignore[method-assign]
        try:
            pretrain(self)
        finally:
            del self._save

    Loop._pretrain = without_first_save  # type: ignore[method-assign]


class _Nothing(list):
    """Stays empty."""

    def append(self, item: object) -> None:
        pass


if __name__ == "__main__":
    leave_out()
    sys.exit(main(sys.argv[1:]))
