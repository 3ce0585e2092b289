"""Runs one cell of a comparison in its folder: `python -m worldlab.study.compare.cell FOLDER`.

FOLDER/cell.json holds the cell's configuration. Finished work is kept: a finished training is not repeated, and a
finished cell exits at once. Any error is stored as the cell's outcome. Exit codes: 0 finished, 1 failed, 130 and 143
stopped by a signal; a stopped cell resumes, or starts over, when it is run again.
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

from worldlab.config.provenance import env_module
from worldlab.config.resolve import RunConfig, resolve
from worldlab.errors import CheckpointError, PluginError, WorldlabError, one_line
from worldlab.registry import Registry, open_registry
from worldlab.runs import storage
from worldlab.runs.checkpoint import latest_valid
from worldlab.runs.folder import BESIDE, RunFolder
from worldlab.runs.metrics import read_metrics
from worldlab.study.compare.cell_file import LOCK, NAME, OUTPUT, CellFile, CellSpec, read_cell, write_cell
from worldlab.study.compare.configs import can_resume
from worldlab.study.compare.identity import env_source, fingerprint
from worldlab.study.results import Measurement, Trial

log = logging.getLogger("worldlab")
RECORDINGS = "recordings"
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)


def main(argv: Sequence[str]) -> int:
    folder = Path(argv[0]).absolute()
    _redirect_output(folder / OUTPUT)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s", force=True)
    logging.getLogger("worldlab").setLevel(logging.INFO)  # other libraries' notes are for their own developers
    try:
        return run_cell(folder)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception:
        traceback.print_exc()
        return 70


def run_cell(folder: Path) -> int:
    """Run the unfinished part of a cell.

    Returns: the exit code. Raises: SystemExit or KeyboardInterrupt if a signal stops it.
    """
    with _exclusive(folder):
        cell = read_cell(folder)
        assert cell is not None, f"there is no {folder / NAME}"
        if cell.done:
            return 0
        start = time.monotonic()
        try:
            trial = _execute(cell, folder)
        except (Exception, SystemExit) as error:
            if isinstance(error, SystemExit) and error.code in STOPPED:
                raise
            traceback.print_exc()
            trial = replace(cell.trial, status="failed", cause=describe_failure(error), measures=cell.measured)
        seconds = time.monotonic() - start + (cell.seconds if cell.trial.status == "finished" else 0.0)
        ended = CellFile(cell.spec, trial, seconds, cell.spec.sizes, socket.gethostname())
        write_cell(folder, ended)
        return 0 if trial.status == "finished" else 1


def describe_failure(error: BaseException) -> str:
    """Return the cause of a cell's failure as one line."""
    if isinstance(error, WorldlabError):
        return one_line(": ".join(filter(None, (error.message, error.cause))), 500)
    return one_line(f"{type(error).__name__}: {error}", 500)


def _execute(cell: CellFile, folder: Path) -> Trial:
    spec = cell.spec
    registry = open_registry([(folder / path).resolve() for path in spec.plugins])
    config = resolve(registry, flags=spec.config)
    _check_hash(spec, config, registry)
    kind, _, name = spec.kind.partition(":")
    if kind == "random":
        from worldlab.study.compare.baselines import run_random

        return run_random(spec.empty_trial, config, registry, folder)
    if kind == "model-free":
        from worldlab.study.compare.model_free import run_model_free

        return run_model_free(spec.empty_trial, config, registry, folder, name)
    # A failed run would fail again at the same step, so it starts over.
    _train(config, registry, folder, resume=cell.trial.status == "missing" and can_resume(config))
    trial = read_trial(spec.empty_trial, folder)
    return replace(trial, measures=_measure(spec, cell.measured, registry, folder))


def _check_hash(spec: CellSpec, config: RunConfig, registry: Registry) -> None:
    """Check that this machine would compute the planned cell.

    Raises: PluginError if its versions, and so the cell's hash, differ.
    """
    if fingerprint(spec.kind, config, env_source(spec.env, registry), registry) != spec.hash:
        raise PluginError(
            "other versions of worldlab, plugins or libraries here than where the comparison was started",
            cause=f"the hash of the cell differs on {socket.gethostname()}",
            fix="install the same versions everywhere, or start the comparison again with the current ones",
        )


# Training


def _train(config: RunConfig, registry: Registry, folder: Path, resume: bool) -> None:
    """Train to the end, unless the training has finished already.

    resume: continue from a checkpoint, if there is one; else start over. So does a strict run that cannot continue exactly.
    """
    if (folder / "result.json").is_file():
        return
    from worldlab.training import train

    if resume and _has_checkpoint(folder):
        try:
            train.train(config, registry, run=folder, resume=True, exact=config.core.strict)
            return
        except CheckpointError as error:
            if not config.core.strict:
                raise
            log.warning("the cell starts over: %s (%s)", error.message, error.cause)
    for entry in sorted(folder.iterdir()):
        if entry.name not in BESIDE:
            storage.remove_tree(entry)
    train.train(config, registry, run=folder)


def _has_checkpoint(folder: Path) -> bool:
    try:
        latest_valid(folder / "checkpoints", move=False)
    except CheckpointError:
        return False
    return True


def read_trial(empty_trial: Trial, folder: Path) -> Trial:
    """Return a finished run's trial: its result, its size and its evaluations during training.

    Raises: CheckpointError if one of these files is not as the run wrote it.
    """
    RunFolder(folder).check_texts()
    result, facts = storage.read_json(folder / "result.json"), storage.read_json(folder / "run.json")
    curve = {
        line["step"]: line["eval/return"] for line in read_metrics(folder / "metrics.jsonl") if "eval/return" in line
    }
    return replace(
        empty_trial,
        status="finished",
        env_steps=result["env_steps"],
        updates=result["updates"],
        wall_seconds=result["wall_seconds"],
        parameters=facts["parameters"]["total"],
        returns=tuple(result["returns"]),
        curve=tuple(sorted(curve.items())),
    )


def _measure(
    spec: CellSpec, known: Mapping[str, Measurement], registry: Registry, folder: Path
) -> dict[str, Measurement]:
    """Return all measures in the spec; only those not in `known` are computed."""
    missing = tuple(name for name in spec.measures if name not in known)
    if not missing:
        return dict(known)
    from worldlab.study.measures import QUICK, SampleSizes, measure

    _check_final_checkpoint(folder)
    # All cells use seed 0 here, not their training seed: every model is measured on the same episodes, recorded once.
    sizes, cache = QUICK if spec.sizes == "quick" else SampleSizes(), folder.parents[1] / RECORDINGS
    module = env_module(spec.env, registry)  # whoever wrote the matrix named it
    trusted = () if module is None else (module,)
    measured = measure(folder, registry, 0, missing, sizes=sizes, cache=cache, trusted=trusted)
    unmeasured = [name for name in missing if name not in measured]
    if unmeasured:
        raise WorldlabError(one_line(f"the measures returned no value for {', '.join(unmeasured)}"))
    return {**known, **measured}


def _check_final_checkpoint(folder: Path) -> None:
    """Check that the final model is intact.

    Raises: CheckpointError if it is damaged or gone: an older checkpoint is a different model.
    """
    newest, ended = latest_valid(folder / "checkpoints", move=False), storage.read_json(folder / "result.json")
    if newest.step < ended["env_steps"]:
        raise CheckpointError(
            f"the run ended at step {ended['env_steps']}, but its newest intact checkpoint is of step {newest.step}",
            cause="; ".join(newest.skipped) or "newer checkpoints are gone",
            fix=f"remove {folder} and run the comparison again",
        )


# The process


@contextmanager
def _exclusive(folder: Path) -> Any:
    """Hold the cell's lock, so that no other process runs this cell.

    Waits for a process that outlived the comparison that started it: it may be nearly done.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print("another process runs this cell; waiting for it to end", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _redirect_output(path: Path) -> None:
    """Redirect stdout and stderr to a file, including what libraries and crash handlers print."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o666)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
