"""benchmarks/workers/unsafe_train.py replaces functions of the core by name: all of these names are there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def test_everything_that_is_left_out_is_there(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks" / "workers"))
    import unsafe_train

    replaced = []
    monkeypatch.setattr(unsafe_train, "setattr", lambda owner, name, value: replaced.append(name), raising=False)
    unsafe_train.leave_out()
    assert {"save", "save_by_time", "Limit", "actions"} <= set(replaced)
    with pytest.raises(AssertionError, match="has no gone"):
        unsafe_train.exchange(sys, "gone", None)
