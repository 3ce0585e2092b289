"""Finds run folders by path, name, "latest" or the address in a store, and names new ones."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from worldlab.errors import ConfigError, did_you_mean, one_line
from worldlab.runs import storage

if TYPE_CHECKING:
    from worldlab.runs.stores import StoreRegistry

RUNS = Path("runs")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?", re.ASCII)
_ADDRESS = re.compile(r"[a-z][a-z0-9-]+:[^/\\\s]+/\S+", re.ASCII)
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def is_safe_name(name: str) -> bool:
    """Return whether a name is a valid file name on every system: no path, no mark at either end, no device name."""
    return _NAME.fullmatch(name) is not None and name.partition(".")[0].lower() not in _DEVICES


def checked_run_path(text: str) -> Path:
    """Return the folder of a run name or path; only its last part is checked. Raises: ConfigError."""
    path = Path(text).expanduser()
    if path.name == "latest" or not is_safe_name(path.name):
        raise ConfigError(
            one_line(f"run name {one_line(path.name, 40)!r} is not allowed"),
            cause="a name has letters, digits, '.', '_' and '-', and starts and ends with a letter or digit",
            fix="--run runs/my-run",
        )
    return path


def new_run_path(env_id: str, root: Path = RUNS) -> Path:
    """Return the next free folder for a run in an environment, e.g. runs/CarRacing-v3-001. No folder is created."""
    stem = re.sub(r"[^A-Za-z0-9.]+", "-", env_id.rpartition(":")[2], flags=re.ASCII).strip("-.")[:100] or "run"
    stem = stem if is_safe_name(stem) else f"run-{stem}"
    used = [p.name.removeprefix(f"{stem}-") for p in root.glob(f"{stem}-*")] if root.is_dir() else []
    number = 1 + max((int(end) for end in used if end.isdecimal() and end.isascii()), default=0)
    return root / f"{stem}-{number:03d}"


def list_runs(root: Path = RUNS) -> list[Path]:
    """Return the run folders under root, the first started first. A folder with a run.json is a run."""
    folders = [path.parent for path in root.glob("*/run.json")] if root.is_dir() else []
    return sorted(folders, key=lambda folder: (_started(folder / "run.json"), folder.name))


def find_run(text: str, root: Path = RUNS, registry: StoreRegistry | None = None) -> Path:
    """Return the run folder of a RUN argument: "latest", a path, a name under root, or an address like "hf:user/name".

    registry: knows the stores, from which a run is fetched (`worldlab.runs.pull`). Without one, an address is refused.
    Raises: ConfigError with a suggestion and the list of runs; what fetching raises.
    """
    for path in (Path(text).expanduser(), root / text):
        if text != "latest" and (path / "run.json").is_file():
            return path
    if registry is not None and text.partition(":")[0] in registry.names("store"):
        from worldlab.runs.pull import fetched_run

        return fetched_run(text, registry, root)
    runs = list_runs(root)
    if text == "latest" and runs:
        return runs[-1]
    if _ADDRESS.fullmatch(text):
        raise ConfigError(
            one_line(f"{one_line(text, 40)!r} is no run of this machine, which is needed here"),
            cause="a run in a store has weights and scores; this command reads or continues a folder",
            fix=f"worldlab pull {one_line(text, 100)}, then give its folder",
        )
    names = [run.name for run in reversed(runs)]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    raise ConfigError(
        one_line(f"no run {one_line(text, 40)!r}.{did_you_mean(text, names)}"),
        cause=f"newest first, {root}/ holds: {shown}" if names else f"{root}/ holds no run yet",
        fix="give one of these, the path of a run folder, or latest" if names else "worldlab train --env CartPole",
    )


def _started(path: Path) -> float:
    """Return when a run started, in seconds since 1970: "created" in run.json, else the file's modification time.

    A file that cannot be read counts as the oldest, so a damaged run is not the latest one.
    """
    try:
        content = storage.read_json(path)
    except (OSError, ValueError):
        return 0.0
    try:
        created = content["created"]
        return float(created) if isinstance(created, int | float) else datetime.fromisoformat(created).timestamp()
    except (ValueError, KeyError, TypeError, OverflowError):
        return path.stat().st_mtime if path.exists() else 0.0
