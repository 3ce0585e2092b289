"""Measure all mixes: parameters, updates per second, the densities of q, p and P(image), and bits per dimension.

Every mix of the installed families is built with the laptop preset for CarRacing, trained for a few updates on the
same random driving, and timed on one thread (processor time). Writes docs/matrix.md and benchmarks/results/matrix.json.

    python benchmarks/matrix.py
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldlab.config.resolve import resolve
from worldlab.env.pool import EnvPool
from worldlab.env.spaces import action_spec, record_schema
from worldlab.experience.acting import ActingAgent
from worldlab.experience.collect import Collector, to_batch
from worldlab.experience.replay import Replay
from worldlab.interfaces import Decoder, Dynamics, Encoder, parameter_count
from worldlab.model.schedule import MODEL
from worldlab.registry import Registry, load_registry
from worldlab.training.compose import compose
from worldlab.training.session import open_env
from worldlab.training.streams import Streams
from worldlab.training.trainer import Generators, Trainer

ROOT = Path(__file__).parents[1]
ROLES = ("encoder", "dynamics", "decoder")
POSTERIOR = {
    "analytic": "exact",
    "own_logq": "exact, own samples",
    "implicit": "undefined",
    "deterministic": "undefined",
}
PRIOR = {"analytic": "exact", "log_prob": "exact", "sampler": "undefined", "critic": "Gaussian, not by likelihood"}


def describe_bits(encoder: Encoder, dynamics: Dynamics, decoder: Decoder) -> str:
    """Return whether the whole model bounds bits per dimension, and if not, which part has no density."""
    missing = []
    if encoder.posterior_kind not in ("analytic", "own_logq"):
        missing.append(f"q: {encoder.posterior_kind}")
    if dynamics.prior_kind not in ("analytic", "log_prob"):
        missing.append(f"p(z): {dynamics.prior_kind}")
    if decoder.likelihood == "undefined":
        missing.append(f"P(o): {decoder.score_kind.replace('_', ' ')}")
    return "bound" if not missing else "undefined (" + "; ".join(missing) + ")"


def collect_experience(registry: Registry, steps: int) -> tuple[Replay, Any, Any]:
    """Collect random driving; also return the spaces."""
    config = resolve(registry, presets=["laptop"], flags={"env": {"id": "CarRacing"}, "agent": {"name": "random"}})
    _, make = open_env(config, registry)
    with EnvPool(make, 1, 0, seed=0) as pool:
        spaces = pool.observation_space, pool.action_space
        built = compose(config, registry, *spaces, Streams(0), torch.device("cpu"))
        replay = Replay(record_schema(spaces[0], action_spec(spaces[1])), 2 * steps, 1)
        collector = Collector(pool, replay, ActingAgent(built.model, built.agent, spaces[1], torch.Generator()), hold=8)
        collector.start()
        rng = np.random.default_rng(0)
        for _ in range(steps):
            collector.step(rng)
    return replay, *spaces


def measure(
    registry: Registry, mix: tuple[str, ...], replay: Replay, spaces: tuple[Any, Any], updates: int
) -> dict[str, Any]:
    """Build and time one mix."""
    flags: dict[str, Any] = {role: {"name": name} for role, name in zip(ROLES, mix, strict=True)}
    if mix[2] == "vae":
        flags["decoder"]["likelihood"] = "learned"
    flags |= {"env": {"id": "CarRacing"}, "agent": {"name": "random"}}
    config = resolve(registry, presets=["laptop"], flags=flags)
    built = compose(config, registry, *spaces, Streams(0), torch.device("cpu"))
    model, streams = built.model, Streams(0)
    generators = Generators(streams.torch("model"), streams.torch("agent"))
    trainer, rng = Trainer(model, built.agent, config.core.train, generators), np.random.default_rng(0)
    seconds = []
    for _ in range(updates + 1):
        train = config.core.train
        batch = to_batch(
            replay.sample(train.batch_size, train.batch_length, rng), model.preprocess, torch.device("cpu")
        )
        begin = time.process_time()
        trainer.update(batch, MODEL)
        seconds.append(time.process_time() - begin)
    return {
        "mix": list(mix),
        "parameters": {role: parameter_count([part]) for role, part in model.parts.items()},
        "updates_per_s": 1 / statistics.median(seconds[1:]),
        "frames_per_update": config.core.train.batch_size * config.core.train.batch_length,
        "matching": [model.rule.dyn, model.rule.rep],
        "q": POSTERIOR[model.encoder.posterior_kind],
        "p": PRIOR[model.dynamics.prior_kind],
        "picture": model.decoder.likelihood,
        "bits_per_dim": describe_bits(model.encoder, model.dynamics, model.decoder),
    }


def format_page(rows: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """Format docs/matrix.md."""
    lines = [
        "# All mixes",
        "",
        f"Made by `python benchmarks/matrix.py` ({machine['cpu']}, one thread, torch {machine['torch']}):",
        "the world model alone, laptop preset, CarRacing at 48 x 48 pixels, "
        f"{rows[0]['frames_per_update']} frames per update, in processor time.",
        "Decoders train on as many of these frames as the preset gives them (`decoder.frames`).",
        "The machine is shared: speeds are accurate to about a fifth.",
        "",
        "q, p(z) and P(o): what is known of the posterior, the prior and the probability of a picture's 256 levels.",
        "Bits per dimension of the whole model exist where all three have a density",
        '(with `likelihood = "learned"` for vae decoders, as timed here): '
        f"{sum(row['bits_per_dim'] == 'bound' for row in rows)} of {len(rows)} mixes.",
        "",
        "| encoder | dynamics | decoder | parameters | updates/s | dyn | rep | q | p(z) | P(o) | bits/dim |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        total = sum(row["parameters"].values())
        lines.append(
            f"| {' | '.join(row['mix'])} | {total / 1e3:,.0f}k | {row['updates_per_s']:.2f} | {' | '.join(row['matching'])}"
            f" | {row['q']} | {row['p']} | {row['picture']} | {row['bits_per_dim']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=5)
    parser.add_argument("--steps", type=int, default=600, help="decisions of random driving")
    args = parser.parse_args()
    torch.set_num_threads(1)
    registry = load_registry()
    replay, *spaces = collect_experience(registry, args.steps)
    families = [name for name in registry.names("encoder") if all(name in registry.names(role) for role in ROLES)]
    rows = []
    for mix in itertools.product(families, repeat=len(ROLES)):
        rows.append(measure(registry, mix, replay, (spaces[0], spaces[1]), args.updates))
        print(f"{'-'.join(mix)} {rows[-1]['updates_per_s']:.2f}/s", file=sys.stderr, flush=True)
    cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    machine = {
        "cpu": cpu.partition(":")[2].strip(),
        "cores": os.cpu_count(),
        "torch": version("torch"),
        "python": platform.python_version(),
    }
    (ROOT / "benchmarks" / "results" / "matrix.json").write_text(
        json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n"
    )
    (ROOT / "docs" / "matrix.md").write_text(format_page(rows, machine))


if __name__ == "__main__":
    main()
