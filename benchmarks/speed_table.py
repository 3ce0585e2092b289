"""The rows of the tables of speed in docs/results.md: updates and dreams beside the peers'."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from interleave import ratio

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
LABELS = {"vector": "vectors", "pixels-identical": "images, the peer's convolutions"}
KINDS = {"torchrl": " pixels-strided", "sheeprl": " pixels-pooled"}
"""How updates.py calls the model of worldlab with the convolutions of each peer."""


def updates() -> Iterator[list[str]]:
    """Yield the time of an update for each contender, and its ratio to worldlab's plain and compiled update."""
    for workload, found in read("updates-amd.json")["workloads"].items():
        for name, row in found["rows"].items():
            plain = "worldlab" + kind_of(name, workload)
            bases = (plain, f"{plain}, compiled, bf16")
            against = ["" if base == name else interval(ratio(found["rounds"], name, base)) for base in bases]
            yield [LABELS[workload], name, f"{row['ms']:.0f}", *against, f"{row['start_s']:.0f}"]


def kind_of(name: str, workload: str) -> str:
    """Return the model of worldlab that a contender is compared with: what its name has after "worldlab"."""
    if workload != "pixels-identical":
        return ""
    peer = name.split(",")[0]
    return KINDS.get(peer, peer.removeprefix("worldlab"))


def dreams() -> Iterator[list[str]]:
    """Yield the imagined steps a second of each model, and the ratio of worldlab's RSSM to it, by the number of rows."""
    found = read("imagination.json")
    for name in [key.removesuffix(", heads 1") for key in found["rows"] if key.endswith(", heads 1")]:
        cells = []
        for rows in (1, 64, 1024, 4096):
            one, base = f"{name}, heads {rows}", f"worldlab vae, heads {rows}"
            speed = f"{found['rows'][one]['per_s']:,.0f}"
            cells.append(speed if one == base else f"{speed} ({interval(ratio(found['rounds'], one, base))})")
        yield [name, *cells]


def interval(found: dict[str, Any]) -> str:
    """Format an estimate with its interval."""
    low, high = found["interval_95"]
    return f"{found['estimate']:.2f} [{low:.2f}, {high:.2f}]"


def read(path: str) -> Any:
    return json.loads((RESULTS / path).read_text(encoding="utf-8"))
