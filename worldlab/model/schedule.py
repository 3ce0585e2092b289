"""Defines which parts learn in an update: all together, or in stages as in World Models."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from worldlab.settings import TrainSettings


@dataclass(frozen=True)
class Stage:
    """The parts that learn in an update."""

    name: str
    parts: frozenset[str]
    """Roles of the world model."""
    heads: bool = True
    """Whether the reward and continue heads learn."""
    probe: bool = True
    """Whether the probe learns, if there is one. It does wherever a decoder would, also if the decoder is frozen."""
    agent: bool = True
    standard_prior: bool = False
    """Whether to match the posterior to N(0, I) (or uniform codes) instead of the untrained dynamics."""
    updates: int = field(default=0, compare=False)
    """Number of earlier updates, for weights that change over a run."""

    @property
    def model(self) -> bool:
        """Whether any part of the world model learns."""
        return bool(self.parts) or self.heads


JOINT = Stage("joint", frozenset({"encoder", "dynamics", "decoder"}))
MODEL = replace(JOINT, name="model", agent=False)
REPRESENTATION = Stage(
    "representation", frozenset({"encoder", "decoder"}), heads=False, agent=False, standard_prior=True
)
DYNAMICS = Stage("dynamics", frozenset({"dynamics"}), probe=False, agent=False)
AGENT = Stage("agent", frozenset(), heads=False, probe=False)


def stage_at(settings: TrainSettings, updates: int) -> Stage:
    """Return the stage of the update after `updates` earlier ones.

    joint: the model alone during `pretrain`, then model and agent. staged: half of `pretrain` for encoder and decoder,
    half for dynamics and heads, then the agent in a fixed model. Ha & Schmidhuber 2018, arXiv:1803.10122. The parts in
    `freeze` never learn; they do not change the stages of the others.
    """
    stage = _scheduled_stage(settings, updates)
    return replace(stage, parts=stage.parts - set(settings.freeze), updates=updates)


def _scheduled_stage(settings: TrainSettings, updates: int) -> Stage:
    if updates >= settings.pretrain:
        return AGENT if settings.schedule == "staged" else JOINT
    if settings.schedule == "joint":
        return MODEL
    return REPRESENTATION if updates < settings.pretrain // 2 else DYNAMICS
