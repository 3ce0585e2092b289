import math
from dataclasses import replace

import pytest
import torch
from config_kit import configured
from cpc_toys import IMAGE, VECTOR, frames_context, gen, make_batch, make_specs, small_model
from worldlab_cpc.configs import CPCDecoderConfig, CPCEncoderConfig
from worldlab_cpc.decoder import CPCDecoder
from worldlab_cpc.encoder import CPCEncoder, augment
from worldlab_vae.configs import VAEDynamicsConfig
from worldlab_vae.dynamics import VAEDynamics

from worldlab.interfaces import Context, Latent
from worldlab.model import matching
from worldlab.model.health import HealthMonitor
from worldlab.settings import ModelSettings
from worldlab.specs import ArraySpec, LatentSpec, Specs
from worldlab.world_model import WorldModel


def build(obs=(VECTOR,), **config) -> CPCEncoder:
    torch.manual_seed(0)
    settings = configured(CPCEncoderConfig, latent_dim=8, width=4, units=16, layers=1, **config)
    return CPCEncoder(settings, make_specs(obs=obs))


def test_latent_is_normalised_and_noisy_only_with_a_generator():
    encoder = build(noise=0.3)
    embed = encoder.embed({"state": torch.randn(4000, 5, generator=gen())})
    assert embed.mean(-1).abs().max().item() < 1e-5
    assert embed.var(-1, correction=0).mean().item() == pytest.approx(1, abs=1e-2)
    clean = encoder.infer(embed, None, None)
    assert torch.equal(clean.z, embed) and clean.dist is None and clean.log_q is None
    noise = encoder.infer(embed, None, gen()).z - embed
    assert noise.std().item() == pytest.approx(0.3, rel=0.02) and abs(noise.mean().item()) < 0.01
    assert torch.equal(encoder.infer(embed, None, gen(3)).z, encoder.infer(embed, None, gen(3)).z)


def codes(groups: int = 2, classes: int = 4, **config) -> tuple[CPCEncoder, Specs]:
    torch.manual_seed(0)
    sizes = {"latent": "categorical", "groups": groups, "classes": classes, "units": 32}
    settings = configured(CPCEncoderConfig, **sizes, **config)
    specs = replace(make_specs(), latent=CPCEncoder.latent_spec(settings))
    return CPCEncoder(settings, specs), specs


def test_codes_are_one_hots_that_a_kl_can_match():
    encoder, specs = codes()
    assert specs.latent == LatentSpec(8, "categorical", 2, 4) and encoder.posterior_kind == "analytic"
    embed = encoder.embed({"state": torch.randn(64, 5, generator=gen())})
    latent = encoder.infer(embed, None, gen(1))
    grouped = latent.z.unflatten(-1, (2, 4))
    assert (
        set(grouped.detach().round(decimals=5).unique().tolist()) == {0.0, 1.0}
        and (grouped.sum(-1) - 1).abs().max() < 1e-5
    )
    most_likely = embed.unflatten(-1, (2, 4)).argmax(-1)
    assert torch.equal(encoder.infer(embed, None, None).z.unflatten(-1, (2, 4)).argmax(-1), most_likely)
    # Among many samples of one frame each code has its probability: the softmax, mixed with 1% of a uniform.
    drawn = encoder.infer(embed[:1].expand(20_000, -1), None, gen(2)).z.unflatten(-1, (2, 4)).mean(0)
    expected = 0.99 * embed[0].view(2, 4).softmax(-1) + 0.01 / 4
    torch.testing.assert_close(drawn, expected, rtol=0, atol=0.02)


def test_the_static_loss_alone_gives_each_cluster_codes_of_its_own():
    """Eight clusters of vectors and 8 x 8 codes: the bound on the mutual information of frames approaches log 8."""
    encoder, specs = codes(groups=8, classes=8, static_frames=64)
    centres = 3 * torch.randn(8, 5, generator=gen())
    optimizer = torch.optim.Adam(encoder.parameters(), 3e-3)

    def frames(seed: int) -> Context:
        cluster = torch.randint(8, (64,), generator=gen(seed))
        obs = {"state": centres[cluster] + 0.05 * torch.randn(64, 5, generator=gen(seed + 1))}
        ctx = frames_context(torch.zeros(64, specs.latent.dim), obs)
        z = encoder.infer(encoder.embed(obs), None, gen(seed + 2)).z[:, None]
        return replace(ctx, latent=Latent(z), generator=gen(seed + 3))

    for step in range(400):
        loss = encoder.losses(frames(10 * step))["static"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert 0.8 * math.log(8) < encoder.metrics(frames(1))["static_bound"].item() < 1.05 * math.log(8)
    found = encoder.infer(encoder.embed({"state": centres}), None, None).z
    assert len(found.unique(dim=0)) == 8


def test_the_prediction_trains_codes_and_not_points():
    """The KL of codes to the prediction reaches the encoder's weights; points learn from their own loss alone."""
    for latent, expected in (("categorical", True), ("point", False)):
        torch.manual_seed(0)
        settings = configured(CPCEncoderConfig, latent=latent, latent_dim=8, groups=2, classes=4, units=16)
        specs = replace(make_specs(), latent=CPCEncoder.latent_spec(settings))
        dynamics = VAEDynamics(configured(VAEDynamicsConfig, memory=specs.memory_dim, units=16), specs)
        decoder = CPCDecoder(configured(CPCDecoderConfig, projection=8, width=4, units=16, layers=1), specs)
        model = WorldModel(specs, CPCEncoder(settings, specs), dynamics, decoder, ModelSettings(units=16, free_nats=0))
        ctx, _ = model.observe(make_batch(specs), gen())
        terms = matching.terms(model.rule, ctx, model.dynamics, free_nats=0)
        assert ("rep" in terms) == expected
        if expected:
            (gradient,) = torch.autograd.grad(terms["rep"].mean(), [next(model.encoder.parameters())])
            assert gradient.abs().sum().item() > 0


def test_latent_spec_says_what_it_emits():
    assert CPCEncoder.latent_spec(CPCEncoderConfig(latent_dim=12)) == LatentSpec(12, "point")
    assert CPCEncoder.posterior_kind == "deterministic" and not CPCEncoder.uses_memory


@pytest.mark.parametrize(("side", "pad"), [(16, 1), (32, 2), (64, 4), (84, 4), (96, 4)])
def test_views_are_shifts_of_the_picture_within_the_pad(side: int, pad: int):
    spec = make_specs(obs=(("image", ArraySpec("image", (1, side, side))),)).obs
    grid = torch.arange(side * side, dtype=torch.float32).view(1, 1, side, side).repeat(300, 1, 1, 1)
    view = augment({"image": grid}, spec, 4, 0.0, gen())["image"]
    middle = side // 2
    shift = view[:, 0, middle, middle] - grid[:, 0, middle, middle]
    rows, columns = torch.round(shift / side), shift - torch.round(shift / side) * side
    assert rows.abs().max().item() == pad and columns.abs().max().item() == pad


def test_vector_views_jitter_in_proportion_and_leave_the_input_alone():
    spec = make_specs(obs=(VECTOR,)).obs
    scales = torch.tensor([0.0, 0.01, 1.0, 5.0, 100.0])
    vector = torch.randn(5000, 5, generator=gen()) * scales
    before = vector.clone()
    jitter = augment({"state": vector}, spec, 4, 0.1, gen(1))["state"] - vector
    torch.testing.assert_close(jitter.std(0), 0.1 * scales, rtol=0.05, atol=1e-8)
    assert torch.equal(vector, before)


def test_static_loss_is_an_unbiased_estimate_over_frames():
    """A subset of frames is scaled up: the mean over [B, T] is that over the subset, zeros elsewhere."""
    specs = make_specs(obs=(IMAGE, VECTOR))
    model = small_model(specs)
    ctx, _ = model.observe(make_batch(specs, rows=4, length=8), gen())
    encoder = model.encoder
    loss = encoder.losses(ctx)["static"]
    assert loss.shape == (4, 8) and int((loss != 0).sum()) == 16
    chosen = loss.flatten().nonzero()[:, 0]
    assert loss.mean().item() == pytest.approx((loss.flatten()[chosen] * 16 / 32).mean().item(), rel=1e-5)
    assert encoder.losses(ctx, "critic") == {}


def test_watching_does_not_move_the_random_stream():
    specs = make_specs(obs=(IMAGE, VECTOR))
    model = small_model(specs)
    ctx, _ = model.observe(make_batch(specs), gen())
    before = ctx.generator.get_state()
    first, second = HealthMonitor(model).metrics(ctx), HealthMonitor(model).metrics(ctx)
    assert torch.equal(ctx.generator.get_state(), before) and first == second


def test_static_loss_can_be_switched_off_with_its_weights():
    encoder = build(static_scale=0.0)
    assert encoder.project is None


def test_frames_do_not_influence_each_other():
    encoder = build(obs=(IMAGE, VECTOR))
    obs = {"image": torch.rand(4, 3, 16, 16, generator=gen()) - 0.5, "state": torch.randn(4, 5, generator=gen())}
    whole = encoder.embed(obs)
    alone = encoder.embed({key: leaf[2:3] for key, leaf in obs.items()})
    torch.testing.assert_close(whole[2:3], alone, rtol=1e-5, atol=1e-5)
