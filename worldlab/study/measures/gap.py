"""What the run's agent is promised in the dream and gets in reality, from the same starts, at several temperatures.

worldlab.evaluation.dream_gap; the temperature is that of Ha & Schmidhuber 2018, arXiv:1803.10122, section 4.2.
"""

from __future__ import annotations

import numpy as np
import torch

from worldlab.distributions import HasTemperature
from worldlab.env.pool import EnvPool
from worldlab.env.spaces import decode_action
from worldlab.evaluation.dream_gap import CONTEXT_STEPS, Gap, GapProbe
from worldlab.experience.collect import next_obs
from worldlab.study.measures.intervals import measurement
from worldlab.study.measures.quantities import TEMPERATURES
from worldlab.study.measures.specimen import Specimen
from worldlab.study.measures.undefined import Undefined
from worldlab.study.results import Measurement

STREAM = 40_962
"""Begins the seeds of the episodes: evaluation and training seed theirs by one number."""


def measured(specimen: Specimen) -> dict[str, Measurement]:
    """gap/... Raises: Undefined if every episode was over before its dream would have begun."""
    probe = _played(specimen)
    out: dict[str, Measurement] = {}
    for temperature in TEMPERATURES:
        name = f"gap/difference_{temperature:g}"
        if temperature != 1.0 and not _tempers(specimen):
            out[name] = Measurement(None, why="the dynamics' prediction has no temperature")
            continue
        gap = probe.measure(specimen.generator("gap"), temperature)
        if gap is None:
            raise Undefined(f"every episode was over within {CONTEXT_STEPS} decisions")
        out[name] = measurement(gap.difference, gap.error)
        out["gap/real"] = _real(gap)
    return out


def _real(gap: Gap) -> Measurement:
    count = len(gap.real)
    return measurement(float(np.mean(gap.real)), float(np.std(gap.real, ddof=1)) / count**0.5 if count > 1 else None)


def _played(specimen: Specimen) -> GapProbe:
    """The agent's first decisions in some episodes, as evaluation judges it; the probe remembers where dreams begin."""
    count, horizon = specimen.sizes.gap_episodes, specimen.sizes.gap_horizon
    acting = specimen.acting(specimen.seed)
    probe = GapProbe(acting, horizon, specimen.deterministic)
    with EnvPool(specimen.make, count, 0, [STREAM, specimen.seed]) as pool:
        arrivals, state, first = pool.reset(), None, np.ones(count, bool)
        for _ in range(CONTEXT_STEPS + horizon):
            encoded, state = acting.choose(next_obs(arrivals), state, first, explore=not specimen.deterministic)
            arrivals = pool.step(decode_action(pool.action_space, encoded))
            first = arrivals.done
            probe.record_decision(state)
            probe.record_step(arrivals.reward, arrivals.terminated, arrivals.truncated)
    return probe


@torch.no_grad()
def _tempers(specimen: Specimen) -> bool:
    model = specimen.model
    memory = model.dynamics.memory(model.dynamics.initial(1))
    return isinstance(model.dynamics.predict(memory), HasTemperature)
