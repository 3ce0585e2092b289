"""Verifies the text files and checkpoints of a run folder: reads only, and never stops at the first fault."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from worldlab.errors import CheckpointError
from worldlab.runs import storage
from worldlab.runs.best import list_best
from worldlab.runs.checkpoint import Checkpoint, list_checkpoints, open_checkpoint
from worldlab.runs.digests import find_altered, find_uncovered, read_digests
from worldlab.runs.metrics import read_metrics
from worldlab.runs.weights import holds_weights_only


@dataclass
class Verdict:
    """What was found in a folder. damaged: one sentence each. uncovered: files without a digest. intact: a count."""

    damaged: list[str]
    uncovered: list[str]
    intact: int


def verify_texts(folder: Path) -> Verdict:
    """Compare the text files of a run to their digests, and check that each can be read."""
    damaged = find_altered(folder)
    named = {sentence.split()[0] for sentence in damaged}
    uncovered = find_uncovered(folder)
    for name, read in _READERS.items():
        if name not in named and (folder / name).exists():
            try:
                read(folder / name)
            except (OSError, ValueError, storage.StorageError) as error:
                damaged.append(f"{name} cannot be read: {error}".splitlines()[0])
                named.add(name)
    try:
        covered = read_digests(folder)
    except (OSError, ValueError):
        covered = {}
    return Verdict(damaged, [name for name in uncovered if name not in named], len(covered.keys() - named))


def verify_checkpoints(folder: Path) -> tuple[Verdict, list[Checkpoint]]:
    """Verify every checkpoint of a run. Returns also the intact ones from which it can continue, the oldest first."""
    verdict, intact = Verdict([], [], 0), []
    places = [path for _, path in list_checkpoints(folder / "checkpoints")]
    for path in [*places, *list_best(folder / "checkpoints")]:
        try:
            found = open_checkpoint(path)
        except CheckpointError as error:
            verdict.damaged.append(error.message)
        else:
            verdict.intact += 1
            if path in places and not holds_weights_only(found):
                intact.append(found)
    return verdict, intact


_READERS = {
    "config.toml": storage.read_toml,
    "run.json": storage.read_json,
    "result.json": storage.read_json,
    "metrics.jsonl": read_metrics,
    "perf.jsonl": read_metrics,
}
