"""Arrays kept on disk, so that what is the same for all models of a comparison is made once: recordings, supervised readings."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worldlab.runs import storage

log = logging.getLogger("worldlab")

Arrays = dict[str, np.ndarray]


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of arrays in hex: of their names, types, shapes and numbers."""
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def kept(folder: Path | None, kind: str, asked: Mapping[str, Any], make: Callable[[], Arrays]) -> Arrays:
    """The arrays that answer `asked` (plain JSON data): read from the folder, or made and kept there. None: made, and not kept.

    The file is KIND-HASH.safetensors, HASH of the request; its header says what was asked and the arrays' digest. One that is
    damaged is made anew. Two processes that ask at the same time both make it, and get the same. Raises: StorageError.
    """
    if folder is None:
        return make()
    request = storage.dump_json(dict(asked), sort_keys=True).decode()
    path = folder / f"{kind}-{storage.sha256_bytes(request.encode())[:16]}.safetensors"
    found = _read(path, request)
    if found is not None:
        return found
    arrays = make()
    storage.make_folder(folder)
    storage.atomic_write_bytes(path, _encoded(arrays, request))
    return arrays


def _encoded(arrays: Arrays, request: str) -> bytes:
    from safetensors.numpy import save

    return save(arrays, metadata={"asked": request, "sha256": digest(arrays)})


def _read(path: Path, request: str) -> Arrays | None:
    """The arrays of a file if it is whole and answers the request; None if there is none."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        with storage.open_regular(path) as file:
            content = file.read()
        header = storage.parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        arrays = {name: array.copy() for name, array in load(content).items()}  # they come read-only
        if (header["asked"], header["sha256"]) == (request, digest(arrays)):
            return arrays
        reason = "it is not what it says it is"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = str(error)
    log.warning("%s cannot be used (%s): made anew", path, reason)
    return None
