"""Does every durable write of the library: atomic files, append-only files, folders published by one rename.

Three guarantees. A reader never sees a partial file: new content is written under a temporary name, synced and renamed.
Data reported as written have reached the disk (fsync of the file and of its folder). An error names the path and, on a
full disk, the bytes needed and the bytes free.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldlab.errors import StorageError, WorldlabError
from worldlab.runs.failpoints import durable, failpoint, pieces
from worldlab.runs.parse import parse_json, parse_toml

STAGE_PREFIX = ".stage-"
TRASH_PREFIX = ".trash-"
TEMP_PREFIX = ".temp-"
JSON_LIMIT = 16 * 2**20
"""Largest file in bytes that `read_json` accepts; our own files are much smaller."""
TOML_LIMIT = 2**20
"""Largest file in bytes that `read_toml` accepts. Parsing one of this size takes about a second."""

# O_EXCL also rejects a symlink planted under the temporary name; O_NOFOLLOW does so for files that are reopened.
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_APPEND = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)


@dataclass(frozen=True)
class FileDigest:
    """Identifies the content of a file: size in bytes and SHA-256 in hex."""

    bytes: int
    sha256: str


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of data in hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | os.PathLike[str]) -> FileDigest:
    """Return size and SHA-256 of a regular file, read in pieces. Raises: OSError."""
    digest, size = hashlib.sha256(), 0
    with open_regular(path) as file:
        while piece := file.read(2**20):
            digest.update(piece)
            size += len(piece)
    return FileDigest(size, digest.hexdigest())


def open_regular(path: str | os.PathLike[str], *, follow: bool = False) -> Any:
    """Open a regular file for reading, in binary.

    follow: accept a symlink to a regular file, for a path that the user gave. Raises: OSError, also for a pipe, a
    device, a socket or a folder.
    """
    # O_NONBLOCK: opening a planted FIFO would otherwise block forever.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags if follow else flags | _NOFOLLOW)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return os.fdopen(descriptor, "rb")


def read_regular(path: str | os.PathLike[str], limit: int, *, follow: bool = False) -> bytes:
    """Return the content of a regular file. Raises: OSError; ValueError for a file of more than `limit` bytes."""
    with open_regular(path, follow=follow) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"larger than {limit} bytes")
    return data


def refuse_links(folder: str | os.PathLike[str]) -> None:
    """Check that no folder below `folder` is a link, through which a write would leave it. Raises: StorageError.

    Links to files need no check: a file is replaced or opened without following.
    """
    for place, folders, _ in os.walk(folder):
        for name in folders:
            path = Path(place, name)
            if path.is_symlink():
                where = path.relative_to(folder)
                raise StorageError(
                    f"'{_short(Path(Path(folder).absolute().name) / where)}' is a link: nothing is written through it",
                    cause=f"{path} leads out of the folder of the run",
                    fix=f"replace {path} by a folder; the folder of a run as a whole may be a link",
                )


@contextmanager
def storage_errors(path: str | os.PathLike[str], doing: str, need: int | None = None) -> Iterator[None]:
    """Turn an OSError of the block into a StorageError that names the path, the reason and a fix.

    doing: what was attempted ("write", "create"). need: bytes to be written, reported on a full disk.
    """
    try:
        yield
    except OSError as error:
        raise _storage_error(Path(path), doing, need, error) from error


def _storage_error(path: Path, doing: str, need: int | None, error: OSError) -> StorageError:
    reason = error.strerror or str(error)
    full = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
    if error.errno in full:
        wanted = f"need {_size(need)}, " if need is not None else ""
        message = f"disk full: cannot {doing} '{_short(path)}' ({wanted}free {_size(_free_bytes(path))})"
        fix = f"free space on the disk of {path.parent}, then run the same command with --resume"
    elif error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        message = f"cannot {doing} '{_short(path)}': {reason}"
        fix = f"make {path.parent} writable, or write somewhere else: --run DIR"
    else:
        message = f"cannot {doing} '{_short(path)}': {reason}"
        fix = f"check the disk and the folder {path.parent}, or write somewhere else: --run DIR"
    return StorageError(message, cause=f"{path}: {reason} (errno {error.errno})", fix=fix)


def _short(path: Path) -> str:
    """Return the tail of a path, to keep the first line of a message short; the cause holds the whole path."""
    text = str(path)
    return text if len(text) <= 40 else "..." + text[-37:]


def _free_bytes(path: Path) -> int | None:
    for folder in (path, *path.parents):
        with suppress(OSError):
            return shutil.disk_usage(folder).free
    return None


def _size(count: int | None) -> str:
    if count is None:
        return "unknown"
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count} bytes"


def fsync_folder(folder: str | os.PathLike[str]) -> None:
    """Make renames and new names in a folder durable. Raises: OSError. On Windows it does nothing."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        with durable("fsync_folder"):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: str | os.PathLike[str]) -> Path:
    """Create a folder and its parents unless they exist. Raises: StorageError."""
    path = Path(folder)
    with storage_errors(path, "create the folder"):
        if not path.is_dir():
            with durable("mkdir"):
                path.mkdir(parents=True, exist_ok=True)
    return path


def write_new(path: str | os.PathLike[str], pieces: Iterable[bytes]) -> FileDigest:
    """Write, hash and sync a file that must not exist yet.

    Raises: StorageError. A file that could not be written completely is removed. The folder is not synced:
    `atomic_write_bytes` and `publish_folder` do that once, after all files exist.
    """
    target, pieces = Path(path), list(pieces)
    with storage_errors(target, "write", sum(map(len, pieces))):
        return _create_file(target, pieces)


def _create_file(path: Path, pieces: Iterable[bytes]) -> FileDigest:
    """Write, hash and sync a new file; an OSError leaves no file behind."""
    digest, size = hashlib.sha256(), 0
    failpoint("create.before")
    descriptor = os.open(path, _CREATE, 0o666)
    try:
        try:
            for piece in pieces:
                _write_all(descriptor, piece)
                digest.update(piece)
                size += len(piece)
            with durable("fsync"):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)  # its errors matter: NFS reports a full disk here
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise
    return FileDigest(size, digest.hexdigest())


def _write_all(descriptor: int, data: bytes) -> None:
    with durable("write"):
        for view in pieces(memoryview(data).cast("B")):
            while view:
                view = view[os.write(descriptor, view) :]


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> FileDigest:
    """Create or replace a file; at any moment readers see either the complete old or the complete new content.

    Returns: size and SHA-256 of what was written. Raises: StorageError; the old file is then unchanged.
    """
    target = Path(path)
    temp = target.with_name(f"{TEMP_PREFIX}{uuid.uuid4().hex}")
    with storage_errors(target, "write", len(data)):
        digest = _create_file(temp, [data])
        try:
            with durable("replace"):
                os.replace(temp, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(temp)
            raise
        fsync_folder(target.parent)
    return digest


def atomic_write_text(path: str | os.PathLike[str], text: str) -> FileDigest:
    """Write text in UTF-8, as `atomic_write_bytes` does."""
    return atomic_write_bytes(path, text.encode())


def atomic_write_json(path: str | os.PathLike[str], value: Any) -> FileDigest:
    """Write a JSON value as `atomic_write_bytes` does, indented, with keys in the given order.

    Raises: StorageError; WorldlabError for values that JSON cannot represent (NaN, infinity, objects).
    """
    return atomic_write_bytes(path, dump_json(value, indent=2) + b"\n")


def dump_json(value: Any, indent: int | None = None, sort_keys: bool = False) -> bytes:
    """Encode strict JSON (no NaN, no infinity) in UTF-8. Raises: WorldlabError."""
    try:
        return json.dumps(value, indent=indent, sort_keys=sort_keys, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise WorldlabError(f"a value cannot be written as JSON: {error}"[:100]) from error


def read_json(path: str | os.PathLike[str], limit: int = JSON_LIMIT) -> Any:
    """Read a JSON file without trusting its content (`parse_json`).

    Raises: OSError; ValueError, also for a file of more than `limit` bytes.
    """
    return parse_json(read_regular(path, limit))


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a TOML file without trusting its content (`parse_toml`). The path may be a link, since users give it.

    Raises: OSError; ValueError, also for a file of more than TOML_LIMIT bytes.
    """
    return parse_toml(read_regular(path, TOML_LIMIT, follow=True))


class AppendFile:
    """A file that only grows. It is unbuffered: data survive a kill of the process once `write` has returned.

    path: created if missing; its folder must exist. lines: the file holds text lines; opening it cuts off a torn last
    line (no newline: the process died while writing it).
    After a failed write or sync every further use raises an error, because a second fsync on the same descriptor can
    report success for data that the kernel already dropped. Raises: StorageError.
    """

    def __init__(self, path: str | os.PathLike[str], *, lines: bool = False):
        self.path = Path(path)
        self._broken = False
        with storage_errors(self.path, "open"), durable("open"):
            self._descriptor: int | None = os.open(self.path, _APPEND | _NOFOLLOW, 0o666)
            if lines:
                _cut_torn_line(self._descriptor)
            self._position = os.lseek(self._descriptor, 0, os.SEEK_END)

    @property
    def position(self) -> int:
        """Return the size of the file in bytes."""
        return self._position

    def write(self, data: bytes) -> int:
        """Append all of data, or nothing. Returns: the offset in bytes at which data begins."""
        descriptor, start = self._usable(), self._position
        with self._breaks_on_error("append to", len(data)):
            try:
                _write_all(descriptor, data)
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(descriptor, start)
                raise
        self._position += len(data)
        return start

    def write_line(self, text: str) -> None:
        """Append one line of text; text must not contain a newline."""
        assert "\n" not in text
        self.write(text.encode() + b"\n")

    def sync(self) -> None:
        """Wait until all written data have reached the disk."""
        descriptor = self._usable()
        with self._breaks_on_error("sync", None), durable("fsync"):
            os.fsync(descriptor)

    def close(self) -> None:
        """Close the file without a sync; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with storage_errors(self.path, "close"):
                os.close(descriptor)

    def __enter__(self) -> AppendFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _usable(self) -> int:
        if self._descriptor is None or self._broken:
            state = "closed" if self._descriptor is None else "unusable after an earlier error"
            raise StorageError(f"cannot write '{_short(self.path)}': the file is {state}")
        return self._descriptor

    @contextmanager
    def _breaks_on_error(self, doing: str, need: int | None) -> Iterator[None]:
        try:
            with storage_errors(self.path, doing, need):
                yield
        except BaseException:
            self._broken = True
            raise


def _cut_torn_line(descriptor: int) -> None:
    """Truncate an open file after its last newline, searching from the end in pieces."""
    end = size = os.lseek(descriptor, 0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        os.lseek(descriptor, start, os.SEEK_SET)
        piece = b""
        while len(piece) < end - start and (more := os.read(descriptor, end - start - len(piece))):
            piece += more
        newline = piece.rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        with durable("truncate"):
            os.ftruncate(descriptor, end)


def link_file(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Give a file that never changes a second name; where the file system has no hard links, copy it.

    A link is not followed: its second name is a link, too. Raises: OSError.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copyfile(source, target, follow_symlinks=False)
        with open_regular(target) as file:
            os.fsync(file.fileno())


def new_staging(parent: str | os.PathLike[str]) -> Path:
    """Create an empty folder in parent, to fill and then publish with `publish_folder`. Raises: StorageError."""
    path = make_folder(parent) / f"{STAGE_PREFIX}{uuid.uuid4().hex}"
    with storage_errors(path, "create the folder"), durable("mkdir"):
        path.mkdir()
    return path


def publish_folder(staging: Path, final: Path) -> None:
    """Give a finished folder its name by one rename; the result is durable.

    staging: written by `write_new` (so its files are synced), on the same disk as final. Raises: StorageError, also if
    final exists: a published folder is never replaced.
    """
    with storage_errors(final, "publish"):
        for folder, _, _ in os.walk(staging):
            fsync_folder(folder)
        if final.exists() or final.is_symlink():  # rename(2) would silently replace an empty folder
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final))
        with durable("rename"):
            os.rename(staging, final)
        fsync_folder(final.parent)


def remove_tree(path: str | os.PathLike[str]) -> None:
    """Delete a file or folder; it is renamed first, so that no reader finds half of it. Raises: StorageError."""
    target = Path(path)
    trash = target.with_name(f"{TRASH_PREFIX}{uuid.uuid4().hex}")
    with storage_errors(target, "remove"):
        with durable("rename"):
            os.rename(target, trash)
        fsync_folder(target.parent)
        _delete(trash)


def clean_leftovers(folder: str | os.PathLike[str]) -> list[Path]:
    """Delete what a killed process left half-written or half-deleted directly in a folder; return the paths.

    Call this only while holding the run's lock. Raises: StorageError.
    """
    removed = []
    for prefix in (STAGE_PREFIX, TRASH_PREFIX, TEMP_PREFIX):
        for path in sorted(Path(folder).glob(f"{prefix}*")):
            with storage_errors(path, "remove"):
                _delete(path)
            removed.append(path)
    return removed


def _delete(path: Path) -> None:
    with durable("delete"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
