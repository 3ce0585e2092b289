"""Measure and check what a GPU does for an update: float32, bfloat16, and bfloat16 recorded as one CUDA graph.

    python benchmarks/gpu.py --out benchmarks/results/gpu.json

On every machine it first checks on the CPU, for some mixes and agents, that an update from static buffers equals the plain
one bit for bit and reads no value on the host. The rest needs a card:

    equality    the first replay against an eager update from the same state: the largest difference of a metric
    host reads  of an eager update and of a replay, as torch.cuda.set_sync_debug_mode reports them: none are allowed
    replay      a batch gathered on the card against the same batch from the memory of the host: equal, and its time
    times       float32, bfloat16 and graph in turn, with the batch fixed and with one from the card for each update

Workloads: `vector` (24 numbers, 6 actions, 0.7 million parameters) and `pixels` (64 x 64 x 3, 6 actions, 12 million), both with
batches of 16 x 64 steps and 15 imagined steps from 1,024 states. The goals on an H100-class card are 9 and 12 ms an update.
The exit status is 1 if a check fails; a missed goal fails nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from interleave import estimate, header, say, write_json

from worldlab import tree
from worldlab.config.resolve import resolve
from worldlab.env.spaces import record_schema
from worldlab.experience.collect import to_batch
from worldlab.experience.replay import Replay
from worldlab.interfaces import Batch, parameter_count
from worldlab.model.noise import noise_batch, stream
from worldlab.model.schedule import JOINT
from worldlab.registry import load_registry
from worldlab.training.compose import compose
from worldlab.training.graph import EAGER, CudaRecorder, StaticUpdate
from worldlab.training.host_reads import watch_host_reads
from worldlab.training.streams import Streams
from worldlab.training.trainer import Generators, Trainer

REGISTRY = load_registry([])
CPU, CARD = torch.device("cpu"), torch.device("cuda")
STEPS = 20_000
"""Steps in the replay of a workload."""
MODES = ("float32", "bfloat16", "graph")
CHECKED = [
    ("vae", "dreamer"),
    ("vae", "tdmpc"),
    ("flow", "dreamer"),
    ("gan", "dreamer"),
    ("cpc", "tdmpc"),
    ("autoregressive", "tdmpc"),
]
"""The families and agents that are compared on the CPU."""
CODES = {"latent": "categorical", "groups": 32}
TRAIN = {"batch_size": 16, "batch_length": 64, "starts": 1024}
AGENT = {"name": "dreamer", "horizon": 15, "gradient": "reinforce"}
Settings = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """What is measured, and the milliseconds that an update is to take at most on an H100-class card."""

    obs: gymnasium.spaces.Box
    settings: Settings
    goal_ms: float


WORKLOADS = {
    "vector": Workload(
        gymnasium.spaces.Box(-np.inf, np.inf, (24,), np.float32),
        {
            "model": {"units": 96},
            "encoder": {"name": "vae", **CODES, "classes": 4, "layers": 3},
            "dynamics": {"name": "vae", "memory": 248},
            "decoder": {"name": "vae"},
        },
        9.0,
    ),
    "pixels": Workload(
        gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8),
        {
            "model": {"units": 256, "width": 24},
            "encoder": {"name": "vae", **CODES, "classes": 16},
            "dynamics": {"name": "vae", "memory": 896},
            "decoder": {"name": "vae"},
        },
        12.0,
    ),
}


def build(obs: gymnasium.spaces.Box, settings: Settings, device: torch.device) -> Trainer:
    """Compose a world model and an agent with the gpu preset, as a run with seed 0 does."""
    key = "image" if len(obs.shape) == 3 else "vector"
    config = resolve(REGISTRY, presets=["gpu"], flags=settings)
    streams, space = Streams(0), gymnasium.spaces.Dict({key: obs})
    composed = compose(config, REGISTRY, space, gymnasium.spaces.Box(-1, 1, (6,), np.float32), streams, device)
    generators = Generators(streams.torch("model", device), streams.torch("agent", device))
    return Trainer(composed.model, composed.agent, config.core.train, generators)


# ---- on every machine ----


def check_on_cpu() -> list[str]:
    """Compare plain and static updates of small mixes on the CPU. Returns what is wrong."""
    wrong: list[str] = []
    for family, agent in CHECKED:
        parts = {role: {"name": family} for role in ("encoder", "dynamics", "decoder")}
        train = {"batch_size": 3, "batch_length": 6, "starts": 8}
        settings = {"size": "nano", "agent": {"name": agent}, "train": train, **parts}
        space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
        plain, static = (build(space, settings, CPU) for _ in range(2))
        before = len(wrong)
        static.static = StaticUpdate(static, None)
        for seed in range(EAGER + 1):
            batch = noise_batch(plain.model.specs.obs, plain.model.specs.action, 3, 6, stream(seed))
            batch.is_first[0], batch.prev_action[0] = True, 0  # without a reset, gradients are added in another order
            expected = plain.update(batch)
            with watch_host_reads(CPU) as places:
                found = static.static.run(batch, JOINT).metrics
            if seed == EAGER and places:
                wrong.append(f"{family} with {agent} reads values on the host: {places[0]}")
            wrong += [
                f"{family} with {agent}: '{name}' differs at update {seed + 1}"
                for name, value in expected.items()
                if not torch.equal(value, found[name])
            ]
        say(f"  {family} with {agent}: {wrong[-1] if len(wrong) > before else 'equal, no host read'}")
    return wrong


# ---- with a card ----


@dataclass
class Subject:
    """A trainer in one mode."""

    mode: str
    trainer: Trainer

    @classmethod
    def of(cls, workload: Workload, mode: str, device: torch.device) -> Subject:
        """Build it. Every mode begins with the same weights and random streams."""
        trainer = build(workload.obs, {"train": TRAIN, "agent": AGENT, **workload.settings}, device)
        trainer.products = None if mode == "float32" else torch.bfloat16
        if mode == "graph":
            generators = (trainer.generators.model, trainer.generators.agent)
            trainer.static = StaticUpdate(trainer, CudaRecorder(device, generators))
        return cls(mode, trainer)

    @property
    def reason(self) -> str:
        """Why its updates are not recorded although they should be; "" otherwise."""
        static = self.trainer.static
        assert static is None or isinstance(static, StaticUpdate)
        return "" if static is None or static.recorded else static.reason or "it was not recorded yet"


def filled(workload: Workload, storage: Any, device: torch.device) -> tuple[Replay, Trainer]:
    """Return a replay of random steps, and a trainer for its shapes."""
    trainer = build(workload.obs, {"train": TRAIN, "agent": AGENT, **workload.settings}, device)
    key = "image" if len(workload.obs.shape) == 3 else "vector"
    schema = record_schema(gymnasium.spaces.Dict({key: workload.obs}), trainer.model.specs.action)
    replay, rng = Replay(schema, STEPS, 1, None, storage), np.random.default_rng(0)
    for step in range(STEPS):
        shape = workload.obs.shape
        obs = rng.integers(0, 256, shape, np.uint8) if key == "image" else rng.standard_normal(shape, np.float32)
        record = {key: obs, "prev_action": rng.uniform(-1, 1, 6).astype(np.float32), "is_first": step % 500 == 0}
        replay.append(0, record | {"reward": np.float32(rng.standard_normal()), "cont": np.float32(1)})
    return replay, trainer


def check_replay(workload: Workload, device: torch.device, result: Settings) -> list[str]:
    """Compare batches from the card with those from the host, and time both. Returns what is wrong."""
    (there, trainer), (here, _) = filled(workload, device, device), filled(workload, "ram", device)
    size = (TRAIN["batch_size"], TRAIN["batch_length"])
    first, second = (one.sample_on(device, *size, np.random.default_rng(1)) for one in (there, here))
    rng = np.random.default_rng(2)
    preprocess = trainer.model.preprocess
    for name, one in (("card", there), ("host", here)):
        result[f"batch_from_{name}_ms"] = round(
            1000 * timed(lambda one=one: to_batch(one.sample_on(device, *size, rng), preprocess, device), 50, device), 3
        )
    return [f"a batch from the card differs in '{key}'" for key in first if not torch.equal(first[key], second[key])]


def check_graph(subjects: dict[str, Subject], batch: Batch, result: Settings) -> list[str]:
    """Record the graph, compare its first replay with an eager update, and count host reads. Returns what is wrong."""
    device, wrong = batch.reward.device, []
    eager, graph = subjects["bfloat16"], subjects["graph"]
    begin = time.perf_counter()
    for _ in range(EAGER + 1):
        expected, found = eager.trainer.update(batch), graph.trainer.update(batch)
    torch.cuda.synchronize(device)
    result["recorded_after_s"] = round(time.perf_counter() - begin, 1)
    if graph.reason:
        wrong.append(f"the update is not recorded: {graph.reason}")
    far = {name: abs(float(found[name]) - float(x)) / max(1.0, abs(float(x))) for name, x in expected.items()}
    result["largest_difference"] = {name: far[name] for name in sorted(far, key=far.__getitem__)[-3:]}
    if max(far.values()) > 0.05:
        wrong.append(f"eager updates and the graph differ after {EAGER + 1} updates: {result['largest_difference']}")
    for subject in subjects.values():
        subject.trainer.update(batch)
        with watch_host_reads(device) as places:
            subject.trainer.update(batch)
        result[f"host_reads_{subject.mode}"] = len(places)
        wrong += [f"{subject.mode} waits for the card at {place}" for place in dict.fromkeys(places)]
    return wrong


def timed(call: Callable[[], Any], count: int, device: torch.device) -> float:
    """Return the seconds of one of `count` calls."""
    torch.cuda.synchronize(device)
    begin = time.perf_counter()
    for _ in range(count):
        call()
    torch.cuda.synchronize(device)
    return (time.perf_counter() - begin) / count


def measure(subjects: dict[str, Subject], batch: Batch, args: argparse.Namespace, goal: float) -> Settings:
    """Time the modes in turn. Returns their milliseconds, and the ratios of their times to that of float32."""
    device = batch.reward.device
    rounds: list[dict[str, float]] = []
    for _ in range(args.rounds):
        rounds.append(
            {
                mode: timed(lambda one=one: one.trainer.update(batch), args.updates, device)
                for mode, one in subjects.items()
            }
        )
    rows: Settings = {}
    for mode in subjects:
        ms = [1000 * one[mode] for one in rounds]
        ratio = estimate([one[mode] / one["float32"] for one in rounds])
        ms_range = [round(min(ms), 3), round(max(ms), 3)]
        rows[mode] = {"ms": round(statistics.median(ms), 3), "ms_range": ms_range, "ratio": ratio}
        say(f"  {mode:>9} {rows[mode]['ms']:>9} ms  {ratio['estimate']} {ratio['interval_95']} of float32")
    fastest = min(row["ms"] for row in rows.values())
    say(f"  goal on an H100-class card: {goal} ms; here {fastest} ms on {torch.cuda.get_device_name(device)}")
    return rows


def on_gpu(name: str, args: argparse.Namespace, result: Settings) -> list[str]:
    """Check and measure one workload. Returns what is wrong."""
    device, workload = CARD, WORKLOADS[name]
    say(f"{name}:")
    wrong = check_replay(workload, device, result)
    subjects = {mode: Subject.of(workload, mode, device) for mode in MODES}
    trainer = subjects["float32"].trainer
    result["parameters"] = parameter_count([trainer.model, trainer.agent])
    batch = noise_batch(trainer.model.specs.obs, trainer.model.specs.action, 16, 64, stream(0))
    batch = tree.tree_map(lambda leaf: leaf.to(device), batch)
    wrong += check_graph(subjects, batch, result)
    torch.cuda.reset_peak_memory_stats(device)
    result["modes"] = measure(subjects, batch, args, workload.goal_ms)
    result["goal_ms"] = workload.goal_ms
    result["memory_of_all_modes_gb"] = round(torch.cuda.max_memory_reserved(device) / 1e9, 2)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--updates", type=int, default=50, help="updates in a block")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    say("plain and static updates on the CPU:")
    wrong = check_on_cpu()
    result: Settings = {**header("gpu.py"), "cpu": wrong or "equal"}
    if torch.cuda.is_available():
        result["gpu"] = torch.cuda.get_device_name(0)
        result["workloads"] = {name: {} for name in args.workloads}
        for name in args.workloads:
            found = on_gpu(name, args, result["workloads"][name])
            result["workloads"][name]["wrong"] = found
            wrong += [f"{name}: {one}" for one in found]
            if args.out:
                write_json(args.out, result)
    else:
        say(
            "torch finds no GPU here. Equality, host reads, replay and times on a card need one: nothing else was measured."
        )
    if args.out:
        write_json(args.out, result)
    for one in wrong:
        say(f"wrong: {one}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
