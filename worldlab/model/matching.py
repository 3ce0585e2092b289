"""The matching rule: which loss ties posterior and prior, chosen by what each is able to do, never by its name.

    posterior \\ prior    analytic            log_prob             sampler                critic
    analytic             balanced KL         NLL + (-H(q))        prior's own + score    prior's own + score
    own_logq             Monte-Carlo KL      Monte-Carlo KL       prior's own + score    prior's own + score
    implicit             NLL to sg(z)        NLL to sg(z)         prior's own            prior's own
    deterministic        NLL to sg(z)        NLL to sg(z)         prior's own            prior's own (trains z too)

`dyn` trains the dynamics towards the stopped latent; `rep` trains the encoder towards what the stopped dynamics expects.
An un-stopped likelihood of the next latent never reaches an encoder: it is minimised by killing the latent
(shared note FAMILIES.md 0.3: joint NLL looks excellent while the latents' std falls to 0.005).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
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
from worldlab.errors import ConfigError
from worldlab.interfaces import Context, Dynamics, Encoder, Latent, ScoresLatent
from worldlab.nn import frozen
from worldlab.specs import LatentSpec

SAMPLED_KL = ("entropy_nll", "logq_nll")
"""Terms of the encoder that are one-sample estimates of KL(q || p)."""


@dataclass(frozen=True)
class Rule:
    """How one encoder and one dynamics are tied. dyn and rep name the estimators; why is a sentence for people."""

    dyn: str
    rep: str
    why: str


def choose(encoder: Encoder, dynamics: Dynamics) -> Rule:
    """Pick the rule from declared abilities. Raises ConfigError for a pair that cannot be trained."""
    posterior, prior = encoder.posterior_kind, dynamics.prior_kind
    pair = f"{type(encoder).__name__} ({posterior}) with {type(dynamics).__name__} ({prior})"
    if prior in ("sampler", "critic"):
        return _choose_for_scored_prior(posterior, dynamics, pair)
    if posterior == "analytic" and prior == "analytic":
        return Rule("kl", "kl", f"{pair}: both closed forms, so a balanced KL with free nats")
    if posterior == "analytic":
        return Rule("nll", "entropy_nll", f"{pair}: -log p(sg z) for the prior; -H(q) - log sg(p)(z) for the encoder")
    if posterior == "own_logq":
        return Rule("nll", "logq_nll", f"{pair}: a Monte-Carlo KL, with log q of the encoder's own sample")
    return Rule(
        "nll", "none", f"{pair}: -log p(sg z) for the prior; the encoder is trained by its own and decoder losses"
    )


def _choose_for_scored_prior(posterior: str, dynamics: Dynamics, pair: str) -> Rule:
    own = f"{pair}: the dynamics trains by its own {'contrastive ' if dynamics.prior_kind == 'critic' else ''}loss"
    if posterior in ("implicit", "deterministic"):
        return Rule("own", "none", f"{own}; the encoder by its own and decoder losses")
    if not isinstance(dynamics, ScoresLatent):
        raise ConfigError(
            f"{type(dynamics).__name__} has no density and no score, so {posterior} latents cannot be tied to it",
            cause=f"its prior is '{dynamics.prior_kind}' but it does not offer score_latent(memory, z)",
            fix="give the dynamics a score_latent method, or choose an encoder that is implicit or deterministic",
        )
    return Rule("own", "score_anchor", f"{own}; the encoder by its frozen score, with a light pull to a standard prior")


def divergence(ctx: Context) -> Tensor | None:
    """KL(posterior || prior) in nats, [N]: exact, or its one-sample estimate; None where either has no density."""
    dist, z = tree.flatten_time(ctx.latent.dist), ctx.latent.z.flatten(0, 1)
    if isinstance(dist, HasKL) and type(dist) is type(ctx.prior):
        return dist.kl(ctx.prior)
    if not isinstance(ctx.prior, HasLogProb):
        return None
    if isinstance(dist, HasEntropy):
        return -dist.entropy() - ctx.prior.log_prob(z)
    return None if ctx.latent.log_q is None else ctx.latent.log_q.flatten() - ctx.prior.log_prob(z)


def standard_prior(latent: LatentSpec, like: Tensor) -> Distribution:
    """The prior of a plain VAE over rows [N, ...]: N(0, I), or uniform codes."""
    if latent.kind == "categorical":
        logits = like.new_full((len(like), latent.groups, latent.classes), -math.log(latent.classes))
        return OneHot(logits)
    zeros = like.new_zeros(len(like), latent.dim)
    return Normal(zeros, torch.ones_like(zeros))


def standard_terms(ctx: Context, free_nats: float) -> dict[str, Tensor]:
    """What ties the encoder to a standard prior in ctx.prior: the KL of a plain VAE, weight 1, with free nats; nothing
    for encoders without a density, which have losses of their own."""
    kl = divergence(ctx)
    if kl is None:
        return {}
    exact = isinstance(ctx.latent.dist, HasKL)
    kl = kl.clamp(min=free_nats) if exact else _apply_free_nats(kl, free_nats)
    return {"rep": kl.unflatten(0, ctx.memory.shape[:2])}


def _apply_free_nats(sampled: Tensor, free_nats: float) -> Tensor:
    """Free nats of a sampled KL: single draws are too noisy to be clamped, so the batch's mean decides."""
    return sampled * (sampled.detach().mean() > free_nats) if free_nats else sampled


def terms(rule: Rule, ctx: Context, dynamics: Dynamics, free_nats: float) -> dict[str, Tensor]:
    """Return the matching losses of a batch, unweighted, each [B, T], in nats per frame.

    dyn trains the dynamics, rep the encoder; anchor holds an encoder tied by a score to a standard prior.
    """
    batch = ctx.memory.shape[0]
    z = ctx.latent.z.flatten(0, 1)
    out: dict[str, Tensor] = {}
    if rule.dyn == "kl":
        out.update(_balanced_kl(ctx, free_nats))
    elif rule.dyn == "nll":
        assert isinstance(ctx.prior, HasLogProb)
        out["dyn"] = -ctx.prior.log_prob(z.detach()).unflatten(0, (batch, -1))
    if rule.rep not in ("kl", "none"):
        memory = ctx.memory.flatten(0, 1).detach()
        latent = tree.flatten_time(ctx.latent)
        term = _rep_term(rule.rep, latent, memory, dynamics)
        if rule.rep in SAMPLED_KL:
            term = _apply_free_nats(term, free_nats)
        out["rep"] = term.unflatten(0, (batch, -1))
        if rule.rep == "score_anchor":
            out["anchor"] = _anchor_kl(latent).unflatten(0, (batch, -1))
    return out


def _balanced_kl(ctx: Context, free_nats: float) -> dict[str, Tensor]:
    """KL balancing with free nats: Hafner et al. 2023, arXiv:2301.04104, eq. 5. Both terms see the same KL value."""
    posterior: Any = tree.flatten_time(ctx.latent.dist)
    prior: Any = ctx.prior
    if type(posterior) is not type(prior):
        raise ConfigError(
            f"the posterior is a {type(posterior).__name__}, the prior a {type(prior).__name__}: no closed-form KL",
            cause="both declare 'analytic', which means a distribution of one and the same class (worldlab.distributions)",
            fix="declare posterior_kind = 'own_logq', or prior_kind = 'log_prob', where the class is one of your own",
        )
    assert isinstance(posterior, HasKL)
    batch = ctx.memory.shape[0]
    dyn = tree.detach(posterior).kl(prior).unflatten(0, (batch, -1))
    rep = posterior.kl(tree.detach(prior)).unflatten(0, (batch, -1))
    return {"dyn": dyn.clamp(min=free_nats), "rep": rep.clamp(min=free_nats)}


def _rep_term(kind: str, latent: Latent, memory: Tensor, dynamics: Dynamics) -> Tensor:
    """What trains the encoder, [N]: gradients reach z (and q) only; the dynamics' weights and memory are stopped."""
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
    """E log q, [N]: exact, or from this very sample. log q of one's own sample has the right mean but, for codes, not
    the right gradient: it must then come from the entropy."""
    if isinstance(latent.dist, HasEntropy):
        return -latent.dist.entropy()
    assert latent.log_q is not None
    return latent.log_q


def _anchor_kl(latent: Latent) -> Tensor:
    """KL(q || standard prior), [N]; for codes up to a constant.

    A score is a ratio to the latent's own marginal and follows z wherever it goes: without the anchor, spreading out
    would be free and log q would sink without bound.
    """
    if isinstance(latent.dist, Normal):
        return kl_to_standard_normal(latent.dist)
    if latent.tokens is not None or isinstance(latent.dist, OneHot):
        return _negative_entropy(latent)
    return _negative_entropy(latent) + (0.5 * latent.z.square() + HALF_LOG_2PI).sum(-1)
