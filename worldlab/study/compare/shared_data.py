"""Shared data: one recording per environment, from which every model learns.

Results then differ because of the models, not because their agents collected different data.
"""

from __future__ import annotations

from dataclasses import replace

from worldlab.config.resolve import RunConfig
from worldlab.registry import Registry
from worldlab.study.compare.configs import with_settings
from worldlab.study.compare.identity import env_source, fingerprint
from worldlab.study.compare.plan import Cell, Plan
from worldlab.study.results import Method

METHOD = Method("shared-data", "shared data", "baseline")
"""The method of the recording cells. It is not one of the compared methods."""
KIND = "data"


def recording_cells(plan: Plan, registry: Registry) -> list[Cell]:
    """Return the recording cells, one per environment: the first model and seed, evaluated on one episode."""
    first, seed = plan.methods[0], plan.matrix.seeds[0]
    return [
        _recording_cell(cell, plan.matrix.shared_data, registry)
        for cell in plan.cells
        if (cell.method, cell.seed) == (first, seed)
    ]


def _recording_cell(cell: Cell, source: str, registry: Registry) -> Cell:
    config = with_settings(cell.config, eval={"every": 0, "final_episodes": 1, "dream_horizon": 0})
    if source == "random":
        config = _random_play(config)
    digest = fingerprint(KIND, config, env_source(cell.env, registry), registry)
    return replace(cell, method=METHOD, kind=KIND, config=config, hash=digest)


def _random_play(config: RunConfig) -> RunConfig:
    """Make all steps but the last one prefill: uniform actions, held for up to train.prefill_hold decisions."""
    settings = {"prefill": config.core.steps - 1, "pretrain": 0, "pretrain_agent": 0}
    return with_settings(config, train=settings)


def data_source_text(plan: Plan) -> str:
    """Return a description of the source of shared data; "" if every model collects its own data."""
    sources = {"": "", "random": "uniform actions", "replay": f"{plan.methods[0].label} during training"}
    source = sources[plan.matrix.shared_data]
    return source and f"{source}, seed {plan.matrix.seeds[0]}"
