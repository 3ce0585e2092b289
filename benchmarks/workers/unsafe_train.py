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
from worldlab.training.saver import Saver


def leave_out() -> None:
    save = Saver.save
    exchange(Saver, "save", lambda self: save(self) if self.session.counters.updates else None)
    exchange(Saver, "save_by_time", lambda self: None)
    exchange(replay, "PENDING_SECONDS", math.inf)
    for name in ("record_digest", "confirm_digest", "record_prefix"):
        exchange(folder, name, lambda *_: None)
    exchange(episodes, "Limit", lambda seconds: contextlib.nullcontext())
    exchange(pool.Episode, "actions", property(lambda self: _Nothing(), lambda self, value: None), declared=True)


def exchange(owner: object, name: str, value: object, declared: bool = False) -> None:
    """Replace an attribute that is there, so that the benchmark fails where the code has changed. declared: as a field."""
    assert name in owner.__annotations__ if declared else hasattr(owner, name), f"{owner} has no {name}"
    setattr(owner, name, value)


class _Nothing(list):
    """Stays empty."""

    def append(self, item: object) -> None:
        pass


if __name__ == "__main__":
    leave_out()
    sys.exit(main(sys.argv[1:]))
