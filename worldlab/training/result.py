"""Builds the content of result.json from a session at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from worldlab.evaluation.episodes import Evaluation
from worldlab.evaluation.held_out import HeldOutEvaluation
from worldlab.runs.best import list_best
from worldlab.runs.folder import RunFolder
from worldlab.training.session import Session


def result_of(
    session: Session,
    folder: RunFolder,
    seconds: float,
    final: Evaluation | HeldOutEvaluation,
    held_out: HeldOutEvaluation | None,
) -> dict[str, Any]:
    """Return the content of result.json.

    seconds: wall-clock time of all sessions of the run. final: the evaluation at its end. held_out: that of the model, for
    an offline run whose final evaluation plays in an environment.
    """
    return {
        "env": session.env_id,
        **_steps(session),
        "updates": session.counters.updates,
        "wall_seconds": round(seconds, 1),
        "alarms": sorted(session.health.raised),
        **final.summary(),
        **({} if held_out is None else {"held_out": held_out.summary()["held_out"]}),
        **_best(session, folder.checkpoints, folder.path),
    }


def _steps(session: Session) -> dict[str, int]:
    """Return the steps of the run; an offline run takes none in an environment."""
    steps = session.counters.env_steps
    return {"env_steps": 0, "offline_steps": steps} if session.core.offline else {"env_steps": steps}


def _best(session: Session, checkpoints: Path, run: Path) -> dict[str, Any]:
    """Return the entry about the best evaluation on the way; {} if there was none."""
    best = session.counters.best
    if best is None:
        return {}
    kept = list_best(checkpoints)
    return {"best": {**best, "checkpoint": str(kept[-1].relative_to(run)) if kept else None}}


__all__ = ["result_of"]
