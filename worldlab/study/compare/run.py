"""Runs a comparison: plans it, launches what is not done yet, follows it, and writes the report."""

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

from worldlab.env.pool import BLAS_THREADS
from worldlab.errors import EnvError, PluginError, StorageError, one_line
from worldlab.registry import Registry
from worldlab.runs import storage
from worldlab.runs.lock import FolderLock
from worldlab.study.compare.cell_file import OUTPUT, Asked, CellFile, read_cell, write_cell
from worldlab.study.compare.collect import collect
from worldlab.study.compare.matrix import Matrix
from worldlab.study.compare.plan import MEASURED, Cell, Plan, check_mixes, launcher_of, plan
from worldlab.study.compare.progress import Kind, MatrixProgress
from worldlab.study.compare.shared_data import recorders, told
from worldlab.study.compare.tasks import Event, Launcher, Task
from worldlab.study.results import Comparison, Trial

log = logging.getLogger("worldlab")
MATRIX, CELLS, CONFIGS, PLUGINS = "matrix.toml", "cells", "configs", "plugins"
_PASSED_ON = ("PYTHONPATH", "WORLDLAB_PLUGINS", "MUJOCO_GL")
"""What a cell needs of this process's environment wherever it runs."""


class Terminated(KeyboardInterrupt):
    """SIGTERM asked the comparison to end."""


@dataclass(frozen=True)
class _Placed:
    """A cell, its folder, and what cell.json should say before it runs."""

    cell: Cell
    folder: Path
    file: CellFile


def compare(matrix: Matrix, registry: Registry, folder: Path, command: str = "") -> Comparison:
    """Run what is not done yet of a comparison and write its report. Finished cells are kept, failed ones run again.

    folder: made, or gone on with. command: what was typed, for the report.
    Returns what was found; a failed cell is a trial with that status. Raises: ConfigError, PluginError, EnvError before
    anything runs; RunLockedError if the folder is in use; KeyboardInterrupt on SIGINT and Terminated on SIGTERM, the
    cells stopped and a report of what there is written.
    """
    planned = plan(matrix, registry)
    named, folder = folder, storage.make_folder(folder).absolute()
    with _locked(folder), _terminable():
        stopped: KeyboardInterrupt | None = None
        recorded = _place(recorders(planned, registry), planned, folder) if matrix.shared_data else []
        to_record = not all(one.file.done for one in recorded)
        if to_record:
            check_mixes(planned.cells, registry, shared=True)
            try:
                _record(recorded, planned, registry, folder)
            except KeyboardInterrupt as stop:
                stopped = stop
        planned, unrecorded = _with_recordings(recorded, matrix, registry) if recorded else (planned, {})
        placed = _place(planned.cells, planned, folder)
        left = [one for one in placed if not one.file.done]
        if not to_record:
            check_mixes([one.cell for one in left], registry, bool(matrix.shared_data))
        _write_what_is_asked(planned.matrix, folder, placed)
        done = len(placed) - len(left)
        log.info("%s: %d cells%s, in %s", planned.title, len(placed), f", {done} done before" if done else "", named)
        if stopped is None:
            left = [one for one in left if not _without_data(one, unrecorded)]
            try:
                _launch(planned.matrix, registry, left, [one.file for one in placed if one.file.done])
            except KeyboardInterrupt as stop:
                stopped = stop
        comparison = collect(planned, folder, {one.cell.name: one.folder for one in placed}, command)
        _write_report(comparison, folder)
    if stopped is not None:
        raise stopped
    return comparison


def look(matrix: Matrix, registry: Registry, folder: Path, command: str = "") -> Comparison:
    """What there is of a comparison in its folder; nothing is run and nothing written. Raises: as `compare` does."""
    folder = folder.absolute()
    planned = plan(matrix, registry)
    if matrix.shared_data:
        planned, _ = _with_recordings(_place(recorders(planned, registry), planned, folder), matrix, registry)
    placed = _place(planned.cells, planned, folder)
    return collect(planned, folder, {one.cell.name: one.folder for one in placed}, command)


# The folder


def _place(cells: Sequence[Cell], planned: Plan, folder: Path) -> list[_Placed]:
    """Each cell's folder: its own, or that of a finished cell with its hash under another name, as cells had before the
    matrix grew by an axis."""
    own = {cell.name for cell in cells}
    elsewhere: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.glob(f"{CELLS}/*/cell.json")):
        if path.parent.name not in own:
            file = readable(path.parent)
            if file is not None and file.trial.status == "finished":
                elsewhere[file.asked.hash].append(path.parent)
    placed = []
    for cell in cells:
        place = folder / CELLS / cell.name
        file = read_cell(place)
        if file is None and elsewhere[cell.hash]:
            place = elsewhere[cell.hash].pop()
            file = read_cell(place)
        asked = _asked(cell, planned)
        file = CellFile(asked, asked.blank) if file is None else replace(file, asked=asked)
        placed.append(_Placed(cell, place, file))
    return placed


def readable(place: Path) -> CellFile | None:
    """What a folder's cell.json says; None where there is none, or it is damaged."""
    try:
        return read_cell(place)
    except StorageError:
        return None  # not a cell of this matrix: its damage is nobody's concern now


def _asked(cell: Cell, planned: Plan) -> Asked:
    names = tuple(quantity.name for quantity in planned.quantities) if cell.kind in MEASURED else ()
    plugins = tuple(f"../../{_kept(path, PLUGINS)}" for path in planned.matrix.plugins)
    config = cell.config.to_mapping()
    sizes = planned.matrix.sizes if names else ""
    return Asked(cell.method.key, cell.env, cell.seed, cell.kind, cell.hash, config, names, sizes, plugins)


def _kept(path: Path, kind: str) -> str:
    """Where the comparison's folder keeps a copy of a file that was given: another content has another place."""
    with storage.storage_errors(path, "read"):
        return f"{kind}/{storage.sha256_file(path.resolve()).sha256[:8]}/{path.name}"


def _write_what_is_asked(matrix: Matrix, folder: Path, placed: Sequence[_Placed]) -> None:
    """matrix.toml with copies of the files it names, and every cell.json that says something else now."""
    kept = {}
    for kind, paths in ((CONFIGS, matrix.configs), (PLUGINS, matrix.plugins)):
        kept[kind] = tuple(Path(_kept(path, kind)) for path in paths)
        for path, copy in zip(paths, kept[kind], strict=True):
            if not (folder / copy).exists():
                storage.make_folder((folder / copy).parent)
                storage.atomic_write_bytes(folder / copy, path.read_bytes())
    text = replace(matrix, configs=kept[CONFIGS], plugins=kept[PLUGINS]).to_toml()
    storage.atomic_write_text(folder / MATRIX, text)
    for one in placed:
        storage.make_folder(one.folder)
        if readable(one.folder) != one.file:
            write_cell(one.folder, one.file)


def _write_report(comparison: Comparison, folder: Path) -> None:
    from worldlab.study.report import write

    write(comparison, folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Within: nobody else runs a comparison in this folder. Raises: RunLockedError."""
    lock = FolderLock(folder, f"comparison '{folder.name[:30]}'", "--out")
    try:
        yield
    finally:
        lock.release()


# Launching


def _record(recorded: Sequence[_Placed], planned: Plan, registry: Registry, folder: Path) -> None:
    """Record the data that all models learn from, where it was not before. Raises: EnvError where none could be."""
    left = [one for one in recorded if not one.file.done]
    _write_what_is_asked(planned.matrix, folder, recorded)
    log.info("%s: recording the data all models learn from, played by %s", planned.title, told(planned))
    _launch(planned.matrix, registry, left, [])
    causes = [_not_recorded(one) for one in recorded]
    if None not in causes:
        first = recorded[0]
        raise EnvError(
            one_line(f"compare: the data all models learn from on {first.cell.env} could not be recorded"),
            cause=causes[0] or None,
            fix=f"see {CELLS}/{first.folder.name}/{OUTPUT}, and run the comparison again",
        )


def _with_recordings(recorded: Sequence[_Placed], matrix: Matrix, registry: Registry) -> tuple[Plan, dict[str, str]]:
    """The plan whose models learn from what was recorded, and the environments without a recording: why there is none."""
    lacking = {one.cell.env: cause for one in recorded if (cause := _not_recorded(one)) is not None}
    found = {one.cell.env: one.folder for one in recorded if one.cell.env not in lacking}
    return plan(matrix, registry, found), lacking


def _not_recorded(one: _Placed) -> str | None:
    """Why there is no recording, "" where nobody knows; None if there is one."""
    file = read_cell(one.folder)
    if file is None:
        return ""
    return None if file.done else file.trial.cause


def _without_data(one: _Placed, unrecorded: Mapping[str, str]) -> bool:
    """Whether a cell cannot be run as there is no data for its model. That is then written down as its outcome."""
    if one.cell.env not in unrecorded or one.cell.kind not in MEASURED:
        return False
    cause = f"the data all models learn from could not be recorded: {unrecorded[one.cell.env] or 'nobody knows why'}"
    write_cell(one.folder, replace(one.file, trial=replace(one.file.trial, status="failed", cause=cause)))
    return True


def _launch(matrix: Matrix, registry: Registry, left: Sequence[_Placed], done: Sequence[CellFile]) -> None:
    """Run cells to their end. Raises: KeyboardInterrupt."""
    if not left:
        return
    entry, options = launcher_of(matrix, registry)
    launcher: Launcher = entry.load()(options)
    if not callable(getattr(launcher, "run", None)):
        raise PluginError(one_line(f"{entry.who} has no method run"), fix="see worldlab.study.compare.tasks.Launcher")
    took: dict[Kind, list[float]] = defaultdict(list)
    for file in done:
        took[file.asked.method, file.asked.env].append(file.seconds)
    by_name = {one.cell.name: one for one in left}
    with MatrixProgress([one.cell for one in left], len(done), took) as progress:
        launcher.run([_task(one) for one in left], matrix.jobs, partial(_heard, progress, by_name))


def _task(one: _Placed) -> Task:
    core = one.cell.config.core
    threads = core.train.threads
    env = {name: str(threads) for name in BLAS_THREADS} | {n: os.environ[n] for n in _PASSED_ON if n in os.environ}
    # -P: a file in the current folder must not stand in for a module of the library.
    argv = (sys.executable, "-P", "-X", "faulthandler", "-m", "worldlab.study.compare.cell", str(one.folder))
    gpus = 1.0 if core.device == "cuda" else 0.0
    return Task(one.cell.name, argv, one.folder, tuple(env.items()), threads + core.env.workers, gpus)


def _heard(progress: MatrixProgress, cells: Mapping[str, _Placed], event: Event) -> None:
    if event.what == "started":
        progress.started(event.task)
    elif event.what == "lost":
        progress.lost(event.task, event.where)
    else:
        progress.ended(event.task, _outcome(cells[event.task], event.code))


def _outcome(one: _Placed, code: int | None) -> Trial:
    """What a cell that ended left behind; where it could not say so itself, that it failed is written down here."""
    file = read_cell(one.folder)
    # Python, too, ends with 1: what an earlier process left there is no outcome of this one.
    if file is not None and (code, file.trial.status) in ((0, "finished"), (1, "failed")):
        return file.trial
    ended = (
        f"was killed by signal {-code}, again and again" if code is not None and code < 0 else f"ended with code {code}"
    )
    cause = f"its process {ended}; {CELLS}/{one.folder.name}/{OUTPUT} may say why"
    failed = replace(one.file.trial, status="failed", cause=cause)
    write_cell(one.folder, replace(one.file, trial=failed))
    return failed


@contextmanager
def _terminable() -> Iterator[None]:
    """Within: SIGTERM raises Terminated, as SIGINT raises KeyboardInterrupt."""
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
