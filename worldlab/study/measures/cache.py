"""A disk cache for arrays shared by all models of a comparison: recordings, predictions of the supervised network."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worldlab.runs import storage
from worldlab.runs.parse import parse_json

log = logging.getLogger("worldlab")

Arrays = dict[str, np.ndarray]


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of arrays in hex; it covers their names, dtypes, shapes and values."""
    sha256 = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        sha256.update(f"{name} {array.dtype} {array.shape}\n".encode())
        sha256.update(np.ascontiguousarray(array).tobytes())
    return sha256.hexdigest()


def load_or_make(folder: Path | None, kind: str, request: Mapping[str, Any], make: Callable[[], Arrays]) -> Arrays:
    """Return the arrays for `request` (plain JSON data): loaded from the folder, or made and saved there. Without a
    folder, make them and save nothing.

    The file is KIND-HASH.safetensors, where HASH is the hash of the request; its header stores the request and the
    digest of the arrays. A damaged file is replaced. Two processes with the same request at the same time both make the
    arrays, with the same result. Raises: StorageError.
    """
    if folder is None:
        return make()
    text = storage.dump_json(dict(request), sort_keys=True).decode()
    path = folder / f"{kind}-{storage.sha256_bytes(text.encode())[:16]}.safetensors"
    loaded = _load(path, text)
    if loaded is not None:
        return loaded
    arrays = make()
    storage.make_folder(folder)
    storage.atomic_write_bytes(path, _encode(arrays, text))
    return arrays


def _encode(arrays: Arrays, request: str) -> bytes:
    from safetensors.numpy import save

    return save(arrays, metadata={"asked": request, "sha256": digest(arrays)})


def _load(path: Path, request: str) -> Arrays | None:
    """Return the arrays of a file that is intact and matches the request; None if there is no such file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        with storage.open_regular(path) as file:
            content = file.read()
        header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        arrays = {name: array.copy() for name, array in load(content).items()}  # safetensors returns read-only arrays
        if (header["asked"], header["sha256"]) == (request, digest(arrays)):
            return arrays
        reason = "its content does not match its header"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = str(error)
    log.warning("%s cannot be used (%s); it is replaced", path, reason)
    return None
