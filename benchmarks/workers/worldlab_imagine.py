"""Serve imagined rollouts of worldlab: "prior-N" for N rows of the dynamics alone, "heads-N" with reward and continue.

PYTHONPATH=.:plugins:agents:envs python benchmarks/workers/worldlab_imagine.py vector --set dynamics.name=flow
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from serve import serve, trained
from worldlab_setup import build, options

from worldlab import rollout
from worldlab.training.machine import large_products
from worldlab.world_model import WorldModel


def calls(model: WorldModel, batches: list[int], horizon: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield each call by name. The actions are a fixed plan, and no gradient is kept."""
    generator = torch.Generator().manual_seed(0)
    for n in batches:
        # As agents dream: dynamics with a cache share it.
        carry, plan = model.fork(model.initial(n), 1), torch.rand(n, horizon, model.specs.action.dim) * 2 - 1

        def prior(carry: rollout.Carry = carry, plan: torch.Tensor = plan) -> object:
            return rollout.imagine(model.dynamics, carry, plan, horizon, generator)

        def heads(carry: rollout.Carry = carry, plan: torch.Tensor = plan) -> object:
            return model.imagine(carry, plan, horizon, generator)

        yield f"prior-{n}", wrap(model, n, prior)
        yield f"heads-{n}", wrap(model, n, heads)


def wrap(model: WorldModel, rows: int, call: Callable[[], object]) -> Callable[[], object]:
    """Return the call without gradients, its products computed as `Trainer.large_products` does in an update."""

    @torch.no_grad()
    def wrapped() -> object:
        with large_products(rows * 4 * model.specs.memory_dim**2):
            return call()

    return wrapped


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64, 1024, 4096])
    parser.add_argument("--horizon", type=int, default=15)
    args = parser.parse_args()
    subject = build(args)
    model = subject.composed.model
    serve(dict(calls(model, args.batches, args.horizon)), {"parameters": {"dynamics": trained(model.dynamics)}})


if __name__ == "__main__":
    main()
