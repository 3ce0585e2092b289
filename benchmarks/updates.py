"""Compare the time of a full training update (world model, actor and critic) with torchrl's and sheeprl's DreamerV3.

    python benchmarks/updates.py --out benchmarks/results/updates.json
    python benchmarks/updates.py --workloads vector --variant exact engine.exact=true --out exact.json

Workloads:
    vector             24 numbers, 6 actions; B16 T64 H15, 1,024 starts; 640 thousand parameters each, within 2%
    pixels             64 x 64 x 3, 6 actions; B8 T32 H15, 256 starts; worldlab's own convolutions
    pixels-identical   the same with the convolutions of each peer, and as many parameters, within 2%
    families           worldlab's families with the laptop preset, and how much of an update is the world model's

A run of worldlab with two cores trains the model in one process and the agent in another ("two processes", one thread
each); the other rows use two threads. Each package runs in each of its modes: eager; float32 products of "medium"
precision; bfloat16; compiled. The result is written after every round, and other workloads in the file stay. `--resume`
also keeps the rounds of a workload that was measured with the same contenders at the same commit, without changes on
top. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from interleave import Comparison, Contender, Worker, header, say, write_json
from machine import commit, load
from peers import REQUIREMENTS, PeerError, python_of

MEDIUM = ["--matmul", "medium"]
MODES: dict[str, dict[str, dict[str, list[str]]]] = {
    "worldlab": {
        "two processes": {"two processes": ["--threads", "1", "--beside"]},
        "medium": {"medium": MEDIUM},
        "bf16": {"bf16": ["--set", "train.engine=bfloat16"]},
        "compiled": {"compiled, bf16": ["--set", "train.engine=graph"]},
    },
    "torchrl": {
        "eager": {"eager": []},
        "medium": {"medium": MEDIUM},
        "compiled": {
            "compiled step": ["--compile", "step"],
            "compiled scan": ["--compile", "scan"],
            "compiled update": ["--compile", "train-step"],
            "compiled update, medium": ["--compile", "train-step", *MEDIUM],
        },
    },
    "sheeprl": {
        "eager": {"eager": []},
        "medium": {"medium": MEDIUM},
        "bf16": {"bf16": ["--precision", "bf16-mixed"]},
        "compiled": {
            "compiled": ["--compile"],
            "compiled, medium": ["--compile", *MEDIUM],
            "compiled, bf16": ["--compile", "--precision", "bf16-mixed"],
        },
    },
}
"""The modes of each package: for each mode, the options of the worker by label."""
ABSENT = {"bf16": {"torchrl, bf16": "its example uses bfloat16 on CUDA only"}}
"""Modes that a package does not have on the CPU, and the reason."""
KINDS = {
    "vector": {"torchrl": "vector", "sheeprl": "vector"},
    "pixels": {"torchrl": "pixels", "sheeprl": "pixels"},
    "pixels-identical": {"torchrl": "pixels-strided", "sheeprl": "pixels-pooled"},
}
"""The kind of worldlab's worker that each peer is compared with, by workload."""
FAMILIES = {
    **{f"{name} x 3": (name,) * 3 for name in ("vae", "flow", "autoregressive", "gan", "cpc")},
    "vae, autoregressive, vae": ("vae", "autoregressive", "vae"),
}
"""The parts of each world model: encoder, dynamics, decoder."""
ROLES = ("encoder", "dynamics", "decoder")
WORKLOADS = (*KINDS, "families")


def against_peers(workload: str, args: argparse.Namespace, left_out: dict[str, str]) -> list[Contender]:
    """Return worldlab and the peers on one workload. left_out: receives what cannot be measured, and why."""
    found = []
    threads = ["--threads", str(args.threads)]
    bases = {}
    for kind in dict.fromkeys(KINDS[workload][peer] for peer in args.peers or KINDS[workload]):
        bases[kind] = base = f"worldlab {kind}" if workload == "pixels-identical" else "worldlab"
        chosen = {"": [], **options_of("worldlab", args.modes), **variants(args)}
        for label, options in chosen.items():
            worker = Worker("worldlab_update.py", kind, *threads, *options)
            name = f"{base}, {label}" if label else base
            # With a second process only the first calls of a block differ: they do not wait for it.
            summary = statistics.mean if "--beside" in options else statistics.median
            found.append(Contender(name, worker, count=args.updates, base=base, flops=not label, summary=summary))
    for peer in args.peers:
        base = bases[KINDS[workload][peer]]
        kind = "vector" if workload == "vector" else "pixels"
        try:
            python = python_of(peer)
        except PeerError as error:
            left_out[peer] = str(error)
            continue
        for label, options in options_of(peer, args.modes).items():
            worker = Worker(f"{peer}_update.py", kind, *threads, *options, python=python, root=None)
            name = f"{peer}, {label}"
            found.append(Contender(name, worker, count=args.updates, base=base, flops=label == "eager"))
    for mode in args.modes:
        left_out.update(ABSENT.get(mode, {}))
    return found


def families(args: argparse.Namespace) -> list[Contender]:
    """Return worldlab's families on two environments: the whole update, and that of the world model alone."""
    found = []
    for env in ("pendulum", "carracing"):
        for name, parts in FAMILIES.items():
            chosen = [f"--set={role}.name={part}" for role, part in zip(ROLES, parts, strict=True)]
            whole = f"{env}: {name}"
            for label, options in {"": [], **variants(args)}.items():
                worker = Worker("worldlab_update.py", f"laptop-{env}", *chosen, *options)
                row = f"{whole}, {label}" if label else whole
                base = f"{env}: vae x 3" if not label else whole
                found.append(Contender(row, worker, count=args.updates, base=base, flops=not label))
                found.append(Contender(f"{row}, world model alone", worker, "model", args.updates, base=row))
    return found


def options_of(package: str, modes: list[str]) -> dict[str, list[str]]:
    """Return the options of a package's worker in these modes, by label."""
    return {label: options for mode in modes for label, options in MODES[package].get(mode, {}).items()}


def variants(args: argparse.Namespace) -> dict[str, list[str]]:
    """Return the options of worldlab's worker for each --variant, by name."""
    return {name: [f"--set={change}" for change in changes] for name, *changes in args.variant}


def measure(workload: str, args: argparse.Namespace, result: dict[str, Any]) -> None:
    """Measure one workload and write the result after each round."""
    left_out: dict[str, str] = {}
    contenders = families(args) if workload == "families" else against_peers(workload, args, left_out)
    commands = {one.name: " ".join([Path(one.worker.command[1]).name, *one.worker.command[2:]]) for one in contenders}
    setup = {**commit(), "updates": args.updates, "contenders": commands}
    before = result["workloads"].get(workload, {})
    same = before.get("setup") == setup and not setup["changed"]
    kept = before["rounds"] if args.resume and same else []
    if len(kept) >= args.rounds:
        say(f"{workload}: measured already")
        return
    comparison = Comparison(contenders, list(kept), left_out)
    entry: dict[str, Any] = {"setup": setup, "load_before": load()}

    def store(found: Comparison) -> None:
        result["workloads"][workload] = {**entry, "load_after": load(), **found.found()}
        if args.out:
            write_json(args.out, result)

    comparison.measure(args.rounds, store)
    store(comparison)
    comparison.show(workload)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--peers", nargs="*", choices=list(REQUIREMENTS), default=list(REQUIREMENTS))
    modes = ("eager", "two processes", "medium", "bf16", "compiled")
    parser.add_argument("--modes", nargs="+", choices=modes, default=list(modes), help="worldlab always runs as it is")
    parser.add_argument("--variant", nargs="+", action="append", default=[], metavar=("NAME", "SECTION.KEY=VALUE"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--updates", type=int, default=5, help="updates in a block")
    parser.add_argument("--threads", type=int, default=2, help="not for families, which run as the preset says")
    parser.add_argument("--resume", action="store_true", help="keep the rounds in --out")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    workloads = {}
    if args.out and args.out.is_file():
        workloads = json.loads(args.out.read_text(encoding="utf-8"))["workloads"]
    result = {**header("updates.py"), "threads": args.threads, "workloads": workloads}
    for workload in args.workloads:
        measure(workload, args, result)


if __name__ == "__main__":
    main()
