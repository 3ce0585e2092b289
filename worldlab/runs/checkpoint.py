"""Writes and reads checkpoints: folders of safetensors and JSON, published by one rename and verified before use.

    checkpoints/step-000012000/     (step-000012000.2, ...: later saves at the same step, with more updates)
        manifest.json            step, format, size and SHA-256 of every other file; written last
        state.json               everything that is not a tensor
        model.safetensors ...    one file per name given to `save_checkpoint`

No file names the latest checkpoint: the folders are listed and ordered by step (never by time), and the newest valid
one is used. Nothing is ever unpickled. Importing this module does not import torch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import worldlab
from worldlab.errors import CheckpointError, DivergedError
from worldlab.runs import storage
from worldlab.runs.digests import seal, self_digest
from worldlab.runs.failpoints import durable
from worldlab.runs.optimizer_state import flatten_optimizer, restore_optimizer
from worldlab.runs.parse import parse_json

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Checkpoint",
    "checkpoint_name",
    "flatten_optimizer",
    "latest_valid",
    "list_checkpoints",
    "looks_pickled",
    "open_checkpoint",
    "previous_valid",
    "prune",
    "quarantine",
    "restore_optimizer",
    "save_checkpoint",
]

FORMAT = "worldlab-checkpoint"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
STATE = "state.json"
QUARANTINE = "quarantine"

_STEP = re.compile(r"step-(\d{9,18})(?:\.([1-9]\d{0,5}))?")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_FILE = re.compile(r"[a-z][a-z0-9_]{0,63}\.safetensors|state\.json")
PICKLED = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".zip", ".joblib"}
_MANIFEST_LIMIT = 2**20


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files matched the recorded sizes and hashes when it was opened.

    manifest: the content of manifest.json. skipped: one sentence for the user about each newer checkpoint that was
    damaged.
    """

    path: Path
    step: int
    manifest: Mapping[str, Any] = field(repr=False)
    skipped: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names that `tensors` accepts."""
        return tuple(sorted(name[: -len(".safetensors")] for name in self.manifest["files"] if name != STATE))

    @property
    def state(self) -> dict[str, Any]:
        """Return the JSON state. Raises: CheckpointError."""
        try:
            return parse_json(self._read(STATE))
        except ValueError as error:
            raise _damaged(self.path, f"{STATE} is not JSON ({error})") from error

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Load the tensors saved under a name, to the CPU. Tied tensors are one tensor again.

        Raises: CheckpointError if the name is unknown or the file changed since it was verified.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        if name not in self.names:
            raise CheckpointError(f"{_label(self.path)} holds no '{name}'. It holds: {', '.join(self.names)}")
        try:
            loaded = load(self._read(f"{name}.safetensors"))
        except SafetensorError as error:
            raise _damaged(self.path, f"{name}.safetensors cannot be read") from error
        for alias, source in self.manifest["tied"].get(name, {}).items():
            if source not in loaded:
                raise _damaged(self.path, f"{MANIFEST} ties '{alias}' to a tensor that {name}.safetensors lacks")
            loaded[alias] = loaded[source]
        return loaded

    def _read(self, name: str) -> bytes:
        # Hashed again, so that exactly the parsed bytes are verified.
        entry = self.manifest["files"][name]
        try:
            with storage.open_regular(self.path / name) as file:
                data = file.read(entry["bytes"] + 1)
        except OSError as error:
            raise _damaged(self.path, f"{name} cannot be read ({error.strerror})") from error
        _check_digest(self.path, name, entry, storage.FileDigest(len(data), storage.sha256_bytes(data)))
        return data


def checkpoint_name(step: int) -> str:
    """Return the folder name of a step: step-000012000."""
    return f"step-{step:09d}"


def list_checkpoints(folder: str | Path) -> list[tuple[int, Path]]:
    """List (step, path) of published checkpoints, the oldest first. Nothing is verified."""
    found = []
    for path in Path(folder).glob("step-*"):
        if (match := _STEP.fullmatch(path.name)) and path.is_dir() and not path.is_symlink():
            found.append((int(match[1]), int(match[2] or 1), path))
    return [(step, path) for step, _, path in sorted(found)]


def save_checkpoint(
    folder: str | Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    manifest_extra: Mapping[str, Any] | None = None,
    unchecked: Collection[str] = (),
) -> Path:
    """Write a checkpoint and return its path once it is durable.

    folder: the run's checkpoints/. step: environment steps so far. tensors: {"model": {...}, ...}; each name
    becomes NAME.safetensors (any device, any shapes; tied tensors are stored once). state: JSON. manifest_extra:
    further manifest entries (config_sha256, plugins, ...). unchecked: names whose tensors need not be finite.
    A checkpoint is never replaced. A second save at the same step writes nothing if nothing changed, else a sibling,
    step-000012000.2. Raises: DivergedError naming the first float tensor that is not finite; StorageError.
    """
    folder = storage.make_folder(folder)
    _refuse_nonfinite(step, {name: group for name, group in tensors.items() if name not in unchecked})
    before = [path for at, path in list_checkpoints(folder) if at == step]
    final = _next_sibling(before[-1]) if before else folder / checkpoint_name(step)
    staging = storage.new_staging(folder)
    try:
        manifest = _write_files(staging, step, tensors, state, dict(manifest_extra or {}))
        if before and _has_content(before[-1], manifest):
            return before[-1]
        storage.publish_folder(staging, final)
    finally:
        if staging.exists():
            storage.remove_tree(staging)
    return final


def _write_files(
    staging: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    extra: dict[str, Any],
) -> dict[str, Any]:
    from safetensors.torch import save

    files, tied = {}, {}
    for name, group in tensors.items():
        assert _NAME.fullmatch(name), name
        unique, aliases = _untie(group)
        digest = storage.write_new(staging / f"{name}.safetensors", [save(unique)])
        files[f"{name}.safetensors"] = {"bytes": digest.bytes, "sha256": digest.sha256}
        if aliases:
            tied[name] = aliases
    digest = storage.write_new(staging / STATE, [storage.dump_json(state, indent=1, sort_keys=True)])
    files[STATE] = {"bytes": digest.bytes, "sha256": digest.sha256}
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "created_by": {"worldlab": worldlab.__version__},
        "step": step,
        "finite": True,
        "files": files,
        "tied": tied,
    }
    clash = manifest.keys() & extra.keys() | extra.keys() & {"self_sha256"}
    assert not clash, f"manifest_extra may not set {sorted(clash)}"
    manifest |= extra
    manifest = seal(manifest)
    storage.write_new(staging / MANIFEST, [storage.dump_json(manifest, indent=1, sort_keys=True)])
    return manifest


def _untie(group: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Split tensors into contiguous CPU tensors and {alias: name} for tensors that share memory."""
    import torch

    unique, aliases, seen = {}, {}, {}
    for name in sorted(group):
        tensor = group[name].detach()
        key = (tensor.device, tensor.dtype, tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
        if tensor.numel() and key in seen:
            aliases[name] = seen[key]
            continue
        seen[key] = name
        # A copy, not a view: safetensors refuses tensors that overlap in memory.
        unique[name] = tensor.cpu().clone(memory_format=torch.contiguous_format)
    return unique, aliases


def _refuse_nonfinite(step: int, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    import torch

    for name, group in tensors.items():
        for key, tensor in group.items():
            if (tensor.is_floating_point() or tensor.is_complex()) and not bool(torch.isfinite(tensor).all()):
                bad = int((~torch.isfinite(tensor)).sum())
                raise DivergedError(
                    f"{name} tensor '{key}' is not finite: no checkpoint at step {step}"[:100],
                    cause=f"{bad} of {tensor.numel()} values of {name}/{key} are NaN or infinite",
                    fix="resume from the last checkpoint with a lower train.learning_rate",
                )


def _next_sibling(path: Path) -> Path:
    """Return the path of the next checkpoint of the same step: step-3, step-3.2, step-3.3."""
    stem, _, number = path.name.partition(".")
    return path.with_name(f"{stem}.{int(number or 1) + 1}")


def _has_content(final: Path, manifest: Mapping[str, Any]) -> bool:
    try:
        return open_checkpoint(final).manifest["self_sha256"] == manifest["self_sha256"]
    except CheckpointError:
        return False


def prune(folder: str | Path, keep: int) -> list[Path]:
    """Delete all but the newest `keep` checkpoints, by step; return the deleted paths.

    Call this only after `save_checkpoint` returned. Raises: StorageError.
    """
    assert keep >= 1
    old = [path for _, path in list_checkpoints(folder)[:-keep]]
    for path in old:
        storage.remove_tree(path)
    return old


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a checkpoint folder after verifying its manifest and the sizes and hashes of all its files.

    Raises: CheckpointError if it is missing, damaged, made by a newer worldlab, or of another format (a pickle).
    """
    path = Path(path)
    if path.is_file():
        raise (
            _pickle_error(path) if looks_pickled(path) else CheckpointError(f"'{path.name}' is not a checkpoint folder")
        )
    manifest = _read_manifest(path)
    for name, entry in manifest["files"].items():
        if Path(name).suffix in PICKLED:
            raise _pickle_error(path / name)
        if not _FILE.fullmatch(name):
            raise _damaged(path, f"{MANIFEST} lists a forbidden file: {name!r}"[:60])
        try:
            size = (path / name).lstat().st_size
            # Sizes first: cheap, and a huge file is never read.
            digest = storage.sha256_file(path / name) if size == entry["bytes"] else storage.FileDigest(size, "")
        except OSError as error:
            raise _damaged(path, f"{name} cannot be read ({error.strerror})") from error
        _check_digest(path, name, entry, digest)
        if name != STATE and not _is_safetensors(path / name):
            pickled = looks_pickled(path / name)
            raise _pickle_error(path / name) if pickled else _damaged(path, f"{name} is not a safetensors file")
    return Checkpoint(path, manifest["step"], manifest)


def latest_valid(folder: str | Path, *, move: bool = True) -> Checkpoint:
    """Open the newest valid checkpoint; `skipped` of the result lists the invalid newer ones, with reasons.

    move: move damaged checkpoints to FOLDER/quarantine/. Pass False without the run's lock.
    Raises: CheckpointError if none is valid, or if a newer worldlab made the newest one (it is not damaged, and using
    an older one would silently lose progress).
    """
    failures: list[tuple[Path, CheckpointError]] = []
    for _, path in reversed(list_checkpoints(folder)):
        try:
            found = open_checkpoint(path)
        except _NewerFormatError:
            raise
        except CheckpointError as error:
            failures.append((path, error))
            continue
        return Checkpoint(found.path, found.step, found.manifest, _report(failures, move, found.path))
    if not failures:
        raise CheckpointError(
            f"no checkpoint in '{Path(folder).parent.name}'",
            cause=f"{folder} holds no step-* folder",
            fix="choose a run that saved one (log.checkpoint), or train without --resume",
        )
    reasons = _report(failures, move, None)
    first = failures[0][1]
    raise CheckpointError(first.message, cause=f"none is usable: {'; '.join(reasons)}", fix=first.fix) from first


def previous_valid(folder: str | Path, checkpoint: Checkpoint) -> Checkpoint | None:
    """Open the newest valid checkpoint older than the given one; None if there is none."""
    paths = [path for _, path in list_checkpoints(folder)]
    for path in reversed(paths[: paths.index(checkpoint.path)]):
        with suppress(CheckpointError):
            return open_checkpoint(path)
    return None


def _report(failures: list[tuple[Path, CheckpointError]], move: bool, used: Path | None) -> tuple[str, ...]:
    using = f"; using {_label(used, short=True)}" if used else ""
    sentences = []
    for path, error in failures:
        moved = " — moved to quarantine" if move and path.exists() else ""
        if moved:
            quarantine(path)
        sentences.append(f"{error.message}{moved}{using}")
    return tuple(sentences)


def quarantine(path: Path) -> None:
    """Move a checkpoint to quarantine/ beside it, where it is ignored but not deleted. Raises: StorageError."""
    target = storage.make_folder(path.parent / QUARANTINE) / path.name
    number = 1
    while target.exists():
        number += 1
        target = target.with_name(f"{path.name}.{number}")
    with storage.storage_errors(path, "move to quarantine"), durable("rename"):
        path.rename(target)
        storage.fsync_folder(path.parent)


class _NewerFormatError(CheckpointError):
    """The checkpoint was made by a newer worldlab: it is intact, but not readable here."""


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = storage.read_json(path / MANIFEST, _MANIFEST_LIMIT)
    except OSError as error:
        raise _damaged(path, f"{MANIFEST} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise _damaged(path, f"{MANIFEST} is damaged", f"{MANIFEST}: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise _damaged(path, f"{MANIFEST} is not that of a worldlab checkpoint")
    version = manifest.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        maker = manifest.get("created_by")
        made_by = str(maker.get("worldlab") if isinstance(maker, dict) else "?")[:20]
        raise _NewerFormatError(
            f"checkpoint made by worldlab {made_by} (format {version}); this is {worldlab.__version__} "
            f"(format {FORMAT_VERSION})",
            cause=f"{path} needs a newer worldlab",
            fix="pip install -U worldlab",
        )
    # The manifest verifies every other file; its own hash verifies the manifest.
    if manifest.get("self_sha256") != self_digest(manifest):
        raise _damaged(path, f"{MANIFEST} hash differs")
    if not _well_formed(manifest, path):
        raise _damaged(path, f"{MANIFEST} is not well formed")
    return manifest


def _well_formed(manifest: dict[str, Any], path: Path) -> bool:
    files = manifest.get("files")
    if not isinstance(files, dict) or STATE not in files or not _well_tied(manifest.get("tied")):
        return False
    for entry in files.values():
        sized = isinstance(entry, dict) and type(entry.get("bytes")) is int
        if not sized or not isinstance(entry.get("sha256"), str):
            return False
    match = _STEP.fullmatch(path.name)
    return type(manifest.get("step")) is int and (match is None or int(match[1]) == manifest["step"])


def _well_tied(tied: Any) -> bool:
    """Return whether the value is {file name: {alias: name of the tensor}}."""
    return isinstance(tied, dict) and all(
        isinstance(group, dict) and all(isinstance(source, str) for source in group.values()) for group in tied.values()
    )


def _check_digest(path: Path, name: str, entry: Mapping[str, Any], digest: storage.FileDigest) -> None:
    if digest.bytes != entry["bytes"]:
        cause = f"{path / name}: expected {entry['bytes']} bytes, found {digest.bytes}"
        raise _damaged(path, f"{name} size differs", cause)
    if digest.sha256 != entry["sha256"]:
        cause = f"{path / name}: expected SHA-256 {entry['sha256']}, found {digest.sha256}"
        raise _damaged(path, f"{name} hash differs", cause)


def _damaged(path: Path, reason: str, cause: str | None = None) -> CheckpointError:
    fix = "resume from another checkpoint, or restore this one from a backup"
    return CheckpointError(f"{_label(path)}: {reason}"[:100], cause=cause or f"{path} is damaged", fix=fix)


def _label(path: Path, short: bool = False) -> str:
    match = _STEP.fullmatch(path.name)
    name = f"step-{int(match[1])}" if match else path.name[:60]
    return name if short else f"checkpoint {name}"


def looks_pickled(path: str | Path) -> bool:
    """Return whether a file is, by its name or first bytes, a pickle or an archive of pickles (torch, SB3)."""
    path = Path(path)
    if path.suffix.lower() in PICKLED:
        return True
    with suppress(OSError), storage.open_regular(path) as file:
        start = file.read(2)
        return start == b"PK" or (start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5"))
    return False


def _is_safetensors(path: Path) -> bool:
    """Return whether a file starts like safetensors: the header's length in 8 bytes, then a JSON object."""
    with suppress(OSError), storage.open_regular(path) as file:
        start = file.read(9)
        length = int.from_bytes(start[:8], "little")
        return start[8:] == b"{" and length <= path.stat().st_size - 8
    return False


def _pickle_error(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path.name[:40]} is a pickle file; loading it can run code. worldlab never loads it.",
        cause=f"{path}: checkpoints hold safetensors and JSON only",
        fix="give a run folder made by `worldlab train`, or save the tensors with safetensors where they were made",
    )
