"""Verifies the replay of a run: every record's checksum, and that its checkpoints find the records they need."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from worldlab.errors import WorldlabError
from worldlab.experience.segments import segment_name, unpack_header
from worldlab.runs import storage
from worldlab.runs.checkpoint import Checkpoint
from worldlab.runs.verify import Verdict

_FRAME = struct.Struct("<II")  # length and CRC-32 of a record


@dataclass
class _Stream:
    """Intact records of one stream. total: one past the last record."""

    missing: set[int] = field(default_factory=set)
    first: int = 0
    total: int = 0


def verify_replay(folder: Path, checkpoints: Iterable[Checkpoint]) -> Verdict:
    """Verify the segments in a run's replay/, and that they hold what the checkpoints need.

    A torn record at the end of a stream is no damage: a killed process leaves one, and resuming cuts it off.
    """
    verdict, streams = Verdict([], [], 0), {}
    paths = sorted(path for path in folder.glob("seg-*.log") if segment_name(path))
    for path in paths:
        number = segment_name(path)
        assert number is not None
        last = (number[0], number[1] + 1) not in {segment_name(other) for other in paths}
        problem = _verify_segment(path, streams.setdefault(number[0], _Stream()), last)
        if problem:
            verdict.damaged.append(f"replay/{path.name}: {problem}")
        else:
            verdict.intact += 1
    for checkpoint in checkpoints:
        verdict.damaged += _find_gaps(checkpoint, streams)
    return verdict


def _verify_segment(path: Path, stream: _Stream, last: bool) -> str:
    """Return what is wrong with a segment, or an empty text; add its records to the stream."""
    try:
        with storage.open_regular(path) as file:
            data = file.read()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    header = unpack_header(data)
    if header is None:
        return "its header is damaged"
    at, record, bad = header.size, header.first, []
    length = None
    while at + _FRAME.size <= len(data):
        found, crc = _FRAME.unpack_from(data, at)
        length = found if length is None else length  # all records have one length
        body = data[at + _FRAME.size : at + _FRAME.size + length]
        if len(body) < length:
            break
        if found != length or zlib.crc32(body) != crc:
            bad.append(record)
        at, record = at + _FRAME.size + length, record + 1
    if not stream.total:
        stream.first = header.first
    stream.missing.update(range(stream.total, header.first), bad)
    stream.total = record
    if bad:
        return f"{len(bad)} damaged records, the first is record {bad[0]}"
    whole = record - header.first == header.steps
    return "" if last or whole else "it ends before the next segment begins"


def _find_gaps(checkpoint: Checkpoint, streams: dict[int, _Stream]) -> list[str]:
    try:
        position = checkpoint.state["replay"]
        needs = list(zip(position["first"], position["totals"], strict=True))
    except (WorldlabError, KeyError, TypeError, ValueError):
        return [f"checkpoint step-{checkpoint.step}: its state.json names no position in the replay"]
    found = []
    for number, (first, total) in enumerate(needs):
        stream = streams.get(number, _Stream())
        if total > first and (stream.total < total or stream.first > first):
            kept = f"{stream.first} to {stream.total}"
            found.append(
                f"checkpoint step-{checkpoint.step} needs records {first} to {total} of stream {number}: {kept} exist"
            )
    return found


__all__ = ["verify_replay"]
