"""Flips bits and cuts off ends of the files of a run, and counts what the loaders of each file make of that."""

from __future__ import annotations

import random
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worldlab.errors import WorldlabError
from worldlab.experience.verify import verify_replay
from worldlab.runs import storage
from worldlab.runs.checkpoint import list_checkpoints, open_checkpoint
from worldlab.runs.folder import RunFolder
from worldlab.runs.metrics import read_metrics
from worldlab.study.compare.cell_file import read_cell

KINDS = (
    "config.toml",
    "run.json",
    "result.json",
    "metrics.jsonl",
    "cell.json",
    "digests.json",
    "manifest.json",
    "state.json",
    "model.safetensors",
    "segment",
)


def rot(run: Path, kind: str, flips: int, cuts: int = 0, seed: int = 0) -> dict[str, int]:
    """Damage one file of an intact run `flips` + `cuts` times, each time another bit or length.

    Returns counts. detected: an error or a finding of the loader. harmless: the decoded content is the same. silent:
    other content, and no word. crashed: an exception that is not ours. The file is as before afterwards.
    """
    path, load = _file_and_loader(run, kind)
    data, rng = path.read_bytes(), random.Random(f"{seed} {kind}")
    intact = load()
    counts = Counter({"detected": 0, "harmless": 0, "silent": 0, "crashed": 0})
    try:
        for number in range(flips + cuts):
            bad = bytearray(data)
            if number < flips:
                at = rng.randrange(8 * len(data))
                bad[at // 8] ^= 1 << at % 8
            else:
                del bad[rng.randrange(len(data)) :]
            path.write_bytes(bad)
            counts[_outcome(load, intact)] += 1
    finally:
        path.write_bytes(data)
    return dict(counts)


def _outcome(load: Callable[[], Any], intact: Any) -> str:
    try:
        return "harmless" if load() == intact else "silent"
    except WorldlabError:
        return "detected"
    except Exception:
        return "crashed"


def _file_and_loader(run: Path, kind: str) -> tuple[Path, Callable[[], Any]]:
    folder = RunFolder(run)
    if kind == "cell.json":
        return run / kind, lambda: read_cell(run)
    if kind in ("manifest.json", "state.json", "model.safetensors"):
        step = list_checkpoints(folder.checkpoints)[-1][1]
        return step / kind, lambda: _checkpoint(step)
    if kind == "segment":
        segment = sorted(folder.replay.glob("seg-*"))[0]
        return segment, lambda: _replay(folder)
    return run / kind, lambda: _text(folder, kind)


def _text(folder: RunFolder, kind: str) -> Any:
    folder.check_texts()
    path = folder.path / kind
    if kind == "config.toml":
        return tomllib.loads(path.read_text())
    return read_metrics(path) if kind == "metrics.jsonl" else storage.read_json(path)


def _checkpoint(step: Path) -> Any:
    checkpoint = open_checkpoint(step)
    tensors = {name: {key: t.tolist() for key, t in checkpoint.tensors(name).items()} for name in checkpoint.names}
    return checkpoint.manifest, checkpoint.state, tensors


def _replay(folder: RunFolder) -> Any:
    checkpoints = [open_checkpoint(path) for _, path in list_checkpoints(folder.checkpoints)]
    damaged = verify_replay(folder.replay, checkpoints).damaged
    if damaged:
        raise WorldlabError(damaged[0])
    return [path.read_bytes() for path in sorted(folder.replay.glob("seg-*"))]
