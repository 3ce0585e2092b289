"""Bits per dimension of pictures, where posterior, prior and decoder all have a density; elsewhere nothing is estimated.

    bits = -log2 P(o | h) / dimensions,    log P(o | h) >= log 1/K sum_k  P(o | h, z_k) p(z_k | h) / q(z_k | o, h),    z_k ~ q

the importance-weighted bound (Burda et al. 2015, arXiv:1509.00519) of a frame given the memory h of sampled latents that led to
it. With K = 1 its mean over frames is the world model's own bound on -log2 P(o_1 .. o_T | actions): latents before count as
drawn. With larger K it is the bound of single frames given h, no bound of the sequence: how much of the first one is slack.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from worldlab import tree
from worldlab.study.measures.intervals import mean
from worldlab.study.measures.latent import no_divergence
from worldlab.study.measures.quantities import WEIGHTS
from worldlab.study.measures.specimen import Specimen, some
from worldlab.study.measures.undefined import Undefined
from worldlab.study.results import Measurement
from worldlab.world_model import WorldModel

ROWS = 256
"""Pictures that are explained at a time."""


def measured(specimen: Specimen) -> dict[str, Measurement]:
    """bits/... Raises: Undefined where a density is missing."""
    model, draws = specimen.model, specimen.sizes.draws
    why = no_divergence(specimen) or no_likelihood(model)
    if why:
        raise Undefined(why)
    episode, time = some(*specimen.frames("test"), specimen.sizes.frames, specimen.seed)
    mass, gain = log_parts(specimen, episode, time)
    dimensions = sum(math.prod(spec.shape) for spec in model.specs.obs.images.values())
    found = bits_by_draws(mass + gain, dimensions, [k for k in (1, *WEIGHTS) if k <= draws])
    out = {f"bits/iw{k}": mean(value, episode) for k, value in found.items()}
    missing = Measurement(None, why=f"only {draws} draws were asked for")
    return {
        "bits/bound": out["bits/iw1"],
        "bits/distortion": mean(bits_by_draws(mass, dimensions, [1])[1], episode),
        **{f"bits/iw{k}": out.get(f"bits/iw{k}", missing) for k in WEIGHTS},
        "bits/gap": mean(found[1] - found[max(found)], episode) if len(found) > 1 else missing,
    }


def no_likelihood(model: WorldModel) -> str:
    """Why pictures have no probability under the decoder, "" if they have one."""
    decoder = model.decoder
    if model.has_log_mass:
        return ""
    if decoder.score_kind == "critic":
        return "the decoder has samples and a critic, no density"
    if decoder.score_kind == "contrastive":
        return "the decoder has a ratio p(o | z) / p(o), no density"
    if model.specs.obs.vectors:
        return "the observation has vectors: their densities are no probabilities of grey levels"
    return "the decoder has no probability of the 256 grey levels"


@torch.no_grad()
def log_parts(specimen: Specimen, episode: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """log P(o | h, z_k) and log p(z_k | h) - log q(z_k | o, h), float64 [M, draws] each in nats, of frames (episode, time) [M]."""
    model, generator = specimen.model, specimen.generator("bits")
    draws = specimen.sizes.draws
    parts = []
    for rows in torch.arange(len(episode)).split(max(1, ROWS // draws)):
        at = (episode[rows], time[rows])
        obs = tree.repeat(specimen.obs(*at), draws)
        memory, embed = (
            tree.repeat(leaf[at].to(model.device), draws) for leaf in (specimen.noisy.memory, specimen.embed)
        )
        parts.append(log_terms(model, obs, embed, memory, generator))
    mass, gain = (torch.cat(part).double().cpu().view(-1, draws) for part in zip(*parts, strict=True))
    return mass, gain


def log_terms(
    model: WorldModel, obs: dict[str, Tensor], embed: Tensor, memory: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One draw of z a row: log P(o | h, z) [N] and log p(z | h) - log q(z | o, h) [N], in nats."""
    latent = model.encoder.infer(embed, memory if model.specs.use_memory else None, generator)
    prior: Any = model.dynamics.predict(memory)
    log_q = latent.log_q if latent.log_q is not None else latent.dist.log_prob(latent.z)
    mass = model.log_mass(torch.cat([memory, latent.z], -1), obs, generator)
    return mass, prior.log_prob(latent.z) - log_q


def bits_by_draws(weights: Tensor, dimensions: int, draws: Sequence[int]) -> dict[int, Tensor]:
    """Bits per dimension [M] by number of draws k inside the logarithm, from log weights [M, K] in nats, K >= k: the mean over as
    many groups of k as there are, so that more never say worse on the same draws."""
    out = {}
    for k in draws:
        groups = weights[:, : weights.shape[1] // k * k].unflatten(1, (-1, k))
        nats = (torch.logsumexp(groups, 2) - math.log(k)).mean(1)
        out[k] = -nats / (dimensions * math.log(2))
    return out
