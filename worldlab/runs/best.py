"""Keeps the checkpoint of the best evaluation: checkpoints/best-000012000/, beside those that a run continues from.

    checkpoints/best-000012000/     the files of step-000012000, as hard links where the file system has them

A run never continues from it, and its score is never the score of the run: the best of many noisy evaluations is
too high on average. It is there for those who want to use the weights.
"""

from __future__ import annotations

import re
from pathlib import Path

from worldlab.errors import CheckpointError
from worldlab.runs import storage
from worldlab.runs.checkpoint import Checkpoint, open_checkpoint
from worldlab.runs.failpoints import durable

_BEST = re.compile(r"best-(\d{9,18})")


def list_best(folder: str | Path) -> list[Path]:
    """List the kept checkpoints in a checkpoints/ folder, the oldest first. Two are there while one replaces the other."""
    found = (path for path in Path(folder).glob("best-*") if _BEST.fullmatch(path.name))
    return sorted((path for path in found if path.is_dir() and not path.is_symlink()), key=lambda path: _step(path))


def open_best(folder: str | Path) -> Checkpoint:
    """Open and verify the kept checkpoint. Raises: CheckpointError if there is none, or if it is damaged."""
    kept = list_best(folder)
    if not kept:
        raise CheckpointError(
            f"run '{Path(folder).parent.name}' has no best checkpoint",
            cause="it was not evaluated while it trained (eval.every = 0, or the run is shorter)",
            fix="leave --best out: the last checkpoint is then used",
        )
    return open_checkpoint(kept[-1])


def keep_best(checkpoint: Path, step: int) -> None:
    """Keep a checkpoint of a step as the best one and delete the one that was. Does nothing if the step is kept already.

    Raises: StorageError. Killed at any moment, it leaves the old one, the new one or both.
    """
    target = checkpoint.with_name(f"best-{step:09d}")
    if not target.is_dir():
        staging = storage.new_staging(checkpoint.parent)
        try:
            for file in sorted(checkpoint.iterdir()):
                with storage.storage_errors(target, "keep"), durable("link"):
                    storage.link_file(file, staging / file.name)
            storage.publish_folder(staging, target)
        finally:
            if staging.exists():
                storage.remove_tree(staging)
    for older in list_best(checkpoint.parent):
        if older != target:
            storage.remove_tree(older)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("best-"))


__all__ = ["keep_best", "list_best", "open_best"]
