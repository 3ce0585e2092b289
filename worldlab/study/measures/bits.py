"""Bits per dimension of images, where posterior, prior and decoder all have a density; elsewhere nothing is estimated.

    bits = -log2 P(o | h) / dimensions
    log P(o | h) >= log 1/K sum_k  P(o | h, z_k) p(z_k | h) / q(z_k | o, h),    z_k ~ q

is the importance-weighted bound (Burda et al. 2015, arXiv:1509.00519) for a frame, given the memory h of the sampled
latents before it. With K = 1, its mean over frames is the world model's own bound on -log2 P(o_1 .. o_T | actions),
whose earlier latents are samples as well. With larger K it bounds single frames given h, not the sequence, and shows
how loose the first bound is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from worldlab import tree
from worldlab.study.measures.latent import why_no_kl
from worldlab.study.measures.measured_model import MeasuredModel, sample_frames
from worldlab.study.measures.quantities import WEIGHTS
from worldlab.study.measures.standard_errors import average_frames
from worldlab.study.measures.undefined import Undefined
from worldlab.study.results import Measurement
from worldlab.world_model import WorldModel

ROWS = 256
"""Rows (frames times samples) per forward pass."""


def measure(subject: MeasuredModel) -> dict[str, Measurement]:
    """Measure bits/... Raises: Undefined where a density is missing."""
    model, draws = subject.model, subject.sizes.draws
    why = why_no_kl(subject) or why_no_likelihood(model)
    if why:
        raise Undefined(why)
    episode, time = sample_frames(*subject.frames("test"), subject.sizes.frames, subject.seed)
    log_likelihood, log_ratio = sample_log_weights(subject, episode, time)
    dimensions = sum(math.prod(spec.shape) for spec in model.specs.obs.images.values())
    bits = bits_by_draws(log_likelihood + log_ratio, dimensions, [k for k in (1, *WEIGHTS) if k <= draws])
    out = {f"bits/iw{k}": average_frames(value, episode) for k, value in bits.items()}
    missing = Measurement(None, why=f"the sample sizes allow only {draws} draws")
    return {
        "bits/bound": out["bits/iw1"],
        "bits/distortion": average_frames(bits_by_draws(log_likelihood, dimensions, [1])[1], episode),
        **{f"bits/iw{k}": out.get(f"bits/iw{k}", missing) for k in WEIGHTS},
        "bits/gap": average_frames(bits[1] - bits[max(bits)], episode) if len(bits) > 1 else missing,
    }


def why_no_likelihood(model: WorldModel) -> str:
    """Return why the decoder assigns images no probability; "" if it assigns one."""
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
def sample_log_weights(subject: MeasuredModel, episode: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Sample z_k and return log P(o | h, z_k) and log p(z_k | h) - log q(z_k | o, h) of frames (episode, time) [M].

    Returns: float64 [M, draws] each, in nats.
    """
    model, generator = subject.model, subject.generator("bits")
    draws = subject.sizes.draws
    parts = []
    for rows in torch.arange(len(episode)).split(max(1, ROWS // draws)):
        at = (episode[rows], time[rows])
        obs = tree.repeat(subject.obs(*at), draws)
        memory, embed = (
            tree.repeat(leaf[at].to(model.device), draws) for leaf in (subject.sampled_trace.memory, subject.embed)
        )
        parts.append(sample_log_terms(model, obs, embed, memory, generator))
    log_likelihood, log_ratio = (torch.cat(part).double().cpu().view(-1, draws) for part in zip(*parts, strict=True))
    return log_likelihood, log_ratio


def sample_log_terms(
    model: WorldModel, obs: dict[str, Tensor], embed: Tensor, memory: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Sample one z per row; return log P(o | h, z) [N] and log p(z | h) - log q(z | o, h) [N], in nats."""
    latent = model.encoder.infer(embed, memory if model.specs.use_memory else None, generator)
    prior: Any = model.dynamics.predict(memory)
    log_q = latent.log_q if latent.log_q is not None else latent.dist.log_prob(latent.z)
    log_likelihood = model.log_mass(torch.cat([memory, latent.z], -1), obs, generator)
    return log_likelihood, prior.log_prob(latent.z) - log_q


def bits_by_draws(weights: Tensor, dimensions: int, draws: Sequence[int]) -> dict[int, Tensor]:
    """Compute bits per dimension [M] for each number k of draws inside the logarithm.

    weights: log weights [M, K] in nats, K >= k. The result is the mean over as many groups of k as fit into K, so that
    on the same draws the bound never gets looser with k.
    """
    out = {}
    for k in draws:
        groups = weights[:, : weights.shape[1] // k * k].unflatten(1, (-1, k))
        nats = (torch.logsumexp(groups, 2) - math.log(k)).mean(1)
        out[k] = -nats / (dimensions * math.log(2))
    return out
