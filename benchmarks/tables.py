"""Write the result tables of README.md, docs/results.md and docs/reliability.md from the committed results.

Each table is between <!-- NAME --> and <!-- /NAME --> in one of the pages.

python benchmarks/tables.py            # rewrite all tables
python benchmarks/tables.py --check    # exit 1 if a table is out of date
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import reliability_table
import speed_table
from control_tasks import NAMES
from control_variants import PLAIN, VARIANTS, curve_difference, curve_mean, final_difference, return_at
from learn import margin

from worldlab.study.statistics import Difference, interval, mean

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md", ROOT / "docs" / "reliability.md")
MAIN = {
    "cartpole": "CartPole-v1",
    "pendulum": "Pendulum-v1",
    "acrobot": "Acrobot-v1",
    "mountain-car": "MountainCarContinuous-v0",
    "reacher": "Reacher-v5",
    "half-cheetah": "HalfCheetah-v5",
    "hopper": "Hopper-v5",
    "cartpole-swingup": "dmc:cartpole-swingup",
    "walker-walk": "dmc:walker-walk",
    "cheetah-run": "dmc:cheetah-run",
    "reacher-easy": "dmc:reacher-easy",
    "carracing-cpc": "CarRacing-v3, `--encoder cpc`",
    "carracing-vae": "CarRacing-v3, `--encoder vae`",
    "carracing-world-models": "CarRacing-v3, `--preset world-models`",
}
"""The rows of the main table in order: a task of control.json, or else a folder of results/learn; and the label."""
FAMILIES = ("vae", "flow", "autoregressive", "gan", "cpc")


def read(path: str) -> Any:
    return json.loads((RESULTS / path).read_text(encoding="utf-8"))


def spread(values: list[float]) -> str:
    """Format one number, or the lowest and the highest."""
    low, high = round(min(values)), round(max(values))
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def learned(summary: dict[str, Any]) -> list[str]:
    """Format the cells of `LEARNED` for one benchmark."""
    margin = summary["margin_over_random"]
    low, high = margin["interval_95"]
    return [
        str(summary["seeds"]),
        ", ".join(f"{value:.0f}" for value in summary["return_mean_by_seed"]),
        f"{summary['random_mean']:.0f}",
        f"{margin['difference']:+.0f} [{low:.0f}, {high:.0f}]",
        spread(summary["env_steps"]),
        spread(summary["updates"]),
        spread(summary["minutes"]),
    ]


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


LEARNED = ["seeds", "mean return by seed", "random agent", "margin over random [95%]", "steps", "updates", "minutes"]


def learn() -> str:
    """Tabulate the main results."""
    measured = read("control.json")["tasks"]
    found = {name: of_control(measured[name]) for name in MAIN if name in measured}
    rows = [[label, *learned(found.get(name) or read(f"learn/{name}/summary.json"))] for name, label in MAIN.items()]
    return table(["environment", *LEARNED], rows)


def of_control(task: dict[str, Any]) -> dict[str, Any]:
    """Return the runs of dreamer on a task of control.json as `summary.json` of learn.py has them."""
    runs = list(task["agents"]["dreamer"]["runs"].values())
    random = task["random"]["returns"]
    return {
        "seeds": len(runs),
        "return_mean_by_seed": [run["final"] for run in runs],
        "random_mean": statistics.fmean(random),
        "margin_over_random": margin([value for run in runs for value in run["returns"]], random),
        "env_steps": [run["steps"] for run in runs],
        "updates": [run["updates"] for run in runs],
        "minutes": [run["minutes"] for run in runs],
    }


def families() -> str:
    """Tabulate the pure families: one family in all three roles."""
    rows = []
    for path in sorted((RESULTS / "learn").glob("*-pure-*/summary.json")):
        env, _, family = path.parent.name.partition("-pure-")
        rows.append([FAMILIES.index(family), env, [f"{family} x 3", MAIN[env], *learned(json.loads(path.read_text()))]])
    return table(["world model", "environment", *LEARNED], [row for *_, row in sorted(rows, key=lambda row: row[:2])])


def agents() -> str:
    """Tabulate other agents in the same world model (vae x 3)."""
    rows = []
    for path in sorted((RESULTS / "learn").glob("agent-*/summary.json")):
        summary = json.loads(path.read_text())
        flags = summary["command"].partition("--seed 0 ")[2]
        rows.append([f"`{flags}`", summary["env"], *learned(summary)])
    return table(["flags", "environment", *LEARNED], rows)


def bits() -> str:
    """Tabulate bits per dimension by decoder."""
    rows = []
    for row in read("bits_per_dim.json")["rows"]:
        scores = ["undefined", "undefined", row.get("undefined", "")]
        if row["bits_per_dim"] is not None:
            scores = [f"{row['bits_per_dim'][k]['mean']:.3f} ± {row['bits_per_dim'][k]['se']:.3f}" for k in ("1", "64")]
            scores.append("exact" if row["mass"] == "exact" else "dequantisation bound")
        rows.append([row["decoder"], *scores, f"{row['parameters'] / 1e3:,.0f}k"])
    header = [
        "decoder",
        "1 sample of z (ELBO)",
        "64 samples of z",
        "P(o given z)",
        "parameters",
    ]
    return table(header, rows)


def branch() -> str:
    """Tabulate how well each dynamics models four next states with known probabilities."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in read("branch.json")["rows"]:
        rows.setdefault(row["label"], []).append(row)

    def cell(found: list[dict[str, Any]], key: str) -> str:
        values = [row[key] for row in found]
        return f"{statistics.mean(values):.2f} ({min(values):.2f}-{max(values):.2f})"

    lines = [
        [label, str(len(found)), *(cell(found, key) for key in ("distinct", "tv", "no_cell"))]
        for label, found in rows.items()
    ]
    header = ["dynamics", "seeds", "distinct next states (of 4)", "total variation", "share matching no valid state"]
    return table(header, lines)


def planning() -> str:
    """Tabulate the milliseconds per decision of each planner on each workload."""
    found = read("planning.json")
    rows = []
    for work in found["workloads"]:
        for name, row in work["planners"].items():
            cells = [
                f"{row[key]:,.0f}" if row[key] is not None else "too few" for key in ("p50_ms", "p95_ms", "p99_ms")
            ]
            slower = row.get("slower_than_worldlab")
            ratio = (
                f"{slower['ratio']:.2f} [{slower['interval_95'][0]:.2f}, {slower['interval_95'][1]:.2f}]"
                if slower
                else ""
            )
            rows.append([work["workload"], name, *cells, str(row["decisions"]), ratio])
    late, actor = found["deadline"], found["actor"]
    rows.append(
        [
            f"b2 with a deadline of {late['budget_ms']:.0f} ms, met by {late['in_time']:.1%} of decisions", "worldlab",
            *(f"{late[key]:.1f}" for key in ("p50_ms", "p95_ms", "p99_ms")), str(late["decisions"]), "",
        ]
    )  # fmt: skip
    acted = [f"{actor[key]:.1f}" for key in ("p50_ms", "p95_ms", "p99_ms")]
    rows.append(["b5: an actor network, no search, 1M model", "worldlab", *acted, str(actor["decisions"]), ""])
    return table(["workload", "planner", "p50", "p95", "p99", "decisions", "time relative to worldlab [95%]"], rows)


def control() -> str:
    """Tabulate control.py: final scores by seed, what was kept of the best evaluation, and published scores."""
    header = ["task", "agent", "frames", "final by seed", "IQM [95%]", "random", "goal", "steps to the goal (runs)"]
    header += ["kept of the best; at least 90%", "minutes", "published at these frames"]
    tasks = read("control.json")["tasks"].items()
    return table(header, [control_row(name, task, agent) for name, task in tasks for agent in task["agents"]])


def control_row(name: str, task: dict[str, Any], agent: str) -> list[str]:
    """Format the results of an agent on a task."""
    found = task["agents"][agent]
    runs = list(found["runs"].values())
    kept = [run["stability"] for run in runs if run["stability"] is not None]
    reached = [run["steps_to"] for run in runs if run["steps_to"] is not None]
    published = {NAMES[source]: one["at_our_frames"] for source, one in task["published"].items()}
    return [
        f"{name}{' (held out)' if task['held_out'] else ''}",
        agent,
        f"{task['frames']:,}",
        ", ".join(f"{run['final']:.0f}" for run in runs),
        iqm_cell(found["iqm"]),
        f"{task['random']['final']:.0f}",
        "" if task["threshold"] is None else f"{task['threshold']:g}, by {found['solved']} of {len(runs)}",
        f"{spread(reached)} ({len(reached)})" if reached else "",
        f"{min(kept):.0%} to {max(kept):.0%}; {found['stable']} of {len(runs)}" if kept else "",
        spread([run["minutes"] for run in runs]),
        ", ".join(f"{source} {value:.0f}" for source, value in published.items() if value is not None),
    ]


def variants() -> str:
    """Tabulate the variants of control.py: final scores, and the differences to the plain model in the same result."""
    header = ["task", "variant", "flags", "final by seed", "IQM [95%]", "minus plain [95%]", "mean of the evaluations"]
    header += ["minus plain [95%]", "verdict", "minutes", "after the minutes of plain"]
    tasks = read("variants.json")["tasks"].items()
    return table(header, [variant_row(name, task, agent) for name, task in tasks for agent in task["agents"]])


def variant_row(name: str, task: dict[str, Any], agent: str) -> list[str]:
    """Format the results of a variant on a task."""
    runs = list(task["agents"][agent]["runs"].values())
    plain = statistics.median(run["minutes"] for run in task["agents"][PLAIN]["runs"].values())
    early = [found for run in runs if (found := return_at(run, plain)) is not None]
    final, curve = final_difference(task, agent), curve_difference(task, agent)
    return [
        name,
        "plain" if agent == PLAIN else agent,
        f"`{VARIANTS[agent]}`" if agent in VARIANTS else "",
        ", ".join(f"{run['final']:.3g}" for run in runs),
        iqm_cell(task["agents"][agent]["iqm"]),
        "" if agent == PLAIN else difference_cell(final),
        f"{statistics.fmean(curve_mean(run) for run in runs):.3g}",
        "" if agent == PLAIN else difference_cell(curve),
        "" if agent == PLAIN else f"{final.verdict}; {curve.verdict}",
        f"{statistics.median(run['minutes'] for run in runs):.1f}",
        f"{statistics.fmean(early):.3g} ({len(early)})" if early else "",
    ]


def difference_cell(found: Difference) -> str:
    """Format a difference and its interval."""
    shown = found.estimate
    return f"{shown.estimate:+.3g} [{shown.low:.3g}, {shown.high:.3g}]"


def held_out() -> str:
    """Tabulate what each dynamics predicts on held-out episodes, with the differences to the factorised prior."""
    rows = read("held_out.json")["rows"]
    quantities = [key for key in rows[0] if key not in ("dynamics", "seeds")]
    header = ["dynamics", "seeds", *(key.replace("energy_", "energy score, step ") for key in quantities)]
    lines = [[row["dynamics"], str(row["seeds"]), *(scored(row[key]) for key in quantities)] for row in rows]
    return table(header, lines)


def scored(found: dict[str, Any] | None) -> str:
    """Format a mean score over seeds and, if it was compared, the difference and its verdict."""
    if found is None:
        return "undefined"
    text = f"{found['mean']['estimate']:.3f}"
    if apart := found.get("minus_plain"):
        ends = apart["interval_95"]
        shown = f" [{ends[0]:+.3f}, {ends[1]:+.3f}]" if ends else ""
        text += f" ({apart['estimate']:+.3f}{shown}, {found['verdict']})"
    return text


OFFLINE = {
    "offline.json": "Pendulum-v1, mixed controllers",
    "offline-cheetah.json": "HalfCheetah-v5, an online run's recording",
}
"""The data set of each result of offline.py."""


def offline() -> str:
    """Tabulate agents that learn from recorded data alone, beside the mean return of the data."""
    rows = []
    for name, label in OFFLINE.items():
        found = read(name)
        data = found["data"]
        for agent, scores in found["agents"].items():
            above = interval(np.array(scores)[:, None] - data["mean"], mean)
            shown = f"{above.estimate:+.0f} [{above.low:.0f}, {above.high:.0f}]"
            by_seed = ", ".join(f"{score:.0f}" for score in scores)
            rows.append([label, agent, by_seed, f"{data['mean']:.0f}", f"{data['best']:.0f}", shown])
    return table(["data", "agent", "final by seed", "mean of the data", "its best", "minus the mean [95%]"], rows)


def iqm_cell(found: dict[str, Any]) -> str:
    """Format an IQM and its interval, which a single run does not have."""
    ends = found["interval_95"]
    return f"{found['estimate']:.0f}" + (f" [{ends[0]:.0f}, {ends[1]:.0f}]" if ends else "")


def roundup() -> str:
    """Tabulate each claim: quantity, values of its first prediction that has values, verdict and reason."""
    rows = []
    for claim in read("roundup/roundup.json")["claims"]:
        shown = next((one for one in claim["predictions"] if one["x"]), None)
        figures = f"{shown['says']}: {estimate(shown['x'])}" if shown else "undefined"
        if shown and shown["y"]:
            figures += f" and {estimate(shown['y'])}"
        quantity = f"`{claim['quantity']}`{f' [{unit}]' if (unit := claim['unit']) else ''}"
        rows.append([f"{claim['number']}. {claim['claim']}", quantity, figures, claim["verdict"], claim["why"]])
    return table(["claim", "quantity", "first prediction [95%]", "verdict", "reason"], rows)


def estimate(found: dict[str, Any]) -> str:
    """Format an estimate and its interval, such as "1.79 [1.75, 1.83]"."""
    return f"{found['estimate']:.3g} [{found['low']:.3g}, {found['high']:.3g}]"


def faults() -> str:
    """Tabulate the faults that were tried on runs, environments and files."""
    return table(reliability_table.HEADER, list(reliability_table.rows()))


def costs() -> str:
    """Tabulate the processor time that reliability takes."""
    header = ["command", "compared with itself", "pairs", "processor time, median", "lowest to highest"]
    return table(header, list(reliability_table.costs()))


def updates() -> str:
    """Tabulate the times of an update beside the peers'."""
    header = ["workload", "package, mode", "ms", "time relative to worldlab [95%]"]
    header += ["relative to worldlab, compiled [95%]", "seconds until the first update"]
    return table(header, list(speed_table.updates()))


def dreams() -> str:
    """Tabulate the imagined steps a second beside torchrl's."""
    header = ["model", *(f"{rows} at once" for rows in ("1", "64", "1,024", "4,096"))]
    return table(header, list(speed_table.dreams()))


BLOCKS: dict[str, Callable[[], str]] = {
    "learn": learn,
    "families": families,
    "agents": agents,
    "bits": bits,
    "branch": branch,
    "updates": updates,
    "dreams": dreams,
    "planning": planning,
    "roundup": roundup,
    "control": control,
    "variants": variants,
    "held_out": held_out,
    "offline": offline,
    "faults": faults,
    "costs": costs,
}


def rewrite(text: str) -> tuple[str, list[str]]:
    """Rewrite each table of a page from the results.

    Returns: the new text, and the names of its tables (repeated if a table appears repeatedly).
    """
    held: list[str] = []
    for name, make in BLOCKS.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text, count = pattern.subn(lambda found, make=make: f"{found[1]}{make()}\n{found[2]}", text)
        held += [name] * count
    return text, held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    old = {page: page.read_text(encoding="utf-8") for page in PAGES}
    new = {page: rewrite(text) for page, text in old.items()}
    held = [name for _, names in new.values() for name in names]
    if sorted(held) != sorted(BLOCKS):
        sys.exit(f"each table must appear exactly once: expected {sorted(BLOCKS)}, found {sorted(held)}")
    changed = [page for page in PAGES if new[page][0] != old[page]]
    if args.check:
        names = ", ".join(page.relative_to(ROOT).as_posix() for page in changed)
        sys.exit(f"{names} out of date: run python benchmarks/tables.py" if changed else 0)
    for page in changed:
        page.write_text(new[page][0], encoding="utf-8")


if __name__ == "__main__":
    main()
