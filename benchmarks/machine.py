"""What a result must say about where it was measured: the processor, the versions, the commit and the speed reached."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16")
"""The processor features that decide which kernels torch uses."""


def machine() -> dict[str, Any]:
    """Describe the hardware."""
    text = _read("/proc/cpuinfo")
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    have = set(fields.get("flags", "").split())
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "vendor": fields.get("vendor_id", ""),
        "family": fields.get("cpu family", ""),
        "cores": len(os.sched_getaffinity(0)),
        "flags": {flag: flag in have for flag in FLAGS},
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
    }


def reached() -> dict[str, float]:
    """Measure what torch reaches here: float32 and bfloat16 matrix products, and copying memory."""
    return {
        "fp32_gflops": round(_gemm(torch.float32), 1),
        "bf16_gflops": round(_gemm(torch.bfloat16), 1),
        "copy_gb_per_s": round(_copy(), 1),
    }


def load() -> float:
    """Return the average number of running processes in the last minute: about 0 on an idle machine."""
    return round(os.getloadavg()[0], 2)


def versions(*names: str) -> dict[str, str]:
    """Return the versions of the installed packages among these."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit(root: Path = ROOT) -> dict[str, Any]:
    """Return the commit of the code, and whether there are changes on top of it outside benchmarks/results."""
    head = _git(root, "rev-parse", "HEAD").strip()
    changed = _git(root, "status", "--porcelain", "--", ".", ":!benchmarks/results")
    return {"commit": head, "changed": bool(changed.strip())}


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _median_seconds(call: Callable[[], object], repeats: int = 7) -> float:
    call()
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def _gemm(dtype: torch.dtype, side: int = 1024) -> float:
    a, b = torch.randn(side, side).to(dtype), torch.randn(side, side).to(dtype)
    return 2 * side**3 / _median_seconds(lambda: a @ b) / 1e9


def _copy(megabytes: int = 256) -> float:
    source = torch.ones(megabytes * 2**18)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _median_seconds(lambda: target.copy_(source)) / 1e9
