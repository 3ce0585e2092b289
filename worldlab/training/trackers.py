"""Makes the trackers of a run (`log.track`) and starts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from worldlab.config.schema import NONE
from worldlab.errors import PluginError, one_line
from worldlab.registry import Registry
from worldlab.runs.folder import RunFolder
from worldlab.runs.tracking import TrackedRun, Tracker, TrackerThread
from worldlab.training.session import Session


def make_trackers(names: Sequence[str], registry: Registry) -> dict[str, Tracker]:
    """Return the trackers of these names; "none" stands for no tracker.

    Raises: PluginError if one is not installed, needs a package that is missing, or is no tracker.
    """
    return {name: _make(name, registry) for name in dict.fromkeys(names) if name != NONE}


def _make(name: str, registry: Registry) -> Tracker:
    entry = registry.get("tracker", name)
    loaded = entry.load()
    try:
        tracker = loaded()
    except PluginError:
        raise
    except Exception as error:
        raise PluginError(
            one_line(f"{entry.who} cannot be built: {type(error).__name__}: {error}"),
            cause="a tracker is a class without arguments",
            fix="--track none   trains without it",
        ) from error
    if not isinstance(tracker, Tracker):
        raise PluginError(
            one_line(f"{entry.who} is no tracker"),
            cause=f"{type(tracker).__name__} lacks start, scalars, pictures, flush or close",
            fix="give it the methods of worldlab.runs.tracking.Tracker",
        )
    return tracker


def start_trackers(
    trackers: Mapping[str, Tracker], folder: RunFolder, session: Session, *, resumed: bool
) -> list[TrackerThread]:
    """Start trackers for a session. resumed: whether an earlier session has written metrics."""
    run = TrackedRun(
        path=folder.path.absolute(),
        name=folder.name,
        id=str(folder.read_run_json().get("run_id", folder.name)),
        env=session.env_id,
        settings=_flatten(session.config.to_mapping()),
        step=session.counters.env_steps,
        resumed=resumed,
    )
    return [TrackerThread(name, tracker, run) for name, tracker in trackers.items()]


def _flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, dict):
            out.update(_flatten(value, f"{prefix}{key}."))
        else:
            out[prefix + key] = value if isinstance(value, int | float | str) else str(value)
    return out
