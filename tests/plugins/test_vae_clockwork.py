"""The clockwork VAE: its upper level moves at ticks only, in observation and in dreams, and pays for ticks only."""

from __future__ import annotations

from dataclasses import replace

import torch
from family_kit import gen, make_batch
from worldlab_vae.clockwork import HELD_STD, ClockworkDynamics, ClockworkEncoder, hold
from worldlab_vae.configs import ClockworkDynamicsConfig, ClockworkEncoderConfig

from worldlab.distributions import Normal
from worldlab.model import matching
from worldlab.testing import check_mix, run_checks, small_config
from worldlab.testing.bench import Choice, Subject, reference_mix
from worldlab.world_model import WorldModel

UPPER, EVERY = 2, 3


def world(use_memory: bool | None = None) -> WorldModel:
    """A clockwork encoder and dynamics, with a reference decoder, on vectors."""
    encoder = Choice(ClockworkEncoder, small_config(ClockworkEncoderConfig, upper=UPPER))
    dynamics = Choice(ClockworkDynamics, small_config(ClockworkDynamicsConfig, every=EVERY))
    mix = replace(reference_mix(), encoder=encoder, dynamics=dynamics)
    return Subject("world_model", "clockwork", (mix,)).bench("vector", use_memory=use_memory).model


def expected_ticks(is_first: torch.Tensor) -> torch.Tensor:
    """Every third step of an episode, from its first: the clock in plain Python. [B, T] bool."""
    out = torch.zeros_like(is_first)
    for row in range(len(is_first)):
        age = 0
        for t in range(is_first.shape[1]):
            age = 0 if is_first[row, t] or t == 0 else age + 1
            out[row, t] = age % EVERY == 0
    return out


def test_the_upper_level_moves_at_ticks_only_and_the_clock_restarts_with_the_episode():
    model = world()
    batch = make_batch(model.specs, rows=4, length=10)
    ctx, _ = model.observe(batch, gen())
    upper = ctx.latent.z[..., :UPPER]
    moved = (upper[:, 1:] - upper[:, :-1]).abs().amax(-1)
    ticks = expected_ticks(batch.is_first)
    assert torch.equal(ctx.memory[..., -1].bool(), ticks)
    assert (moved[~ticks[:, 1:]] < 6 * HELD_STD).all() and (moved[ticks[:, 1:]] > 20 * HELD_STD).all()
    lower = ctx.latent.z[..., UPPER:]
    assert ((lower[:, 1:] - lower[:, :-1]).abs().amax(-1) > 20 * HELD_STD).all()


def test_between_ticks_the_upper_level_costs_exactly_nothing():
    model = world()
    batch = make_batch(model.specs, rows=4, length=10)
    ctx, _ = model.observe(batch, gen())
    assert isinstance(ctx.prior, Normal)
    posterior = Normal(ctx.latent.dist.mean.flatten(0, 1), ctx.latent.dist.std.flatten(0, 1))
    upper = Normal(posterior.mean[:, :UPPER], posterior.std[:, :UPPER]).kl(
        Normal(ctx.prior.mean[:, :UPPER], ctx.prior.std[:, :UPPER])
    )
    ticks = expected_ticks(batch.is_first).flatten()
    assert (upper[~ticks] == 0).all() and (upper[ticks] > 0).all()
    divergence = matching.divergence(ctx)
    assert divergence is not None and torch.isfinite(divergence).all()


def test_a_dream_holds_the_upper_level_too_and_goes_on_with_the_clock():
    model = world()
    batch = make_batch(model.specs, rows=4, length=5)
    _, seen = model.observe(batch, gen())
    dream = model.imagine(seen.final, torch.zeros(4, 6, model.specs.action.dim), 6, gen(1))
    upper = dream.features[..., model.specs.memory_dim :][..., :UPPER]
    moved = (upper[:, 1:] - upper[:, :-1]).abs().amax(-1)
    first = torch.cat([batch.is_first, torch.zeros(4, 6, dtype=torch.bool)], 1)
    ticks = expected_ticks(first)[:, 5:]
    assert ((moved > 6 * HELD_STD) == ticks).all()


def test_the_decoder_trains_the_upper_level_through_the_steps_that_hold_it():
    """The last frame of a clock's period has a gradient with respect to the frame of its tick, through u alone."""
    model = world()
    batch = make_batch(model.specs, rows=2, length=EVERY)  # a reset in row 1
    ctx, _ = model.observe(batch, gen())
    upper = ctx.latent.z[0, EVERY - 1, :UPPER].sum()
    (grad,) = torch.autograd.grad(upper, ctx.embed, retain_graph=True)
    assert grad[0, 0].abs().sum() > 0 and grad[0, 1:].abs().sum() == 0


def test_hold_keeps_the_last_value_or_the_prediction():
    dist = Normal(torch.tensor([[1.0, 2.0, 3.0]] * 2), torch.full((2, 3), 0.5))
    memory = torch.tensor([[9.0, 7.0, 8.0, 0.0], [9.0, 7.0, 8.0, 1.0]])
    held = hold(dist, memory, 2)
    assert held.mean.tolist() == [[7.0, 8.0, 3.0], [1.0, 2.0, 3.0]]
    torch.testing.assert_close(held.std, torch.tensor([[HELD_STD, HELD_STD, 0.5], [0.5, 0.5, 0.5]]))


def test_without_the_memory_nothing_is_held():
    model = world(use_memory=False)
    ctx, _ = model.observe(make_batch(model.specs, rows=4, length=10), gen())
    upper = ctx.latent.z[..., :UPPER]
    assert ((upper[:, 1:] - upper[:, :-1]).abs().amax(-1) > 20 * HELD_STD).all()
    assert isinstance(ctx.prior, Normal) and ctx.prior.std.min() > 20 * HELD_STD


def test_the_pair_passes_the_checks_of_whole_models():
    mix = reference_mix()
    encoder = Choice(ClockworkEncoder, small_config(ClockworkEncoderConfig))
    dynamics = Choice(ClockworkDynamics, small_config(ClockworkDynamicsConfig))
    found = check_mix(encoder, dynamics, mix.decoder, only={"W3", "W4", "W5", "W6"})
    assert len(found) == 4 and not [f"{r.check}: {r.cause}" for r in found if not r.passed]


def test_a_clock_of_one_step_is_a_plain_model_of_two_memories():
    config = small_config(ClockworkDynamicsConfig, every=1)
    found = run_checks("dynamics", ClockworkDynamics, config, only={"D1", "D6", "D7", "T1", "T2"})
    assert found and all(r.passed for r in found)
