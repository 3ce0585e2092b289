"""Lists the runs below a folder with what a person wants to know of each, from its files alone.

A run may be writing its folder, a stranger may have made it, and a killed process may have left half of it: what is wrong
with a folder is part of its row, never an exception. Of each file a bounded number of bytes is read.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from worldlab.errors import one_line
from worldlab.runs import digests, storage
from worldlab.runs.folder import BESIDE
from worldlab.runs.lock import holder_lives, is_locked
from worldlab.runs.parse import parse_json

__all__ = ["RunRow", "State", "find_folders", "folder_size", "read_row"]

State = Literal["waiting", "training", "finished", "stopped", "failed", "diverged", "killed", "damaged"]
"""waiting: a cell of a comparison that has not begun. killed: no process writes the run, and it did not end by itself.
damaged: run.json cannot be read."""

DEPTH = 4
"""How many levels below a folder runs are found: comparison/part/cells/NAME."""
TAIL = 2**16
"""Bytes read from the end of metrics.jsonl: some fifty lines, of which every twentieth is an evaluation."""
HEAD = 2**13
"""Bytes read from the beginning of config.toml, where the settings without a group are."""
MOST_ALARMS = 20
SILENT = 900.0
"""Seconds without a new line after which a run of another host, whose processes cannot be seen, counts as killed."""
_CELL, _CELL_LOCK, _ = BESIDE
_SIGNS = frozenset({"run.json", "config.toml", digests.NAME, _CELL})
"""A folder with one of these files is a run or a cell."""
_STEPS = re.compile(rb"^steps = (\d{1,18})$", re.MULTILINE)
_STATES: Mapping[str, State] = {
    "finished": "finished",
    "stopped": "stopped",
    "interrupted": "stopped",
    "failed": "failed",
    "diverged": "diverged",
}


@dataclass(frozen=True)
class RunRow:
    """What is known of a run. A value that is not known is None or "".

    name: path below the listed folder. method: of a comparison's cell. encoder, dynamics, decoder, agent: names of the
    parts; of a cell without a model, `agent` is its method. step, steps: how far it is and how far it goes, in
    environment steps. score: mean return. scored: how it was measured: "final" evaluation, "evaluation" while training,
    or training "episodes". started, changed: seconds since 1970; the latter of the newest metrics. error: why it failed.
    problem: what is wrong with its files. alarms: one sentence each.
    """

    path: Path
    name: str
    state: State
    env: str = ""
    encoder: str = ""
    dynamics: str = ""
    decoder: str = ""
    agent: str = ""
    seed: int | None = None
    step: int | None = None
    steps: int | None = None
    score: float | None = None
    scored: Literal["", "final", "evaluation", "episodes"] = ""
    started: float | None = None
    changed: float | None = None
    error: str = ""
    problem: str = ""
    method: str = ""
    alarms: tuple[str, ...] = ()

    @property
    def parts(self) -> str:
        """Return the parts of the world model in one word: "vae", or "cpc/flow/vae" where they differ."""
        names = [self.encoder, self.dynamics, self.decoder]
        return "" if not any(names) else names[0] if len(set(names)) == 1 else "/".join(name or "?" for name in names)


def find_folders(root: Path) -> list[Path]:
    """Return the folders of runs and cells at or below a folder, sorted. Links are not followed.

    Raises: OSError if root cannot be listed.
    """
    with os.scandir(root) as found:
        entries = list(found)
    return sorted(_walk(root, entries, DEPTH))


def _walk(folder: Path, entries: list[os.DirEntry[str]], depth: int) -> Iterator[Path]:
    names = {entry.name for entry in entries}
    if names & _SIGNS:
        yield folder
        return
    for entry in entries if depth else ():
        try:
            if not entry.is_dir(follow_symlinks=False):
                continue
            with os.scandir(entry.path) as found:
                inner = list(found)
        except OSError:  # removed meanwhile, or not ours to read
            continue
        yield from _walk(folder / entry.name, inner, depth - 1)


def read_row(path: Path, root: Path, now: float | None = None) -> RunRow:
    """Return the row of a run. Whatever its folder holds, no exception is raised. now: seconds since 1970."""
    now = time.time() if now is None else now
    name = path.name if path == root else str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
    facts, problem = _read_object(path / "run.json")
    cell, _ = _read_object(path / _CELL)
    if problem and "no file" in problem and cell:
        return _cell_row(path, name, cell)
    changed = _changed(path / "metrics.jsonl")
    last, evaluated = _read_tail(path / "metrics.jsonl")
    result = _read_object(path / "result.json")[0] if facts.get("status") == "finished" else {}
    state = _state(path, facts, changed or _changed(path / "run.json"), now)
    if problem and state != "training":
        state = "damaged"
    score, scored = _score(result, evaluated, last)
    return RunRow(
        path,
        name,
        state,
        env=_text(facts.get("env")),
        **{role: _part(facts, role) for role in ("encoder", "dynamics", "decoder", "agent")},
        seed=_whole(facts.get("seed")),
        step=_whole(facts.get("step")) if state == "finished" else _whole(last.get("step", facts.get("step"))),
        steps=_read_steps(path / "config.toml"),
        score=score,
        scored=scored,
        started=_seconds(facts.get("created")) or _changed(path / "run.json"),
        changed=changed,
        error=_text(facts.get("error"), 500) or _cause(cell),
        problem=problem,
        method=_text(_object(cell.get("asked")).get("method")),
        alarms=_alarms(facts.get("alarms")),
    )


def folder_size(path: Path) -> int:
    """Return the bytes of all files in a folder, those with several names once. Links are not followed."""
    total, seen, folders = 0, set(), [os.fspath(path)]
    while folders:
        try:
            with os.scandir(folders.pop()) as found:
                for entry in found:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                        continue
                    facts = entry.stat(follow_symlinks=False)
                    if facts.st_nlink > 1:  # the checkpoint of the best evaluation
                        if (facts.st_dev, facts.st_ino) in seen:
                            continue
                        seen.add((facts.st_dev, facts.st_ino))
                    total += facts.st_size
        except OSError:  # removed meanwhile, or not ours to read
            continue
    return total


def _read_object(path: Path) -> tuple[dict[str, Any], str]:
    """Return a JSON object and what is wrong with the file, "" for nothing."""
    try:
        value = storage.read_json(path)
    except FileNotFoundError:
        return {}, f"there is no file {path.name}"
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return {}, one_line(f"{path.name} cannot be read: {reason}")
    return (value, "") if isinstance(value, dict) else ({}, f"{path.name} holds no object")


def _state(path: Path, facts: Mapping[str, Any], changed: float | None, now: float) -> State:
    status = facts.get("status", "running")
    if isinstance(status, str) and status in _STATES:
        return _STATES[status]
    lives = holder_lives(path)
    if lives is None:  # another host
        lives = changed is not None and now - changed < SILENT
    return "training" if lives else "killed"


def _cell_row(path: Path, name: str, cell: Mapping[str, Any]) -> RunRow:
    """Return the row of a comparison's cell that has no run: one that waits, or a baseline without a world model."""
    asked, outcome = _object(cell.get("asked")), _object(cell.get("outcome"))
    status = outcome.get("status")
    state: State = _STATES.get(status, "waiting") if isinstance(status, str) else "waiting"
    if state == "waiting" and is_locked(path / _CELL_LOCK):
        state = "training"
    returns = [value for value in outcome.get("returns") or [] if _number(value) is not None]
    return RunRow(
        path,
        name,
        state,
        env=_text(asked.get("env")),
        agent=_text(asked.get("method")),
        method=_text(asked.get("method")),
        seed=_whole(asked.get("seed")),
        step=_whole(outcome.get("env_steps")),
        steps=_whole(_object(asked.get("config")).get("steps")),
        score=math.fsum(returns) / len(returns) if returns else None,
        scored="final" if returns else "",
        started=_changed(path / _CELL),
        error=_cause(cell),
    )


def _cause(cell: Mapping[str, Any]) -> str:
    return _text(_object(cell.get("outcome")).get("cause"), 500)


def _read_tail(path: Path) -> tuple[dict[str, Any], float | None]:
    """Return the last whole line of metrics.jsonl, and the return of the last evaluation near it."""
    try:
        with storage.open_regular(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            lines = file.read(TAIL).split(b"\n")[:-1]
    except OSError:
        return {}, None
    if size > TAIL:
        lines = lines[1:]  # the first one is the end of a line
    last = _parse(lines[-1]) if lines else {}
    for line in reversed(lines):
        if b'"eval/return"' in line and (value := _number(_parse(line).get("eval/return"))) is not None:
            return last, value
    return last, None


def _parse(line: bytes) -> dict[str, Any]:
    try:
        return _object(parse_json(line))
    except ValueError:
        return {}


def _score(
    result: Mapping[str, Any], evaluated: float | None, last: Mapping[str, Any]
) -> tuple[float | None, Literal["", "final", "evaluation", "episodes"]]:
    final, training = _number(result.get("return_mean")), _number(last.get("episode/return"))
    if final is not None:
        return final, "final"
    if evaluated is not None:
        return evaluated, "evaluation"
    return (training, "episodes") if training is not None else (None, "")


def _read_steps(path: Path) -> int | None:
    """Return the length of a run. To parse the whole file takes a thousand times as long, and it is ours."""
    try:
        with storage.open_regular(path) as file:
            head = file.read(HEAD).partition(b"\n[")[0]
    except OSError:
        return None
    found = _STEPS.search(head)
    return int(found[1]) if found else None


def _changed(path: Path) -> float | None:
    try:
        return path.lstat().st_mtime
    except OSError:
        return None


def _seconds(created: Any) -> float | None:
    """Return the time that run.json says, in seconds since 1970."""
    try:
        return datetime.fromisoformat(created).timestamp()
    except (ValueError, TypeError, OverflowError, OSError):
        return None


def _alarms(value: Any) -> tuple[str, ...]:
    entries = [_object(entry) for entry in (value if isinstance(value, list) else [])[:MOST_ALARMS]]
    return tuple(
        one_line(f"step {entry.get('step')}: {_text(entry.get('says'), 300)}. {_text(entry.get('cure'), 300)}", 600)
        for entry in entries
    )


def _part(facts: Mapping[str, Any], role: str) -> str:
    return _text(_object(_object(facts.get("components")).get(role)).get("name"))


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any, limit: int = 100) -> str:
    return one_line(value, limit) if isinstance(value, str) else ""


def _whole(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 2**63 else None


def _number(value: Any) -> float | None:
    finite = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    return float(value) if finite else None
