"""Chooses and computes the losses that match posterior and prior, from their declared kinds and never from their names.

    posterior \\ prior    analytic            log_prob             sampler                critic
    analytic             balanced KL         NLL + (-H(q))        prior's own + score    prior's own + score
    own_logq             Monte-Carlo KL      Monte-Carlo KL       prior's own + score    prior's own + score
    implicit             NLL to sg(z)        NLL to sg(z)         prior's own            prior's own
    deterministic        NLL to sg(z)        NLL to sg(z)         prior's own            prior's own (trains z too)

sg is the stop-gradient. `dyn` trains the dynamics towards sg(z); `rep` trains the encoder towards the prediction of the
frozen dynamics. The likelihood of the next latent is never trained jointly: a collapsed latent minimises it, and the
joint NLL looks excellent while the standard deviation of the latents falls to 0.005.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from worldlab import tree
from worldlab.distributions import (
    HALF_LOG_2PI,
    Distribution,
    HasEntropy,
    HasKL,
    HasLogProb,
    Normal,
    OneHot,
    kl_to_standard_normal,
)
from worldlab.errors import ConfigError, PluginError
from worldlab.interfaces import Context, Dynamics, Encoder, HasMembers, Latent, ScoresLatent
from worldlab.nn import frozen
from worldlab.specs import LatentSpec

SAMPLED_KL = ("entropy_nll", "logq_nll")
"""Encoder terms that are one-sample estimates of KL(q || p)."""


@dataclass(frozen=True)
class Rule:
    """The losses that match one encoder and one dynamics."""

    dyn: str
    """Estimator of the term that trains the dynamics."""
    rep: str
    """Estimator of the term that trains the encoder."""
    why: str
    """The reason, for `--explain`."""


def choose(encoder: Encoder, dynamics: Dynamics, samples: int = 1) -> Rule:
    """Choose the rule from the declared kinds. Raises: ConfigError for a pair that cannot be trained.

    samples: particles that are weighted (worldlab.model.particles); a weight belongs to a sample, so with several of them
    no term is a closed form over all z.
    """
    if samples > 1:
        rep = "entropy_nll" if encoder.posterior_kind == "analytic" else "logq_nll"
        pair = f"{type(encoder).__name__} with {type(dynamics).__name__}"
        return Rule("nll", rep, f"{pair}: log q - log p of {samples} samples, weighted and resampled at every step")
    posterior, prior = encoder.posterior_kind, dynamics.prior_kind
    pair = f"{type(encoder).__name__} ({posterior}) with {type(dynamics).__name__} ({prior})"
    if prior in ("sampler", "critic"):
        return _choose_for_scored_prior(posterior, dynamics, pair)
    if posterior == "analytic" and prior == "analytic":
        return Rule("kl", "kl", f"{pair}: both in closed form, so balanced KL with free nats")
    if posterior == "analytic":
        return Rule("nll", "entropy_nll", f"{pair}: -log p(sg z) for the prior; -H(q) - log sg(p)(z) for the encoder")
    if posterior == "own_logq":
        return Rule(
            "nll", "logq_nll", f"{pair}: Monte-Carlo KL with log q of the encoder's own sample, or its dist's entropy"
        )
    return Rule(
        "nll", "none", f"{pair}: -log p(sg z) for the prior; the encoder trains by its own loss and the decoder's"
    )


def _choose_for_scored_prior(posterior: str, dynamics: Dynamics, pair: str) -> Rule:
    own = f"{pair}: the dynamics trains by its own {'contrastive ' if dynamics.prior_kind == 'critic' else ''}loss"
    if posterior in ("implicit", "deterministic"):
        return Rule("own", "none", f"{own}; the encoder by its own loss and the decoder's")
    if not isinstance(dynamics, ScoresLatent):
        raise ConfigError(
            f"{type(dynamics).__name__} has no density and no score to match {posterior} latents",
            cause=f"its prior_kind is '{dynamics.prior_kind}', but it has no score_latent(memory, z)",
            fix="add a score_latent method to the dynamics, or choose an encoder that is implicit or deterministic",
        )
    return Rule("own", "score_anchor", f"{own}; the encoder by its frozen score and a small KL to a standard prior")


def check_capacity(rule: Rule, posterior: str, staged: bool) -> None:
    """Check that a capacity has a KL to act on. Raises: ConfigError.

    staged: the encoder is trained against a standard prior, where a density of its own suffices.
    """
    if posterior in ("implicit", "deterministic") or (rule.rep == "score_anchor" and not staged):
        raise ConfigError(
            "model.capacity needs a KL between posterior and prior",
            cause=f"{'the posterior has no density' if posterior in ('implicit', 'deterministic') else rule.why}",
            fix="--model.capacity 0, or an encoder and a dynamics with densities",
        )


def divergence(ctx: Context) -> Tensor | None:
    """Return KL(posterior || prior) in nats, [N]: exact or a one-sample estimate; None if either has no density."""
    dist, z = tree.flatten_time(ctx.latent.dist), ctx.latent.z.flatten(0, 1)
    same_class = type(dist) is type(ctx.prior)
    if same_class and isinstance(dist, HasKL):
        return dist.kl(ctx.prior)
    if not isinstance(ctx.prior, HasLogProb):
        return None
    if isinstance(dist, HasEntropy):
        return -dist.entropy() - ctx.prior.log_prob(z)
    return None if ctx.latent.log_q is None else ctx.latent.log_q.flatten() - ctx.prior.log_prob(z)


def standard_prior(latent: LatentSpec, like: Tensor) -> Distribution:
    """Return the prior of a plain VAE for rows [N, ...]: N(0, I), or uniform codes."""
    if latent.kind == "categorical":
        logits = like.new_full((len(like), latent.groups, latent.classes), -math.log(latent.classes))
        return OneHot(logits)
    zeros = like.new_zeros(len(like), latent.dim)
    return Normal(zeros, torch.ones_like(zeros))


def standard_terms(ctx: Context, free_nats: float, capacity: float | None = None) -> dict[str, Tensor]:
    """Return the KL of a plain VAE to the standard prior in ctx.prior, with free nats or a capacity.

    Encoders without a density have losses of their own and get {}.
    """
    kl = divergence(ctx)
    if kl is None:
        return {}
    exact = isinstance(ctx.latent.dist, HasKL)
    return {"rep": _bounded(kl, exact, free_nats, capacity).unflatten(0, ctx.memory.shape[:2])}


def _bounded(kl: Tensor, exact: bool, free_nats: float, capacity: float | None) -> Tensor:
    """Return the KL that an encoder pays, [N]: above the free nats; or its distance from a capacity C, |KL - C|.

    Burgess et al. 2018, arXiv:1804.03599, eq. 8. Like free nats, the capacity is that of each frame if the KL is exact,
    else that of the batch's mean.
    """
    if capacity is not None:
        return (kl - capacity).abs() if exact else (kl - capacity) * torch.sign(kl.detach().mean() - capacity)
    return kl.clamp(min=free_nats) if exact else _apply_free_nats(kl, free_nats)


def _apply_free_nats(sampled: Tensor, free_nats: float) -> Tensor:
    """Apply free nats to a sampled KL by its batch mean: single samples are too noisy to clamp."""
    return sampled * (sampled.detach().mean() > free_nats) if free_nats else sampled


def terms(
    rule: Rule, ctx: Context, dynamics: Dynamics, free_nats: float, capacity: float | None = None
) -> dict[str, Tensor]:
    """Return the matching losses of a batch, unweighted, each [B, T], in nats per frame.

    dyn trains the dynamics and rep the encoder. anchor is the KL to a standard prior of an encoder that trains by a
    score. capacity: nats that the encoder is held to instead of paying above the free nats. The terms of an ensemble are
    the means over its members, each trained by rows of its own.
    """
    if not isinstance(dynamics, HasMembers):
        return _terms(rule, ctx, dynamics, free_nats, capacity)
    memory = ctx.memory.flatten(0, 1)
    each = [
        _terms(rule, replace(ctx, prior=member.predict(memory)), member, free_nats, capacity)
        for member in dynamics.each()
    ]
    stacked = {name: torch.stack([terms[name] for terms in each]) for name in each[0]}
    if "dyn" in stacked:
        stacked["dyn"] = dynamics.row_weights(ctx)[..., None] * stacked["dyn"]
    return {name: value.mean(0) for name, value in stacked.items()}


def _terms(rule: Rule, ctx: Context, dynamics: Dynamics, free_nats: float, capacity: float | None) -> dict[str, Tensor]:
    """Return the matching losses of one dynamics."""
    batch = ctx.memory.shape[0]
    z = ctx.latent.z.flatten(0, 1)
    out: dict[str, Tensor] = {}
    if rule.dyn == "kl":
        out.update(_balanced_kl(ctx, free_nats, capacity))
    elif rule.dyn == "nll":
        assert isinstance(ctx.prior, HasLogProb)
        out["dyn"] = -ctx.prior.log_prob(z.detach()).unflatten(0, (batch, -1))
    if rule.rep not in ("kl", "none"):
        memory = ctx.memory.flatten(0, 1).detach()
        latent = tree.flatten_time(ctx.latent)
        term = _rep_term(rule.rep, latent, memory, dynamics)
        if rule.rep in SAMPLED_KL:
            term = _bounded(term, False, free_nats, capacity)
        out["rep"] = term.unflatten(0, (batch, -1))
        if rule.rep == "score_anchor":
            out["anchor"] = _anchor_kl(latent).unflatten(0, (batch, -1))
    return out


def _balanced_kl(ctx: Context, free_nats: float, capacity: float | None) -> dict[str, Tensor]:
    """Compute the balanced KL with free nats: Hafner et al. 2023, arXiv:2301.04104, eq. 5.

    Both terms have the same value, unless the encoder is held to a capacity. Raises: PluginError if a part that declares
    'analytic' returns a distribution of a class of its own.
    """
    posterior: Any = tree.flatten_time(ctx.latent.dist)
    prior: Any = ctx.prior
    if type(posterior) is not type(prior):
        raise PluginError(
            f"the posterior is a {type(posterior).__name__}, the prior a {type(prior).__name__}: no closed-form KL",
            cause="both declare 'analytic', which requires distributions of the same class (worldlab.distributions)",
            fix="declare posterior_kind = 'own_logq' or prior_kind = 'log_prob' for a class of your own",
        )
    assert isinstance(posterior, HasKL)
    batch = ctx.memory.shape[0]
    dyn = tree.detach(posterior).kl(prior).unflatten(0, (batch, -1))
    rep = torch.unflatten(posterior.kl(tree.detach(prior)), 0, (batch, -1))
    return {"dyn": dyn.clamp(min=free_nats), "rep": _bounded(rep, True, free_nats, capacity)}


def _rep_term(kind: str, latent: Latent, memory: Tensor, dynamics: Dynamics) -> Tensor:
    """Return the encoder's term, [N]. Gradients reach z and q only; the dynamics' weights and the memory are frozen."""
    with frozen(dynamics):
        if kind == "score_anchor":
            assert isinstance(dynamics, ScoresLatent)
            fit = -dynamics.score_latent(memory, latent.z)
        else:
            prior = dynamics.predict(memory)
            assert isinstance(prior, HasLogProb)
            fit = -prior.log_prob(latent.z)
    return fit if kind == "score_anchor" else fit + _negative_entropy(latent)


def _negative_entropy(latent: Latent) -> Tensor:
    """Return E log q, [N]: exact if the entropy is known, else from the sample.

    log q of the sample has the right mean. For codes its gradient is wrong, so they must provide an entropy.
    """
    if isinstance(latent.dist, HasEntropy):
        return -latent.dist.entropy()
    assert latent.log_q is not None
    return latent.log_q


def _anchor_kl(latent: Latent) -> Tensor:
    """Return KL(q || standard prior), [N]; for codes up to a constant.

    A score is a ratio to the latent's own marginal, so it does not change when z drifts. Without the anchor, the
    posterior could spread at no cost and log q would decrease without bound.
    """
    if isinstance(latent.dist, Normal):
        return kl_to_standard_normal(latent.dist)
    if latent.tokens is not None or isinstance(latent.dist, OneHot):
        return _negative_entropy(latent)
    return _negative_entropy(latent) + (0.5 * latent.z.square() + HALF_LOG_2PI).sum(-1)
