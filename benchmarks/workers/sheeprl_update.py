"""Serve one training update of sheeprl's DreamerV3 (`dreamer_v3_5`, its 1M configuration) on a fixed random batch.

BENCHMARKS/.peers/sheeprl/bin/python sheeprl_update.py vector [--compile] [--precision bf16-mixed] [--threads 2]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import gymnasium
import numpy as np
import torch
from serve import serve, trained

SHAPES = {"vector": (16, 64), "pixels": (8, 32)}
"""B and T of each workload; the actor imagines from every one of the B * T states."""
VECTOR, ACTION, PIXELS = 24, 6, (3, 64, 64)
KEYS = {
    "vector": ["algo.cnn_keys.encoder=[]", "algo.mlp_keys.encoder=[state]"],
    "pixels": ["algo.cnn_keys.encoder=[rgb]", "algo.mlp_keys.encoder=[]"],
}


def configure(kind: str, compiled: bool, precision: str) -> Any:
    """Return sheeprl's configuration of the run."""
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf
    from sheeprl.utils.utils import dotdict

    batch, length = SHAPES[kind]
    overrides = [
        "exp=dreamer_v3_5",
        "algo=dreamer_v3_5_1M",
        "env=dummy",
        "env.num_envs=1",
        f"algo.per_rank_batch_size={batch}",
        f"algo.per_rank_sequence_length={length}",
        "algo.replay_context=0",
        f"algo.compile.enabled={compiled}",
        "algo.compile.mode=default",
        "fabric.accelerator=cpu",
        *KEYS[kind],
    ]
    with initialize_config_module("sheeprl.configs", version_base="1.3"):
        raw = compose("config", overrides=overrides, return_hydra_config=False)
    OmegaConf.set_struct(raw, False)
    raw.pop("hydra", None)
    algo = OmegaConf.to_container(raw.algo, resolve=True)
    return dotdict({"algo": algo, "env": {"num_envs": 1}, "fabric": {"precision": precision}})


def sample(kind: str) -> dict[str, torch.Tensor]:
    """Return a batch of random experience, [T, B, ...]."""
    b, t = SHAPES[kind]
    pixels = {"rgb": torch.randint(0, 256, (t, b, *PIXELS), dtype=torch.uint8)}
    obs = {"state": torch.randn(t, b, VECTOR)} if kind == "vector" else pixels
    ends = {name: torch.zeros(t, b, 1) for name in ("terminated", "truncated", "is_first")}
    return {**obs, "actions": torch.rand(t, b, ACTION) * 2 - 1, "rewards": torch.randn(t, b, 1), **ends}


def build(kind: str, compiled: bool, precision: str) -> tuple[Callable[[], None], dict[str, int]]:
    """Return the update and the numbers of parameters."""
    import hydra
    from lightning.fabric import Fabric
    from sheeprl.algos.dreamer_v3_5.agent import build_agent
    from sheeprl.algos.dreamer_v3_5.dreamer_v3_5 import train, update_target_critic
    from sheeprl.algos.dreamer_v3_5.utils import Moments

    config = configure(kind, compiled, precision)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    fabric.launch()
    vector = {"state": gymnasium.spaces.Box(-np.inf, np.inf, (VECTOR,), np.float32)}
    pixels = {"rgb": gymnasium.spaces.Box(0, 255, PIXELS, np.uint8)}
    space = gymnasium.spaces.Dict(vector if kind == "vector" else pixels)
    model, actor, critic, target, _ = build_agent(fabric, (ACTION,), True, config, space)
    learned = [*model.parameters(), *actor.parameters(), *critic.parameters()]
    made = hydra.utils.instantiate(config.algo.optimizer, params=learned, _convert_="all")
    optimizer = fabric.setup_optimizers(made)
    moment = config.algo.actor.moments
    moments = Moments(moment["decay"], moment["max"], moment["percentile"]["low"], moment["percentile"]["high"])
    data = sample(kind)

    def update() -> None:
        train(fabric, config, model, actor, critic, target, optimizer, moments, data, None, (ACTION,))
        update_target_critic(critic, target, config.algo.critic.tau)

    counts = {"model": trained(model), "agent": trained(actor, critic), "total": trained(model, actor, critic)}
    return update, counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=list(SHAPES))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--matmul", default="highest")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    begin = time.perf_counter()
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision(args.matmul)
    torch.manual_seed(0)
    update, parameters = build(args.kind, args.compile, args.precision)
    update()
    facts = {"parameters": parameters, "start_s": time.perf_counter() - begin, "sheeprl": version("sheeprl")}
    serve({"update": update}, facts)


if __name__ == "__main__":
    main()
