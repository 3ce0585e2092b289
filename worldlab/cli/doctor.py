"""worldlab doctor: reports what this machine has and which problems to expect. A problem is not an error."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
from pathlib import Path
from typing import Any

from worldlab.cli.common import Parser, add_shared, emit, prints_to_stderr
from worldlab.errors import one_line
from worldlab.registry import load_registry
from worldlab.runs.machine import available_cores

_RENDERING = (
    "MUJOCO_GL",
    "PYOPENGL_PLATFORM",
    "SDL_VIDEODRIVER",
    "SDL_NO_SIGNAL_HANDLERS",
    "DISPLAY",
    "WAYLAND_DISPLAY",
)
_LOW_DISK = 2.0  # GB: enough for a replay segment, two checkpoints and videos of a pixel run


def run(argv: list[str]) -> int:
    parser = Parser("doctor", "Check this machine: versions, devices, rendering, plugins.")
    add_shared(parser)
    args = parser.read(argv)
    with prints_to_stderr():
        report = examine(args.plugin)
    emit(report, args.json)
    return 0


def examine(plugin_files: list[Path]) -> dict[str, Any]:
    """Return the report; "problems" lists what to fix, one sentence each."""
    import worldlab

    torch = _torch()
    registry = load_registry(plugin_files)
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    writable = os.access(Path.cwd(), os.W_OK)
    problems = [] if torch["version"] else [f"torch cannot be used: {torch['error']}. fix: pip install torch"]
    packages, missing = _packages()
    problems += [f"{name} is not installed. fix: pip install {name}" for name in missing]
    problems += [] if writable else ["this folder is not writable. fix: cd elsewhere, or train --run DIR"]
    problems += [f"{free:.1f} GB of disk left here. fix: free some, or train --run DIR"] if free < _LOW_DISK else []
    problems += [f"plugin {p.distribution} {p.version} {p.reason} ({p.where})" for p in registry.broken]
    problems += [f"plugin {s.distribution} {s.version} {s.cost}" for s in registry.sources if s.cost]
    if not registry.names("encoder"):
        problems.append("no encoder is installed. fix: pip install worldlab (or -e . in its source)")
    return {
        "worldlab": worldlab.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": available_cores(),
        "torch": torch,
        "runs": _runs() if torch["version"] else {},
        "packages": packages,
        "rendering": {name: os.environ.get(name, "unset") for name in _RENDERING},
        "cwd_writable": writable,
        "disk_free_gb": round(free, 1),
        "plugins": {"components": len(registry.registrations()), "broken": len(registry.broken)},
        "problems": problems,
    }


def _torch() -> dict[str, Any]:
    """Describe the installed torch. A broken build is reported, whatever its import raises, and must not crash."""
    try:
        import torch
    except (Exception, SystemExit) as exc:
        return {"version": None, "error": one_line(exc)}
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name(0) if cuda else None
    return {"version": torch.__version__, "cuda": cuda, "gpu": device, "threads": torch.get_num_threads()}


def _runs() -> dict[str, str]:
    """Describe what a run would use of this machine, and why."""
    from worldlab.training.engine import describe_machine

    try:
        return describe_machine()
    except RuntimeError as error:  # a driver that does not fit the GPU or torch
        return {"error": one_line(error)}


def _packages() -> tuple[dict[str, str], list[str]]:
    """Return versions of the packages that worldlab requires (torch has its own entry), and the missing ones."""
    try:
        required = importlib.metadata.requires("worldlab") or []
    except importlib.metadata.PackageNotFoundError:
        return {}, ["worldlab"]
    names = [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in required if "extra ==" not in line]
    found: dict[str, str] = {}
    missing: list[str] = []
    for name in sorted(set(names) - {"torch"}):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    return found, missing
