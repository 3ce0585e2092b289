"""Records the digests of a run's text files in digests.json, and finds files that differ from them.

    config.toml, run.json, result.json     size and SHA-256 of the whole file
    metrics.jsonl                          size and SHA-256 of its beginning, up to the last checkpoint or the end of the run

A digest is written before its file. Between the two writes the entry also has the digest of the file's former content
(`before`, null if there was none), so a process that is killed there leaves no file that looks damaged.
Files of a run that has no digests.json, or no entry for them, are not covered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldlab.runs import storage
from worldlab.runs.storage import FileDigest

NAME = "digests.json"
COVERED = ("config.toml", "run.json", "result.json", "metrics.jsonl")
GROWING = ("metrics.jsonl",)
"""Files of which only the beginning is covered."""
SELF = "self_sha256"
"""The key of a JSON object that has its own digest: see `seal`."""
FORMAT, FORMAT_VERSION = "worldlab-digests", 1
_LIMIT = 2**16


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with the digest of its other entries under "self_sha256"."""
    return {**content, SELF: self_digest(content)}


def self_digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a JSON object without its entry "self_sha256", whatever the order of its keys."""
    rest = {key: value for key, value in content.items() if key != SELF}
    return storage.sha256_bytes(storage.dump_json(rest, sort_keys=True))


def record_digest(folder: Path, name: str, digest: FileDigest) -> None:
    """Record the digest of what is about to be written to a file. Call `confirm_digest` after the write."""
    entries = _read_or_restart(folder)
    old = entries.get(name)
    if old is not None and "before" in old and _matches(folder / name, old["before"]):
        old = old["before"]
    before = None if old is None else {"bytes": old["bytes"], "sha256": old["sha256"]}
    _write(folder, {**entries, name: {**_entry(digest), "before": before}})


def confirm_digest(folder: Path, name: str) -> None:
    """Record that the write which `record_digest` announced is complete."""
    entries = _read_or_restart(folder)
    if name in entries:
        entries[name].pop("before", None)
        _write(folder, entries)


def record_prefix(folder: Path, name: str, digest: FileDigest) -> None:
    """Record the digest of the first bytes of a file that grows. They must be in the file already."""
    _write(folder, {**_read_or_restart(folder), name: _entry(digest)})


def find_altered(folder: Path, names: tuple[str, ...] = COVERED) -> list[str]:
    """Return one sentence for each file of a run that is not as worldlab wrote it: edited, damaged or gone."""
    # The process that trains the run may write a file between the reading of its digest and of the file.
    return _find_altered(folder, names) and _find_altered(folder, names)


def _find_altered(folder: Path, names: tuple[str, ...]) -> list[str]:
    try:
        entries = read_digests(folder)
    except (OSError, ValueError) as error:
        return [f"{NAME} is damaged: {error}"]
    problems = ((name, _problem(folder / name, entries[name])) for name in names if name in entries)
    return [f"{name} {problem}" for name, problem in problems if problem]


def find_uncovered(folder: Path) -> list[str]:
    """Return the text files of a run that exist but have no digest: an older worldlab wrote them."""
    try:
        entries = read_digests(folder)
    except (OSError, ValueError):
        entries = {}
    return [name for name in COVERED if name not in entries and (folder / name).exists()]


def read_digests(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of digests.json by file name; {} if there is none. Raises: OSError; ValueError."""
    try:
        content = storage.read_json(folder / NAME, _LIMIT)
    except FileNotFoundError:
        return {}
    if not isinstance(content, dict) or content.get(SELF) != self_digest(content):
        raise ValueError("its own hash differs")
    files = content.get("files")
    if content.get("format") != FORMAT or not isinstance(files, dict) or not all(map(_well_formed, files.values())):
        raise ValueError("it is not well formed")
    return files


def _read_or_restart(folder: Path) -> dict[str, dict[str, Any]]:
    # A damaged digests.json was reported when the run was opened. What is written from now on is covered again.
    try:
        return read_digests(folder)
    except (OSError, ValueError):
        return {}


def _write(folder: Path, entries: Mapping[str, Any]) -> None:
    content = seal({"format": FORMAT, "format_version": FORMAT_VERSION, "files": dict(entries)})
    storage.atomic_write_json(folder / NAME, content)


def _entry(digest: FileDigest) -> dict[str, Any]:
    return {"bytes": digest.bytes, "sha256": digest.sha256}


def _well_formed(entry: Any) -> bool:
    if not isinstance(entry, dict) or type(entry.get("bytes")) is not int or not isinstance(entry.get("sha256"), str):
        return False
    return entry.get("before") is None or _well_formed(entry["before"])


def _problem(path: Path, entry: Mapping[str, Any]) -> str:
    """Return what is wrong with a file, or an empty text."""
    if _matches(path, entry) or ("before" in entry and _matches(path, entry["before"])):
        return ""
    if not path.exists():
        return "is missing"
    return f"is not as worldlab wrote it: edited or damaged (expected SHA-256 {entry['sha256'][:16]}...)"


def _matches(path: Path, entry: Mapping[str, Any] | None) -> bool:
    """Return whether a file has the recorded content; for None, whether there is no file."""
    if entry is None:
        return not path.exists()
    size = entry["bytes"]
    try:
        with storage.open_regular(path) as file:
            data = file.read(size if path.name in GROWING else size + 1)
    except OSError:
        return False
    return len(data) == size and hashlib.sha256(data).hexdigest() == entry["sha256"]
