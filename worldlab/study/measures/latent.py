"""Size of the latent, how much of it is used, and its information beyond the prior."""

from __future__ import annotations

import math

import numpy as np
import torch

from worldlab.model import health, matching
from worldlab.study.measures.measured_model import ROWS, MeasuredModel
from worldlab.study.measures.standard_errors import average_frames, make_measurement
from worldlab.study.results import Measurement

FRAMES = 512
"""Frames used for the rank; worldlab.model.health uses no more."""


def measure(subject: MeasuredModel) -> dict[str, Measurement]:
    """Measure latent/..."""
    episode, time = subject.frames("test")
    step = -(-len(episode) // FRAMES)
    found = health.latent_health(subject.mode_trace.z[episode[::step], time[::step]])
    specs = subject.model.specs
    observed = sum(math.prod(spec.shape) for _, spec in specs.obs.entries)
    return {
        "latent/effective_rank": make_measurement(float(found["effective_rank"])),
        "latent/active": make_measurement(float(found["active"])),
        "latent/dims": make_measurement(specs.latent.dim),
        "latent/ratio": make_measurement(specs.latent.dim / observed),
        "latent/kl": _measure_kl(subject),
    }


@torch.no_grad()
def _measure_kl(subject: MeasuredModel) -> Measurement:
    model, generator = subject.model, subject.generator("kl")
    valid = torch.from_numpy(subject.recording.valid)
    values, episodes = [], []
    test = subject.recording.episodes("test")
    for rows in np.array_split(test, -(-len(test) // ROWS)):
        ctx, _ = model.observe(subject.batch(rows), generator)
        kl = matching.divergence(ctx)
        if kl is None:
            return Measurement(None, why=why_no_kl(subject) or "q and p are distributions of different kinds")
        mask = valid[rows]
        values.append(kl.cpu().unflatten(0, (len(rows), -1))[mask])
        episodes.append(torch.from_numpy(rows)[:, None].expand(mask.shape)[mask])
    return average_frames(torch.cat(values), torch.cat(episodes))


def why_no_kl(subject: MeasuredModel) -> str:
    """Return why KL(q || p) cannot be computed: which of the two has no density; "" if both have one."""
    posterior, prior = subject.model.encoder.posterior_kind, subject.model.dynamics.prior_kind
    if posterior == "implicit":
        return "the encoder's posterior has samples and no density"
    if posterior == "deterministic":
        return "the encoder's posterior is a point with channel noise: it has no density"
    if prior == "sampler":
        return "the dynamics' prediction has samples and no density"
    if prior == "critic":
        return "the dynamics is trained by contrast: the density of its prediction is no likelihood"
    return ""
