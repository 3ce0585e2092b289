"""Serve one training update of torchrl's DreamerV3 on a fixed random batch.

BENCHMARKS/.peers/torchrl/bin/python torchrl_update.py vector [--compile scan] [--matmul medium] [--threads 2]
"""

from __future__ import annotations

import argparse
import time

import torch
from serve import serve, trained
from torchrl_learner import COMPILE, VERSIONS, build, configure, sample

SHAPES = {"vector": (16, 64), "pixels": (8, 32)}
"""B and T of each workload; the actor imagines from every one of the B * T states."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=list(SHAPES))
    parser.add_argument("--compile", choices=list(COMPILE), default="off")
    parser.add_argument("--matmul", default="highest")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    begin = time.perf_counter()
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision(args.matmul)
    torch.manual_seed(0)
    config = configure(*SHAPES[args.kind], horizon=15, compile=args.compile)
    learner, stepper = build(args.kind, config)
    batch = sample(args.kind, config)
    if args.compile != "off":
        stepper.warmup(batch.clone())

    def update() -> None:
        stepper.step(None, batch.clone())

    update()
    model = trained(learner.world_model)
    total = sum(p.numel() for group in learner.optimizer.param_groups for p in group["params"])
    parameters = {"model": model, "agent": total - model, "total": total}
    serve({"update": update}, {"parameters": parameters, "start_s": time.perf_counter() - begin, **VERSIONS})


if __name__ == "__main__":
    main()
