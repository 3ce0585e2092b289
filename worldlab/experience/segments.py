"""Writes and reads the replay's files: an append-only log per stream, split into segments of fixed-size records.

    seg-EEE-NNNNNNNN.log   stream E, records [N * steps, (N + 1) * steps)
        header             magic, version, stream, number of the first record, records per segment,
                           schema length, CRC-32, schema as JSON (the same length in each segment of a replay)
        record             [length u32][crc32 u32][payload]: the arrays of one step, raw, little-endian

A segment holds a fixed number of records, all of one size, so the offset of a step is computed: there is no index that
could disagree with the data. Nothing is unpickled or memory-mapped (a full disk or a truncated file under a map kills
the process).
"""

from __future__ import annotations

import json
import os
import re
import struct
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from worldlab.env.spaces import Schema
from worldlab.errors import CheckpointError, StorageError
from worldlab.runs.failpoints import durable
from worldlab.runs.storage import (
    AppendFile,
    fsync_folder,
    make_folder,
    open_regular,
    sha256_bytes,
    storage_errors,
    write_new,
)

MAGIC = b"WLREPLAY"
VERSION = 1
SEGMENT_BYTES = 32 * 2**20
"""Target size of a segment: small enough to read at once, large enough that a run has few segments."""
_HEADER = struct.Struct("<8sIIQIII")  # magic, version, stream, first, steps, length of the schema, crc
_OPEN_FILES = 64
"""Files kept open for reading; a process may have 1,024 in all."""
_SCHEMA_LIMIT = 2**20
"""Largest schema in bytes that is read."""
_SEGMENT = re.compile(r"seg-(\d{3})-(\d{8})\.log", re.ASCII)


def record_dtype(schema: Schema) -> np.dtype:
    """Return the packed little-endian layout of one step."""
    return np.dtype([(key, np.dtype(kind).newbyteorder("<"), shape) for key, (shape, kind) in schema.items()])


def schema_json(schema: Schema) -> str:
    """Return the schema as canonical JSON: [[key, dtype, shape], ...] in storage order."""
    return json.dumps([[key, np.dtype(kind).name, list(shape)] for key, (shape, kind) in schema.items()])


def schema_hash(schema: Schema) -> str:
    """Return 16 hex digits that identify a schema."""
    return sha256_bytes(schema_json(schema).encode())[:16]


def segment_steps(schema: Schema, steps: int) -> int:
    """Return the number of records per segment for a stream that keeps `steps`: at most an eighth of them."""
    fitting = SEGMENT_BYTES // max(1, record_dtype(schema).itemsize)
    return int(max(16, min(fitting, 65536, steps // 8)))


class DamagedReplayError(CheckpointError):
    """Records that a checkpoint needs are missing or damaged in the replay's files."""


@dataclass(frozen=True)
class SegmentHeader:
    """The header of a segment.

    steps: records per segment. schema: as JSON. Both are equal in all segments of a replay. first: number of the first
    record. size: bytes of the header.
    """

    steps: int
    schema: str
    first: int
    size: int


class SegmentLog:
    """Appends to and reads from the segments of several streams in one folder.

    folder: created if missing. streams: number of streams. steps: records per segment.
    Raises: StorageError if the disk fails.
    """

    def __init__(self, folder: Path, schema: Schema, streams: int, steps: int):
        self.folder = make_folder(folder)
        self.schema = schema
        self.streams = streams
        self.steps = steps
        self.totals = [0] * streams  # records written to each stream
        self._payload = record_dtype(schema)
        self._framed = np.dtype([("length", "<u4"), ("crc", "<u4"), ("payload", self._payload)])
        self._schema = schema_json(schema).encode()
        self._writers: dict[int, AppendFile] = {}
        self._unsynced: dict[Path, AppendFile] = {}
        self._readers: OrderedDict[Path, BinaryIO] = OrderedDict()

    @property
    def header_size(self) -> int:
        return _HEADER.size + len(self._schema)

    def path(self, stream: int, number: int) -> Path:
        """Return the file of segment `number` of a stream."""
        return self.folder / f"seg-{stream:03d}-{number:08d}.log"

    def frame(self, payload: bytes) -> bytes:
        """Return a record in its form on disk: length, CRC-32, payload."""
        return struct.pack("<II", len(payload), zlib.crc32(payload)) + payload

    def write(self, stream: int, frames: list[bytes]) -> None:
        """Append framed records to a stream. They now survive a kill of the process, but not yet a power cut."""
        while frames:
            number, used = divmod(self.totals[stream], self.steps)
            now, frames = frames[: self.steps - used], frames[self.steps - used :]
            self._writer(stream, number).write(b"".join(now))
            self.totals[stream] += len(now)

    def sync(self) -> None:
        """Return when everything written has reached the disk."""
        for file in self._unsynced.values():
            file.sync()
            if file not in self._writers.values():
                file.close()
        if self._unsynced:
            with storage_errors(self.folder, "sync"):
                fsync_folder(self.folder)
        self._unsynced.clear()

    def read(self, stream: int, start: int, stop: int) -> np.ndarray:
        """Return records [start, stop) of a stream as a structured array; each is checked against its CRC.

        Raises: StorageError when a file is missing, short or damaged.
        """
        pieces = []
        while start < stop:
            number, offset = divmod(start, self.steps)
            count = min(stop - start, self.steps - offset)
            pieces.append(self._read_piece(stream, number, offset, count))
            start += count
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def first_kept(self, stream: int) -> int:
        """Return the number of the oldest record still on disk (the total if there is none)."""
        numbers = self._numbers(stream)
        return numbers[0] * self.steps if numbers else self.totals[stream]

    def drop_before(self, stream: int, step: int) -> None:
        """Delete the segments of a stream that end before a record."""
        for number in self._numbers(stream):
            if (number + 1) * self.steps <= min(step, self.totals[stream]):
                path = self.path(stream, number)
                self._close_reader(path)
                with storage_errors(path, "remove"), durable("delete"):
                    path.unlink()

    def restore(self, totals: list[int], window: list[int]) -> None:
        """Continue at a cursor: check the records it needs and move records beyond it to orphans/. Nothing is deleted.

        totals: records of each stream at the cursor. window: the first record of each stream still needed.
        Raises: DamagedReplayError if needed records are missing.
        """
        for stream, (total, first) in enumerate(zip(totals, window, strict=True)):
            self._check_present(stream, first, total)
            self._move_beyond(stream, total)
        self.totals = list(totals)

    def first_intact(self, stream: int, first: int, total: int) -> int:
        """Return the smallest record number >= `first` such that all records from it up to `total` are intact."""
        for number in reversed(range(first // self.steps, -(-total // self.steps))):
            begin, end = max(first, number * self.steps), min(total, (number + 1) * self.steps)
            path = self.path(stream, number)
            if not path.is_file() or self._head(path) != self._header(stream, number):
                return end
            with storage_errors(path, "read"), open_regular(path) as file:
                body = file.read()[self.header_size :]
            found = np.frombuffer(body, self._framed, len(body) // self._framed.itemsize)
            wanted = found[begin - number * self.steps : end - number * self.steps]
            if len(wanted) < end - begin:
                return end
            bad = _first_bad(wanted[::-1])
            if bad is not None:
                return end - bad
        return first

    def scan(self) -> list[int]:
        """Return how many complete, undamaged records each stream holds, up to the first gap or torn record."""
        totals = []
        for stream in range(self.streams):
            total, expected = 0, None
            for number in self._numbers(stream):
                if expected is not None and number != expected:
                    break
                good = self._good_records(stream, number)
                total, expected = number * self.steps + good, number + 1
                if good < self.steps:
                    break
            totals.append(total)
        return totals

    def close(self) -> None:
        """Close all files; does not sync."""
        for file in {*self._writers.values(), *self._unsynced.values()}:
            file.close()
        for path in list(self._readers):
            self._close_reader(path)
        self._writers.clear()
        self._unsynced.clear()

    def _writer(self, stream: int, number: int) -> AppendFile:
        path = self.path(stream, number)
        file = self._writers.get(stream)
        if file is None or file.path != path:
            if file is not None and file.path not in self._unsynced:
                file.close()
            file = self._writers[stream] = AppendFile(path)
            if file.position == 0:
                file.write(self._header(stream, number))
        self._unsynced[path] = file
        return file

    def _header(self, stream: int, number: int) -> bytes:
        fields = (MAGIC, VERSION, stream, number * self.steps, self.steps, len(self._schema))
        crc = zlib.crc32(_HEADER.pack(*fields, 0) + self._schema)
        return _HEADER.pack(*fields, crc) + self._schema

    def _read_piece(self, stream: int, number: int, offset: int, count: int) -> np.ndarray:
        path, size = self.path(stream, number), self._framed.itemsize
        with storage_errors(path, "read"):
            data = os.pread(self._reader(path).fileno(), count * size, self.header_size + offset * size)
        records = np.frombuffer(data, self._framed, len(data) // size)
        bad = _first_bad(records)
        if bad is not None or len(records) < count:
            step = number * self.steps + offset + (len(records) if bad is None else bad)
            raise StorageError(
                f"replay record {step} in {path.name} is damaged or missing",
                cause=f"{path}: its checksum or its size does not match",
                fix="check the disk; --resume continues with the records after it",
            )
        return records["payload"]

    def _reader(self, path: Path) -> BinaryIO:
        file = self._readers.pop(path, None) or open_regular(path)
        self._readers[path] = file
        if len(self._readers) > _OPEN_FILES:
            self._close_reader(next(iter(self._readers)))
        return file

    def _close_reader(self, path: Path) -> None:
        file = self._readers.pop(path, None)
        if file is not None:
            file.close()

    def _numbers(self, stream: int) -> list[int]:
        names = [segment_name(path) for path in self.folder.glob(f"seg-{stream:03d}-*.log")]
        return sorted(name[1] for name in names if name)

    def _check_present(self, stream: int, first: int, total: int) -> None:
        for number in range(first // self.steps, -(-total // self.steps)):
            path = self.path(stream, number)
            need = self.header_size + min(self.steps, total - number * self.steps) * self._framed.itemsize
            got = path.stat().st_size if path.is_file() else 0
            if got < need or self._head(path) != self._header(stream, number):
                raise DamagedReplayError(
                    f"replay file {path.name} lacks records that the checkpoint needs",
                    cause=f"{path}: at least {need} bytes of this schema expected, got {got}",
                    fix="restore it from a backup, or start a new run",
                )

    def _head(self, path: Path) -> bytes:
        with storage_errors(path, "read"), open_regular(path) as file:
            return file.read(self.header_size)

    def _good_records(self, stream: int, number: int) -> int:
        path = self.path(stream, number)
        with storage_errors(path, "read"), open_regular(path) as file:
            data = file.read()
        body = data[self.header_size :]
        if data[: self.header_size] != self._header(stream, number):
            return 0
        records = np.frombuffer(body, self._framed, len(body) // self._framed.itemsize)
        bad = _first_bad(records)
        return len(records) if bad is None else bad

    def _move_beyond(self, stream: int, total: int) -> None:
        for number in self._numbers(stream):
            path, kept = self.path(stream, number), total - number * self.steps
            if kept >= self.steps:
                continue
            orphans = make_folder(self.folder / "orphans")
            with storage_errors(path, "move"):
                if kept <= 0:
                    with durable("rename"):
                        os.rename(path, _unused(orphans / path.name))
                    continue
                end = self.header_size + kept * self._framed.itemsize
                data = path.read_bytes()
                if len(data) > end:
                    write_new(
                        _unused(orphans / f"{path.stem}-from-{total}.log"), [data[: self.header_size], data[end:]]
                    )
                    with durable("truncate"):
                        os.truncate(path, end)
                fsync_folder(orphans)
                fsync_folder(self.folder)


def _first_bad(records: np.ndarray) -> int | None:
    """Return the index of the first record whose length or CRC is wrong."""
    size = records.dtype["payload"].itemsize
    payloads = memoryview(records.tobytes())
    stride = records.dtype.itemsize
    lengths, sums = records["length"].tolist(), records["crc"].tolist()
    for index, (length, crc) in enumerate(zip(lengths, sums, strict=True)):
        payload = payloads[(index + 1) * stride - size : (index + 1) * stride]
        if length != size or zlib.crc32(payload) != crc:
            return index
    return None


def _unused(path: Path) -> Path:
    """Return path, or a numbered variant if that name is taken: orphans are never overwritten."""
    candidate, count = path, 1
    while candidate.exists():
        candidate, count = path.with_name(f"{path.stem}.{count}{path.suffix}"), count + 1
    return candidate


def set_aside(folder: Path) -> int:
    """Move all segments of a replay to orphans/ and return how many there were. Nothing is deleted."""
    segments = sorted(folder.glob("seg-*.log"))
    for path in segments:
        with storage_errors(path, "move"), durable("rename"):
            os.rename(path, _unused(make_folder(folder / "orphans") / path.name))
    if segments:
        with storage_errors(folder, "sync"):
            fsync_folder(folder / "orphans")
            fsync_folder(folder)
    return len(segments)


def read_header(folder: Path) -> SegmentHeader | None:
    """Return the header of the first readable segment in a folder; None if there is none."""
    for path in sorted(folder.glob("seg-*.log")):
        with storage_errors(path, "read"), open_regular(path) as file:
            header = unpack_header(file.read(_HEADER.size + _SCHEMA_LIMIT))
        if header is not None:
            return header
    return None


def unpack_header(data: bytes) -> SegmentHeader | None:
    """Return the header at the beginning of a segment's bytes; None if it is damaged."""
    if len(data) < _HEADER.size or not data.startswith(MAGIC):
        return None
    _, version, stream, first, steps, length, crc = _HEADER.unpack_from(data)
    schema = data[_HEADER.size : _HEADER.size + min(length, _SCHEMA_LIMIT)]
    if crc != zlib.crc32(_HEADER.pack(MAGIC, version, stream, first, steps, length, 0) + schema):
        return None
    return SegmentHeader(steps, schema.decode(), first, _HEADER.size + len(schema))


def segment_name(path: Path) -> tuple[int, int] | None:
    """Return stream and number of a segment by its file name; None for another file."""
    match = _SEGMENT.fullmatch(path.name)
    return (int(match[1]), int(match[2])) if match else None
