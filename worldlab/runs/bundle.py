"""Selects the files of a run that are published together, and checks those that are fetched.

    bundle.json              size and SHA-256 of every other file; written last
    config.toml, run.json, result.json, metrics.jsonl, digests.json
    checkpoints/             the newest checkpoint and the best one: the weights alone, or with the replay all of it
    plugins/                 the files given with --plugin, if any
    videos/                  the newest dreams, and the first final episode
    replay/                  the recorded experience, only with `--replay`

A fetched bundle is a stranger's. It holds files of these names and no others, each as large as declared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import tomli_w

from worldlab.errors import CheckpointError, one_line
from worldlab.runs import storage
from worldlab.runs.best import list_best
from worldlab.runs.checkpoint import PICKLED, Checkpoint, latest_valid, list_checkpoints, open_checkpoint
from worldlab.runs.digests import SELF, confirm_digest, record_digest, seal, self_digest
from worldlab.runs.storage import FileDigest
from worldlab.runs.verify import verify_checkpoints, verify_texts
from worldlab.runs.weights import copy_weights

NAME = "bundle.json"
FORMAT, FORMAT_VERSION = "worldlab-bundle", 1
LIMIT = 4 * 2**30
"""Most bytes of a fetched bundle, unless the user allows more."""
LISTING_LIMIT = 4 * 2**20
"""Most bytes of bundle.json: some 20,000 files."""
METRICS_LIMIT = 2**28
DREAMS = 4
"""Dreams whose pictures are published; each is a strip and an animation."""
TEXTS = ("config.toml", "run.json", "result.json", "metrics.jsonl", "digests.json")

_PUBLISHED = re.compile(
    r"config\.toml|(run|result|digests)\.json|metrics\.jsonl"
    r"|checkpoints/(step-\d{9,18}(\.[1-9]\d{0,5})?|best-\d{9,18})/"
    r"((manifest|state)\.json|[a-z][a-z0-9_]{0,63}\.safetensors)"
    r"|plugins/[A-Za-z0-9_][A-Za-z0-9._-]{0,100}\.py"
    r"|videos/[A-Za-z0-9][A-Za-z0-9._-]{0,100}\.(png|webp)"
    r"|replay/seg-\d{3}-\d{8}\.log",
    re.ASCII,
)
_DREAM = re.compile(r"dream-(\d{1,18})(?:-\d{1,9})?\.(?:png|webp)", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class Bundle:
    """The listing of a published run: its files by path, "/" between folders."""

    files: Mapping[str, FileDigest]

    @property
    def bytes(self) -> int:
        return sum(digest.bytes for digest in self.files.values())

    @property
    def plugins(self) -> list[str]:
        """Return the plugin files: code, which nothing imports by itself."""
        return [name for name in self.files if name.startswith("plugins/")]


def stage_bundle(run: Path, staging: Path, *, replay: bool = False) -> Bundle:
    """Fill an empty folder with what is published of a run, and verify it.

    Files are second names of the run's own where those never change. Absolute paths in config.toml and run.json are
    cut to their last part. replay: with the whole checkpoint and the experience, from which the run can continue; the
    caller holds the lock of the run. Raises: CheckpointError if the run has no checkpoint or is damaged; StorageError.
    """
    for name in TEXTS:
        if (run / name).exists():
            with storage.storage_errors(run / name, "read"):
                data = _read(run / name)
            storage.write_new(staging / name, [data])
    for place in _checkpoints(run):
        target = storage.make_folder(staging / "checkpoints" / place.path.name)
        if replay:
            _link_all(sorted(place.path.iterdir()), target)
        else:
            copy_weights(place, target)
    _link_all(sorted((run / "plugins").glob("*.py")), staging / "plugins")
    _link_all(_pictures(run / "videos"), staging / "videos")
    if replay:
        _link_all(sorted((run / "replay").glob("seg-*.log")), staging / "replay")
    verify_bundle(staging)
    _cut_paths(staging)
    bundle = _list(staging)
    files = {name: {"bytes": digest.bytes, "sha256": digest.sha256} for name, digest in bundle.files.items()}
    content = seal({"format": FORMAT, "format_version": FORMAT_VERSION, "files": files})
    storage.atomic_write_json(staging / NAME, content)
    return bundle


def read_bundle(path: Path, limit: int = LIMIT) -> Bundle:
    """Read and check a fetched bundle.json. limit: most bytes of all files together.

    Raises: CheckpointError in one sentence for a name or a size that no bundle has.
    """
    try:
        content = storage.read_json(path, LISTING_LIMIT)
    except (OSError, ValueError) as error:
        raise refuse(NAME, f"it cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise refuse(NAME, "it does not list the files of a run")
    version = content.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        raise CheckpointError(
            f"the run was published by a newer worldlab (format {version}, this one reads {FORMAT_VERSION})"[:100],
            fix="pip install -U worldlab",
        )
    files = content.get("files")
    if content.get(SELF) != self_digest(content) or not isinstance(files, dict):
        raise refuse(NAME, "its own hash differs")
    bundle = Bundle({check_name(name): _digest(name, entry) for name, entry in files.items()})
    if bundle.bytes > limit:
        raise CheckpointError(
            f"the run has {bundle.bytes / 1e9:.1f} GB, more than the {limit / 1e9:.1f} GB that are accepted",
            fix="--limit with a larger number of GB, if you expect so much",
        )
    return bundle


def check_name(name: str) -> str:
    """Return the path of a published file if it is one that a run has. Raises: CheckpointError that says why not."""
    path = PurePosixPath(name)
    if not name.isprintable():
        raise refuse(name, "its name has control characters")
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise refuse(name, "its name leads out of the folder")
    if path.suffix.lower() in PICKLED:
        raise refuse(name, "it is a pickle or an archive of pickles, which can run code")
    if not _PUBLISHED.fullmatch(name):
        raise refuse(name, "no run publishes a file of this name")
    return name


def verify_bundle(folder: Path) -> None:
    """Check that the texts and checkpoints in a folder are those of a run, and intact. Raises: CheckpointError."""
    texts = verify_texts(folder)
    checkpoints, _ = verify_checkpoints(folder)
    for sentence in (*texts.damaged, *checkpoints.damaged):
        raise refuse("the run", sentence)
    for name in ("run.json", "config.toml"):
        if not (folder / name).is_file():
            raise refuse("the run", f"it has no {name}")
    if not list_checkpoints(folder / "checkpoints"):
        raise refuse("the run", "it has no checkpoint")


def refuse(name: str, what: str) -> CheckpointError:
    """Return the error for a run that is damaged or hostile."""
    shown, what = one_line(name, 200), one_line(what, 200)
    return CheckpointError(
        one_line(f"{shown[-50:]!r} is refused: {what}"),
        cause=f"{shown}: {what}",
        fix="publish it again with worldlab push if it is yours; else do not trust it",
    )


def _read(path: Path) -> bytes:
    try:
        return storage.read_regular(path, METRICS_LIMIT)
    except ValueError as error:
        raise refuse(path.name, str(error)) from error


def _checkpoints(run: Path) -> list[Checkpoint]:
    """Return the newest intact checkpoint of a run and that of its best evaluation."""
    best = [open_checkpoint(path) for path in list_best(run / "checkpoints")[-1:]]
    return [latest_valid(run / "checkpoints", move=False), *best]


def _pictures(videos: Path) -> list[Path]:
    """Return the pictures of the newest dreams, and of the first final episode."""
    found = {path: int(match[1]) for path in videos.glob("dream-*") if (match := _DREAM.fullmatch(path.name))}
    newest = sorted(path for path, step in found.items() if step == max(found.values()))
    stems = sorted({path.stem for path in newest})[:DREAMS]
    episode = videos / "evaluation.webp"
    return [*(path for path in newest if path.stem in stems), *([episode] if episode.is_file() else [])]


def _link_all(files: list[Path], target: Path) -> None:
    for file in files:
        with storage.storage_errors(target / file.name, "write"):
            storage.link_file(file, storage.make_folder(target) / file.name)


def _cut_paths(staging: Path) -> None:
    """Replace absolute paths of data sets and runs, which tell about the machine, by their last part."""
    config = storage.read_toml(staging / "config.toml")
    short = {key: last_part(config[key]) for key in ("data", "finetune") if isinstance(config.get(key), str)}
    if short != {key: config[key] for key in short}:
        _rewrite(staging, "config.toml", tomli_w.dumps({**config, **short}).encode())
    run = storage.read_json(staging / "run.json")
    data = run.get("data") if isinstance(run, dict) else None
    if isinstance(data, dict) and last_part(str(data.get("source"))) != data.get("source"):
        run = {**run, "data": {**data, "source": last_part(str(data.get("source")))}}
        _rewrite(staging, "run.json", storage.dump_json(run, indent=2) + b"\n")


def last_part(name: str) -> str:
    """Return a name of a data set or a run with an absolute path cut to its last part: "npz:/home/me/x" to "npz:x"."""
    head, colon, rest = name.rpartition(":")
    return f"{head}{colon}{Path(rest).name}" if Path(rest).is_absolute() else name


def _rewrite(staging: Path, name: str, data: bytes) -> None:
    record_digest(staging, name, FileDigest(len(data), storage.sha256_bytes(data)))
    storage.atomic_write_bytes(staging / name, data)
    confirm_digest(staging, name)


def _list(staging: Path) -> Bundle:
    files = {}
    for path in sorted(path for path in staging.rglob("*") if not path.is_dir() or path.is_symlink()):
        name = check_name(path.relative_to(staging).as_posix())
        try:
            files[name] = storage.sha256_file(path)
        except OSError as error:  # a link, a pipe
            raise refuse(name, error.strerror or str(error)) from error
    return Bundle(files)


def _digest(name: str, entry: Any) -> FileDigest:
    sized = isinstance(entry, dict) and type(entry.get("bytes")) is int and entry["bytes"] >= 0
    if not sized or not isinstance(entry.get("sha256"), str) or not _SHA256.fullmatch(entry["sha256"]):
        raise refuse(name, f"{NAME} does not give its size and SHA-256")
    return FileDigest(entry["bytes"], entry["sha256"])


__all__ = [
    "LIMIT",
    "LISTING_LIMIT",
    "NAME",
    "Bundle",
    "check_name",
    "last_part",
    "read_bundle",
    "refuse",
    "stage_bundle",
    "verify_bundle",
]
