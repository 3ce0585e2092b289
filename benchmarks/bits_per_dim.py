"""Measure bits per dimension of CarRacing frames for every decoder with a density, with the same data and encoder.

    bits/dim = -log2 p(x) / (3 size^2),    log p(x) >= log 1/K sum_k  P(x | z_k) p(z_k) / q(z_k | x),    z_k ~ q( . | x)

the importance-weighted bound (Burda et al. 2015, arXiv:1509.00519) with the standard prior p(z) = N(0, I), on held-out
episodes. P(x | z) is the probability of the 256 grey levels: exact for a factorised logistic and a PixelCNN, itself a
bound for a flow (uniform dequantisation, one sample per weight). K = 1 is the ELBO; K = 64 against K = 1 shows its
slack. Decoders without a density are listed with the reason and without an estimate.

Frames: random driving (each action held for 1 to 8 decisions of 4 frames), resized to size x size by the adapter.

`seconds_per_frame` is the processor time of one sampled frame on one thread, the median over rounds in which all decoders
with a density take turns.

    python benchmarks/bits_per_dim.py --updates 2000     # goes on where it was stopped; one decoder after the other
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from interleave import header, write_json
from machine import ROOT, commit
from torch import Tensor

from worldlab.config.resolve import resolve
from worldlab.env.find import open_adapter
from worldlab.env.pool import EnvPool
from worldlab.interfaces import Batch, Context
from worldlab.model.matching import standard_prior
from worldlab.model.schedule import REPRESENTATION
from worldlab.registry import Registry, load_registry
from worldlab.settings import EnvSettings
from worldlab.study.measures.bits import bits_by_draws
from worldlab.training.compose import Composed, compose
from worldlab.training.streams import Streams
from worldlab.training.trainer import Generators, Trainer
from worldlab.tree import repeat, select

OUT = ROOT / "benchmarks" / "results" / "bits_per_dim.json"
ROUNDS, SAMPLED = 5, 8
"""Rounds of the sampling, and frames of one draw in them."""
WHY = {
    "critic": "an implicit decoder has samples and a critic, no density",
    "contrastive": "a ratio p(x|z)/p(x), no density",
}
"""The reason why a decoder has no density, by its score_kind."""


def collect(registry: Registry, size: int, episodes: int, length: int, seed: int) -> tuple[np.ndarray, Any, Any]:
    """Collect frames uint8 [episodes, length, size, size, 3] of random driving; also return the spaces."""
    adapter, env_id = open_adapter(registry, "CarRacing")
    settings = EnvSettings(id=env_id, repeat=4, size=size)
    with EnvPool(lambda: adapter.make(env_id, settings), 1, 0, seed=seed) as pool:
        rng, found = np.random.default_rng(seed), []
        for _ in range(episodes):
            frames, left, action = [pool.reset().obs["image"][0]], 0, None
            while len(frames) < length:
                if left == 0:
                    low, high = pool.action_space.low, pool.action_space.high  # type: ignore[attr-defined]
                    left, action = int(rng.integers(1, 9)), rng.uniform(low, high).astype(np.float32)
                frames.append(pool.step(np.asarray(action)[None]).obs["image"][0])
                left -= 1
            found.append(np.stack(frames))
        return np.stack(found), pool.observation_space, pool.action_space


def frames_batch(built: Composed, frames: np.ndarray) -> Batch:
    """Return frames [N, H, W, C] as a batch of N sequences of one step."""
    n = len(frames)
    obs = built.model.preprocess({"image": torch.from_numpy(frames)[:, None]})
    ones = torch.ones(n, 1)
    return Batch(obs, torch.zeros(n, 1, built.specs.action.dim), 0 * ones, ones, ones.bool(), ones)


@torch.no_grad()
def log_weights(built: Composed, ctx: Context, samples: int, generator: torch.Generator) -> Tensor:
    """Return log P(x|z) p(z) / q(z|x) for `samples` samples of z, [N, samples]."""
    model = built.model
    n = len(ctx.embed)
    embed = repeat(ctx.embed[:, 0], samples)
    obs = repeat(select(ctx.batch.obs, (slice(None), 0)), samples)
    latent = model.encoder.infer(embed, None, generator)
    prior: Any = standard_prior(model.specs.latent, latent.z)
    features = torch.cat([latent.z.new_zeros(len(latent.z), model.specs.memory_dim), latent.z], -1)
    mass = model.log_mass(features, obs, generator)
    return (mass + prior.log_prob(latent.z) - latent.dist.log_prob(latent.z)).view(n, samples)


def evaluate(built: Composed, frames: np.ndarray, draws: tuple[int, ...], seed: int) -> dict[str, Any]:
    """Return bits per dimension by number of samples, with the standard error over frames."""
    model, generator = built.model, torch.Generator().manual_seed(seed)
    entries = math.prod(frames.shape[1:])
    weights = []
    for part in np.array_split(frames, max(1, len(frames) // 16)):
        with torch.no_grad():
            ctx, _ = model.observe(frames_batch(built, part), generator)
        weights.append(log_weights(built, ctx, max(draws), generator))
    found = bits_by_draws(torch.cat(weights).double(), entries, draws)
    return {str(k): {"mean": float(b.mean()), "se": float(b.std() / len(b) ** 0.5)} for k, b in found.items()}


def build(registry: Registry, name: str, spaces: tuple[Any, Any], args: argparse.Namespace) -> tuple[Composed, Any]:
    """Return an untrained model with a decoder and the shared kind of encoder, and the settings of its training."""
    flags: dict[str, Any] = {
        "env": {"id": "CarRacing"},
        "encoder": {"name": "vae", "latent": "gaussian", "latent_dim": 32, "width": 16},
        "decoder": {"name": name},
        "agent": {"name": "random"},
        "train": {"schedule": "staged", "learning_rate": args.rate},
        "model": {"free_nats": 0.0, "frames_per_update": 0},
    }
    if name == "vae":
        flags["decoder"].update(likelihood="learned", width=16)
    config = resolve(registry, presets=["laptop"], flags=flags)
    return compose(config, registry, *spaces, Streams(args.seed), torch.device("cpu")), config.core.train


def measure(
    registry: Registry, name: str, spaces: tuple[Any, Any], train: np.ndarray, test: np.ndarray, args: Any
) -> dict[str, Any]:
    """Train one decoder, and evaluate it on the test frames."""
    built, settings = build(registry, name, spaces, args)
    decoder: Any = built.model.decoder
    row: dict[str, Any] = {"decoder": name, "parameters": sum(p.numel() for p in decoder.parameters())}
    if decoder.likelihood == "undefined":
        return {**row, "bits_per_dim": None, "undefined": WHY[decoder.score_kind]}
    streams = Streams(args.seed)
    generators = Generators(streams.torch("model"), streams.torch("agent"))
    trainer, rng = Trainer(built.model, built.agent, settings, generators), np.random.default_rng(args.seed)
    begin = time.process_time()
    flat = train.reshape(-1, *train.shape[2:])
    for update in range(args.updates):
        for optimizer in trainer.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = args.rate * 0.5 * (1 + math.cos(math.pi * update / args.updates))
        trainer.update(frames_batch(built, flat[rng.integers(len(flat), size=args.batch)]), REPRESENTATION)
        if update % 200 == 0:
            print(f"{name} {update} {time.process_time() - begin:.0f} s", file=sys.stderr, flush=True)
    seconds = time.process_time() - begin
    built.model.eval()
    test = test.reshape(-1, *test.shape[2:])[:: max(1, test[..., 0, 0, 0].size // args.test)]
    return {
        **row,
        "bits_per_dim": evaluate(built, test, (1, 16, 64), seed=1),
        "mass": decoder.likelihood,
        "test_frames": len(test),
        "train_cpu_seconds": round(seconds, 1),
    }


@torch.no_grad()
def time_samples(models: dict[str, Composed]) -> dict[str, float]:
    """Return the processor seconds of one sampled frame, by decoder: the median over rounds, in which all take turns."""
    found: dict[str, list[float]] = {name: [] for name in models}
    for round_number in range(ROUNDS + 1):
        for name, built in models.items():
            features = torch.zeros(SAMPLED, built.specs.feature_dim)
            begin = time.process_time()
            built.model.decoder.decode(features)["image"].sample(torch.Generator().manual_seed(round_number))
            if round_number:  # the first warms up
                found[name].append((time.process_time() - begin) / SAMPLED)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decoder", action="append", help="registered names (default: all)")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--test", type=int, default=200, help="number of held-out frames to evaluate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    registry = load_registry()
    frames, *spaces = collect(registry, args.size, args.episodes, 100, args.seed)
    held = max(1, args.episodes // 8)
    about = {
        "frames": {
            "env": "CarRacing-v3",
            "size": args.size,
            "train": int(frames[held:, :, 0, 0, 0].size),
            "held_out_episodes": held,
            "sha256": hashlib.sha256(frames.tobytes()).hexdigest(),
        },
        "arguments": {key: value for key, value in vars(args).items() if key not in ("decoder", "out")},
    }
    rows = begun(args.out, about)
    for name in args.decoder or [registration.name for registration in registry.registrations("decoder")]:
        if name not in rows:
            row = measure(registry, name, (spaces[0], spaces[1]), frames[held:], frames[:held], args)
            rows[name] = {**row, **commit()}
            write_json(args.out, {**header("bits_per_dim.py", "gymnasium"), **about, "rows": list(rows.values())})
    dense = [name for name, row in rows.items() if row["bits_per_dim"] is not None]
    seconds = time_samples({name: build(registry, name, (spaces[0], spaces[1]), args)[0] for name in dense})
    ordered = [{**row, "seconds_per_frame": seconds.get(name)} for name, row in sorted(rows.items())]
    write_json(args.out, {**header("bits_per_dim.py", "gymnasium"), **about, "rows": ordered})


def begun(path: Path, about: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the finished rows of a result by decoder. Raises: SystemExit if it has other frames or arguments."""
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    if {key: found.get(key) for key in about} != about:
        sys.exit(f"{path} has other frames or arguments: give another --out")
    return {row["decoder"]: row for row in found["rows"]}


if __name__ == "__main__":
    main()
