"""Throughput of drawing images and imagining steps, beside the simulator.

Timings are wall-clock time on this machine, in this process. These are the only measures that differ from run to run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch

from worldlab.env.spaces import action_spec, decode_action
from worldlab.experience.collect import random_actions
from worldlab.study.measures.calls import Work, build_frame_work, build_naive_step_work, build_step_work
from worldlab.study.measures.measured_model import MeasuredModel
from worldlab.study.measures.quantities import BATCHES
from worldlab.study.measures.standard_errors import make_measurement
from worldlab.study.measures.undefined import Undefined
from worldlab.study.results import Measurement

REPEATS = 3
"""Minimum number of timings, beside the warm-up."""


def measure(subject: MeasuredModel) -> dict[str, Measurement]:
    """Measure speed/..., in frames or steps per second."""
    model, sizes = subject.model, subject.sizes
    synchronise = torch.cuda.synchronize if model.device.type == "cuda" else _do_nothing
    out: dict[str, Measurement] = {}
    for rows in BATCHES:
        works = {
            "frames": build_frame_work(model, rows),
            "steps": build_step_work(model, rows),
            "naive_steps": build_naive_step_work(model, rows, sizes.past),
        }
        out |= {
            f"speed/{name}_{rows}": measure_rate(work, rows, sizes.seconds, synchronise) for name, work in works.items()
        }
    out["speed/simulator"] = _measure_simulator(subject)
    out["speed/ratio"] = _divide(out[f"speed/steps_{BATCHES[-1]}"], out["speed/simulator"])
    return out


def _do_nothing() -> None: ...


@torch.no_grad()
def measure_rate(
    work: Work,
    rows: int,
    seconds: float,
    synchronise: Callable[[], object] = _do_nothing,
    between: Callable[[], object] = _do_nothing,
) -> Measurement:
    """Measure rows per second: the median of timings over `seconds` in total, after a warm-up, with its standard error.

    synchronise: waits until the work is done. between: called before each timing and not timed.
    """
    if isinstance(work, Undefined):
        return Measurement(None, why=str(work))
    rates: list[float] = []
    begin = time.perf_counter()
    while len(rates) <= REPEATS or time.perf_counter() - begin < seconds:
        between()
        start = time.perf_counter()
        work()
        synchronise()
        rates.append(rows / (time.perf_counter() - start))
    rates = rates[1:]
    # The standard error of the median of a normal sample is sqrt(pi / 2) times that of its mean.
    error = math.sqrt(math.pi / 2) * float(np.std(rates, ddof=1)) / len(rates) ** 0.5
    return make_measurement(float(np.median(rates)), error)


def _measure_simulator(subject: MeasuredModel) -> Measurement:
    """Measure decisions per second of the evaluation environment, including repeated actions and rendering."""
    env = subject.make_env()
    spec, rng = action_spec(env.action_space), np.random.default_rng(subject.seed)
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
        return measure_rate(step, 1, subject.sizes.seconds, between=between)
    finally:
        env.close()


def _divide(fast: Measurement, slow: Measurement) -> Measurement:
    if fast.value is None or slow.value is None:
        return Measurement(None, why=fast.why or slow.why)
    relative = math.hypot((fast.error or 0.0) / fast.value, (slow.error or 0.0) / slow.value)
    return make_measurement(fast.value / slow.value, fast.value / slow.value * relative)
