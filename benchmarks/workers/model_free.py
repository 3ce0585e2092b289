"""Runs one method without a world model: an algorithm of Stable-Baselines3 in the environment, or random play.

    python benchmarks/workers/model_free.py model-free RESULT.json --env Pendulum --seed 0 --steps 4000

Kinds are those of `worldlab compare --baselines`: random, model-free, model-free:NAME. The other arguments are flags of
`worldlab train`. The result holds env_steps, updates, wall_seconds, returns and curve.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from worldlab.cli.flags import read_flags
from worldlab.config.resolve import resolve
from worldlab.registry import load_registry
from worldlab.study.compare.baselines import run_random
from worldlab.study.compare.model_free import run_model_free
from worldlab.study.results import Trial


def main(kind: str, path: Path, arguments: list[str]) -> None:
    flags, registry = read_flags(arguments), load_registry()
    config = resolve(registry, presets=flags.presets, files=flags.configs, flags=flags.settings)
    trial = Trial(kind, config.core.env.id, config.core.seed, "missing")
    with tempfile.TemporaryDirectory() as videos:
        if kind == "random":
            found = run_random(trial, config, registry, Path(videos))
        else:
            found = run_model_free(trial, config, registry, Path(videos), kind.partition(":")[2])
    result = {key: getattr(found, key) for key in ("env_steps", "updates", "wall_seconds", "returns", "curve")}
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result) + "\n", encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
