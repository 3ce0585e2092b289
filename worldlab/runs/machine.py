"""Resources of the machine that this process may use."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Return the number of CPU cores this process may use; on macOS and Windows, all cores of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def busy_cores() -> float:
    """Return the average number of processes that wanted a core in the last minute; 0 where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
