"""Test whether a dynamics keeps every branch: one dream step on worldlab/Branch-v0 against the true probabilities.

Each dynamics is trained with the same encoder and decoder on the same random walks. Then, for each of the four branch
cells and four actions, `--samples` next latents are sampled from the prior at posterior states of unseen walks, decoded
to images and converted back to cells:

    distinct   how many of the four true next states are dreamt at all (more than 1% of the samples)
    tv         total variation between dreamt and true probabilities (0.4, 0.3, 0.2, 0.1); invalid images count as wrong
    no_cell    share of invalid images: farther from the nearest cell's image than a quarter of the distance to another

Measured with a real latent and with codes: a Gaussian prior cannot separate two futures, a categorical prior can.

    python benchmarks/branch.py > benchmarks/results/branch.json
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from worldlab_envs.branch import BRANCH_CELLS, Branch

from worldlab.config.resolve import RunConfig, resolve
from worldlab.env.pool import EnvPool
from worldlab.env.spaces import action_spec, record_schema
from worldlab.experience.acting import ActingAgent
from worldlab.experience.collect import Collector, to_batch
from worldlab.experience.replay import Replay
from worldlab.interfaces import Batch
from worldlab.model.schedule import MODEL
from worldlab.registry import Registry, load_registry
from worldlab.study.measures.coverage import REACHED, estimate_transition_probs, total_variation
from worldlab.training.compose import Composed, compose
from worldlab.training.session import open_env
from worldlab.training.streams import Streams
from worldlab.training.trainer import Generators, Trainer

WORLD = Branch()
TRUTH = WORLD.transition_probs()
CELLS = len(TRUTH)
LATENTS = {
    "gaussian": {"latent": "gaussian", "latent_dim": 16},
    "codes": {"latent": "categorical", "groups": 8, "classes": 8},
}
"""Settings of the vae encoder that all dynamics share, by kind of latent."""


def configure(registry: Registry, dynamics: str, latent: str, seed: int, sets: list[str]) -> RunConfig:
    """Configure the laptop preset's parts on the branch environment; sets: further flags, section.key=value."""
    flags: dict[str, Any] = {
        "env": {"id": "branch"},
        "seed": seed,
        "encoder": {"name": "vae", "width": 8, **LATENTS[latent]},
        "dynamics": {"name": dynamics},
        "decoder": {"name": "vae", "width": 8, "std": 0.1},
        "agent": {"name": "random"},
        # The same encoder for every dynamics: a dynamics trained in parallel over time cannot give it a memory.
        "model": {"memory_in_encoder": "no"},
        "train": {"batch_size": 16, "batch_length": 16, "learning_rate": 1e-3},
    }
    for text in sets:
        path, _, value = text.partition("=")
        table = flags
        *parents, last = path.split(".")
        for parent in parents:
            table = table.setdefault(parent, {})
        table[last] = json.loads(value)
    return resolve(registry, presets=["laptop"], flags=flags)


def collect_walks(pool: EnvPool, built: Composed, steps: int, seed: int) -> Replay:
    """Collect random walks of `steps` decisions in each environment of the pool."""
    schema = record_schema(pool.observation_space, action_spec(pool.action_space))
    replay = Replay(schema, 2 * steps * pool.num_envs, pool.num_envs)
    acting = ActingAgent(built.model, built.agent, pool.action_space, torch.Generator().manual_seed(seed))
    collector, rng = Collector(pool, replay, acting), np.random.default_rng(seed)
    collector.start()
    for _ in range(steps):
        collector.step(rng)
    return replay


@torch.no_grad()
def estimate_dreamt_odds(built: Composed, batch: Batch, samples: int) -> dict[tuple[int, int], np.ndarray]:
    """Return probabilities [CELLS + 1] of the next cell by (cell, action), from up to 8 unseen states per branch cell."""
    model, generator = built.model, torch.Generator().manual_seed(7)
    _, seen = model.observe(batch, None)
    real = model.preprocess.restore("image", batch.obs["image"].flatten(0, 1)).numpy()
    cells = WORLD.state_of({"image": real}).reshape(batch.is_first.shape)
    cells[:, :4] = -1  # the memory needs a few steps first
    odds = {}
    for cell in sorted(BRANCH_CELLS):
        rows, times = (torch.from_numpy(index[:8].copy()) for index in np.nonzero(cells == cell))
        for action in range(4):
            carry = seen.at(rows, times)
            odds[cell, action] = estimate_transition_probs(
                model, carry, action, samples, WORLD.state_of, CELLS, generator
            )
    return odds


def measure(
    registry: Registry, dynamics: str, latent: str, seed: int, updates: int, samples: int, sets: list[str]
) -> dict[str, Any]:
    """Train one dynamics and compare its predictions with the truth."""
    config = configure(registry, dynamics, latent, seed, sets)
    _, make = open_env(config, registry)
    streams, begin = Streams(seed), time.process_time()
    with EnvPool(make, 8, 0, seed=seed) as pool:
        built = compose(config, registry, pool.observation_space, pool.action_space, streams, torch.device("cpu"))
        seen, unseen = collect_walks(pool, built, 1000, seed), collect_walks(pool, built, 200, seed + 1000)
    generators = Generators(streams.torch("model"), streams.torch("agent"))
    trainer, rng = Trainer(built.model, built.agent, config.core.train, generators), np.random.default_rng(seed)
    batch = partial(to_batch, preprocess=built.model.preprocess, device=torch.device("cpu"))
    for update in range(updates):
        trainer.anneal(update / updates)
        trainer.update(batch(seen.sample(16, 16, rng)), MODEL)
    odds_by_question = estimate_dreamt_odds(built, batch(unseen.sample(64, 16, rng)), samples)
    tv, distinct, no_cell = [], [], []
    for question, odds in odds_by_question.items():
        tv.append(total_variation(odds, TRUTH[question]))
        distinct.append(int((odds[:CELLS][TRUTH[question] > 0] > REACHED).sum()))
        no_cell.append(odds[CELLS])
    return {
        "label": f"{dynamics}, {latent}",
        "seed": seed,
        "tv": float(np.mean(tv)),
        "distinct": float(np.mean(distinct)),
        "no_cell": float(np.mean(no_cell)),
        "cpu_seconds": round(time.process_time() - begin, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dynamics", action="append", help="registered names (default: all)")
    parser.add_argument("--latent", action="append", choices=LATENTS, help="kinds of latent (default: both)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument(
        "--set", action="append", default=[], help='a setting, e.g. dynamics.memory=64 or encoder.latent="categorical"'
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    registry = load_registry()
    names = args.dynamics or [registration.name for registration in registry.registrations("dynamics")]
    rows = []
    for name in names:
        for latent in args.latent or LATENTS:
            for seed in range(args.seeds):
                rows.append(measure(registry, name, latent, seed, args.updates, args.samples, args.set))
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    machine = {"python": platform.python_version(), "torch": version("torch"), "processor": platform.machine()}
    print(json.dumps({"arguments": vars(args), "machine": machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
