"""Bad updates whose flags arrive later, as those of a GPU do: nothing waits for them but a host that is too far ahead."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from worldlab.errors import DivergedError
from worldlab.training import finite
from worldlab.training.finite import IN_FLIGHT, BadUpdates, Finite


class Event:
    """An event that is over when the test says so. waited: whether the host waited for it."""

    def __init__(self) -> None:
        self.over = self.waited = False

    def query(self) -> bool:
        return self.over

    def synchronize(self) -> None:
        self.waited, self.over = not self.over, True


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    sent: list[Event] = []

    def send(flags: torch.Tensor) -> Any:
        sent.append(Event())
        return flags, sent[-1]

    monkeypatch.setattr(finite, "_send_to_host", send)
    return sent


def step(good: bool) -> list[Finite]:
    loss = torch.tensor(1.0 if good else torch.nan)
    return [Finite.of(["model/main"], torch.tensor(1.0), loss, {"dyn": torch.tensor(1.0), "rep": loss})]


def test_flags_are_examined_in_order_when_they_have_arrived(events, caplog):
    bad = BadUpdates(10)
    bad.finish(1, step(False))
    bad.finish(2, step(True))
    assert bad.skips == 0 and caplog.messages == []
    events[1].over = True
    bad.finish(3, step(True))
    assert caplog.messages == ["update 1: loss 'rep' is not finite; its gradient is finite and is used"]
    assert [event.waited for event in events] == [True, False, False]  # the host was three ahead of the first one
    bad.finish(4, step(True))
    bad.wait()
    assert bad.skips == 0 and [event.waited for event in events] == [True, False, True, True]


def test_the_host_is_at_most_two_updates_ahead_and_a_run_ends_that_late(events):
    bad = BadUpdates(3)
    for update in range(1, 3 + IN_FLIGHT):
        bad.finish(update, step(False))
    assert bad.skips == 2
    with pytest.raises(DivergedError, match="'rep' is not finite at update 3; 3 updates in a row"):
        bad.finish(3 + IN_FLIGHT, step(False))


def test_a_wait_ends_a_run_at_once(events):
    bad = BadUpdates(2)
    bad.finish(1, step(False))
    bad.finish(2, step(False))
    with pytest.raises(DivergedError, match="at update 2; 2 updates in a row"):
        bad.wait()
