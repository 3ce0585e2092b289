import dataclasses
import math

import pytest
import torch
from flow_toys import (
    IMAGE,
    PPCA,
    VECTOR,
    count_calls,
    encoder,
    fit,
    gen,
    jacobian,
    make_batch,
    make_specs,
    small_model,
    stirred,
)
from worldlab_flow.inverse_autoregressive import InverseAutoregressiveFlow, sample_with_log_prob

from worldlab.distributions import Normal, normal_like


def built(dim: int = 6, **config):
    """An encoder with stirred weights in float64 and an embedding of 3 frames."""
    part = stirred(encoder(config, latent=dim)).double().eval()
    return part, part.embed({"state": torch.randn(3, 5, generator=gen(), dtype=torch.float64)})


@pytest.mark.parametrize("dim", [1, 2, 6, 7])
def test_log_q_is_that_of_the_autograd_jacobian(dim: int):
    """log q = log N(noise) - log|det dz/dnoise|, within 1e-8 in float64. Measured: below 1e-13."""
    part, embed = built(dim)
    density = part.density(embed[:1], None)
    noise = normal_like(density.mean, gen(1))
    matrix = jacobian(lambda x: sample_with_log_prob(density, x)[0], noise[0])
    expected = Normal(torch.zeros(dim), torch.ones(dim)).log_prob(noise[0]) - torch.linalg.slogdet(matrix).logabsdet
    assert abs(sample_with_log_prob(density, noise)[1].item() - expected.item()) < 1e-8


@pytest.mark.parametrize("dim", [1, 6])
def test_own_log_q_is_the_masked_autoregressive_density_of_the_same_z(dim: int):
    part, embed = built(dim)
    latent = part.infer(embed, None, gen(1))
    torch.testing.assert_close(latent.log_q, part.density(embed, None).log_prob(latent.z), rtol=0, atol=1e-10)
    single = part.float()
    latent = single.infer(embed.float(), None, gen(1))
    again = single.density(embed.float(), None).log_prob(latent.z)
    torch.testing.assert_close(latent.log_q, again, rtol=0, atol=1e-5 * dim)


def test_a_sample_costs_one_network_call_a_transform_and_a_foreign_z_one_an_entry():
    dim = 6
    part, embed = built(dim, transforms=3)
    density = part.density(embed, None)
    z = torch.randn(3, dim, generator=gen(), dtype=torch.float64)
    for step in part.flow.steps.transforms:
        assert count_calls(step.hyper, lambda: part.infer(embed, None, gen())) == 1
        assert count_calls(step.hyper, lambda: part.infer(embed, None, None)) == 1
        assert count_calls(step.hyper, lambda: density.log_prob(z)) == dim + 1


def test_each_entry_reads_all_before_it_in_alternating_order():
    """Also where the network has fewer units than entries: then zuko would leave the last entries half blind."""
    dim = 9
    flow = stirred(InverseAutoregressiveFlow(dim, 4, 1, units=4, layers=1)).double()
    context = torch.randn(1, 4, generator=gen(), dtype=torch.float64)
    x = torch.randn(dim, generator=gen(1), dtype=torch.float64)
    once = jacobian(lambda row: flow.generate(row, context), x)
    assert not once.triu(1).any() and once.tril().count_nonzero() == dim * (dim + 1) // 2
    twice = InverseAutoregressiveFlow(dim, 4, 2, units=4, layers=1)
    order = [step.order.tolist() for step in twice.steps.transforms]
    assert order == [list(range(dim)), list(range(dim))[::-1]]


def test_it_starts_as_the_outer_gaussian():
    part = encoder()
    embed = part.embed({"state": torch.randn(4, 5, generator=gen())})
    density, latent = part.density(embed, None), part.infer(embed, None, gen(2))
    noise = normal_like(density.mean, gen(2))
    torch.testing.assert_close(latent.z, density.mean + density.std * noise)
    torch.testing.assert_close(latent.log_q, Normal(density.mean, density.std).log_prob(latent.z))
    assert (density.std > 0.05).all() and 0.5 < density.std.mean() < 2


def test_without_a_generator_z_is_the_image_of_the_noise_mode():
    part, embed = built()
    density, latent = part.density(embed, None), part.infer(embed, None, None)
    assert torch.equal(latent.z, density.mode)
    torch.testing.assert_close(latent.log_q, density.log_prob(latent.z), rtol=0, atol=1e-9)


def test_memory_is_read_where_the_mix_lets_it():
    part = encoder(use_memory=True)
    embed = part.embed({"state": torch.randn(2, 5, generator=gen())})
    a, b = (part.infer(embed, torch.randn(2, 10, generator=gen(s)), None).z for s in (1, 2))
    assert not torch.equal(a, b)


@pytest.mark.parametrize("obs", [(IMAGE,), (VECTOR,), (IMAGE, VECTOR)], ids=["image", "vector", "both"])
def test_the_first_step_spreads_the_means_over_the_first_batch(obs):
    """Data-dependent initialisation: means of std 1 around 0 over the frames it was measured on, then never again."""
    specs = make_specs(obs=obs, use_memory=True)
    model = small_model(specs)
    part, batch = model.encoder, make_batch(specs)
    ctx, _ = model.observe(batch, gen())
    memory = ctx.memory.mean((0, 1)).expand(ctx.row.numel(), -1)

    def means() -> torch.Tensor:
        return part.density(ctx.embed.flatten(0, 1), memory).mean

    before = means()
    assert part.losses(ctx, "critic") == {} and part.losses(ctx) == {}
    torch.testing.assert_close(means(), before)  # the graph of this update still needs the old weights
    part.after_step("main")
    std = before.std(0, correction=0)
    gain = torch.where(std > 0.02, 1 / std.clamp(min=0.1), 1)
    torch.testing.assert_close(means(), (before - before.mean(0)) * gain, rtol=1e-3, atol=1e-4)
    after = means()
    part.losses(ctx)
    part.after_step("main")
    assert torch.equal(means(), after) and "start" in part.state_dict()


def test_a_first_batch_of_equal_frames_stretches_nothing():
    specs = make_specs()
    model = small_model(specs)
    batch = make_batch(specs)
    dull = dataclasses.replace(batch, obs={"state": torch.zeros_like(batch.obs["state"])})
    before = model.encoder.head.affine.weight.clone()
    model.encoder.losses(model.observe(dull, gen())[0])
    model.encoder.after_step("main")
    assert torch.equal(model.encoder.head.affine.weight, before)


def test_metrics_agree_with_the_density():
    specs = make_specs()
    model = small_model(specs)
    stirred(model.encoder)
    ctx, _ = model.observe(make_batch(specs), gen())
    metrics = model.encoder.metrics(ctx)
    density = model.encoder._batch_density(ctx)
    noise = normal_like(density.mean, gen())
    x, log_det = model.encoder.flow.generate_with_log_det(noise, density.context)
    torch.testing.assert_close(metrics["log_det_mean"], log_det.mean())
    torch.testing.assert_close(metrics["entropy"], -density.log_prob(density.mean + density.std * x).mean())
    assert 0 < metrics["log_scale_max"] <= 3


@pytest.mark.slow
def test_posterior_gap_on_ppca_falls_from_the_mean_fields_to_almost_nothing():
    """KL(q || p(z | x)) <= 0.05 nats, where the best mean field keeps its closed-form gap."""
    world = PPCA()
    assert world.mean_field_gap == pytest.approx(1.07, abs=0.01)
    part = encoder({"units": 48}, latent=world.dim)

    def loss(step: int) -> torch.Tensor:
        x = world.draw(128, step)
        # Another stream than the data's: the same one would hand q the very z that made x.
        latent = part.infer(part.embed({"state": x}), None, gen(10**6 + step))
        return (latent.log_q - world.joint(x, latent.z)).mean()

    fit(part.parameters(), loss, 700, 1e-2)
    x = world.draw(4000, 10**7)
    with torch.no_grad():
        latent = part.infer(part.embed({"state": x}), None, gen())
        gap = latent.log_q - world.posterior(x).log_prob(latent.z)
    print(f"gap {gap.mean():.3f} nats, mean field {world.mean_field_gap:.3f}")
    assert gap.mean().item() <= 0.05
    assert gap.mean().item() >= -4 * gap.std().item() / math.sqrt(len(gap))
