"""Watch the memory, descriptors and threads of a training run for an hour, and fit how fast its memory grows.

    python benchmarks/soak.py --work soak --out benchmarks/results/soak.json

Each run of RUNS is a plain `worldlab train` with its evaluations, checkpoints and log lines. Every ten seconds the run
and its child processes are sampled: PSS (memory; a page that processes share counts once), RSS (the same, but counted for
each process), descriptors and threads. The samples go to WORK/NAME.jsonl as they are taken. A restart goes on
with the run and the samples; each start is a part with its own level, because a new process begins with less memory.

The summary takes the samples after the first tenth of each part. The slope is Theil and Sen's, and its interval that of a
bootstrap over blocks of five minutes, because samples that follow each other are alike.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from interleave import header, say, source_path, write_json

RUNS = {
    "CartPole, laptop": "train --env CartPole --preset laptop --steps 1000000",
    "Pendulum, debug": "train --env Pendulum --preset debug --steps 1000000 --eval.every 1000",
}
EVERY, BLOCK, WARM = 10.0, 300.0, 0.1
"""Seconds between samples, seconds of a block of the bootstrap, share of a part before its memory is expected flat."""
MIB = 2**20


def watch(name: str, work: Path, seconds: float) -> list[dict[str, Any]]:
    """Train and sample until the samples span `seconds`. Returns: all samples, also those of earlier starts."""
    words = [sys.executable, "-m", "worldlab", *RUNS[name].split(), "--run", _slug(name), "--resume"]
    file = work / f"{_slug(name)}.jsonl"
    samples = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    part = samples[-1]["part"] + 1 if samples else 0
    before = sum(_spans(samples))
    if before >= seconds:
        return samples
    with (work / f"{_slug(name)}.{part}.log").open("w") as log, file.open("a") as out:
        environment = {**os.environ, "PYTHONPATH": source_path()}
        process = psutil.Popen(
            words, cwd=work, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=_heed_signals
        )
        begin = time.monotonic()
        while process.poll() is None and before + time.monotonic() - begin < seconds:
            sample = {"part": part, "seconds": round(time.monotonic() - begin, 1), **_sample(process)}
            sample |= _reached(work / _slug(name))
            samples.append(sample)
            out.write(json.dumps(sample) + "\n")
            out.flush()
            time.sleep(EVERY - (time.monotonic() - begin) % EVERY)
        process.send_signal(signal.SIGTERM)
        code = process.wait(120)
        if code != 128 + signal.SIGTERM:
            sys.exit(f"{name} ended with {code}; see {log.name}")
    return samples


def _heed_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _slug(name: str) -> str:
    return name.lower().replace(", ", "-")


def _sample(process: psutil.Process) -> dict[str, Any]:
    found: dict[str, Any] = {"pss": 0, "rss": 0, "descriptors": 0, "threads": 0, "processes": 0, "cpu": 0.0}
    with suppress(psutil.Error):
        for index, one in enumerate((process, *process.children(recursive=True))):
            with suppress(psutil.NoSuchProcess), one.oneshot():
                memory, cpu = one.memory_full_info(), one.cpu_times()
                found["pss"] += memory.pss
                found["rss"] += memory.rss
                found["descriptors"] += one.num_fds()
                found["threads"] += one.num_threads()
                found["processes"] += 1
                found["cpu"] += round(cpu.user + cpu.system, 1)
                if index == 0:
                    found |= {"main_pss": memory.pss, "main_rss": memory.rss, "main_descriptors": one.num_fds()}
    return found


def _reached(run: Path) -> dict[str, int]:
    """Return how far the run is: the step of the last log line, and the lines and newest checkpoint so far."""
    with suppress(OSError, ValueError, IndexError, KeyError):
        lines = (run / "metrics.jsonl").read_text().splitlines()
        steps = [int(path.name.rpartition("-")[2]) for path in (run / "checkpoints").glob("step-*")]
        return {"step": json.loads(lines[-1])["step"], "lines": len(lines), "checkpoint": max(steps, default=0)}
    return {}


def _spans(samples: list[dict[str, Any]]) -> list[float]:
    return [max(one["seconds"] for one in part) for part in _parts(samples)]


def _parts(samples: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    return [[one for one in samples if one["part"] == part] for part in sorted({one["part"] for one in samples})]


def summary(name: str, samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the slopes of the memory and the ranges of everything else, after the first tenth of each part."""
    parts = [[one for one in part if one["seconds"] >= WARM * part[-1]["seconds"]] for part in _parts(samples)]
    kept = [one for part in parts for one in part]
    last = samples[-1]
    ranges = {
        key: [min(values), max(values)]
        for key in ("descriptors", "threads", "processes")
        for values in [_of(kept, key)]
    }
    return {
        "command": f"worldlab {RUNS[name]}",
        "minutes": round(sum(_spans(samples)) / 60, 1),
        "samples": len(samples),
        "starts": len(parts),
        "steps": last["step"],
        "log_lines": last["lines"],
        "cpu_minutes": round(sum(part[-1]["cpu"] for part in parts) / 60, 1),
        "pss_mib": {"first": _mib(kept[0]), "last": _mib(last), "highest": round(max(_of(kept, "pss")) / MIB, 1)},
        "pss_mib_an_hour": slope(parts, "pss"),
        "rss_mib_an_hour": slope(parts, "rss"),
        "ranges": ranges,
        "series": [[round(one["seconds"]), _mib(one), one["descriptors"], one["threads"]] for one in samples[::6]],
    }


def _of(samples: list[dict[str, Any]], key: str) -> list[Any]:
    return [one[key] for one in samples]


def _mib(sample: dict[str, Any]) -> float:
    return round(sample["pss"] / MIB, 1)


def slope(parts: list[list[dict[str, Any]]], key: str) -> dict[str, Any]:
    """Return the slope in MiB an hour: the median over the slopes of all pairs of samples of a part (Theil and Sen)."""
    hours = [np.array(_of(part, "seconds")) / 3600 for part in parts]
    values = [np.array(_of(part, key)) / MIB for part in parts]
    rng, blocks = np.random.default_rng(0), int(BLOCK / EVERY)
    drawn = []
    for _ in range(1000):
        picks = [_draw_blocks(len(one), blocks, rng) for one in hours]
        drawn.append(_theil_sen([one[pick] for one, pick in zip(hours, picks, strict=True)],
                                [one[pick] for one, pick in zip(values, picks, strict=True)]))  # fmt: skip
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {
        "estimate": round(_theil_sen(hours, values), 2),
        "interval_95": [round(float(low), 2), round(float(high), 2)],
    }


def _draw_blocks(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw as many samples as there are, as blocks of neighbours."""
    starts = rng.integers(0, max(1, count - size + 1), size=-(-count // size))
    return (starts[:, None] + np.arange(size)).ravel()[:count].clip(max=count - 1)


def _theil_sen(hours: list[np.ndarray], values: list[np.ndarray]) -> float:
    slopes = []
    for x, y in zip(hours, values, strict=True):
        first, second = np.triu_indices(len(x), 1)
        apart = x[second] != x[first]
        slopes.append(((y[second] - y[first])[apart]) / ((x[second] - x[first])[apart]))
    return float(np.median(np.concatenate(slopes)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs and the samples")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--minutes", type=float, default=62.0)
    parser.add_argument("--run-at", help="the commit of the runs, if the samples are of another one")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in args.runs:
        found[name] = summary(name, watch(name, args.work, args.minutes * 60))
        say(f"{name}: { ({key: value for key, value in found[name].items() if key != 'series'}) }")
        if args.out:
            write_json(args.out, {**header("soak.py"), "run_at_commit": args.run_at, "runs": found})


if __name__ == "__main__":
    main()
