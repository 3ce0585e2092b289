"""Several samples of the latent: K particles that are weighted and resampled, in the bound and in the filter.

    i_k ~ w at t - 1                                                      the ancestor of particle k
    h_k = f(h, z of particle i_k; a),     z_k ~ q(z | o, h_k)
    log w_k = log p(o | h_k, z_k) + log p(z_k | h_k) - log q(z_k | o, h_k)

    log p(o_1 .. o_T | a) >= E sum_t log 1/K sum_k w_k

For one frame this is the bound of an importance-weighted autoencoder (Burda et al. 2015, arXiv:1509.00519, eq. 8). For a
sequence, weights multiplied over time would leave one particle after a few steps, so the particles are resampled at every
step: Maddison et al. 2017 (FIVO), arXiv:1705.09279; Igl et al. 2018 (DVRL), arXiv:1806.02426. The product over
time of the mean weights is then an unbiased estimate of the likelihood, and the bound rises to it with K.

Its gradient is sum_k w_k / sum w times that of log w_k. So the losses of the plain bound, with these shares as the mask of
K rows for each sequence, are the losses of this one. As in both papers, no gradient passes the choice of the ancestors.
Weights of the matching terms other than 1, and free nats, change the plain bound in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from worldlab import tree
from worldlab.errors import ConfigError
from worldlab.interfaces import Context, Decoder, Dynamics, Encoder, Latent, Obs
from worldlab.rollout import Carry, Observed, Particles, posterior_step, reset_columns

if TYPE_CHECKING:
    from worldlab.interfaces import Batch
    from worldlab.world_model import WorldModel


def check_densities(encoder: Encoder, dynamics: Dynamics, decoder: Decoder, staged: bool) -> None:
    """Check that every particle can be weighted. Raises: ConfigError that names the part without a density."""
    why = ""
    if encoder.posterior_kind not in ("analytic", "own_logq"):
        why = f"encoder {type(encoder).__name__} has no density of z: its posterior_kind is '{encoder.posterior_kind}'"
    elif dynamics.prior_kind not in ("analytic", "log_prob"):
        why = f"dynamics {type(dynamics).__name__} has no density of z: its prior_kind is '{dynamics.prior_kind}'"
    elif decoder.score_kind != "log_density":
        why = f"decoder {type(decoder).__name__} has no density of o: its score_kind is '{decoder.score_kind}'"
    elif staged:
        why = "in train.schedule = staged the encoder trains against a standard prior, not the dynamics"
    if why:
        fix = "--model.samples 1, or a part with a density" if not staged else "--model.samples 1"
        raise ConfigError("model.samples above 1 needs densities that weight the samples", cause=why, fix=fix)


def resample(log_weight: Tensor, generator: torch.Generator) -> Tensor:
    """Draw the ancestors of K particles by systematic resampling: log_weight [N, K] -> [N, K] long, ascending.

    One uniform number u for each row places K points (k + u) / K on the cumulated shares of the weights. Particle i is
    the ancestor of K w_i particles on average, and of that number rounded up or down always. Carpenter et al. 1999.
    """
    count = log_weight.shape[1]
    if count == 1:
        return torch.zeros_like(log_weight, dtype=torch.long)
    start = torch.rand(len(log_weight), 1, dtype=torch.float64, generator=generator, device=log_weight.device)
    points = (torch.arange(count, device=log_weight.device) + start) / count
    return _locate(log_weight, points)


def _locate(log_weight: Tensor, points: Tensor) -> Tensor:
    """Return the particle whose interval of the cumulated shares contains each point of [0, 1): [N, P] long."""
    edges = torch.softmax(log_weight.double(), 1).cumsum(1)
    return torch.searchsorted(edges, points, right=True).clamp(max=log_weight.shape[1] - 1)


def spread(carry: Carry, count: int) -> Particles:
    """Return the particles of a carry: its own, or `count` equal ones of equal weight."""
    if carry.particles is not None:
        return carry.particles
    repeated = tree.tree_map(lambda leaf: leaf[:, None].expand(-1, count, *leaf.shape[1:]), (carry.state, carry.z))
    return Particles(*repeated, log_weight=carry.z.new_zeros(len(carry.z), count))


def choose(particles: Particles, index: Tensor) -> Carry:
    """Return the particles at index [N, P] of each row, as a carry of N * P rows."""
    rows = torch.arange(len(index), device=index.device)[:, None]
    state, z = tree.tree_map(lambda leaf: leaf[rows, index].flatten(0, 1), (particles.state, particles.z))
    return Carry(state, z)


@dataclass(frozen=True)
class ParticleStep:
    """One step of all particles."""

    particles: Particles
    """The particles after the step, with its weights."""
    ancestors: Tensor
    """The index of each one's ancestor among the particles before the step, [N, K] long."""
    memory: Tensor
    """[N * K, H]."""
    latent: Latent
    """Leaves [N * K, ...]."""


def step(
    model: WorldModel,
    particles: Particles,
    obs: Obs,
    embed: Tensor,
    action: Tensor,
    is_first: Tensor | None,
    generator: torch.Generator,
) -> ParticleStep:
    """Resample the particles, advance each with the last action, infer its z and weight it.

    obs: preprocessed, leaves [N, ...]. embed [N, E], action [N, A], is_first [N] bool or None.
    """
    count = particles.log_weight.shape[1]
    ancestors = resample(particles.log_weight, generator)
    before = choose(particles, ancestors)
    many_obs, embed, action, is_first = tree.repeat((obs, embed, action, is_first), count)
    carry, memory, latent = posterior_step(
        model.encoder, model.dynamics, before, embed, action, is_first, generator, model.specs.use_memory
    )
    weight = log_weight(model, memory, latent, many_obs)
    state, z, weight = tree.tree_map(lambda leaf: torch.unflatten(leaf, 0, (-1, count)), (carry.state, carry.z, weight))
    return ParticleStep(Particles(state, z, weight), ancestors, memory, latent)


@torch.no_grad()
def log_weight(model: WorldModel, memory: Tensor, latent: Latent, obs: Obs) -> Tensor:
    """Return log p(o | h, z) + log p(z | h) - log q(z | o, h) of every row, [N] in nats, without a gradient."""
    prior: Any = model.dynamics.predict(memory)
    log_q = latent.dist.log_prob(latent.z) if latent.log_q is None else latent.log_q
    features = torch.cat([memory, latent.z], -1)
    return model.decoder.score(features, obs) + prior.log_prob(latent.z) - log_q


def filter_step(
    model: WorldModel, carry: Carry, obs: Obs, action: Tensor, is_first: Tensor, generator: torch.Generator
) -> tuple[Carry, Tensor]:
    """Update the particles with one real observation. obs: preprocessed, leaves [N, ...].

    Returns a carry whose state and z are those of one particle, drawn by weight, from which to imagine; and the mean of
    the particles' features by weight, [N, F], on which to act.
    """
    before = spread(carry, model.settings.samples)
    after = step(model, before, obs, model.encoder.embed(obs), action, is_first, generator)
    share = torch.softmax(after.particles.log_weight, 1)
    features = torch.unflatten(torch.cat([after.memory, after.latent.z], -1), 0, share.shape)
    point = torch.rand(len(share), 1, dtype=torch.float64, generator=generator, device=share.device)
    drawn = choose(after.particles, _locate(after.particles.log_weight, point))
    return replace(drawn, particles=after.particles), (share[..., None] * features).sum(1)


def observe(model: WorldModel, batch: Batch, generator: torch.Generator) -> tuple[Context, Observed]:
    """Run K particles along a batch [B, T] whose first step counts as a reset.

    Returns a context of B * K rows, where rows b * K ... b * K + K - 1 are the particles of sequence b and the mask
    contains K times the share of each in the weight of its step. A row is no trajectory: the particle after it may descend
    from another row. `Observed.at(row, time)` returns the particles after they are resampled by the weights of that step.
    """
    count, (rows, length) = model.settings.samples, batch.is_first.shape
    is_first = torch.cat([torch.ones_like(batch.is_first[:, :1]), batch.is_first[:, 1:]], 1)
    embed = tree.unflatten_time(model.encoder.embed(tree.flatten_time(batch.obs)), rows)
    particles, steps = spread(model.initial(rows), count), list[ParticleStep]()
    for t, first in enumerate(reset_columns(is_first)):
        obs = tree.select(batch.obs, (slice(None), t))
        steps.append(step(model, particles, obs, embed[:, t], batch.prev_action[:, t], first, generator))
        particles = steps[-1].particles
    share = torch.softmax(torch.stack([one.particles.log_weight for one in steps], -1), 1)  # [B, K, T]
    many = tree.repeat(replace(batch, is_first=is_first), count)
    memory, latent = torch.stack([one.memory for one in steps], 1), tree.stack([one.latent for one in steps])
    row, time = torch.meshgrid(
        torch.arange(rows * count, device=embed.device), torch.arange(length, device=embed.device), indexing="ij"
    )
    ctx = Context(
        batch=replace(many, mask=many.mask * count * share.flatten(0, 1)),
        embed=embed.repeat_interleave(count, 0),
        memory=memory,
        latent=latent,
        features=torch.cat([memory, latent.z], -1),
        prior=model.dynamics.predict(memory.flatten(0, 1)),
        row=row,
        time=time,
        generator=generator,
    )
    return ctx, _observed(steps, memory, latent, generator)


def _observed(steps: list[ParticleStep], memory: Tensor, latent: Latent, generator: torch.Generator) -> Observed:
    """Return the particles of all steps, each after it is resampled by the weights of its own step."""
    after = [*(one.ancestors for one in steps[1:]), resample(steps[-1].particles.log_weight, generator)]
    carries = [choose(one.particles, index) for one, index in zip(steps, after, strict=True)]
    states = tree.stack(carries)
    return Observed(memory, latent, carries[-1], lambda row, time: tree.select(states, (row, time)))


def average(ctx: Context, count: int) -> Context:
    """Return the context of the B sequences whose particles `observe` returned: their mean memory, z and features.

    They are what an agent that acts sees. The latent has no distribution, and there is no prior.
    """
    weight = torch.unflatten(ctx.batch.mask, 0, (-1, count))
    share = (weight / weight.sum(1, keepdim=True).clamp(min=1e-6))[..., None]

    def mean(leaf: Tensor) -> Tensor:
        return (share * torch.unflatten(leaf, 0, (-1, count))).sum(1)

    first = tree.select((ctx.batch, ctx.embed, ctx.row, ctx.time), slice(None, None, count))
    batch, embed, row, time = first
    return replace(
        ctx,
        batch=replace(batch, mask=(weight.sum(1) > 0).to(weight.dtype)),
        embed=embed,
        memory=mean(ctx.memory),
        latent=Latent(mean(ctx.latent.z)),
        features=mean(ctx.features),
        prior=None,
        row=row // count,
        time=time,
    )


__all__ = ["average", "check_densities", "filter_step", "observe", "resample", "spread", "step"]
