"""Serve imagined rollouts of torchrl's RSSM: "prior-N" for N rows of the prior alone, "heads-N" with the reward.

"heads-N" is the rollout of its model-based environment, which its planners and losses call. That has no continue head.

BENCHMARKS/.peers/torchrl/bin/python torchrl_imagine.py [--batches 1 64 1024 4096] [--horizon 15] [--threads 2]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import torch
from serve import serve, trained
from tensordict import TensorDict
from torchrl_learner import ACTION, VERSIONS, build, configure


def calls(learner: Any, config: Any, batches: list[int], horizon: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield each call by name. The actions are a fixed plan, and no gradient is kept."""
    networks, env = config.networks, learner.actor_loss.model_based_env
    prior_net = prior_of(learner)
    for n in batches:
        z = torch.zeros(n, networks.num_categoricals * networks.num_classes)
        h, plan = torch.zeros(n, networks.rnn_hidden_dim), torch.rand(n, horizon, ACTION) * 2 - 1
        start = TensorDict({"state": z, "belief": h, "action": plan[:, 0]}, [n])

        def prior(z: Any = z, h: Any = h, plan: Any = plan) -> object:
            for k in range(horizon):
                _, z, h = prior_net(z, h, plan[:, k])
            return z

        def heads(start: Any = start, plan: Any = plan) -> object:
            def policy(tensordict: Any) -> Any:
                return tensordict.set("action", plan[:, 0])

            return env.rollout(
                horizon, policy=policy, tensordict=start.clone(), auto_reset=False, break_when_any_done=False
            )

        yield f"prior-{n}", torch.no_grad()(prior)
        yield f"heads-{n}", torch.no_grad()(heads)


def prior_of(learner: Any) -> torch.nn.Module:
    """Return the network of the prior."""
    return learner.world_model[1].rssm_prior.module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64, 1024, 4096])
    parser.add_argument("--horizon", type=int, default=15)
    parser.add_argument("--matmul", default="highest")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision(args.matmul)
    torch.manual_seed(0)
    config = configure(16, 64, args.horizon, "off")
    learner, _ = build("vector", config)
    facts = {"parameters": {"dynamics": trained(prior_of(learner))}, **VERSIONS}
    serve(dict(calls(learner, config, args.batches, args.horizon)), facts)


if __name__ == "__main__":
    main()
