"""How fast pictures are drawn and steps imagined, beside the simulator itself: wall clock of this machine, in this process.

These numbers differ from run to run; all others do not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch

from worldlab.env.spaces import action_spec, decode_action
from worldlab.experience.collect import random_actions
from worldlab.study.measures.calls import Work, drawing, imagining, naively
from worldlab.study.measures.intervals import measurement
from worldlab.study.measures.quantities import BATCHES
from worldlab.study.measures.specimen import Specimen
from worldlab.study.measures.undefined import Undefined
from worldlab.study.results import Measurement

REPEATS = 3
"""Least number of times that something is timed."""


def measured(specimen: Specimen) -> dict[str, Measurement]:
    """speed/..., in frames or steps a second."""
    model, sizes = specimen.model, specimen.sizes
    settle = torch.cuda.synchronize if model.device.type == "cuda" else _nothing
    out: dict[str, Measurement] = {}
    for rows in BATCHES:
        works = {
            "frames": drawing(model, rows),
            "steps": imagining(model, rows),
            "naive_steps": naively(model, rows, sizes.past),
        }
        out |= {f"speed/{name}_{rows}": rate(work, rows, sizes.seconds, settle) for name, work in works.items()}
    out["speed/simulator"] = _simulator(specimen)
    out["speed/ratio"] = _ratio(out[f"speed/steps_{BATCHES[-1]}"], out["speed/simulator"])
    return out


def _nothing() -> None: ...


@torch.no_grad()
def rate(
    work: Work,
    rows: int,
    seconds: float,
    settle: Callable[[], object] = _nothing,
    between: Callable[[], object] = _nothing,
) -> Measurement:
    """Rows a second: the median of timings that take `seconds` together, after a warm-up, with the error that they give it.

    settle: waits until the work is done. between: called untimed before each.
    """
    if isinstance(work, Undefined):
        return Measurement(None, why=str(work))
    rates: list[float] = []
    begin = time.perf_counter()
    while len(rates) <= REPEATS or time.perf_counter() - begin < seconds:
        between()
        start = time.perf_counter()
        work()
        settle()
        rates.append(rows / (time.perf_counter() - start))
    rates = rates[1:]
    # Of a normal sample a median strays sqrt(pi / 2) times as far as a mean.
    spread = math.sqrt(math.pi / 2) * float(np.std(rates, ddof=1)) / len(rates) ** 0.5
    return measurement(float(np.median(rates)), spread)


def _simulator(specimen: Specimen) -> Measurement:
    """Decisions a second of the environment as evaluation has it, repeated actions and drawing included, resets not."""
    env = specimen.make()
    spec, rng = action_spec(env.action_space), np.random.default_rng(specimen.seed)
    over, action = True, None

    def between() -> None:
        nonlocal over, action
        if over:
            env.reset(seed=int(rng.integers(2**31)))
        action = decode_action(env.action_space, random_actions(spec, 1, rng)[0])

    def step() -> None:
        nonlocal over
        _, _, terminated, truncated, _ = env.step(action)
        over = terminated or truncated

    try:
        return rate(step, 1, specimen.sizes.seconds, between=between)
    finally:
        env.close()


def _ratio(fast: Measurement, slow: Measurement) -> Measurement:
    if fast.value is None or slow.value is None:
        return Measurement(None, why=fast.why or slow.why)
    relative = math.hypot((fast.error or 0.0) / fast.value, (slow.error or 0.0) / slow.value)
    return measurement(fast.value / slow.value, fast.value / slow.value * relative)
