import math

import pytest
import torch
from gan_toys import IMAGE, VECTOR, context, gen, make_batch, make_specs, play, small_encoder, small_model
from model_kit import weighted_losses
from torch import Tensor
from worldlab_gan.generators import Generated, NoisyMLP

from worldlab.distributions import Normal
from worldlab.nn import mlp
from worldlab.specs import ArraySpec, LatentSpec


def build(**config):
    torch.manual_seed(0)
    return small_encoder(make_specs(), **config)


def test_noise_is_inside_the_network_as_well_as_at_its_end():
    encoder = build().double()
    x, noise = torch.randn(1, 22, generator=gen()).double(), torch.randn(1, 6, generator=gen(1)).double()
    jacobian = torch.autograd.functional.jacobian(lambda e: encoder._squash(x, e)[0], noise)[:, 0]
    assert (jacobian.abs().sum(0) > 0).all() and torch.linalg.matrix_rank(jacobian) == 4
    # What is inside can bend with the frame; what is added at the end cannot.
    moved = torch.autograd.functional.jacobian(lambda e: encoder._squash(x + 1, e)[0], noise)[:, 0]
    assert (moved - jacobian).abs().max() > 1e-3


def test_without_a_generator_there_is_no_noise():
    encoder, specs = build(), make_specs()
    embed, memory = torch.randn(3, 16, generator=gen()), torch.randn(3, specs.memory_dim, generator=gen(1))
    assert torch.equal(encoder.infer(embed, memory, None).z, encoder.infer(embed, memory, None).z)
    a, b = (encoder.infer(embed, memory, gen(seed)).z for seed in (1, 2))
    assert not torch.equal(a, b) and torch.equal(a, encoder.infer(embed, memory, gen(1)).z)


def test_z_stays_within_its_limit_and_is_untouched_near_zero():
    encoder = build(limit=3.0, channel_noise=0.0)
    embed, memory = 1e4 * torch.randn(200, 16, generator=gen()), torch.zeros(200, 6)
    with torch.no_grad():
        encoder.net.last.weight.mul_(100)
    assert encoder.infer(embed, memory, gen()).z.abs().max() <= 3
    encoder = build(limit=3.0)
    x = torch.randn(50, 22, generator=gen())
    raw = encoder.net(x, None)
    near = raw.abs() < 0.3
    torch.testing.assert_close(encoder._squash(x, None)[near], raw[near], rtol=4e-3, atol=1e-6)


def test_channel_noise_has_the_std_asked_for():
    encoder = build(channel_noise=0.2)
    with torch.no_grad():
        for layer in encoder.net.inject:
            layer.weight.zero_()  # type: ignore[operator, union-attr]
        embed, memory = torch.randn(1, 16, generator=gen()), torch.randn(1, 6, generator=gen(1))
        z = encoder.infer(embed.expand(20_000, -1), memory.expand(20_000, -1), gen()).z
    torch.testing.assert_close(z.std(0), torch.full((4,), 0.2), rtol=0.03, atol=0)


def test_fool_reaches_z_and_nothing_else():
    """Neither the memory nor the prior's weights, and weights of the encoder only through z."""
    encoder = build()
    z = torch.randn(8, 4, generator=gen(), requires_grad=True)
    memory = torch.randn(8, 6, generator=gen(1), requires_grad=True)
    prior = NoisyMLP(6, 3, 8, 1, 4)
    ctx = context(z, memory, Generated(memory, prior))
    fool = encoder.losses(ctx)["fool"].sum()
    wanted = [z, memory, *prior.parameters(), *encoder.players()["main"].parameters]
    found = torch.autograd.grad(fool, wanted, allow_unused=True)
    assert found[0] is not None and found[0].abs().sum() > 0
    assert all(g is None for g in found[1:])


def test_fool_is_the_relativistic_guess_of_the_critic():
    encoder = build(fool_scale=0.3)
    z, memory, prior = torch.randn(8, 4), torch.randn(8, 6), Normal(torch.zeros(8, 4), torch.ones(8, 4))
    terms = weighted_losses(encoder, context(z, memory, prior, seed=5))
    sample = prior.sample(gen(5))
    expected = 0.3 * torch.log1p(torch.exp(encoder.critic(sample, memory) - encoder.critic(z, memory)))
    torch.testing.assert_close(terms["fool"][:, 0], expected)


def test_gauge_is_the_kl_of_the_moments():
    encoder = build(gauge_scale=1.0)
    z = 0.3 + 2 * torch.randn(500, 4, generator=gen())
    ctx = context(z, torch.zeros(500, 6), Normal(torch.zeros(500, 4), torch.ones(500, 4)))
    ctx.batch.mask[400:] = 0
    found = weighted_losses(encoder, ctx)["gauge"]
    kept = z[:400]
    moments = torch.distributions.Normal(kept.mean(0), kept.std(0, correction=0))
    expected = torch.distributions.kl_divergence(moments, torch.distributions.Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(found, expected.expand(500, 1), rtol=1e-3, atol=1e-3)
    assert "gauge" not in build(gauge_scale=0.0).losses(ctx)


def test_the_critic_reads_the_memory_only_where_the_encoder_does():
    prior = Normal(torch.zeros(8, 4), torch.ones(8, 4))
    for use_memory in (True, False):
        torch.manual_seed(0)
        encoder = small_encoder(make_specs(use_memory=use_memory))
        memory = torch.randn(8, 6, generator=gen(1))
        ctx = [context(torch.ones(8, 4), m, prior) for m in (memory, -memory)]
        values = [encoder.losses(c, "critic")["critic"] for c in ctx]
        assert torch.equal(*values) != use_memory


def test_watching_does_not_move_the_random_stream():
    specs = make_specs(obs=(IMAGE, VECTOR))
    model = small_model(specs)
    ctx = model.observe(make_batch(specs), gen())[0].detach()
    before = ctx.generator.get_state()
    with torch.no_grad():
        first, second = (part.metrics(ctx) for part in (model.encoder, model.encoder))
    assert torch.equal(ctx.generator.get_state(), before) and first == second


def test_noise_share_is_the_variance_that_is_noise():
    specs = make_specs(use_memory=False)
    encoder = small_encoder(specs, channel_noise=0.5)
    g = gen()
    with torch.no_grad():
        for layer in encoder.net.inject:
            layer.weight.zero_()  # type: ignore[operator, union-attr]
        embed = 3 * torch.randn(4000, 16, generator=g)
        z = encoder.infer(embed, None, g).z
        noise = z - encoder.infer(embed, None, None).z
        prior = Normal(torch.zeros(4000, 4), torch.ones(4000, 4))
        found = encoder.metrics(context(z, torch.zeros(4000, 6), prior, embed=embed))["noise_share"].item()
    assert found == pytest.approx((noise.var(0).mean() / z.var(0).mean()).item(), rel=0.05)
    assert not encoder.alarms({"noise_share": found}) and encoder.alarms({"noise_share": 0.95})


# ---- the aggregated posterior becomes the prior ----


def permutation_p(x: Tensor, y: Tensor, generator: torch.Generator, count: int = 200) -> float:
    """p-value of the permutation test of equal distributions by MMD with a mixture of Gaussian kernels. [N, D] each."""
    n, both = len(x), torch.cat([x, y])
    width = torch.pdist(both).median()
    kernel = sum(torch.exp(-torch.cdist(both, both).square() / (2 * (k * width) ** 2)) for k in (0.25, 0.5, 1.0, 2.0))
    assert isinstance(kernel, Tensor)

    def mmd(first: Tensor) -> float:
        sign = torch.full((2 * n,), -1.0)
        sign[first] = 1.0
        return (sign @ kernel @ sign).item()

    found = mmd(torch.arange(n))
    null = [mmd(torch.randperm(2 * n, generator=generator)[:n]) for _ in range(count)]
    return sum(value >= found for value in null) / count


def test_the_permutation_test_holds_its_level_and_has_power():
    g = gen()
    same = [
        permutation_p(torch.randn(200, 2, generator=g), torch.randn(200, 2, generator=g), g, 100) for _ in range(20)
    ]
    assert sum(p < 0.1 for p in same) <= 6
    flat = math.sqrt(12) * (torch.rand(400, 2, generator=g) - 0.5)
    assert permutation_p(flat, torch.randn(400, 2, generator=g), g) < 0.01


def fit(fool_scale: float) -> tuple[float, float, dict[str, Tensor]]:
    """Encode tanh of a mixture of two uniform factors. Returns R2 of the reconstruction, p of the MMD test, metrics."""
    torch.manual_seed(0)
    mix, g = torch.randn(2, 8, generator=gen(3)), gen()
    specs = make_specs((("x", ArraySpec("vector", (8,))),), LatentSpec(2), use_memory=False)
    encoder = small_encoder(specs, units=64, layers=1, fool_scale=fool_scale)
    decoder = mlp(2, 64, 1, 8)

    def draw(step: int, n: int = 128):
        x = torch.tanh((2 * torch.rand(n, 2, generator=g) - 1) @ mix)
        embed = encoder.embed({"x": x})
        z = encoder.infer(embed, None, g).z
        prior = Normal(torch.zeros(n, 2), torch.ones(n, 2))
        return context(z, torch.zeros(n, 6), prior, {"x": x}, embed, seed=step)

    def distortion(ctx) -> Tensor:
        return 0.5 * (decoder(ctx.latent.z) - ctx.batch.obs["x"]).square().sum(-1).mean()

    for _ in play(encoder, draw, 900, 3e-3, distortion, (decoder,)):
        pass
    with torch.no_grad():
        ctx = draw(10_000, 400)
        x, z = ctx.batch.obs["x"], ctx.latent.z
        r2 = 1 - (decoder(z) - x).square().sum() / (x - x.mean(0)).square().sum()
        p = permutation_p(z[:, 0], torch.randn(400, 2, generator=gen(8)), gen(9))
        return r2.item(), p, encoder.metrics(draw(10_001, 2000))


@pytest.mark.slow
def test_the_aggregated_posterior_becomes_the_prior_and_still_tells_the_frame():
    """The weight of the fool term is relative to the decoder's unit: here one nat of it is worth one nat of
    distortion."""
    r2, p, metrics = fit(fool_scale=1.0)
    print(f"R2 {r2:.3f}, p {p:.3f}, { ({k: round(float(v), 3) for k, v in metrics.items()}) }")
    assert r2 > 0.9 and p > 0.05
    assert abs(metrics["critic_gap"].item()) < 0.1


@pytest.mark.slow
def test_without_the_critic_it_does_not():
    r2, p, metrics = fit(fool_scale=0.0)
    print(f"R2 {r2:.3f}, p {p:.3f}, { ({k: round(float(v), 3) for k, v in metrics.items()}) }")
    assert r2 > 0.9 and p < 0.01
