"""Verifies the replay of a run: every record's checksum, and that its checkpoints find the records they need."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from worldlab.errors import WorldlabError
from worldlab.experience.segments import segment_name, unpack_header
from worldlab.runs import storage
from worldlab.runs.checkpoint import Checkpoint
from worldlab.runs.parse import parse_json
from worldlab.runs.verify import Verdict

_FRAME = struct.Struct("<II")  # length and CRC-32 of a record


@dataclass
class _Stream:
    """The records of one stream. gaps: (first, one past the last) record that is missing. total: one past the last."""

    gaps: list[tuple[int, int]] = field(default_factory=list)
    first: int = 0
    total: int = 0


def verify_replay(folder: Path, checkpoints: Iterable[Checkpoint]) -> Verdict:
    """Verify the segments in a run's replay/, and that they hold what the checkpoints need.

    A torn record at the end of a stream is no damage: a killed process leaves one, and resuming cuts it off.
    """
    verdict, streams = Verdict([], [], 0), {}
    segments = {name: path for path in folder.glob("seg-*.log") if (name := segment_name(path))}
    for (stream, number), path in sorted(segments.items()):
        last = (stream, number + 1) not in segments
        problem = _verify_segment(path, number, streams.setdefault(stream, _Stream()), last)
        if problem:
            verdict.damaged.append(f"replay/{path.name}: {problem}")
        else:
            verdict.intact += 1
    for checkpoint in checkpoints:
        verdict.damaged += _find_gaps(checkpoint, streams)
    return verdict


def _verify_segment(path: Path, number: int, stream: _Stream, last: bool) -> str:
    """Return what is wrong with a segment, or an empty text; add its records to the stream."""
    try:
        with storage.open_regular(path) as file:
            data = file.read()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    header = unpack_header(data)
    length = 0 if header is None else _record_length(header.schema)
    if header is None or not length or header.first != number * header.steps:
        return "its header is damaged"
    record, bad = header.first, []
    for at in range(header.size, len(data) - _FRAME.size - length + 1, _FRAME.size + length):
        found, crc = _FRAME.unpack_from(data, at)
        if found != length or zlib.crc32(data[at + _FRAME.size : at + _FRAME.size + length]) != crc:
            bad.append(record)
        record += 1
    if not stream.total:
        stream.first = header.first
    elif header.first > stream.total:
        stream.gaps.append((stream.total, header.first))
    stream.total = record
    if bad:
        return f"{len(bad)} damaged records, the first is record {bad[0]}"
    whole = record - header.first == header.steps
    return "" if last or whole else "it ends before the next segment begins"


def _record_length(schema: str) -> int:
    """Return the bytes of a record without its frame; 0 for a schema that no run writes."""
    try:
        sizes = [np.dtype(kind).itemsize * math.prod(shape) for _, kind, shape in parse_json(schema.encode())]
        return sum(sizes) if all(type(size) is int and size >= 0 for size in sizes) else 0
    except (ValueError, TypeError):
        return 0


def _find_gaps(checkpoint: Checkpoint, streams: dict[int, _Stream]) -> list[str]:
    try:
        position = checkpoint.state["replay"]
        needs = list(zip(position["first"], position["totals"], strict=True))
    except (WorldlabError, KeyError, TypeError, ValueError):
        return [f"checkpoint step-{checkpoint.step}: its state.json names no position in the replay"]
    found = []
    for number, (first, total) in enumerate(needs):
        stream = streams.get(number, _Stream())
        lacking = [gap for gap in stream.gaps if gap[0] < total and gap[1] > first]
        if stream.first > first:
            lacking.insert(0, (first, min(stream.first, total)))
        if stream.total < total:
            lacking.append((max(stream.total, first), total))
        if total > first:
            found += [
                f"checkpoint step-{checkpoint.step} needs records {start} to {stop} of stream {number}, which are missing"
                for start, stop in lacking
            ]
    return found


__all__ = ["verify_replay"]
