import pytest
import torch
from config_kit import configured
from cpc_toys import IMAGE, VECTOR, gen, make_batch, make_specs, small_model
from worldlab_cpc.configs import CPCEncoderConfig
from worldlab_cpc.encoder import CPCEncoder, augment

from worldlab.model.health import HealthMonitor
from worldlab.specs import ArraySpec, LatentSpec


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
