"""Runs a comparison: plans its cells, launches the unfinished ones, shows their progress and writes the report."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from worldlab.env.process import BLAS_THREADS
from worldlab.errors import EnvError, PluginError, StorageError, one_line
from worldlab.registry import Registry
from worldlab.runs import storage
from worldlab.runs.lock import FolderLock
from worldlab.study.compare.cell_file import OUTPUT, CellFile, CellSpec, read_cell, write_cell
from worldlab.study.compare.collect import collect
from worldlab.study.compare.matrix import Matrix
from worldlab.study.compare.plan import WITH_MODEL, Cell, Plan, check_cells, find_launcher, plan
from worldlab.study.compare.progress import CellGroup, MatrixProgress
from worldlab.study.compare.shared_data import data_source_text, recording_cells
from worldlab.study.compare.tasks import Event, Launcher, Task
from worldlab.study.results import Comparison, Trial

log = logging.getLogger("worldlab")
MATRIX, CELLS, CONFIGS, PLUGINS = "matrix.toml", "cells", "configs", "plugins"
_FORWARDED = ("PYTHONPATH", "WORLDLAB_PLUGINS", "MUJOCO_GL")
"""Environment variables that are passed on to the processes of cells, on any host."""


class Terminated(KeyboardInterrupt):
    """Raised when the process receives SIGTERM."""


@dataclass(frozen=True)
class _CellFolder:
    """A cell, its folder, and the content of its cell.json before it runs."""

    cell: Cell
    folder: Path
    file: CellFile


def compare(matrix: Matrix, registry: Registry, folder: Path, command: str = "") -> Comparison:
    """Run the unfinished cells of a comparison and write its report. Finished cells are kept, failed ones run again.

    folder: created, or resumed if it holds a comparison. command: the command line, for the report.
    Returns: the results; a failed cell is a trial with status "failed".
    Raises: ConfigError, PluginError, EnvError before anything runs; RunLockedError if the folder is in use;
    KeyboardInterrupt on SIGINT and Terminated on SIGTERM, after stopping the cells and writing a report of the
    finished ones.
    """
    planned = plan(matrix, registry)
    named, folder = folder, storage.make_folder(folder).absolute()
    with _locked(folder), _sigterm_as_interrupt():
        stopped: KeyboardInterrupt | None = None
        recorded = _locate(recording_cells(planned, registry), planned, folder) if matrix.shared_data else []
        to_record = not all(item.file.done for item in recorded)
        if to_record:
            check_cells(planned.cells, registry, shared=True)
            try:
                _record(recorded, planned, registry, folder)
            except KeyboardInterrupt as stop:
                stopped = stop
        planned, unrecorded = _with_recordings(recorded, matrix, registry) if recorded else (planned, {})
        placed = _locate(planned.cells, planned, folder)
        left = [item for item in placed if not item.file.done]
        if not to_record:
            check_cells([item.cell for item in left], registry, bool(matrix.shared_data))
        _write_inputs(planned.matrix, folder, placed)
        done = len(placed) - len(left)
        log.info(
            "%s: %d cells%s, in %s", planned.title, len(placed), f", {done} already finished" if done else "", named
        )
        if stopped is None:
            left = [item for item in left if not _fail_without_data(item, unrecorded)]
            try:
                _launch(planned.matrix, registry, left, [item.file for item in placed if item.file.done])
            except KeyboardInterrupt as stop:
                stopped = stop
        comparison = collect(planned, folder, {item.cell.name: item.folder for item in placed}, command)
        _write_report(comparison, folder)
    if stopped is not None:
        raise stopped
    return comparison


def load_results(matrix: Matrix, registry: Registry, folder: Path, command: str = "") -> Comparison:
    """Load the results of a comparison from its folder, without running or writing anything.

    Raises: as `compare` does.
    """
    folder = folder.absolute()
    planned = plan(matrix, registry)
    if matrix.shared_data:
        planned, _ = _with_recordings(_locate(recording_cells(planned, registry), planned, folder), matrix, registry)
    placed = _locate(planned.cells, planned, folder)
    return collect(planned, folder, {item.cell.name: item.folder for item in placed}, command)


# The folder


def _locate(cells: Sequence[Cell], planned: Plan, folder: Path) -> list[_CellFolder]:
    """Find the folder of each cell.

    A finished cell with the same hash and another name is used too: cells were named differently before the matrix got
    another axis.
    """
    own = {cell.name for cell in cells}
    elsewhere: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.glob(f"{CELLS}/*/cell.json")):
        if path.parent.name not in own:
            file = read_valid_cell(path.parent)
            if file is not None and file.trial.status == "finished":
                elsewhere[file.spec.hash].append(path.parent)
    placed = []
    for cell in cells:
        place = folder / CELLS / cell.name
        file = read_cell(place)
        if file is None and elsewhere[cell.hash]:
            place = elsewhere[cell.hash].pop()
            file = read_cell(place)
        spec = _cell_spec(cell, planned)
        file = CellFile(spec, spec.empty_trial) if file is None else replace(file, spec=spec)
        placed.append(_CellFolder(cell, place, file))
    return placed


def read_valid_cell(place: Path) -> CellFile | None:
    """Return the content of a folder's cell.json; None if it is missing or damaged."""
    try:
        return read_cell(place)
    except StorageError:
        return None  # the folder belongs to no cell of this matrix, so its damage does not matter


def _cell_spec(cell: Cell, planned: Plan) -> CellSpec:
    names = tuple(quantity.name for quantity in planned.quantities) if cell.kind in WITH_MODEL else ()
    plugins = tuple(f"../../{_copy_path(path, PLUGINS)}" for path in planned.matrix.plugins)
    config = cell.config.to_mapping()
    sizes = planned.matrix.sizes if names else ""
    return CellSpec(cell.method.key, cell.env, cell.seed, cell.kind, cell.hash, config, names, sizes, plugins)


def _copy_path(path: Path, kind: str) -> str:
    """Return the path of an input file's copy in the comparison's folder, which depends on the content."""
    with storage.storage_errors(path, "read"):
        return f"{kind}/{storage.sha256_file(path.resolve()).sha256[:8]}/{path.name}"


def _write_inputs(matrix: Matrix, folder: Path, placed: Sequence[_CellFolder]) -> None:
    """Write matrix.toml, copies of the files that it names, and every cell.json that has changed."""
    copies = {}
    for kind, paths in ((CONFIGS, matrix.configs), (PLUGINS, matrix.plugins)):
        copies[kind] = tuple(Path(_copy_path(path, kind)) for path in paths)
        for path, copy in zip(paths, copies[kind], strict=True):
            if not (folder / copy).exists():
                storage.make_folder((folder / copy).parent)
                storage.atomic_write_bytes(folder / copy, path.read_bytes())
    text = replace(matrix, configs=copies[CONFIGS], plugins=copies[PLUGINS]).to_toml()
    storage.atomic_write_text(folder / MATRIX, text)
    for item in placed:
        storage.make_folder(item.folder)
        if read_valid_cell(item.folder) != item.file:
            write_cell(item.folder, item.file)


def _write_report(comparison: Comparison, folder: Path) -> None:
    from worldlab.study.report import write

    write(comparison, folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder, so that no other comparison runs in it. Raises: RunLockedError."""
    storage.refuse_links(folder)
    lock = FolderLock(folder, f"comparison '{folder.name[:30]}'", "--out")
    try:
        yield
    finally:
        lock.release()


# Launching


def _record(recorded: Sequence[_CellFolder], planned: Plan, registry: Registry, folder: Path) -> None:
    """Record the missing shared data. Raises: EnvError if recording fails on all environments."""
    left = [item for item in recorded if not item.file.done]
    _write_inputs(planned.matrix, folder, recorded)
    log.info("%s: recording the shared data, from %s", planned.title, data_source_text(planned))
    _launch(planned.matrix, registry, left, [])
    causes = [_recording_failure(item) for item in recorded]
    if None not in causes:
        first = recorded[0]
        raise EnvError(
            one_line(f"compare: the shared data on {first.cell.env} could not be recorded"),
            cause=causes[0] or None,
            fix=f"see {CELLS}/{first.folder.name}/{OUTPUT}, and run the comparison again",
        )


def _with_recordings(
    recorded: Sequence[_CellFolder], matrix: Matrix, registry: Registry
) -> tuple[Plan, dict[str, str]]:
    """Return the plan in which models learn from the recordings, and the causes of failed recordings by environment."""
    failures = {item.cell.env: cause for item in recorded if (cause := _recording_failure(item)) is not None}
    folders = {item.cell.env: item.folder for item in recorded if item.cell.env not in failures}
    return plan(matrix, registry, folders), failures


def _recording_failure(item: _CellFolder) -> str | None:
    """Return why there is no recording, "" for an unknown cause; None if the recording succeeded."""
    file = read_cell(item.folder)
    if file is None:
        return ""
    return None if file.done else file.trial.cause


def _fail_without_data(item: _CellFolder, unrecorded: Mapping[str, str]) -> bool:
    """Mark a cell as failed if its model has no data to learn from. Returns: whether it was marked."""
    if item.cell.env not in unrecorded or item.cell.kind not in WITH_MODEL:
        return False
    cause = f"the shared data could not be recorded: {unrecorded[item.cell.env] or 'unknown cause'}"
    write_cell(item.folder, replace(item.file, trial=replace(item.file.trial, status="failed", cause=cause)))
    return True


def _launch(matrix: Matrix, registry: Registry, left: Sequence[_CellFolder], done: Sequence[CellFile]) -> None:
    """Run cells until all have ended. Raises: KeyboardInterrupt."""
    if not left:
        return
    entry, options = find_launcher(matrix, registry)
    launcher: Launcher = entry.load()(options)
    if not callable(getattr(launcher, "run", None)):
        raise PluginError(
            one_line(f"{entry.who} has no method run"), fix="implement worldlab.study.compare.tasks.Launcher"
        )
    durations: dict[CellGroup, list[float]] = defaultdict(list)
    for file in done:
        durations[file.spec.method, file.spec.env].append(file.seconds)
    by_name = {item.cell.name: item for item in left}
    with MatrixProgress([item.cell for item in left], len(done), durations) as progress:
        launcher.run([_task(item) for item in left], matrix.jobs, partial(_on_event, progress, by_name))


def _task(item: _CellFolder) -> Task:
    core = item.cell.config.core
    threads = core.train.threads
    env = {name: str(threads) for name in BLAS_THREADS} | {n: os.environ[n] for n in _FORWARDED if n in os.environ}
    # -P: a file in the current folder must not shadow a module.
    argv = (sys.executable, "-P", "-X", "faulthandler", "-m", "worldlab.study.compare.cell", str(item.folder))
    gpus = 1.0 if core.device == "cuda" else 0.0
    return Task(
        item.cell.name,
        argv,
        item.folder,
        tuple(env.items()),
        (2 if core.train.parallel else 1) * threads + core.env.workers,
        gpus,
    )


def _on_event(progress: MatrixProgress, cells: Mapping[str, _CellFolder], event: Event) -> None:
    if event.what == "started":
        progress.started(event.task)
    elif event.what == "lost":
        progress.lost(event.task, event.where)
    else:
        progress.ended(event.task, _read_outcome(cells[event.task], event.code))


def _read_outcome(item: _CellFolder, code: int | None) -> Trial:
    """Return the outcome of a cell whose process has ended; store a failure if the process stored no outcome."""
    file = read_cell(item.folder)
    # The stored outcome may be from an earlier process. Python itself exits with 1, too, so status and code
    # must match.
    if file is not None and (code, file.trial.status) in ((0, "finished"), (1, "failed")):
        return file.trial
    ended = f"was repeatedly killed by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
    cause = f"its process {ended}; {CELLS}/{item.folder.name}/{OUTPUT} may show the cause"
    failed = replace(item.file.trial, status="failed", cause=cause)
    write_cell(item.folder, replace(item.file, trial=failed))
    return failed


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Make SIGTERM raise Terminated, as SIGINT raises KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
