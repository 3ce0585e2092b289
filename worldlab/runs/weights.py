"""Copies the weights of a checkpoint without the state of training: enough to evaluate, to dream and to finetune."""

from __future__ import annotations

from pathlib import Path

from worldlab.runs import storage
from worldlab.runs.checkpoint import MANIFEST, STATE, Checkpoint
from worldlab.runs.digests import SELF, seal

WEIGHTS = ("model", "agent")
"""The tensors that are copied. Optimisers, random streams and the episodes in progress serve only to continue a run."""
MARK = "weights_only"
"""The entry of the manifest of such a copy."""


def copy_weights(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a checkpoint of the weights alone into an empty folder. Its files are those of the checkpoint.

    Raises: StorageError.
    """
    kept = {STATE, *(f"{name}.safetensors" for name in WEIGHTS)}
    files = {name: entry for name, entry in checkpoint.manifest["files"].items() if name in kept}
    with storage.storage_errors(folder, "copy the weights to"):
        for name in files:
            storage.link_file(checkpoint.path / name, folder / name)
    rest = {key: value for key, value in checkpoint.manifest.items() if key != SELF}
    tied = {name: group for name, group in checkpoint.manifest["tied"].items() if name in WEIGHTS}
    manifest = seal({**rest, "files": files, "tied": tied, MARK: True})
    storage.write_new(folder / MANIFEST, [storage.dump_json(manifest, indent=1, sort_keys=True)])


def holds_weights_only(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint is such a copy, from which no run can continue."""
    return checkpoint.manifest.get(MARK) is True


__all__ = ["copy_weights", "holds_weights_only"]
