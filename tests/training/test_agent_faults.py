"""An agent whose actions are not finite while a run collects: before any update it is the plugin, later the learning."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from worldlab.errors import DivergedError, PluginError
from worldlab.training.clock import Clock
from worldlab.training.loop import Loop


def looping(updates: int) -> Any:
    def begin(random, prefill):
        raise DivergedError("the agent chose an action that is not a finite number", cause="nan", fix="lower a rate")

    loop = Loop.__new__(Loop)
    loop.clock = Clock(0.0)
    counters = SimpleNamespace(updates=updates, pretrained=True)
    config = SimpleNamespace(agent=SimpleNamespace(name="mine"))
    streams = SimpleNamespace(numpy=lambda name: None)
    session: Any = SimpleNamespace(
        counters=counters, config=config, streams=streams, collector=SimpleNamespace(begin=begin)
    )
    loop.session = session
    return loop


def test_no_learning_rate_is_blamed_before_any_update():
    with pytest.raises(PluginError) as caught:
        looping(0)._begin_step()
    assert caught.value.message == "agent 'mine' chose an action that is not finite before any update"
    assert "rate" not in str(caught.value.fix)
    with pytest.raises(DivergedError, match="not a finite number"):
        looping(1)._begin_step()
