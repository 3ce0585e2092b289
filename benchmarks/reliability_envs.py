"""Count what environments that fail, hang, die or break their word do to a run (D1 to D9 of docs/reliability.md).

    python benchmarks/reliability_envs.py --out benchmarks/results/reliability_envs.json

D1, D2 and D3 play pools of eight environments in eight workers, in which one raises, hangs or is killed at random steps.
Every record of the replay must belong to one episode, and the other environments must play what they play undisturbed.
D4 and D9 build and step environments that break their declaration. D5 overwrites its buffer. D6 lets MuJoCo diverge. D7
resumes an environment that does not follow its seed. D8 replaces a worker a thousand times.
"""

from __future__ import annotations

import gc
import logging
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import psutil
from machine import ROOT
from trials import Section, arguments, make_trials

sys.path.insert(0, str(ROOT / "tests" / "kits"))
from broken_envs import MISDECLARED, MISTAKES, Reusing, build_declared, build_mistaken
from interrupted_runs import TINY, train
from pool_kit import Counter, crossings, play, stream

from worldlab.env.pool import EnvPool
from worldlab.errors import EnvError, WorldlabError

ENVS, TIMEOUT, LATEST = 8, 1.0, 2.0
"""Environments and workers of a pool; seconds until one counts as hanging; seconds in which a failure must be noticed."""
UNSEEDED = """
import random

import gymnasium
import numpy as np


class Unseeded(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.array([random.random(), 0], np.float32), {}

    def step(self, action):
        self.count += 1
        return np.array([random.random(), 0], np.float32), 1.0, self.count == 9, False, {}


gymnasium.register("Unseeded-v0", Unseeded)
"""


def disturb(kinds: tuple[str, ...], named: str, crashes: int) -> Callable[[Path, int], dict[str, Any]]:
    """Return the trial that lets one environment fail at several random steps. named: what its messages say."""

    def work(place: Path, number: int) -> dict[str, Any]:
        chance, kind = random.Random(number), kinds[number % len(kinds)]
        faults = {step: [chance.randrange(ENVS)] for step in chance.sample(range(3 * crashes), crashes)}
        steps, broken = 3 * crashes, {env for envs in faults.values() for env in envs}
        with EnvPool(Counter, ENVS, 0, seed=number) as pool:
            undisturbed = play(pool, {}, steps)
        with (
            noted() as notes,
            EnvPool(lambda: Counter(kind), ENVS, ENVS, seed=number, timeout=TIMEOUT, restarts=crashes) as pool,
        ):
            log, late = timed_play(pool, faults, steps, notes)
            left, children = pool.restarts, psutil.Process().children()
            zombies = sum(child.status() == psutil.STATUS_ZOMBIE for child in children)
            over = fails(lambda: pool.step([99] + [0] * (ENVS - 1)))
        lines = [line for _, line in notes]
        lost = sum(stream(log, env) != stream(undisturbed, env) for env in range(ENVS) if env not in broken)
        stale = sum(len(crossings(stream(log, env))) for env in broken)
        good = not (lost or stale or left or zombies) and len(lines) == crashes and over == 4 and late <= LATEST
        good = good and all(named in line or "failed in reset" in line for line in lines)
        words = {"kind": kind, "events": crashes, "lost": lost, "stale": stale, "zombies": zombies, "seconds": late}
        return {**words, "good": good, "err": "" if good else lines[:3]}

    return work


@contextmanager
def noted() -> Iterator[list[tuple[float, str]]]:
    """Collect the warnings of worldlab and when they came."""
    notes: list[tuple[float, str]] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: notes.append((time.monotonic(), record.getMessage()))  # type: ignore[method-assign]
    logging.getLogger("worldlab").addHandler(handler)
    try:
        yield notes
    finally:
        logging.getLogger("worldlab").removeHandler(handler)


def timed_play(pool: EnvPool, faults: dict[int, list[int]], steps: int, notes: list[Any]) -> tuple[list, float]:
    """Play as `play` does. Returns: the arrivals, and the most seconds until a failure was reported."""
    begins: list[float] = []
    send = pool.send
    pool.send = lambda *args: (begins.append(time.monotonic()), send(*args))[1]  # type: ignore[method-assign]
    log = play(pool, faults, steps)
    late = [when - max(begin for begin in begins if begin <= when) for when, _ in notes]
    return log, round(max(late, default=math.inf), 2)


def fails(work: Callable[[], object]) -> int:
    """Return the exit code of what `work` raises, 0 if it raises nothing."""
    try:
        work()
    except WorldlabError as error:
        return error.exit_code
    return 0


def mistake(place: Path, number: int) -> dict[str, Any]:
    """Let the third step of the last of several environments return something wrong (D4)."""
    names = list(MISTAKES)
    name, mode = names[number % len(names)], number // len(names)
    envs, workers = ((1, 0), (2, 0), (1, 1), (2, 2))[mode]
    said = ""
    with EnvPool(lambda: build_mistaken(name), envs, workers, seed=0, restarts=3) as pool:
        pool.reset()
        pool.step([0] * envs)
        pool.step([0] * envs)
        try:
            pool.step([0] * envs)
        except EnvError as error:
            said = f"{error.message} | {error.cause}"
        spared = pool.restarts == 3  # it is an error of the environment's author, not a crash
    good = "step 3 of the episode" in said and "env 0: " in said and "expected " in said and spared
    return {"kind": name, "envs": envs, "workers": workers, "silent": int(not said), "good": good, "err": said}


def declaration(place: Path, number: int) -> dict[str, Any]:
    """Build an environment that no run can use (D9); the error must come before step 1."""
    name = list(MISDECLARED)[number]
    said = ""
    try:
        with EnvPool(lambda: build_declared(name), 2, 0, seed=0) as pool:
            pool.reset()
    except EnvError as error:
        said = f"{error.message} | {error.cause} | {error.fix}"
    return {"kind": name, "silent": int(not said), "good": bool(said) and "None" not in said[-6:], "err": said}


def aliasing(place: Path, number: int) -> dict[str, Any]:
    """Keep 10,000 steps of an environment that returns the same array every time, and compare (D5)."""
    with EnvPool(Reusing, 2, number % 2 * 2, seed=0) as pool:
        seen = [pool.reset(), *(pool.step([0, 0]) for _ in range(10_000))]
    stale = sum(int(arrivals.obs["vector"][0, 0]) != step for step, arrivals in enumerate(seen))
    return {"workers": number % 2 * 2, "events": 10_000, "stale": stale, "good": stale == 0}


def divergence(place: Path, number: int) -> dict[str, Any]:
    """Let a MuJoCo simulation diverge at a random step (D6)."""
    from worldlab_envs.gymnasium_adapter import build

    from worldlab.settings import EnvSettings

    chance = random.Random(number)
    at, what = chance.randrange(1, 40), chance.choice(("qpos", "qvel", "qfrc_applied"))
    made: list[gymnasium.Env] = []

    def make() -> gymnasium.Env:
        made.append(build("InvertedDoublePendulum-v5", EnvSettings(time_limit=20)))
        return made[-1]

    with noted() as notes, EnvPool(make, 1, 0, seed=number, restarts=1) as pool:
        log = [pool.reset()]
        for step in range(60):
            if step == at:
                inner: Any = made[-1].unwrapped
                getattr(inner.data, what)[0] = chance.choice((1e15, -1e15, math.nan))
            log.append(pool.step(np.zeros((1, 1), np.float32)))
    crashed = [step for step in range(60) if log[step + 1].is_first[0]]
    finite = all(np.isfinite(one.obs["vector"]).all() for one in log)
    good = crashed == [at] and finite and any("the simulation diverged" in line for _, line in notes)
    return {"step": at, "what": what, "silent": int(crashed != [at]), "good": good}


def unseeded(place: Path, number: int) -> dict[str, Any]:
    """Resume a run whose environment does not follow its seed (D7): it must say so."""
    from worldlab.env.find import inspect_env

    (place / "unseeded.py").write_text(UNSEEDED)
    sys.path.insert(0, str(place))
    flags, run = [*TINY, "--env", "unseeded:Unseeded", "--train.pretrain", "0", "--eval.every", "0"], f"un-{number}"
    killed = train(place, run, flags, failpoint=f"rename.after:{2 + number % 3}=kill").code
    err = train(place, run, flags).err
    from worldlab_envs.gymnasium_adapter import build

    from worldlab.settings import EnvSettings

    checks = inspect_env(build("unseeded:Unseeded-v0", EnvSettings()), 0.1)
    found = next(one["status"] for one in checks if one["check"] == "seeding")
    good = "resumed approximately: new episodes: environment 0 did not repeat" in err and found == "warn"
    return {"killed": killed, "check_env": found, "good": good, "err": "" if good else err[-400:]}


def replacements(place: Path, number: int) -> dict[str, Any]:
    """Kill and replace a worker 50 times (D8). Returns the growth of this process."""
    process = psutil.Process()
    with noted(), EnvPool(lambda: Counter("die"), 1, 1, seed=number, restarts=60) as pool:
        pool.reset()
        pool.step([99])
        gc.collect()
        before = process.memory_info().rss, process.num_fds(), len(process.children())
        for _ in range(50):
            pool.step([99])
        gc.collect()
        after = process.memory_info().rss, process.num_fds(), len(process.children())
    growth = [now - then for then, now in zip(before, after, strict=True)]
    names = ("rss_bytes", "descriptors", "children")
    good = growth[0] <= 20 * 2**20 / 20 * 4 and growth[1:] == [0, 0]  # in all at most 20 MiB; one trial may vary
    return {"events": 50, **dict(zip(names, growth, strict=True)), "good": good}


RAISES = ("raise", "reset", "exit", "base")
SECTIONS = {
    "D1": Section("an environment that raises costs one step", disturb(RAISES, "failed in step", 10), 20),
    "D2": Section("a hang is reported a second after its limit", disturb(("hang", "native"), "Counter", 5), 20),
    "D3": Section("a killed worker costs one step", disturb(("die",), "killed by SIGKILL", 10), 20),
    "D4": Section("a wrong return is refused", mistake, 4 * len(MISTAKES)),
    "D5": Section("no record follows a reused buffer", aliasing, 2),
    "D6": Section("a diverged simulation is a crash at that step", divergence, 30),
    "D7": Section("an environment without seeds resumes approximately and says so", unseeded, 6),
    "D8": Section("1,000 replaced workers leave nothing behind", replacements, 20),
    "D9": Section("an unusable environment is refused before its first step", declaration, len(MISDECLARED)),
}


def main() -> None:
    args = arguments(__doc__, SECTIONS)
    del sys.modules["__main__"].__file__  # workers would import this script, and with it torch, which takes seconds
    with tempfile.TemporaryDirectory() as folder:
        make_trials("reliability_envs.py", args, SECTIONS, Path(folder))


if __name__ == "__main__":
    main()
