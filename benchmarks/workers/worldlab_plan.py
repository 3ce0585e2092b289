"""Serve one decision of a planner, "decide": encode an observation, filter, and search.

PYTHONPATH=.:plugins:agents:envs python benchmarks/workers/worldlab_plan.py vector --agent mppi --candidates 512
"""

from __future__ import annotations

import numpy as np
import torch
from serve import serve, trained
from worldlab_setup import KINDS, build, options

from worldlab.experience.acting import ActingAgent


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--agent", default="mppi")
    parser.add_argument("--candidates", type=int, default=512)
    args = parser.parse_args()
    search = {"name": args.agent, "candidates": args.candidates, "elites": min(64, args.candidates // 2)}
    KINDS[args.kind].settings["agent"] = search
    composed = build(args).composed
    kind = KINDS[args.kind]
    agent = ActingAgent(composed.model, composed.agent, kind.action, torch.Generator().manual_seed(0))
    obs = {"vector": np.random.default_rng(0).standard_normal((1, *kind.obs.shape), np.float32)}
    state = None

    def decide() -> None:
        nonlocal state
        _, state = agent.choose(obs, state, np.zeros(1, bool), explore=False)

    serve({"decide": decide}, {"parameters": {"model": trained(composed.model)}})


if __name__ == "__main__":
    main()
