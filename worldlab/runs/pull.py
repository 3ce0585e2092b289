"""Fetches a published run: into a temporary folder, verified there, and visible under its name only when complete."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from worldlab.errors import StorageError
from worldlab.runs import storage
from worldlab.runs.bundle import LIMIT, LISTING_LIMIT, NAME, Bundle, read_bundle, refuse, verify_bundle
from worldlab.runs.stores import RunStore, StoredRun, StoreRegistry, open_store

log = logging.getLogger("worldlab")

ORIGIN = "pulled.json"
"""Where a fetched run came from: its address and its version."""
_PLAIN = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def pull(store: RunStore, found: StoredRun, source: str, target: Path, limit: int = LIMIT) -> Bundle:
    """Fetch a run into a folder that does not exist. source: its address, for people. limit: most bytes.

    Raises: CheckpointError if a file is not as declared or not one of a run; StorageError; what the store raises.
    Whatever ends it early but a SIGKILL, nothing is left; that leaves hidden folders beside the target, which nobody reads.
    """
    parent = storage.make_folder(target.parent)
    scratch, staging = storage.new_staging(parent), None
    try:
        staging = storage.new_staging(parent)
        bundle = read_bundle(store.fetch(found, NAME, scratch, LISTING_LIMIT), limit)
        log.info("pulling %s: %d files, %.1f MB", source, len(bundle.files), bundle.bytes / 1e6)
        for name, digest in bundle.files.items():
            _take(store.fetch(found, name, scratch, digest.bytes), name, staging, digest)
        verify_bundle(staging)
        storage.atomic_write_json(staging / ORIGIN, {"from": source, "version": found.version})
        storage.publish_folder(staging, target)
    finally:
        for folder in (scratch, staging):
            if folder is not None and folder.exists():
                storage.remove_tree(folder)
    return bundle


def fetched_run(text: str, registry: StoreRegistry, root: Path) -> Path:
    """Return the folder of "hf:user/name", which is fetched unless this version is there already.

    It is root/hf/user/NAME-VERSION, so that it stays apart from runs made here and never is the latest one.
    Raises: what `pull` and `open_store` raise.
    """
    store, name, address = open_store(text, registry)
    found = store.find(address)
    if not _PLAIN.fullmatch(found.name) or not _PLAIN.fullmatch(found.version) or "/" in found.version:
        raise refuse(f"{found.name} {found.version}", "its name cannot be that of a folder")
    target = root / name / f"{found.name}-{found.version[:12]}"
    if not (target / "run.json").is_file():
        try:
            pull(store, found, text, target)
        except StorageError:
            if not (target / "run.json").is_file():  # else another process has fetched it meanwhile
                raise
    return target


def _take(fetched: Path, name: str, staging: Path, digest: storage.FileDigest) -> None:
    """Move a fetched file to its place if it is what the listing declares. Raises: CheckpointError."""
    try:
        with storage.open_regular(fetched) as file:
            os.fsync(file.fileno())
        got = storage.sha256_file(fetched)
    except OSError as error:
        raise refuse(name, error.strerror or str(error)) from error
    if got.bytes != digest.bytes:
        raise refuse(name, f"its size differs: {digest.bytes} bytes were declared, {got.bytes} came")
    if got.sha256 != digest.sha256:
        raise refuse(name, "its hash differs from the declared one")
    target = staging / name
    storage.make_folder(target.parent)
    with storage.storage_errors(target, "write"):
        fetched.rename(target)


__all__ = ["fetched_run", "pull"]
