"""Run folders that a stranger made to run code, to write elsewhere, or to hold up whoever opens them.

Each entry of HOSTILE changes a copy of a real run, in `run`, beside a folder `outside` that nothing may touch. A module
`evil` in every folder leaves a file `ran` when it is imported.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import torch

from worldlab.runs import digests, storage

EVIL = "import os\nfrom pathlib import Path\nPath(os.environ['HOSTILE_PLACE'], 'ran').touch()\n"
Change = Callable[[Path], object]


class Payload:
    """What runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch $HOSTILE_PLACE/ran",)


def edit(name: str, old: str, new: str) -> Change:
    def change(run: Path) -> None:
        text = (run / name).read_text()
        assert old in text, (name, old)
        (run / name).write_text(text.replace(old, new, 1))

    return change


def write(name: str, data: bytes) -> Change:
    return lambda run: [(run / name).unlink(missing_ok=True), (run / name).write_bytes(data)]


def fifo(name: str) -> Change:
    return lambda run: [(run / name).unlink(missing_ok=True), os.mkfifo(run / name)]


def link(name: str, target: str = "../outside") -> Change:
    """Replace a file or folder by a link. target: relative to the run."""

    def change(run: Path) -> None:
        path = run / name
        if path.is_dir() and not path.is_symlink():
            path.rename(run.parent / "moved")
        path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True)
        path.symlink_to((run / target).resolve())

    return change


def with_json(name: str, change_value: Callable[[dict], object]) -> Change:
    def change(run: Path) -> None:
        value = json.loads((run / name).read_text())
        change_value(value)
        (run / name).write_text(json.dumps(value))

    return change


def newest(run: Path) -> Path:
    return sorted((run / "checkpoints").glob("step-*"))[-1]


def in_checkpoint(change_it: Callable[[Path], object], *, forge: bool = True) -> Change:
    """Change the newest checkpoint. forge: give it consistent hashes again, as a stranger would."""

    def change(run: Path) -> None:
        path = newest(run)
        for older in sorted((run / "checkpoints").glob("step-*"))[:-1]:
            older.rename(run.parent / older.name)  # nothing to fall back on
        change_it(path)
        if forge:
            manifest = json.loads((path / "manifest.json").read_bytes())
            for name, entry in manifest["files"].items():
                if (path / name).is_file():
                    digest = storage.sha256_file((path / name).resolve())
                    entry.update(bytes=digest.bytes, sha256=digest.sha256)
            (path / "manifest.json").write_text(json.dumps(digests.seal(manifest)))

    return change


def _state(change_value: Callable[[dict], object]) -> Change:
    return in_checkpoint(with_json("state.json", change_value))


def _manifest(change_value: Callable[[dict], object]) -> Change:
    return in_checkpoint(with_json("manifest.json", change_value))


def _torch_zip() -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": Payload()}, buffer)
    return buffer.getvalue()


def _segment_header(run: Path) -> None:
    """A header with a valid checksum and absurd numbers."""
    path = sorted((run / "replay").glob("seg-*"))[0]
    data = path.read_bytes()
    magic, version, stream, _, _, length, _ = struct.unpack_from("<8sIIQIII", data)
    schema = data[36 : 36 + length]
    fields = (magic, version, stream, 2**63, 2**32 - 1, length)
    crc = zlib.crc32(struct.pack("<8sIIQIII", *fields, 0) + schema)
    path.write_bytes(struct.pack("<8sIIQIII", *fields, crc) + data[36:])


def _each(folder: str, change: Callable[[Path], object]) -> Change:
    return lambda run: [change(path) for path in sorted((run / folder).glob("seg-*"))]


def _as_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _as_link(path: Path) -> None:
    path.rename(path.parents[2] / "outside" / path.name)
    path.symlink_to(path.parents[2] / "outside" / path.name)


MODEL = "model.safetensors"
HUGE_HEADER = struct.pack("<Q", 2**60) + b"{"
ABSURD_SHAPE = json.dumps({"w": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}).encode()

HOSTILE: dict[str, Change] = {
    # names that would be imported
    "environment is a module": edit("config.toml", 'id = "CartPole', 'id = "evil:CartPole'),
    "environment is a module of the run": edit("config.toml", 'id = "CartPole', 'id = "run.evil:CartPole'),
    "encoder is a function": edit("config.toml", 'name = "vae"', 'name = "os:system"'),
    "encoder is a module": edit("config.toml", 'name = "vae"', 'name = "evil"'),
    "components name a file": with_json(
        "run.json",
        lambda v: v["components"]["encoder"].update(name="evil", distribution="file:../../evil.py", version="1"),
    ),
    "components name a command": with_json(
        "run.json",
        lambda v: v["components"]["encoder"].update(
            name="evil", distribution="x; touch $HOSTILE_PLACE/ran", version="`id`"
        ),
    ),
    "plugins folder": lambda run: [
        (run / "plugins").mkdir(exist_ok=True),
        (run / "plugins" / "evil.py").write_text(EVIL),
    ],
    "recording elsewhere": edit("config.toml", 'data = ""', 'data = "../outside"'),
    # pickles
    **{
        f"weights are a pickle of protocol {protocol}": in_checkpoint(
            write(MODEL, pickle.dumps(Payload(), protocol=protocol))
        )
        for protocol in range(6)
    },
    "weights are an archive of torch": in_checkpoint(write(MODEL, _torch_zip())),
    "state is a pickle": in_checkpoint(write("state.json", pickle.dumps(Payload()))),
    "run.json is a pickle": write("run.json", pickle.dumps(Payload())),
    "config.toml is a pickle": write("config.toml", pickle.dumps(Payload())),
    # sizes and shapes
    "weights with a header of 2^60 bytes": in_checkpoint(write(MODEL, HUGE_HEADER)),
    "weights of an absurd shape": in_checkpoint(
        write(MODEL, struct.pack("<Q", len(ABSURD_SHAPE)) + ABSURD_SHAPE + bytes(8))
    ),
    "state of another shape": _state(lambda v: v.update(counters=[], replay=None)),
    "state with a huge number": _state(lambda v: v["counters"].update(env_steps=10**400)),
    "state that begins before zero": _state(lambda v: v["replay"].update(first=[-100])),
    "manifest ties anything": _manifest(lambda v: v.update(tied={"model": ["w"]})),
    "manifest nests deep": in_checkpoint(write("manifest.json", b"[" * 10**5), forge=False),
    "manifest lists a path": _manifest(
        lambda v: v["files"].update({"../../../../outside/canary": {"bytes": 1, "sha256": ""}})
    ),
    "manifest lists an absolute path": _manifest(
        lambda v: v["files"].update({"/etc/passwd": {"bytes": 1, "sha256": ""}})
    ),
    # texts that hold up or overwhelm a parser
    **{
        f"{name} {title}": write(name, data)
        for name in ("run.json", "result.json", "metrics.jsonl", "digests.json", "lock.json")
        for title, data in {
            "nests deep": b"[" * 10**5 + b"\n",
            "is no object": b"[1]\n",
            "is no UTF-8": b"\xff\xfe\n",
        }.items()
    },
    "config.toml nests deep": write("config.toml", b"a = " + b"[" * 20_000),
    "config.toml has a long key": write("config.toml", b".".join([b"a"] * 20_000) + b" = 1"),
    "config.toml has a long number": edit("config.toml", "seed = ", "seed = " + "9" * 5000),
    "config.toml is large": write("config.toml", b"a = 1\n" * 400_000),
    "config.toml with absurd sizes": edit("config.toml", "units = ", "units = 100000000"),
    "config.toml with control characters": edit("config.toml", "[env]", '[env]\n"\\u001b]0;x\\u0007\\u202e" = 1'),
    # files that are no files
    **{
        f"{name} is a pipe": fifo(name)
        for name in (
            "run.json",
            "config.toml",
            "result.json",
            "metrics.jsonl",
            "perf.jsonl",
            "monitor.csv",
            "digests.json",
            "lock",
        )
    },
    "segments are pipes": _each("replay", _as_fifo),
    "config.toml is a device": link("config.toml", "/dev/zero"),
    # links
    **{
        f"{name} leads outside": link(name)
        for name in ("replay", "checkpoints", "tb", "videos", "plugins", "checkpoints/quarantine")
    },
    **{
        f"{name} leads to a file outside": link(name, "../outside/canary")
        for name in (
            "run.json",
            "result.json",
            "metrics.jsonl",
            "perf.jsonl",
            "monitor.csv",
            "digests.json",
            "lock",
            "lock.json",
        )
    },
    "orphans lead outside": link("replay/orphans"),
    "segments lead outside": _each("replay", _as_link),
    "segment with an absurd header": _segment_header,
    "segment with another name": lambda run: (run / "replay" / "seg-000-zz.log").write_bytes(b"x"),
    "checkpoint leads outside": lambda run: [
        newest(run).rename(run.parent / "outside" / newest(run).name) and None,
        (run / "checkpoints" / "step-000000999").symlink_to(run.parent / "outside"),
    ],
}
"""By title: what a stranger changed."""


def prepare(place: Path, change: Change) -> None:
    """Make `place` a working folder with a hostile run in it; `place/run` is a copy of a real run."""
    outside = place / "outside"
    outside.mkdir()
    (outside / "canary").write_text("alive")
    for folder in (place, place / "run"):
        (folder / "evil.py").write_text(EVIL)
    change(place / "run")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
