"""Compare dynamics by what they predict on held-out episodes of one recorded set: likelihood, and scores of dreams.

    python benchmarks/held_out.py                                    # Pendulum of mixed quality, 5 seeds
    python benchmarks/held_out.py --dynamics vae made --seeds 1 --runs runs/quick --out quick.json

Encoder, decoder, data and updates are the same; only the model is trained, without an environment. `bound` is the bound on
-log p(o | o before, actions) in nats a step: the decoder's term and KL(posterior || prior), up to a constant of the decoder
that all share; it is null where the dynamics has no density. `energy` is the energy score of dreams after so many steps.
Finished runs are read and begun ones resumed. The data are those of offline.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from control_summary import as_json
from interleave import header, say, write_json
from machine import ROOT
from offline import STEPS, mixed_data, train

from worldlab.study.statistics import apply_holm, difference, interval, mean

OUT = ROOT / "benchmarks" / "results" / "held_out.json"
PLAIN = "vae"
"""The dynamics that the others are compared with: its prior is factorised."""
DYNAMICS = (PLAIN, "made", "autoregressive", "flow", "imle", "gan")
KEY = "vector"
"""The observation of the data."""


def scores(result: dict[str, Any]) -> dict[str, float | None]:
    """Return the scores of a finished run."""
    found = result["held_out"]
    kl = found["divergence"]
    bound = None if kl is None else found["losses"][f"decoder/{KEY}"] + kl
    return {"bound": bound, **{f"energy_{step}": value for step, value in found["energy_by_step"][KEY].items()}}


def summarise(runs: dict[str, list[dict[str, float | None]]]) -> list[dict[str, Any]]:
    """Return a row for each dynamics: its scores by seed, their means, and the differences to PLAIN; lower is better.

    The verdicts on one quantity are corrected for the number of dynamics (Holm).
    """
    rows: dict[str, dict[str, Any]] = {name: {"dynamics": name, "seeds": len(found)} for name, found in runs.items()}
    for quantity in next(iter(runs.values()))[0]:
        values = {name: [run[quantity] for run in found] for name, found in runs.items()}
        known = {name: np.array(found, float)[:, None] for name, found in values.items() if None not in found}
        for name, row in rows.items():
            row[quantity] = None
            if name in known:
                row[quantity] = {"by_seed": values[name], "mean": as_json(interval(known[name], mean))}
        others = [name for name in known if name != PLAIN] if PLAIN in known else []
        for name, apart in zip(
            others, apply_holm([difference(known[name], known[PLAIN]) for name in others]), strict=True
        ):
            # A lower score is better, and `difference` calls the higher one better.
            rows[name][quantity] |= {"minus_plain": as_json(apart.estimate), "verdict": apart.reversed.verdict}
    return list(rows.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dynamics", nargs="+", default=list(DYNAMICS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS, help="offline steps of a run; half as many updates")
    parser.add_argument("--runs", type=Path, default=Path("runs/held-out"))
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    data = mixed_data(args.runs)
    runs: dict[str, list[dict[str, float | None]]] = {}
    for seed in range(args.seeds):
        for name in args.dynamics:
            folder = args.runs / name / f"seed-{seed}"
            result = train(data, "random", seed, folder, args.steps, ["--env", "none", "--dynamics", name])
            runs.setdefault(name, []).append(scores(result))
            write_json(args.out, {**header("held_out.py"), "steps": args.steps, "rows": summarise(runs)})
            say(f"{name} seed {seed}: {runs[name][-1]}")


if __name__ == "__main__":
    main()
