"""Folders with small runs in every state, written as files: training takes too long to make a thousand of them."""

from __future__ import annotations

import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

CREATED = 1_790_000_000
NOBODY = 2**22 + 1
"""A process number that no system gives."""


def lines(steps: int, every: int = 250, evaluate: int = 1000) -> str:
    """Metrics of a run up to a step: each line's values follow from its step."""
    rows = []
    for step in range(every, steps + 1, every):
        rows.append({"step": step, "loss/dyn": 100 / step, "loss/decoder/image": 3.0, "episode/return": step / 100})
        if step % evaluate == 0:
            rows.append({"step": step, "eval/return": step / 50, "eval/episodes": 5})
    return "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)


def write_run(
    path: Path,
    status: str = "running",
    *,
    step: int = 3000,
    steps: int = 4000,
    alive: bool = True,
    env: str = "CartPole-v1",
    seed: int = 0,
    age: int = 0,
    encoder: str = "vae",
    **facts,
) -> Path:
    """Write the files of a run. alive: whether lock.json names this process. age: seconds after CREATED at which it began."""
    path.mkdir(parents=True)
    parts = {"encoder": encoder, "dynamics": "vae", "decoder": "vae", "agent": "dreamer"}
    content = {
        "format": "worldlab-run",
        "created": datetime.fromtimestamp(CREATED + age, UTC).isoformat(timespec="seconds"),
        "status": status,
        "step": step if status == "finished" else 0,
        "env": env,
        "seed": seed,
        "components": {role: {"name": name, "distribution": "worldlab"} for role, name in parts.items()},
        **facts,
    }
    (path / "run.json").write_text(json.dumps(content))
    (path / "config.toml").write_text(
        f'presets = [\n    "laptop",\n]\nseed = {seed}\nsteps = {steps}\n\n[env]\nid = "{env}"\n\n[agent]\nsteps = 7\n'
    )
    (path / "metrics.jsonl").write_text(lines(step))
    rates = {"step": step, "seconds": 60.0, "env_steps_per_s": 20.0, "updates_per_s": 10.0, "time": CREATED + 60.0}
    (path / "perf.jsonl").write_text(json.dumps(rates) + "\n")
    if status == "running":
        holder = {"pid": os.getpid() if alive else NOBODY, "host": socket.gethostname()}
        holder["started"] = datetime.now().astimezone().isoformat(timespec="seconds")
        (path / "lock.json").write_text(json.dumps(holder))
    if status == "finished":
        (path / "result.json").write_text(json.dumps({"env": env, "env_steps": step, "return_mean": step / 40}))
    return path


def write_cell(path: Path, method: str = "vae", status: str = "", *, env: str = "CartPole-v1", seed: int = 0) -> Path:
    """Write the cell.json of a comparison. status: "" for a cell without an outcome."""
    path.mkdir(parents=True, exist_ok=True)
    asked = {"method": method, "env": env, "seed": seed, "kind": "model", "config": {"steps": 4000}}
    cause = "the agent chose an action that is not finite" if status == "failed" else ""
    outcome = {"status": status, "cause": cause, "env_steps": 4000, "returns": [10.0, 20.0]}
    content = {"format": "worldlab-cell", "asked": asked, "outcome": outcome if status else None}
    (path / "cell.json").write_text(json.dumps(content))
    return path
