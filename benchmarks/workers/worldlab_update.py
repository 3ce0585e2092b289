"""Serve one training update of worldlab on a fixed random batch: "update", and "model" for the world model alone.

PYTHONPATH=.:plugins:agents:envs python benchmarks/workers/worldlab_update.py vector [--set agent.horizon=5]
"""

from __future__ import annotations

import time

from serve import serve
from worldlab_setup import OLD, Subject, build, options

if OLD:
    from worldlab.schedule import MODEL
else:
    from worldlab.model.schedule import MODEL


def main() -> None:
    args = options(__doc__).parse_args()
    begin = time.perf_counter()
    subject: Subject = build(args)
    subject.update()
    static = None if OLD else subject.trainer.static
    while static is not None and not static.recorded:
        assert not static.reason, static.reason
        subject.update()
    facts = {**subject.facts(), "start_s": time.perf_counter() - begin}
    finish = subject.trainer.synchronise if args.beside else None
    serve({"update": subject.update, "model": lambda: subject.update(stage=MODEL)}, facts, finish)


if __name__ == "__main__":
    main()
