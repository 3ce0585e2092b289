"""Runs workers in turn, block by block, and compares their durations.

All contenders of a comparison are started first. Then the blocks go A, B, C, A, B, C, so that a slow period of the
machine affects all alike. A block gives the median of its calls. A ratio is taken within each round, and its interval
is the bootstrap over the rounds. The workers answer as benchmarks/workers/serve.py describes.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from machine import commit, load, machine, reached, versions
from peers import PeerError

from worldlab.study.statistics import bootstrap

ROOT = Path(__file__).parents[1]
WORKERS = Path(__file__).parent / "workers"
START_S = 1800.0
"""Seconds that a worker may take until it is ready: some compile for minutes."""
ANSWER_S = 600.0
"""Seconds that one answer may take."""
Round = dict[str, float]
"""The seconds of a call in one round, by contender."""


def source_path(root: Path = ROOT) -> str:
    """Return the PYTHONPATH with which a process uses the worldlab of this folder."""
    return os.pathsep.join(str(root / part) for part in (".", "plugins", "agents", "envs"))


class WorkerError(PeerError):
    """A worker failed; the text ends with its last words."""


class Worker:
    """A process that measures one thing. It starts with `start` and ends with `close`."""

    def __init__(self, script: str, *options: str, python: Path | str = sys.executable, root: Path | None = ROOT):
        """script: a file of benchmarks/workers. root: the worldlab to use; None leaves worldlab out."""
        self.command = [str(python), str(WORKERS / script), *options]
        self.facts: dict[str, Any] = {}
        self._root = root
        self._process: subprocess.Popen[str] | None = None
        self._words = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed with the worker)

    def start(self, timeout: float = START_S) -> None:
        """Start the process and read its facts. Raises: WorkerError."""
        if self._process is not None:
            return
        env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        if self._root is not None:
            env["PYTHONPATH"] = source_path(self._root)
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            self.command, stdin=pipe, stdout=pipe, stderr=self._words, text=True, env=env, start_new_session=True
        )
        self.facts = self._answer(timeout)

    def run(self, call: str, count: int, seconds: float = 0.0) -> list[float]:
        """Return the durations of at least `count` calls, repeated until `seconds` have passed. Raises: WorkerError."""
        return self._ask(f"run {call} {count} {seconds}")

    def flops(self, call: str) -> int:
        """Return the floating-point operations of one call. Raises: WorkerError."""
        return self._ask(f"flops {call}")

    def memory(self) -> dict[str, int]:
        """Return the resident bytes "now" and at their "peak". Raises: WorkerError."""
        return self._ask("memory")

    def close(self) -> None:
        """End the process and its children."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with suppress(OSError, subprocess.TimeoutExpired):
            process.stdin.close()
            process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _ask(self, request: str) -> Any:
        if self._process is None:
            raise WorkerError("the worker is not running")
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._failure("stopped") from error
        return self._answer(ANSWER_S)

    def _answer(self, timeout: float) -> Any:
        assert self._process is not None and self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout)
        if not ready:
            raise self._failure(f"gave no answer in {timeout:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._failure("stopped")
        return json.loads(line)

    def _failure(self, what: str) -> WorkerError:
        self.close()
        self._words.seek(0)
        lines = [line.strip() for line in self._words if line.strip()]
        return WorkerError(f"the worker {what}: {' | '.join(lines[-3:])[-600:]}")


@dataclass(frozen=True)
class Contender:
    """One row of a comparison: a call of a worker.

    count, seconds: the calls of one block, as in `Worker.run`. base: the contender that it is divided by. units: what
    one call produces, for rates. flops: whether to count the operations of a call. summary: of the durations in one
    block; the mean for calls that differ in their work.
    """

    name: str
    worker: Worker
    call: str = "update"
    count: int = 1
    seconds: float = 0.0
    base: str = ""
    units: float = 0.0
    flops: bool = False
    summary: Callable[[list[float]], float] = statistics.median


@dataclass
class Comparison:
    """Contenders that are measured in turn, and what was found so far.

    rounds: the rounds measured earlier, which are kept. left_out: the reason of each contender that did not finish.
    """

    contenders: Sequence[Contender]
    rounds: list[Round] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    gflop: dict[str, float] = field(default_factory=dict)

    def start(self) -> None:
        """Start all workers, one after the other, and make one call of each."""
        for one in self.contenders:
            begin = time.perf_counter()
            with self._noting(one):
                one.worker.start()
                one.worker.run(one.call, 1)
                if one.flops:
                    self.gflop[one.name] = round(one.worker.flops(one.call) / 1e9, 3)
            seconds = time.perf_counter() - begin
            say(f"{one.name}: {self.left_out.get(one.name, f'ready after {seconds:.0f} s')}")

    def run(self, count: int, after: Callable[[Comparison], object] = lambda _: None) -> None:
        """Measure rounds until there are `count`. after: called after each, to write the result so far."""
        while len(self.rounds) < count and self.running:
            now: Round = {}
            for one in self.running:
                with self._noting(one):
                    now[one.name] = one.summary(one.worker.run(one.call, one.count, one.seconds))
            self.rounds.append(now)
            shown = ", ".join(f"{name} {1e3 * seconds:.4g}" for name, seconds in now.items())
            say(f"round {len(self.rounds)} of {count}, ms: {shown}")
            after(self)

    @property
    def running(self) -> list[Contender]:
        """The contenders that have not failed."""
        return [one for one in self.contenders if one.name not in self.left_out]

    def close(self) -> None:
        """End all workers."""
        for one in self.contenders:
            one.worker.close()

    def measure(self, count: int, after: Callable[[Comparison], object] = lambda _: None) -> dict[str, Any]:
        """Start, measure and close. Returns: the rows, what was left out, and the rounds."""
        try:
            self.start()
            self.run(count, after)
        finally:
            self.close()
        return self.found()

    def found(self) -> dict[str, Any]:
        """Return what was measured so far: the rows, what was left out, and the rounds."""
        return {"rows": self.rows(), "left_out": self.left_out, "rounds": self.rounds}

    def show(self, title: str) -> None:
        """Print the rows."""
        for name, row in self.rows().items():
            print(f"{title:18} {name:44} {describe(row)}", flush=True)
        for name, reason in self.left_out.items():
            print(f"{title:18} {name:44} left out: {reason}", flush=True)

    def rows(self) -> dict[str, dict[str, Any]]:
        """Summarise each contender that was measured: milliseconds, comparison with its base, rate and facts.

        Those that produce units are compared by speed (above 1 is faster), others by time (above 1 is slower).
        """
        return {one.name: row for one in self.contenders if (row := self._row(one))}

    def _row(self, one: Contender) -> dict[str, Any]:
        found = [now[one.name] for now in self.rounds if one.name in now]
        if not found:
            return {}
        ms = [1e3 * seconds for seconds in found]
        row: dict[str, Any] = {"ms": _short(statistics.median(ms)), "ms_range": [_short(min(ms)), _short(max(ms))]}
        if one.units:
            row["per_s"] = _short(one.units / statistics.median(found))
        base = self._base(one)
        if base and any(base.name in now for now in self.rounds):
            if one.units and base.units:
                found = ratio(self.rounds, base.name, one.name, one.units / base.units)
                row["speed"] = {"of": base.name, **found}
            else:
                row["ratio"] = {"to": base.name, **ratio(self.rounds, one.name, base.name)}
        if one.name in self.gflop:
            row["gflop"] = self.gflop[one.name]
        return {**row, **{k: _short(v) if isinstance(v, float) else v for k, v in one.worker.facts.items()}}

    def _base(self, one: Contender) -> Contender | None:
        """Return the contender to compare with, if it is another one."""
        name = one.base or self.contenders[0].name
        return next((other for other in self.contenders if other.name == name != one.name), None)

    @contextmanager
    def _noting(self, one: Contender) -> Iterator[None]:
        """Note why a contender failed, and let the others go on."""
        try:
            yield
        except PeerError as error:
            self.left_out[one.name] = str(error)


def ratio(rounds: Iterable[Round], name: str, base: str, scale: float = 1.0) -> dict[str, Any]:
    """Return the median over rounds of the time of `name` divided by that of `base`, with its 95% interval.

    scale: a factor, such as the ratio of what a call of each produces.
    """
    return estimate([scale * now[name] / now[base] for now in rounds if name in now and base in now])


def estimate(values: Sequence[float]) -> dict[str, Any]:
    """Return the median of one value per round, with its 95% bootstrap interval."""
    each = np.array(values)
    if not values:
        return {"estimate": None, "interval_95": None, "rounds": 0}
    found = bootstrap(each[:, None], lambda tasks: np.median(tasks[0], axis=-1))
    ends = [_short(found.low), _short(found.high)]
    return {
        "estimate": _short(found.estimate),
        "interval_95": None if math.isnan(found.low) else ends,
        "rounds": len(each),
    }


def header(script: str, *packages: str) -> dict[str, Any]:
    """Return what every result begins with: the command, the commit, the machine and the versions."""
    return {
        "command": " ".join([f"python benchmarks/{script}", *sys.argv[1:]]),
        **commit(),
        "machine": machine(),
        "reached": reached(),
        "load": load(),
        "versions": versions("worldlab", "torch", "numpy", *packages),
    }


def describe(row: Mapping[str, Any]) -> str:
    """Format the milliseconds, the rate and the comparison of a row."""
    text = f"{row['ms']:>10} ms [{row['ms_range'][0]}, {row['ms_range'][1]}]"
    if "per_s" in row:
        text += f"   {row['per_s']:,.6g}/s"
    if "ratio" in row:
        found = row["ratio"]
        text += f"   {found['estimate']} {found['interval_95'] or ''} times the time of {found['to']}"
    if "speed" in row:
        found = row["speed"]
        text += f"   {found['estimate']} {found['interval_95'] or ''} times the speed of {found['of']}"
    return text


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result; a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def say(text: str) -> None:
    """Print progress to standard error."""
    print(text, file=sys.stderr, flush=True)


def _short(value: float) -> float:
    """Round to four significant digits."""
    return float(f"{value:.4g}")
