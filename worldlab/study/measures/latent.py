"""How large the latent is, and how much of it is used."""

from __future__ import annotations

import math

import numpy as np
import torch

from worldlab.model import health, matching
from worldlab.study.measures.intervals import mean, measurement
from worldlab.study.measures.specimen import ROWS, Specimen
from worldlab.study.results import Measurement

FRAMES = 512
"""Frames that the rank is taken of: no more are looked at by worldlab.model.health."""


def measured(specimen: Specimen) -> dict[str, Measurement]:
    """latent/..."""
    episode, time = specimen.frames("test")
    step = -(-len(episode) // FRAMES)
    found = health.latent_health(specimen.quiet.z[episode[::step], time[::step]])
    specs = specimen.model.specs
    observed = sum(math.prod(spec.shape) for _, spec in specs.obs.entries)
    return {
        "latent/effective_rank": measurement(float(found["effective_rank"])),
        "latent/active": measurement(float(found["active"])),
        "latent/dims": measurement(specs.latent.dim),
        "latent/ratio": measurement(specs.latent.dim / observed),
        "latent/kl": _kl(specimen),
    }


@torch.no_grad()
def _kl(specimen: Specimen) -> Measurement:
    model, generator = specimen.model, specimen.generator("kl")
    valid = torch.from_numpy(specimen.recording.valid)
    values, episodes = [], []
    test = specimen.recording.episodes("test")
    for rows in np.array_split(test, -(-len(test) // ROWS)):
        ctx, _ = model.observe(specimen.batch(rows), generator)
        kl = matching.divergence(ctx)
        if kl is None:
            return Measurement(None, why=no_divergence(specimen) or "q and p are distributions of different kinds")
        kept = valid[rows]
        values.append(kl.cpu().unflatten(0, (len(rows), -1))[kept])
        episodes.append(torch.from_numpy(rows)[:, None].expand(kept.shape)[kept])
    return mean(torch.cat(values), torch.cat(episodes))


def no_divergence(specimen: Specimen) -> str:
    """Why KL(q || p) cannot be had: which of the two has no density, "" if both have one."""
    posterior, prior = specimen.model.encoder.posterior_kind, specimen.model.dynamics.prior_kind
    if posterior == "implicit":
        return "the encoder's posterior has samples and no density"
    if posterior == "deterministic":
        return "the encoder's posterior is a point with channel noise: it has no density"
    if prior == "sampler":
        return "the dynamics' prediction has samples and no density"
    if prior == "critic":
        return "the dynamics is trained by contrast: the density of its prediction is no likelihood"
    return ""
