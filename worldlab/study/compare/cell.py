"""Runs one cell of a comparison in its folder: `python -m worldlab.study.compare.cell FOLDER`.

FOLDER/cell.json says what is asked. What was finished before is kept: a training that has ended is not begun again, a cell
that is done ends at once. Whatever goes wrong is written down as the cell's outcome. Exit codes: 0 it finished, 1 it
failed, 130 and 143 it was stopped by a signal and will go on, or begin anew, when it is run again.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from worldlab.config.resolve import RunConfig, resolve
from worldlab.errors import CheckpointError, PluginError, WorldlabError, one_line
from worldlab.registry import Registry, open_registry
from worldlab.runs import storage
from worldlab.runs.checkpoint import latest_valid
from worldlab.runs.folder import BESIDE
from worldlab.runs.metrics import read_metrics
from worldlab.study.compare.cell_file import LOCK, NAME, OUTPUT, Asked, CellFile, read_cell, write_cell
from worldlab.study.compare.configs import goes_on
from worldlab.study.compare.identity import env_source, fingerprint
from worldlab.study.results import Measurement, Trial

RECORDINGS = "recordings"
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)


def main(argv: Sequence[str]) -> int:
    folder = Path(argv[0]).absolute()
    _print_into(folder / OUTPUT)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s", force=True)
    try:
        return run_cell(folder)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception:
        traceback.print_exc()
        return 70


def run_cell(folder: Path) -> int:
    """Do what is left of a cell. Returns the exit code. Raises: SystemExit or KeyboardInterrupt if a signal stops it."""
    with _alone(folder):
        cell = read_cell(folder)
        assert cell is not None, f"{folder / NAME} says what to do"
        if cell.done:
            return 0
        start = time.monotonic()
        try:
            trial = _carried_out(cell, folder)
        except (Exception, SystemExit) as error:
            if isinstance(error, SystemExit) and error.code in STOPPED:
                raise
            traceback.print_exc()
            trial = replace(cell.trial, status="failed", cause=cause_of(error), measures=cell.measured)
        seconds = time.monotonic() - start + (cell.seconds if cell.trial.status == "finished" else 0.0)
        ended = CellFile(cell.asked, trial, seconds, cell.asked.sizes, socket.gethostname())
        write_cell(folder, ended)
        return 0 if trial.status == "finished" else 1


def cause_of(error: BaseException) -> str:
    """Why a cell failed, on one line."""
    if isinstance(error, WorldlabError):
        return one_line(": ".join(filter(None, (error.message, error.cause))), 500)
    return one_line(f"{type(error).__name__}: {error}", 500)


def _carried_out(cell: CellFile, folder: Path) -> Trial:
    asked = cell.asked
    registry = open_registry([(folder / path).resolve() for path in asked.plugins])
    config = resolve(registry, flags=asked.config)
    _refuse_another_place(asked, config, registry)
    kind, _, name = asked.kind.partition(":")
    if kind == "random":
        from worldlab.study.compare.baselines import random_trial

        return random_trial(asked.blank, config, registry, folder)
    if kind == "model-free":
        from worldlab.study.compare.model_free import model_free_trial

        return model_free_trial(asked.blank, config, registry, folder, name)
    # A run that failed would fail again where it stopped.
    _train(config, registry, folder, resume=cell.trial.status == "missing" and goes_on(config))
    trial = trial_of_run(asked.blank, folder)
    return replace(trial, measures=_measured(asked, cell.measured, registry, folder))


def _refuse_another_place(asked: Asked, config: RunConfig, registry: Registry) -> None:
    """Raises: PluginError where this place would not compute what was asked for: it has other versions."""
    if fingerprint(asked.kind, config, env_source(asked.env, registry), registry) != asked.hash:
        raise PluginError(
            "this place has other versions of worldlab, its plugins or libraries than where the comparison was begun",
            cause=f"on {socket.gethostname()} the cell has another hash",
            fix="install the same versions everywhere, or run the comparison again with those of today",
        )


# Training


def _train(config: RunConfig, registry: Registry, folder: Path, resume: bool) -> None:
    """Train to the end, unless that was done. resume: go on from a checkpoint, if there is one, instead of beginning anew."""
    if (folder / "result.json").is_file():
        return
    from worldlab.training import train

    resume = resume and _has_checkpoint(folder)
    if not resume:
        for entry in sorted(folder.iterdir()):
            if entry.name not in BESIDE:
                storage.remove_tree(entry)
    train.train(config, registry, run=folder, resume=resume)


def _has_checkpoint(folder: Path) -> bool:
    try:
        latest_valid(folder / "checkpoints", move=False)
    except CheckpointError:
        return False
    return True


def trial_of_run(blank: Trial, folder: Path) -> Trial:
    """What a finished run found: its result, its size, and the evaluations on its way."""
    result, facts = storage.read_json(folder / "result.json"), storage.read_json(folder / "run.json")
    curve = {
        line["step"]: line["eval/return"] for line in read_metrics(folder / "metrics.jsonl") if "eval/return" in line
    }
    return replace(
        blank,
        status="finished",
        env_steps=result["env_steps"],
        updates=result["updates"],
        wall_seconds=result["wall_seconds"],
        parameters=facts["parameters"]["total"],
        returns=tuple(result["returns"]),
        curve=tuple(sorted(curve.items())),
    )


def _measured(
    asked: Asked, known: Mapping[str, Measurement], registry: Registry, folder: Path
) -> dict[str, Measurement]:
    """All that is asked, measuring what is not known yet."""
    missing = tuple(name for name in asked.measures if name not in known)
    if not missing:
        return dict(known)
    from worldlab.study.measures import QUICK, SampleSizes, measure

    _refuse_older_model(folder)
    # One seed for all cells, whatever they trained with: every model is measured on the same episodes, recorded once.
    sizes, cache = QUICK if asked.sizes == "quick" else SampleSizes(), folder.parents[1] / RECORDINGS
    found = measure(folder, registry, 0, missing, sizes=sizes, cache=cache)
    unanswered = [name for name in missing if name not in found]
    if unanswered:
        raise WorldlabError(one_line(f"nothing came of measuring {', '.join(unanswered)}"))
    return {**known, **found}


def _refuse_older_model(folder: Path) -> None:
    """Raises: CheckpointError where the model that the run ended with is damaged: an older one is another model."""
    newest, ended = latest_valid(folder / "checkpoints", move=False), storage.read_json(folder / "result.json")
    if newest.step < ended["env_steps"]:
        raise CheckpointError(
            f"the run ended at step {ended['env_steps']}, and its newest sound checkpoint is of step {newest.step}",
            cause="; ".join(newest.skipped) or "a younger one is gone",
            fix=f"remove {folder} and run the comparison again",
        )


# The process


@contextmanager
def _alone(folder: Path) -> Any:
    """Within: no other process is at this cell. One that outlived the comparison that started it is waited for: it may
    be nearly done."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print("another process is at this cell; waiting for it to end", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _print_into(path: Path) -> None:
    """From here on all that is printed, by libraries and crashes too, goes to a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
