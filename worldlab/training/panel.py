"""Shows the progress of a run: a live panel on a terminal, else a line at intervals.

All output goes to stderr. Errors of the terminal never reach the training loop.
"""

from __future__ import annotations

import os
import re
import sys
import time
import unicodedata
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

LIVE_SECONDS = 0.25
"""Minimum time between two refreshes of a live panel."""
PLAIN_SECONDS = 10.0
"""Minimum time between two lines without a terminal."""
_WINDOW_SECONDS = 20.0
_ESCAPE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.?)", re.DOTALL)


def plain_text(text: object) -> str:
    """Return text without escape sequences, control characters and direction marks, on one line.

    Names of environments and plugins are untrusted and must not be able to control a terminal.
    """
    text = _ESCAPE.sub("", str(text))
    kept = (" " if letter.isspace() else letter for letter in text)
    return "".join(letter for letter in kept if unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Co"))


@dataclass
class _Status:
    """The current values, and the history that the speeds need."""

    step: int
    total: int
    started: float
    updates: int | None = None
    phase: str = ""
    values: dict[str, float] = field(default_factory=dict)
    history: deque[tuple[float, int, int]] = field(default_factory=deque)

    def record(self, now: float) -> None:
        self.history.append((now, self.step, self.updates or 0))
        # Speeds are means over the last seconds: a mean since the start would hide a recent slowdown.
        while len(self.history) > 2 and now - self.history[1][0] > _WINDOW_SECONDS:
            self.history.popleft()

    def speeds(self) -> tuple[float | None, float | None]:
        """Return environment steps and updates per second; None while they are unknown."""
        if len(self.history) < 2 or self.history[-1][0] <= self.history[0][0]:
            return None, None
        (start, step, updates), (end, last_step, last_updates) = self.history[0], self.history[-1]
        seconds = end - start
        return (last_step - step) / seconds, (last_updates - updates) / seconds if self.updates is not None else None

    def remaining(self) -> float | None:
        """Return the seconds to the last step at the current speed."""
        speed = self.speeds()[0]
        return (self.total - self.step) / speed if speed else None


class Progress:
    """Shows the progress of a run. Use it as a context manager.

    title: name of the run. total: steps at the end. start: steps before a resume.
    stream: output; default stderr. live: whether to draw a panel; by default if the stream is a terminal.
    """

    def __init__(
        self, title: str, total: int, *, start: int = 0, stream: TextIO | None = None, live: bool | None = None
    ):
        self._title = plain_text(title)
        self._stream = stream if stream is not None else sys.stderr
        self._status = _Status(start, max(1, total), time.monotonic())
        self._wants_live = is_terminal(self._stream) if live is None else live
        self._screen: Any = None
        self._last_drawn = float("-inf")

    def __enter__(self) -> Progress:
        if self._wants_live:
            self._guard(self._open_screen)
        if self._screen is None:
            self._print(self._title)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._status.history:
            self._status.record(time.monotonic())
        if self._screen is not None:
            self._guard(self._draw)
            self._close_screen()
        elif self._status.history:
            self._print(self._status_line())

    def update(
        self,
        step: int,
        *,
        updates: int | None = None,
        phase: str | None = None,
        values: Mapping[str, float] | None = None,
    ) -> None:
        """Update the values; redraw only if the minimum time has passed, else this costs microseconds.

        step: environment steps so far. updates: updates of the world model so far. phase: for example "prefill".
        values: numbers to show by name ("return", "eval return", "loss/image"); they stay until replaced.
        """
        status, now = self._status, time.monotonic()
        status.step = step
        status.updates = updates if updates is not None else status.updates
        status.phase = plain_text(phase) if phase is not None else status.phase
        if values:
            status.values.update((plain_text(name), float(value)) for name, value in values.items())
        if now - self._last_drawn < (LIVE_SECONDS if self._screen is not None else PLAIN_SECONDS):
            return
        self._last_drawn = now
        status.record(now)
        if self._screen is not None:
            self._guard(self._draw)
        elif len(status.history) > 1:  # the first call has no speeds to show yet
            self._print(self._status_line())

    def note(self, text: str) -> None:
        """Print a permanent line above the panel."""
        line = plain_text(text)
        if self._screen is not None:
            from rich.text import Text

            self._guard(lambda: self._screen.console.print(Text(line)))
        if self._screen is None:
            self._print(line)

    def _open_screen(self) -> None:
        from rich.console import Console
        from rich.live import Live

        class Quiet(Console):
            """Raises when a pipe breaks, so that `_guard` can handle it; Rich itself would end the process."""

            def on_broken_pipe(self) -> None:
                raise BrokenPipeError("the terminal went away")

        console = Quiet(file=self._stream, force_terminal=True, highlight=False)
        # No refresh thread: it would compete with training, and a forked worker would inherit its locks.
        # stdout is not redirected: it may carry the command's JSON.
        self._screen = Live(console=console, auto_refresh=False, redirect_stdout=False, transient=False)
        self._screen.start()

    def _close_screen(self) -> None:
        screen, self._screen = self._screen, None
        try:
            screen.stop()
        except Exception as error:
            self._print(f"(panel: {type(error).__name__}: {error})")

    def _draw(self) -> None:
        self._screen.update(self._panel(), refresh=True)

    def _guard(self, draw: Any) -> None:
        """Run a drawing function; if it fails, report that once and continue with plain lines."""
        try:
            draw()
        except Exception as error:  # odd encodings, sizes of 0 or closed pipes must never end a run
            if self._screen is not None:
                self._close_screen()
            self._print(f"(no live panel: {type(error).__name__}: {error})")

    def _print(self, text: str) -> None:
        write_to(self._stream, plain_text(text) + "\n")

    def _panel(self) -> Any:
        from rich.console import Group
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        status = self._status
        head = Table.grid(expand=True, padding=(0, 1))
        head.add_column(ratio=1)
        head.add_column(justify="right", no_wrap=True)
        share = min(1.0, status.step / status.total)
        eta = f"  eta {_clock(status.remaining())}" if share < 1 else ""
        head.add_row(
            ProgressBar(total=status.total, completed=min(status.step, status.total)),
            Text(f"{status.step:,} / {status.total:,} steps  {share:.0%}{eta}"),
        )
        pairs = [*self._machine_values(), *((name, _number(value)) for name, value in status.values.items())]
        table = Table.grid(padding=(0, 2), expand=True)
        for justify in ("left", "right", "left", "right"):
            table.add_column(justify=justify, no_wrap=True, ratio=1)
        half = -(-len(pairs) // 2)
        for row in range(half):
            cells = []
            for name, value in pairs[row::half]:
                cells += [Text(name, style="dim"), Text(value, style="bold")]
            table.add_row(*cells)
        title = f"{self._title} · {status.phase}" if status.phase else self._title
        return Panel(Group(head, Text(""), table), title=Text(title), title_align="left", border_style="cyan")

    def _machine_values(self) -> list[tuple[str, str]]:
        steps, updates = self._status.speeds()
        pairs = [("env steps/s", _number(steps))]
        if self._status.updates is not None:
            pairs.append(("updates/s", _number(updates)))
        elapsed = time.monotonic() - self._status.started
        return [*pairs, ("memory", _memory()), ("elapsed", _clock(elapsed))]

    def _status_line(self) -> str:
        status = self._status
        parts = [f"step {status.step:,}/{status.total:,} ({min(1.0, status.step / status.total):.0%})"]
        parts += [status.phase] if status.phase else []
        parts += [f"{name} {value}" for name, value in self._machine_values()]
        parts += [f"{name} {_number(value)}" for name, value in status.values.items()]
        if status.step < status.total:
            parts.append(f"eta {_clock(status.remaining())}")
        return "  ".join(parts)


def write_to(stream: Any, text: str) -> None:
    """Write text to a stream, replacing characters it cannot encode. A closed stream is ignored."""
    try:
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(text.encode(encoding, "replace").decode(encoding))
        stream.flush()
    except (OSError, ValueError):
        return


def is_terminal(stream: Any) -> bool:
    """Return whether a stream is a terminal that can overwrite lines."""
    try:
        return bool(stream.isatty()) and os.environ.get("TERM", "") not in ("dumb", "unknown")
    except (AttributeError, ValueError, OSError):
        return False


def _number(value: float | None) -> str:
    """Format to four significant digits: 0.01234, 12.3, 1,235."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.4g}"


def _clock(seconds: float | None) -> str:
    """Format seconds as 0:05, 12:34 or 1:02:03."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _memory() -> str:
    import psutil

    return f"{psutil.Process().memory_info().rss / 2**30:.2f} GiB"
