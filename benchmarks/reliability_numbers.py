"""Count what values that are not finite do to a run, and how wrong configurations are refused.

    python benchmarks/reliability_numbers.py --out benchmarks/results/reliability_numbers.json

T-NAN puts NaN, inf or 1e38 into one output of a module, one term of a loss, one observation, reward or action of a run, at
three moments. Either nothing becomes infinite, or the same update is reported and changes no weight of its player; no
checkpoint ever holds a value that is not finite. "T-NAN for ever" keeps it up: the run ends as diverged (exit code 5) after
ten updates, and its last checkpoint is whole. T-CFG gives wrong configurations to `worldlab train` in new processes: each
must be refused with exit code 2 before torch is imported, and within half a second of processor time.
"""

from __future__ import annotations

import json
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from machine import ROOT
from trials import Section, arguments, make_trials

sys.path.insert(0, str(ROOT / "tests" / "kits"))
from interrupted_runs import TINY
from poisoned_runs import PARTS, TERMS, VALUES, WORLD, nonfinite_tensors, train_poisoned

from worldlab.config.resolve import resolve
from worldlab.config.schema import settings_of
from worldlab.registry import open_registry
from worldlab.runs.checkpoint import latest_valid

MOMENTS = (6, 8, 14)
"""Updates of the run, of 15, from the first of the agent on; decisions for an action."""
ONCE = [(target, value, at) for target in (*PARTS, *TERMS, *WORLD) for value in VALUES for at in MOMENTS]
EVER = [(target, value) for target in (*PARTS, *TERMS) for value in ("nan", "inf")]
LIMIT = 0.5
"""Seconds of processor time in which a configuration must be refused."""
PLACES = {"encoder.embed": "the embedding of the encoder", "encoder.infer": "the latent of the encoder"}
PLACES |= {"dynamics.predict": "the prediction of the dynamics", "dynamics.memory": "the memory of the dynamics"}
PLACES |= {"reward": "loss 'reward'", "cont": "loss 'cont'"}
"""How a warning names a module; terms are named as "loss 'TERM'"."""


def poison_once(place: Path, number: int) -> dict[str, Any]:
    target, value, at = ONCE[number]
    run = f"nan-{number}"
    code, err, updates = train_poisoned(place, run, TINY, target, value, at)
    bad = [one["update"] for one in updates if one["bad"]]
    told = sorted({int(found) for found in re.findall(r"^update (\d+): ", err, re.MULTILINE)})  # one line a player
    rotten = nonfinite_tensors(place / run)
    moved = [
        one["update"] for one in updates if {name.partition("/")[0] for name in one["changed"]} & groups(one["bad"])
    ]
    used = "its gradient is finite and is used" in err
    named = not bad or value == "1e38" or PLACES.get(target, f"loss '{target}'") in err
    refused = target in WORLD and value != "1e38"
    ending = 0 if not refused else 5 if target == "action" else 4
    good = code == ending and bad == told and not rotten and (used or not moved) and named
    good = good and bad in ([], [at]) and (value == "1e38" or refused or bad == [at])
    shutil.rmtree(place / run)
    words = {"target": target, "value": value, "at": at, "codes": {str(code): 1}, "silent": len(set(bad) - set(told))}
    words |= {"events": len(bad), "in_checkpoints": len(rotten)}
    return {**words, "good": good, "err": "" if good else f"{bad} {told} {moved} {rotten[:3]} {err[-500:]}"}


def groups(bad: list[str]) -> set[str]:
    """Return which players, of the model or the agent, an update with these bad values may not change."""
    return {"agent" if "/agent" in name else "model" for name in bad}


def poison_for_ever(place: Path, number: int) -> dict[str, Any]:
    target, value = EVER[number]
    run = f"ever-{number}"
    code, err, updates = train_poisoned(place, run, TINY, target, value, MOMENTS[0], ever=True)
    rotten = nonfinite_tensors(place / run)
    step = latest_valid(place / run / "checkpoints", move=False).step
    named = PLACES.get(target, f"loss '{target}'") in err
    status = json.loads((place / run / "run.json").read_text())["status"]
    good = code == 5 and status == "diverged" and not rotten and named and "10 updates" in err
    shutil.rmtree(place / run)
    words = {"target": target, "value": value, "codes": {str(code): 1}, "saved": step, "in_checkpoints": len(rotten)}
    return {**words, "good": good, "err": "" if good else f"{len(updates)} {status} {err[-500:]}"}


@cache
def wrong_configurations() -> list[tuple[str, str]]:
    """Return 200 wrong tables of one setting each and 20 of settings that exclude each other: (what, TOML)."""
    config = resolve(open_registry(()), presets=["laptop"], flags={})
    numbers = [
        ".".join(one.path) for one in settings_of(type(config.core)) if {"gt", "ge", "lt", "le"} & set(one.bounds)
    ]
    every = [".".join(one.path) for one in settings_of(type(config.core))]
    long = [path for path in every if len(path.rpartition(".")[2]) > 3]
    chance = random.Random(0)
    wrong = [("typo", f"{typo(path)} = 1") for path in chance.sample(long, 50)]
    wrong += [("bound", f"{path} = -123456789") for path in chance.sample(numbers, 40)]
    wrong += [("nan", f"{path} = nan") for path in chance.sample(numbers, 30)]
    wrong += [("table", f"{path} = {{a = 1}}") for path in chance.sample(every, 40)]
    wrong += [("date", f"{path} = 2020-01-01") for path in chance.sample(every, 40)]
    exclude = (
        "train.batch_length = 64\ntrain.prefill = {}", "steps = {0}\ntrain.prefill = {0}00", "env.workers = 9\nenv.num_envs = {}",
        "steps = 1000000\ntrain.prefill = 5{0}\nreplay.capacity = {0}",
    )  # fmt: skip
    wrong += [("cross", text.format(value)) for text in exclude for value in (2, 3, 4, 5)]
    wrong += [("cross", 'strict = true\ndevice = "cuda"'), ("cross", "strict = true\nminutes = 1.0")]
    wrong += [("cross", f"train.batch_length = 64\ntrain.prefill = 400\nenv.num_envs = {value}") for value in (8, 9)]
    return wrong


def typo(path: str) -> str:
    head, dot, leaf = path.rpartition(".")
    return head + dot + leaf[: len(leaf) // 2] + leaf[len(leaf) // 2 + 1 :]


PROGRAM = """
import sys
from worldlab.cli import main
code = main(sys.argv[1:])
print("torch" in sys.modules)
sys.exit(code)
"""


def refuse(place: Path, number: int) -> dict[str, Any]:
    what, text = wrong_configurations()[number]
    file = place / "wrong.toml"
    file.write_text(text)
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        "train",
        "--preset",
        "laptop",
        "--config",
        str(file),
        "--run",
        str(place / "run"),
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, cwd=place)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2)
    light = done.stdout.strip() == "False" and not (place / "run").exists()
    said = done.stderr.startswith("config: ") and "\nTraceback" not in done.stderr
    hint = what != "typo" or "Did you mean" in done.stderr
    good = done.returncode == 2 and light and said and seconds <= LIMIT
    words = {"what": what, "codes": {str(done.returncode): 1}, "seconds": seconds, "silent": int(not done.returncode)}
    return {**words, "hint": hint, "good": good, "err": "" if good else f"{text}: {done.stderr[-300:]}"}


SECTIONS = {
    "T-NAN": Section(
        "a bad value is reported in its update, changes no weight and is in no checkpoint", poison_once, len(ONCE)
    ),
    "T-NAN for ever": Section(
        "after ten updates the run ends as diverged, its checkpoint whole", poison_for_ever, len(EVER)
    ),
    "T-CFG": Section("refused with exit code 2 before torch is imported, within 0.5 s", refuse, 220),
}


def main() -> None:
    args = arguments(__doc__, SECTIONS)
    with tempfile.TemporaryDirectory() as folder:
        make_trials("reliability_numbers.py", args, SECTIONS, Path(folder), run=" ".join(TINY))


if __name__ == "__main__":
    main()
