"""Resources of the machine that this process may use."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Return the number of CPU cores this process may use; on macOS and Windows, all cores of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
