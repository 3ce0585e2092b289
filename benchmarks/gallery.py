"""Trains five pure cells and ten mixes small, on the same recorded pictures, and writes docs/gallery.md.

    python benchmarks/gallery.py               trains what is missing, then writes the page; restartable
    python benchmarks/gallery.py --page        only writes the page from what is there
    python benchmarks/gallery.py --cells vae/vae/vae flow/cpc/gan

All fifteen learn from one recording, so the errors of their dreams compare. Each gets about SECONDS of one core: slower
parts make fewer updates. Runs lie in runs/gallery, numbers in benchmarks/results/gallery.json, pictures in docs/img/gallery.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from machine import commit, machine, versions
from PIL import Image, ImageSequence

from worldlab.env.spaces import action_spec, record_schema
from worldlab.evaluation.held_out import HORIZON, WINDOWS
from worldlab.evaluation.open_loop import CONTEXT_FRAMES
from worldlab.experience.dataset import open_dataset
from worldlab.experience.offline import HeldOut
from worldlab.registry import load_registry

ROOT = Path(__file__).parents[1]
RUNS = Path("runs/gallery")
RESULTS = ROOT / "benchmarks" / "results" / "gallery.json"
PICTURES = ROOT / "docs" / "img" / "gallery"
PAGE = ROOT / "docs" / "gallery.md"

FAMILIES = ("vae", "flow", "autoregressive", "gan", "cpc")
SECONDS = 60
"""Seconds of one core for the updates of a cell."""
COST = {
    "encoder": {"vae": 0.009, "flow": 0.012, "autoregressive": 0.018, "gan": 0.012, "cpc": 0.008},
    "dynamics": {"vae": 0.012, "flow": 0.020, "autoregressive": 0.015, "gan": 0.018, "cpc": 0.010},
    "decoder": {"vae": 0.010, "flow": 0.060, "autoregressive": 0.045, "gan": 0.020, "cpc": 0.010},
}
"""Rough seconds of an update by part, measured at these sizes on the machine of the results; they set numbers of updates."""
RECORD = (
    "--env CarRacing --env.size 32 --agent random --preset debug --size nano --steps 3000 --train.prefill 2900 "
    "--train.pretrain 1 --train.ratio 0.001 --eval.final-episodes 1 --log.pictures 0"
)
"""A run that only records: almost all of its steps are prefill, whose random actions are held."""
FLAGS = "--offline --env none --agent random --preset debug --train.ratio 1 --log.pictures 0"
OWN = {"autoregressive": "--decoder.frames 8 --train.learning-rate 3e-3"}
"""Flags of cells with this decoder. With the others' a PixelCNN draws noise after a minute: many small steps suit it more."""
DREAM = "--horizon 27 --count 4"
SHOWN = 1
"""Which of the four dreams is on the page: the same held-out sequence for all cells, before a curve."""
QUALITY = 60
"""Of the WebP pictures on the page: lossless ones would take five times the room."""


def cells() -> list[tuple[str, str, str]]:
    """Return the cells: the five pure ones, and ten mixes of three families each.

    Every one of the fifteen parts is in exactly three cells: the two kinds of mixes are transversals of a Latin square.
    """
    shifted = [(0, 0), (1, 2), (2, 4)]
    return [
        (FAMILIES[i], FAMILIES[(i + dynamics) % 5], FAMILIES[(i + decoder) % 5])
        for dynamics, decoder in shifted
        for i in range(5)
    ]


def updates(cell: tuple[str, str, str]) -> int:
    """Return the updates of a cell for SECONDS, in hundreds."""
    cost = sum(COST[role][family] for role, family in zip(COST, cell, strict=True))
    return max(100, round(SECONDS / cost / 100) * 100)


def command(cell: tuple[str, str, str]) -> str:
    encoder, dynamics, decoder = cell
    parts = f"--encoder {encoder} --dynamics {dynamics} --decoder {decoder}"
    run = RUNS / "-".join(cell)
    flags = " ".join(filter(None, [FLAGS, parts, OWN.get(decoder)]))
    return f"worldlab train --data {RUNS / 'data'} {flags} --steps {updates(cell)} --run {run}"


def execute(line: str) -> float:
    """Run a command of worldlab and return the seconds of all cores that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    path = os.pathsep.join(str(ROOT / place) for place in (".", "plugins", "agents", "envs"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), path]))}
    subprocess.run([sys.executable, "-m", *shlex.split(line)], check=True, cwd=ROOT, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def finished(run: Path) -> bool:
    return (ROOT / run / "result.json").is_file()


def fresh(run: Path) -> None:
    """Remove what an interrupted command left: a cell takes a minute, so it is not resumed."""
    if (ROOT / run).exists():
        shutil.rmtree(ROOT / run)


def train_cell(cell: tuple[str, str, str]) -> dict[str, Any]:
    """Train a cell, draw its dream, and return its row of the results."""
    name = "-".join(cell)
    fresh(RUNS / name)
    seconds = execute(command(cell))
    drawn = ROOT / RUNS / name / "drawn"
    execute(f"worldlab dream {RUNS / name} {DREAM} --out {drawn}")
    PICTURES.mkdir(parents=True, exist_ok=True)
    (strip,), (moving,) = drawn.glob(f"*-{SHOWN}.png"), drawn.glob(f"*-{SHOWN}.webp")
    (PICTURES / f"{name}.webp").write_bytes(smaller([Image.open(strip)]))
    frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(Image.open(moving))]
    (PICTURES / f"{name}-dream.webp").write_bytes(smaller(frames))
    result = json.loads((ROOT / RUNS / name / "result.json").read_text())
    run = json.loads((ROOT / RUNS / name / "run.json").read_text())
    errors = result["held_out"]["rmse_by_step"]["image"]
    return {
        "cell": cell,
        "command": command(cell),
        "updates": result["updates"],
        "cpu_seconds": round(seconds, 1),
        "parameters": run["parameters"]["total"],
        "matching": run["matching"],
        "rmse": {str(step): round(errors[step - 1], 1) for step in steps_shown(errors)},
        "alarms": result["alarms"],
        "data_sha256": run["data"]["sha256"],
    }


def steps_shown(errors: Iterable[float]) -> list[int]:
    last = len(list(errors))
    return [1, 15, last]


def smaller(frames: list[Image.Image]) -> bytes:
    """Return pictures as one WebP, animated if there are several."""
    buffer = io.BytesIO()
    first, *rest = [frame.convert("RGB") for frame in frames]
    more = {"save_all": True, "append_images": rest, "duration": 100, "loop": 0} if rest else {}
    first.save(buffer, "WEBP", quality=QUALITY, method=6, **more)
    return buffer.getvalue()


def last_frame_errors() -> dict[str, float]:
    """Return the errors of a dream that repeats the last frame it saw, on the same held-out sequences."""
    dataset = open_dataset(str(ROOT / RUNS / "data"), load_registry())
    schema = record_schema(dataset.facts.observation_space, action_spec(dataset.facts.action_space))
    held_out = HeldOut(dataset, schema, None)
    frames = held_out.windows(WINDOWS, CONTEXT_FRAMES + HORIZON)["image"].astype(np.float32)
    error = (frames[:, CONTEXT_FRAMES:] - frames[:, CONTEXT_FRAMES - 1 : CONTEXT_FRAMES]) ** 2
    by_step = np.sqrt(error.reshape(*error.shape[:2], -1).mean(-1)).mean(0)
    dataset.close()
    return {str(step): round(float(by_step[step - 1]), 1) for step in steps_shown(by_step)}


def read_results() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"cells": {}}


def save_results(results: dict[str, Any]) -> None:
    temporary = RESULTS.with_suffix(".work.json")
    temporary.write_text(json.dumps(results, indent=1) + "\n")
    temporary.replace(RESULTS)


def record() -> None:
    if not finished(RUNS / "data"):
        fresh(RUNS / "data")
        execute(f"worldlab train {RECORD} --run {RUNS / 'data'}")


def run(chosen: list[tuple[str, str, str]]) -> None:
    """Train the cells that have no row with their command yet; the page is written after each."""
    results = read_results()
    for cell in chosen:
        name = "/".join(cell)
        if results["cells"].get(name, {}).get("command") == command(cell):
            continue
        record()
        results["last_frame"] = results.get("last_frame") or last_frame_errors()
        results["cells"][name] = train_cell(cell)
        results |= {
            "machine": machine(),
            "versions": versions("torch", "numpy", "gymnasium"),
            "commit": commit(),
            "record": f"worldlab train {RECORD} --run {RUNS / 'data'}",
        }
        save_results(results)
        write_page(results)


def write_page(results: dict[str, Any]) -> None:
    rows = [results["cells"][name] for cell in cells() if (name := "/".join(cell)) in results["cells"]]
    if not rows:
        return
    horizons = list(rows[0]["rmse"])
    head = ["encoder", "dynamics", "decoder", "updates", "CPU seconds", "parameters", *(f"step {h}" for h in horizons)]
    table = [head, ["---"] * len(head)]
    for row in rows:
        link = f"[{row['cell'][0]}](#{'-'.join(row['cell'])})"
        numbers = [f"{row['updates']:,}", f"{row['cpu_seconds']:.0f}", f"{row['parameters']:,}"]
        table.append([link, *row["cell"][1:], *numbers, *(f"{row['rmse'][h]:.1f}" for h in horizons)])
    table.append(
        ["repeat the last frame seen", "", "", "", "", "", *(f"{results['last_frame'][h]:.1f}" for h in horizons)]
    )
    lines = [INTRODUCTION.format(seconds=SECONDS, record=results["record"], state=STATE[len(rows) == len(cells())])]
    lines.append("\n".join("| " + " | ".join(line) + " |" for line in table))
    lines += [section(row) for row in rows]
    PAGE.write_text("\n\n".join(lines) + "\n")


INTRODUCTION = """# Gallery

Fifteen world models, each trained for about {seconds} seconds of one CPU core on the same 3,000 recorded decisions of CarRacing
(32 x 32 pixels, random actions): the five pure cells and ten mixes, so that each of the fifteen parts is in three of them.{state}
`python benchmarks/gallery.py` made this page. These are small models after a minute: they show what each mix does,
not which is best. [Results](results.md) has trained ones, [all mixes](matrix.md) the other 110.

Each strip shows real frames, their reconstructions, and a dream that after five frames depends on the actions alone; below it the
error. All strips are of the same held-out episode. cpc's decoder does not draw: there a probe does, which is trained beside the model.

The data: `{record}`

The last columns are the root mean squared error of dreams after so many steps, in levels of 0 to 255, over the held-out sequences.
An error of pixels favours blur: a sharp picture of the wrong future loses against a grey one. One seed each."""


STATE = {True: "", False: " Some of them are still being trained and not shown yet."}


def section(row: dict[str, Any]) -> str:
    name = "-".join(row["cell"])
    encoder, dynamics, decoder = row["cell"]
    title = f"{encoder} in all three roles" if len(set(row["cell"])) == 1 else f"{encoder}, {dynamics}, {decoder}"
    numbers = ", ".join(f"{error:.1f} after {step}" for step, error in row["rmse"].items())
    alarms = f" Alarms: {', '.join(row['alarms'])}." if row["alarms"] else ""
    return "\n\n".join(
        [
            f'<a id="{name}"></a>\n\n## {title}',
            f"![strip of {title}](img/gallery/{name}.webp)\n![dream of {title}](img/gallery/{name}-dream.webp)",
            f"{row['updates']:,} updates in {row['cpu_seconds']:.0f} CPU seconds, {row['parameters']:,} parameters; "
            f"error {numbers} steps.{alarms}",
            f"`{row['command']}`",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", metavar="E/D/D", help="only these cells")
    parser.add_argument("--page", action="store_true", help="write the page from what is there")
    args = parser.parse_args()
    if args.page:
        write_page(read_results())
        return
    chosen = [tuple(name.split("/")) for name in args.cells] if args.cells else cells()
    run(chosen)


if __name__ == "__main__":
    main()
