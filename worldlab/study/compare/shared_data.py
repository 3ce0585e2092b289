"""One recording an environment, from which every model learns: what differs then is what they make of it, not what they saw."""

from __future__ import annotations

from dataclasses import replace

from worldlab.config.resolve import RunConfig
from worldlab.registry import Registry
from worldlab.study.compare.configs import changed
from worldlab.study.compare.identity import env_source, fingerprint
from worldlab.study.compare.plan import Cell, Plan
from worldlab.study.results import Method

METHOD = Method("shared-data", "shared data", "baseline")
"""What the cells that record are called. It is not among the methods that are compared."""
KIND = "data"


def recorders(plan: Plan, registry: Registry) -> list[Cell]:
    """The cells that record, one an environment: the first model's, of the first seed, judged by one episode only."""
    first, seed = plan.methods[0], plan.matrix.seeds[0]
    return [
        _recorder(cell, plan.matrix.shared_data, registry)
        for cell in plan.cells
        if (cell.method, cell.seed) == (first, seed)
    ]


def _recorder(cell: Cell, player: str, registry: Registry) -> Cell:
    config = changed(cell.config, eval={"every": 0, "final_episodes": 1, "dream_horizon": 0})
    if player == "random":
        config = _at_random(config)
    digest = fingerprint(KIND, config, env_source(cell.env, registry), registry)
    return replace(cell, method=METHOD, kind=KIND, config=config, hash=digest)


def _at_random(config: RunConfig) -> RunConfig:
    """All of it but the last decision is prefill: uniform actions, held as the prefill's are."""
    nothing = {"prefill": config.core.steps - 1, "pretrain": 0, "pretrain_agent": 0}
    return changed(config, train=nothing)


def told(plan: Plan) -> str:
    """Who played, for people; "" where every model plays for itself."""
    who = {"": "", "random": "uniform actions", "replay": f"{plan.methods[0].label}, as it learned"}
    return who[plan.matrix.shared_data] and f"{who[plan.matrix.shared_data]}, seed {plan.matrix.seeds[0]}"
