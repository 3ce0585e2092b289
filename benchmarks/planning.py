"""Measure planning latency on fixed workloads, compared with planners of other packages on the same world model.

    python benchmarks/planning.py --out benchmarks/results/planning.json
    pip install torchrl stable-worldmodel        # the other packages; missing ones are listed and skipped

stable-worldmodel imports torchvision, whose build must match torch's (on a CPU build an empty module is enough).

Every planner uses the same world model (vae x 3, untrained: training does not change the cost of a step), the same
number of candidates, steps and iterations, from the same states. Blocks are interleaved, so that a slow period of the
machine affects all equally. It uses one thread by default (--threads).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from worldlab.config.resolve import resolve
from worldlab.experience.acting import ActingAgent
from worldlab.registry import Registry, load_registry
from worldlab.rollout import Carry
from worldlab.training.compose import Composed, compose
from worldlab.training.streams import Streams

OBS = spaces.Dict({"vector": spaces.Box(-np.inf, np.inf, (24,), np.float32)})
ACTION = spaces.Box(-1, 1, (6,), np.float32)
BLOCKS = 7

Decide = Callable[[], object]
"""One complete decision, the unit that is timed."""


@dataclass(frozen=True)
class Workload:
    """A search of candidates x horizon x iterations in a model of `memory` and `units`, for `envs` environments at
    once.
    """

    name: str
    agent: str
    candidates: int
    horizon: int
    iterations: int
    memory: int
    units: int
    envs: int = 1
    elites: int = 64
    calls: int = 15
    peers: tuple[str, ...] = ()


WORKLOADS = (
    Workload("b1: MPPI 512 x 3 x 6, model of TD-MPC2's cost", "mppi", 512, 3, 6, 512, 512),
    Workload("b2: MPPI 512 x 12 x 6, 1M model", "mppi", 512, 12, 6, 256, 128, peers=("torchrl-mppi",)),
    Workload("b2: CEM 512 x 12 x 6, 1M model", "cem", 512, 12, 6, 256, 128, peers=("torchrl", "stable-worldmodel")),
    Workload(
        "b4: CEM 300 x 5 x 30, 1M model", "cem", 300, 5, 30, 256, 128, 1, 30, 15, ("torchrl", "stable-worldmodel")
    ),
    Workload("b4: CEM 300 x 5 x 30, 16 envs", "cem", 300, 5, 30, 256, 128, 16, 30, 1, ("torchrl", "stable-worldmodel")),
)


def build(registry: Registry, work: Workload, agent: str, **options: Any) -> Composed:
    """Build the workload's world model with an agent."""
    flags: dict[str, Any] = {
        "env": {"id": "Pendulum"},
        "model": {"units": 128},
        "encoder": {"name": "vae", "latent_dim": 32, "units": 128},
        "dynamics": {"name": "vae", "memory": work.memory, "units": work.units},
        "decoder": {"name": "vae", "units": 128},
        "agent": {"name": agent, **options},
    }
    config = resolve(registry, presets=["laptop"], flags=flags)
    return compose(config, registry, OBS, ACTION, Streams(0), torch.device("cpu"))


def planner_options(work: Workload) -> dict[str, Any]:
    """Return the planner's settings for a workload."""
    keep = {"keep": 0.0} if work.agent == "cem" else {}
    return {
        "candidates": work.candidates,
        "horizon": work.horizon,
        "iterations": work.iterations,
        "elites": work.elites,
        **keep,
    }


def make_decider(composed: Composed, envs: int) -> Decide:
    """Return a function that makes one decision from an observation: encode, filter, plan."""
    agent = ActingAgent(composed.model, composed.agent, ACTION, torch.Generator().manual_seed(0))
    rng, held = np.random.default_rng(0), [None]

    def decide() -> object:
        obs = {"vector": rng.normal(size=(envs, 24)).astype(np.float32)}
        action, held[0] = agent.choose(obs, held[0], np.zeros(envs, bool), explore=False)
        return action

    return decide


# ---- other packages, on the same model ----


def make_peer(name: str, work: Workload, composed: Composed) -> Decide:
    """Return a function that makes one decision with another package's planner. Raises: ImportError if it is not
    installed.
    """
    carry = composed.model.initial(work.envs)
    if name == "stable-worldmodel":
        return _stable_worldmodel(work, composed, carry)
    return _torchrl(name, work, composed, carry)


def _stable_worldmodel(work: Workload, composed: Composed, carry: Any) -> Decide:
    from types import SimpleNamespace

    from stable_worldmodel.solver.cem import CEMSolver

    class Cost:
        """The interface of its solvers: costs [N, S] of candidates [N, S, H, A] from states [N, S, ...]."""

        def get_cost(self, info: dict[str, Tensor], candidates: Tensor) -> Tensor:
            n, count = candidates.shape[:2]
            start = Carry({"h": info["h"].flatten(0, 1)}, info["z"].flatten(0, 1))
            generator = torch.Generator().manual_seed(0)
            dream = composed.model.imagine(start, candidates.flatten(0, 1), work.horizon, generator)
            return -dream.reward.sum(1).unflatten(0, (n, count))

    solver = CEMSolver(
        Cost(),  # type: ignore[arg-type]
        batch_size=work.envs,
        num_samples=work.candidates,
        n_steps=work.iterations,
        topk=work.elites,
    )
    box = gymnasium.vector.utils.batch_space(ACTION, work.envs)
    plan = SimpleNamespace(horizon=work.horizon, action_block=1)
    solver.configure(action_space=box, n_envs=work.envs, config=plan)
    info = {"h": carry.state["h"], "z": carry.z}

    def decide() -> object:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its time
            return solver.solve(info)

    return decide


def _torchrl(name: str, work: Workload, composed: Composed, carry: Any) -> Decide:
    from tensordict import TensorDict
    from torchrl.data import Bounded, Composite, Unbounded
    from torchrl.envs.model_based import ModelBasedEnvBase
    from torchrl.modules import CEMPlanner, MPPIPlanner
    from torchrl.objectives.value import TDLambdaEstimator

    model, generator = composed.model, torch.Generator().manual_seed(0)
    memory, latent = carry.state["h"].shape[-1], carry.z.shape[-1]

    class DreamEnv(ModelBasedEnvBase):
        """Our world model as an environment of torchrl."""

        def __init__(self) -> None:
            super().__init__(world_model=model)
            self.observation_spec = Composite(h=Unbounded((memory,)), z=Unbounded((latent,)))
            self.action_spec = Bounded(-1, 1, (6,))
            self.reward_spec = Unbounded((1,))

        def _step(self, tensordict: Any) -> Any:
            shape = tensordict.batch_size
            flat = tensordict.reshape(-1)
            start = Carry({"h": flat["h"]}, flat["z"])
            after, _, reward, _ = model.step(start, flat["action"], generator)
            done = torch.zeros(len(reward), 1, dtype=torch.bool)
            out = {"h": after.state["h"], "z": after.z, "reward": reward[:, None]}
            return TensorDict({**out, "done": done, "terminated": done}, [len(reward)]).reshape(shape)

        def _reset(self, tensordict: Any, **_: Any) -> Any:
            return tensordict

    env = DreamEnv()
    if name == "torchrl":
        planner = CEMPlanner(env, work.horizon, work.iterations, work.candidates, work.elites)
    else:
        from tensordict.nn import TensorDictModule

        value = TensorDictModule(lambda z: z.new_zeros(*z.shape[:-1], 1), in_keys=["z"], out_keys=["state_value"])  # type: ignore[arg-type]
        advantage = TDLambdaEstimator(gamma=0.99, lmbda=0.95, value_network=value)
        planner = MPPIPlanner(env, advantage, 0.5, work.horizon, work.iterations, work.candidates, work.elites)
    start = TensorDict({"h": carry.state["h"], "z": carry.z}, [work.envs])
    start["done"] = torch.zeros(work.envs, 1, dtype=torch.bool)
    start["terminated"] = start["done"].clone()

    def decide() -> object:
        with torch.no_grad():
            return planner(start.clone())

    return decide


# ---- measuring ----


def time_decisions(decide: Decide, calls: int) -> list[float]:
    """Return the milliseconds of each of `calls` decisions."""
    out = []
    for _ in range(calls):
        begin = time.perf_counter()
        decide()
        out.append(1e3 * (time.perf_counter() - begin))
    return out


def percentiles(ms: list[float]) -> dict[str, Any]:
    """Return percentiles of the durations; a percentile is null if fewer than one decision lies beyond it."""
    out: dict[str, Any] = {"decisions": len(ms)}
    for q in (50, 95, 99):
        out[f"p{q}_ms"] = round(float(np.percentile(ms, q)), 2) if len(ms) * (100 - q) >= 100 else None
    return out


def ratio(ours: list[list[float]], theirs: list[list[float]]) -> dict[str, Any]:
    """Return the ratio of the other median to ours, by interleaved blocks, with a 95% bootstrap interval over blocks."""
    each = np.array([np.median(b) / np.median(a) for a, b in zip(ours, theirs, strict=True)])
    drawn = np.random.default_rng(0).choice(each, (10_000, len(each)))
    low, high = np.percentile(np.median(drawn, 1), [2.5, 97.5])
    return {"ratio": round(float(np.median(each)), 2), "interval_95": [round(float(low), 2), round(float(high), 2)]}


def measure(registry: Registry, work: Workload) -> dict[str, Any]:
    """Measure worldlab and the other packages on one workload."""
    composed = build(registry, work, work.agent, **planner_options(work))
    contenders: dict[str, Decide] = {"worldlab": make_decider(composed, work.envs)}
    missing = {}
    for name in work.peers:
        try:
            contenders[name] = make_peer(name, work, composed)
            contenders[name]()
        except ImportError as error:
            contenders.pop(name, None)
            missing[name] = f"not installed ({error})"
    with FlopCounterMode(display=False) as flops:
        contenders["worldlab"]()
    blocks: dict[str, list[list[float]]] = {name: [] for name in contenders}
    for _ in range(BLOCKS):
        for name, decide in contenders.items():
            blocks[name].append(time_decisions(decide, work.calls))
    ours = blocks["worldlab"]
    rows = {name: percentiles([ms for block in own for ms in block]) for name, own in blocks.items()}
    for name in rows:
        if name != "worldlab":
            rows[name]["slower_than_worldlab"] = ratio(ours, blocks[name])
    parameters = sum(p.numel() for p in composed.model.parameters())
    return {
        "workload": work.name,
        "parameters": parameters,
        "gflop": round(flops.get_total_flops() / 1e9, 2),
        "planners": rows,
        "left_out": missing,
    }


def measure_deadline(registry: Registry, milliseconds: float, calls: int) -> dict[str, Any]:
    """Return how often a decision meets its deadline, on the 1M model."""
    work = WORKLOADS[1]
    decide = make_decider(build(registry, work, "mppi", **planner_options(work), budget_ms=milliseconds), 1)
    time_decisions(decide, 20)
    ms = time_decisions(decide, calls)
    late = sum(value > milliseconds for value in ms)
    return {
        "budget_ms": milliseconds,
        **percentiles(ms),
        "in_time": round(1 - late / calls, 4),
        "worst_ms": round(max(ms), 2),
    }


def measure_actor(registry: Registry, calls: int) -> dict[str, Any]:
    """Time a decision of a learned actor (b5), including the filter."""
    work = WORKLOADS[1]
    decide = make_decider(build(registry, work, "dreamer"), 1)
    time_decisions(decide, 50)
    return percentiles(time_decisions(decide, calls))


def installed_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="only workloads whose name contains this text")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    registry = load_registry()
    packages = ("torch", "worldlab", "torchrl", "tensordict", "stable-worldmodel")
    result: dict[str, Any] = {
        "command": " ".join(["python benchmarks/planning.py", *sys.argv[1:]]),
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": len(os.sched_getaffinity(0))},
        "threads": args.threads,
        "versions": {name: installed_version(name) for name in packages if installed_version(name)},
        "workloads": [],
    }
    for work in (work for work in WORKLOADS if args.only in work.name):
        row = measure(registry, work)
        result["workloads"].append(row)
        print(json.dumps(row), flush=True)
    if not args.only:
        result["deadline"] = measure_deadline(registry, 20.0, 1000)
        result["actor"] = measure_actor(registry, 1000)
        print(json.dumps({key: result[key] for key in ("deadline", "actor")}))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
