"""Dreamt minus real return of the run's agent, from the same starts, at several temperatures.

Uses worldlab.evaluation.dream_gap. The temperature is that of Ha & Schmidhuber 2018, arXiv:1803.10122, section 4.2.
"""

from __future__ import annotations

import numpy as np
import torch

from worldlab.distributions import HasTemperature
from worldlab.env.pool import EnvPool
from worldlab.env.spaces import decode_action
from worldlab.evaluation.dream_gap import CONTEXT_STEPS, Gap, GapProbe
from worldlab.experience.collect import next_obs
from worldlab.study.measures.measured_model import MeasuredModel
from worldlab.study.measures.quantities import TEMPERATURES
from worldlab.study.measures.standard_errors import make_measurement
from worldlab.study.measures.undefined import Undefined
from worldlab.study.results import Measurement

STREAM = 40_962
"""First entry of the episodes' seeds; training and evaluation use seeds of a single number, so none coincide."""


def measure(subject: MeasuredModel) -> dict[str, Measurement]:
    """Measure gap/... Raises: Undefined if every episode ends before its dream would start."""
    probe = _play(subject)
    out: dict[str, Measurement] = {}
    for temperature in TEMPERATURES:
        name = f"gap/difference_{temperature:g}"
        if temperature != 1.0 and not _has_temperature(subject):
            out[name] = Measurement(None, why="the dynamics' prediction has no temperature")
            continue
        gap = probe.measure(subject.generator("gap"), temperature)
        if gap is None:
            raise Undefined(f"every episode was over within {CONTEXT_STEPS} decisions")
        out[name] = make_measurement(gap.difference, gap.error)
        out["gap/real"] = _average_real(gap)
    return out


def _average_real(gap: Gap) -> Measurement:
    count = len(gap.real)
    error = float(np.std(gap.real, ddof=1)) / count**0.5 if count > 1 else None
    return make_measurement(float(np.mean(gap.real)), error)


def _play(subject: MeasuredModel) -> GapProbe:
    """Play the agent's first decisions in several episodes as evaluation does; the probe records where dreams start."""
    count, horizon = subject.sizes.gap_episodes, subject.sizes.gap_horizon
    acting = subject.make_agent(subject.seed)
    probe = GapProbe(acting, horizon, subject.deterministic)
    with EnvPool(subject.make_env, count, 0, [STREAM, subject.seed]) as pool:
        arrivals, state, first = pool.reset(), None, np.ones(count, bool)
        for _ in range(CONTEXT_STEPS + horizon):
            encoded, state = acting.choose(next_obs(arrivals), state, first, explore=not subject.deterministic)
            arrivals = pool.step(decode_action(pool.action_space, encoded))
            first = arrivals.done
            probe.record_decision(state)
            probe.record_step(arrivals.reward, arrivals.terminated, arrivals.truncated)
    return probe


@torch.no_grad()
def _has_temperature(subject: MeasuredModel) -> bool:
    model = subject.model
    memory = model.dynamics.memory(model.dynamics.initial(1))
    return isinstance(model.dynamics.predict(memory), HasTemperature)
