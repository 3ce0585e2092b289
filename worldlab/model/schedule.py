"""What learns when: everything at once, or representation, then dynamics, then agent (the World Models recipe)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from worldlab.settings import TrainSettings


@dataclass(frozen=True)
class Stage:
    """Who learns in an update. parts: roles of the world model; the probe goes with the decoder.

    heads: the reward and continue heads. standard_prior: the latent is tied to N(0, I) (or uniform codes) instead of
    to a dynamics that has not learned yet.
    """

    name: str
    parts: frozenset[str]
    heads: bool = True
    agent: bool = True
    standard_prior: bool = False

    @property
    def model(self) -> bool:
        """Whether anything of the world model learns."""
        return bool(self.parts) or self.heads


JOINT = Stage("joint", frozenset({"encoder", "dynamics", "decoder"}))
MODEL = replace(JOINT, name="model", agent=False)
REPRESENTATION = Stage(
    "representation", frozenset({"encoder", "decoder"}), heads=False, agent=False, standard_prior=True
)
DYNAMICS = Stage("dynamics", frozenset({"dynamics"}), agent=False)
AGENT = Stage("agent", frozenset(), heads=False)


def stage_at(settings: TrainSettings, updates: int) -> Stage:
    """The stage of the update that follows `updates` earlier ones.

    joint: the model alone during `pretrain`, then everything. staged: half of `pretrain` for encoder and decoder, half
    for dynamics and heads, then the agent in a world that no longer changes. Ha & Schmidhuber 2018, arXiv:1803.10122.
    What `freeze` names learns in none of them; all else learns as it would.
    """
    stage = _scheduled_stage(settings, updates)
    return replace(stage, parts=stage.parts - set(settings.freeze)) if settings.freeze else stage


def _scheduled_stage(settings: TrainSettings, updates: int) -> Stage:
    if updates >= settings.pretrain:
        return AGENT if settings.schedule == "staged" else JOINT
    if settings.schedule == "joint":
        return MODEL
    return REPRESENTATION if updates < settings.pretrain // 2 else DYNAMICS
