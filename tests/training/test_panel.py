"""worldlab.training.panel: what is shown, how seldom, and that no terminal can break a run."""

from __future__ import annotations

import io
import time

import pytest

from worldlab.training import panel
from worldlab.training.panel import Progress, plain_text


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock the test sets; panel reads it through time.monotonic."""
    now = [100.0]
    monkeypatch.setattr(panel.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_say_step_speed_eta_and_values(clock):
    stream = io.StringIO()
    with Progress("CartPole", 1000, stream=stream) as progress:
        for step in range(0, 501, 5):
            progress.update(step, updates=step // 2, phase="train", values={"return": 12.3456})
            clock[0] += 0.25
    first, *lines = stream.getvalue().splitlines()
    assert first == "CartPole" and len(lines) == 3  # at 10 s, at 20 s, at the end
    assert lines[0].startswith("step 200/1,000 (20%)  train  env steps/s 20  updates/s 10  memory ")
    assert "elapsed 0:10" in lines[0] and "return 12.35" in lines[0] and lines[0].endswith("eta 0:40")


def test_a_resumed_run_counts_speed_from_where_it_started(clock):
    stream = io.StringIO()
    with Progress("x", 20_000, start=12_000, stream=stream) as progress:
        progress.update(12_000)
        clock[0] += 10
        progress.update(12_100)
    assert "env steps/s 10 " in stream.getvalue() and "eta 13:10" in stream.getvalue()


def test_speed_is_that_of_the_last_seconds(clock):
    stream = io.StringIO()
    with Progress("x", 10**6, stream=stream) as progress:
        step = 0
        for speed in [100] * 10 + [10] * 10:
            progress.update(step)
            clock[0] += 10
            step += speed * 10
        progress.update(step)
    assert "env steps/s 10 " in stream.getvalue().splitlines()[-1]


def test_live_panel_draws_at_most_four_times_a_second(clock, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream, drawn = Terminal(), []
    progress = Progress("CarRacing", 100, stream=stream)
    real = progress._draw
    monkeypatch.setattr(progress, "_draw", lambda: (drawn.append(clock[0]), real()))
    with progress:
        for step in range(101):
            progress.update(step, updates=step, phase="train", values={"eval return": -3.5})
            clock[0] += 1 / 16
        progress.note("checkpoint saved")
    assert len(drawn) == 100 // 4 + 1 + 1  # every 4th update, the first, and the last state at the end
    for text in ("CarRacing · train", "100 / 100 steps", "eval return", "-3.5", "checkpoint saved", "20"):
        assert text in stream.getvalue()


def test_no_color_is_respected(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    outputs = {}
    for no_color in (False, True):
        if no_color:
            monkeypatch.setenv("NO_COLOR", "1")
        else:
            monkeypatch.delenv("NO_COLOR", raising=False)
        stream = Terminal()
        with Progress("x", 10, stream=stream) as progress:
            progress.update(5)
        outputs[no_color] = stream.getvalue()
    assert "\x1b[36m" in outputs[False] and "\x1b[36m" not in outputs[True] and "5 / 10" in outputs[True]


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_hostile_names_cannot_steer_the_terminal(monkeypatch, term):
    monkeypatch.setenv("TERM", term)
    evil = "a\x1b]52;c;QUJD\x07b\x1b[2Jc\x9bd\u202ee\nf[red]g"
    assert plain_text(evil) == "abcde f[red]g"
    stream = Terminal()
    with Progress(evil, 10, stream=stream) as progress:
        progress.update(1, phase=evil, values={evil: 1.0})
        progress.note(evil)
    written = stream.getvalue()
    assert "abcde f[red]g" in written
    assert not any(bad in written for bad in ("\x1b]52", "\x1b[2J", "\x9b", "\u202e", "\x07"))


class Broken(Terminal):
    """Fails from the n-th write on."""

    def __init__(self, limit, error):
        super().__init__()
        self.limit, self.error, self.count = limit, error, 0

    def write(self, text):
        self.count += 1
        if self.count > self.limit:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize("limit", [0, 1, 5])
@pytest.mark.parametrize(
    "error", [BrokenPipeError(), UnicodeEncodeError("ascii", "x", 0, 1, "no"), ValueError("closed")]
)
def test_a_terminal_that_fails_never_stops_the_run(clock, monkeypatch, limit, error):
    monkeypatch.setenv("TERM", "xterm")
    with Progress("x", 100, stream=Broken(limit, error)) as progress:
        for step in range(100):
            progress.update(step, values={"a": float("nan")})
            progress.note("x")
            clock[0] += 1


def test_a_closed_or_missing_stream_is_silent(clock):
    stream = io.StringIO()
    stream.close()
    with Progress("x", 10, stream=stream) as progress:
        progress.update(1)
        clock[0] += 60
        progress.update(2)


def test_an_exception_of_the_run_passes_through():
    with pytest.raises(KeyError), Progress("x", 10, stream=Terminal(), live=True):
        raise KeyError


def test_an_update_is_cheap():
    with Progress("x", 10**6, stream=io.StringIO()) as progress:
        start = time.perf_counter()
        for step in range(5000):
            progress.update(step, updates=step)
        assert (time.perf_counter() - start) / 5000 < 2e-4  # about 2 microseconds; room for a busy machine
