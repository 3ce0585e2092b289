"""Checks the shape of a checkpoint's state.json. A hash shows that a file is as it was written, not that a run wrote it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from worldlab.errors import CheckpointError, one_line
from worldlab.runs.checkpoint import STATE, Checkpoint

Check = Callable[[Any], bool]


def read_state(checkpoint: Checkpoint, counters: Collection[str]) -> dict[str, Any]:
    """Return the state of a checkpoint. counters: the names that its counters may have.

    Entries that are not listed here are checked by those who read them.
    Raises: CheckpointError that names the first entry of a wrong kind.
    """
    state = checkpoint.state
    if not isinstance(state, dict):
        raise _misshapen(checkpoint, "it is no object")
    unknown = sorted(_table(state, "counters").keys() - set(counters))
    if unknown:
        raise _misshapen(checkpoint, f"counters.{one_line(unknown[0], 40)} is unknown")
    for group, entries in _SHAPE.items():
        table = state.get(group, {} if group in _OPTIONAL else None)
        if not isinstance(table, dict):
            raise _misshapen(checkpoint, f"{group} is no object")
        for name, (required, check) in entries.items():
            if name in table and not check(table[name]):
                raise _misshapen(checkpoint, f"{group}.{name} is {table[name]!r}")
            if required and name not in table:
                raise _misshapen(checkpoint, f"{group}.{name} is missing")
    _check_streams(checkpoint, state["replay"])
    for name, mean in state.get("means", {}).items():
        if not _is_mean(mean):
            raise _misshapen(checkpoint, f"means.{one_line(name, 40)} is {mean!r}")
    return state


def _check_streams(checkpoint: Checkpoint, position: Mapping[str, Any]) -> None:
    """Check that each stream of the replay begins before it ends."""
    totals = position["totals"]
    firsts = position.get("first", [0] * len(totals))
    if len(firsts) != len(totals) or any(first > total for first, total in zip(firsts, totals, strict=False)):
        raise _misshapen(checkpoint, f"replay.first is {firsts!r} and replay.totals is {totals!r}")


def _table(state: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = state.get(name)
    return found if isinstance(found, Mapping) else {}


def _misshapen(checkpoint: Checkpoint, reason: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint step-{checkpoint.step}: {STATE} has another shape than a run writes",
        cause=f"{checkpoint.path / STATE}: {reason}"[:300],
        fix="resume from another checkpoint, or restore this one from a backup",
    )


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_mean(value: Any) -> bool:
    """Return whether a value is what `Means.state` gives for one name."""
    if not isinstance(value, list) or len(value) != 3 or not isinstance(value[0], str) or not _count(value[2]):
        return False
    try:
        float.fromhex(value[0])
    except ValueError:
        return False
    return value[1] in ("float16", "bfloat16", "float32", "float64")


def _is_best(value: Any) -> bool:
    """Return whether a value is that of `Counters.best`."""
    entries = {"return": _number, "episodes": _count, "step": _count}
    return isinstance(value, dict) and value.keys() == entries.keys() and all(entries[k](v) for k, v in value.items())


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _table_of(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _instance(kind: type) -> Check:
    return lambda value: isinstance(value, kind)


_SHAPE: dict[str, dict[str, tuple[bool, Check]]] = {
    "counters": {
        "env_steps": (False, _count),
        "updates": (False, _count),
        "episodes": (False, _count),
        "credit": (False, _number),
        "pretrained": (False, _instance(bool)),
        "recent": (False, _list_of(_number)),
        "evaluation": (False, _or_none(_number)),
        "best": (False, _or_none(_is_best)),
        "seconds": (False, _number),
        "lines": (False, _or_none(_count)),
        "due": (False, _list_of(_instance(str))),
    },
    "collector": {"seed": (False, _list_of(_count)), "acting": (False, _instance(bool))},
    "means": {},
    "health": {"seen": (True, _table_of(_count)), "raised": (True, _list_of(_instance(str)))},
    "replay": {
        "kept": (True, _count),
        "totals": (True, _list_of(_count)),
        "first": (False, _list_of(_count)),
    },
    "random": {"numpy": (True, _table_of(_instance(dict)))},
    "optimizers": {},
    "trainer": {"updates": (True, _count), "skips": (True, _count)},
}
"""The entries of state.json: whether each is required, and the check of its value."""
_OPTIONAL = ("counters", "collector", "means")
"""Groups that a checkpoint may lack."""

__all__ = ["read_state"]
