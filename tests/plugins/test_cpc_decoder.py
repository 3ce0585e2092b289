import math

import pytest
import torch
from config_kit import configured
from cpc_toys import (
    frames_context,
    gaussian_log_ratio,
    gaussian_pair,
    gen,
    make_batch,
    make_specs,
    mutual_information,
    small_model,
    vector_specs,
)
from model_kit import weighted_terms
from worldlab_cpc.configs import CPCDecoderConfig
from worldlab_cpc.decoder import CPCDecoder


def build(n: int, features: int, **config) -> CPCDecoder:
    torch.manual_seed(0)
    specs = vector_specs(n, latent=features, memory=0)
    return CPCDecoder(configured(CPCDecoderConfig, **{"projection": 16, "units": 64, "layers": 1} | config), specs)


def fit(decoder: CPCDecoder, draw, steps: int, rate: float = 3e-3) -> None:
    optimizer = torch.optim.Adam(decoder.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        features, obs = draw(step + 1)
        loss = decoder.losses(frames_context(features, {"state": obs}))["infonce"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def test_log_ratio_agrees_with_score_and_has_mean_one_over_the_bank():
    decoder = build(5, 4)
    features, bank = torch.randn(3, 4, generator=gen()), {"state": torch.randn(7, 5, generator=gen(1))}
    ratio = decoder.log_ratio(features, bank)
    torch.testing.assert_close(ratio.exp().mean(1), torch.ones(3))
    for i in range(3):
        score = decoder.score(features[i].expand(7, -1), bank)
        torch.testing.assert_close(ratio[i] - ratio[i, 0], score - score[0], rtol=1e-4, atol=1e-5)
    assert torch.equal(decoder.retrieve(features, bank), ratio.argmax(1))


def test_samples_are_bank_members_drawn_by_their_ratio():
    decoder = build(5, 4)
    bank = {"state": torch.randn(6, 5, generator=gen(1)) * 5}
    features = torch.randn(1, 4, generator=gen()) * 5
    drawn = decoder.sample(features.expand(20_000, -1), bank, gen(2))["state"]
    same = (drawn[:, None] == bank["state"]).all(-1)
    assert (same.sum(1) == 1).all()
    expected = (decoder.log_ratio(features, bank)[0] - math.log(6)).exp()
    torch.testing.assert_close(same.float().mean(0), expected, rtol=0, atol=0.015)


def test_it_draws_no_pictures_and_the_probe_gives_features_no_gradient():
    specs = make_specs()
    model = small_model(specs)
    assert model.decoder.decode(torch.zeros(2, specs.feature_dim)) == {} and model.drawn_by == "probe"
    ctx, _ = model.observe(make_batch(specs), gen())
    losses = weighted_terms(model, ctx)
    reach = [*model.encoder.parameters(), *model.dynamics.parameters(), *model.decoder.parameters()]
    gradients = torch.autograd.grad(losses["probe"].sum(), reach, allow_unused=True, retain_graph=True)
    assert all(g is None for g in gradients)
    (to_z,) = torch.autograd.grad(losses["decoder/infonce"].sum(), [ctx.latent.z])
    assert to_z.abs().sum().item() > 0


def test_near_frames_of_a_row_are_no_negatives():
    specs = make_specs()
    model = small_model(specs)
    ctx, _ = model.observe(make_batch(specs, rows=2, length=8), gen())
    # 8 frames of the other row, and those of the own row more than 5 steps away: times 0 and 1 have 2 and 1 of them.
    far = [2, 1, 0, 0, 0, 0, 1, 2]
    log_k = model.decoder._compute_infonce(ctx).log_k.view(2, 8).exp()
    torch.testing.assert_close(log_k, torch.tensor([[1.0 + 8 + n for n in far]] * 2))


def test_chosen_frames_give_a_column_of_losses():
    specs = make_specs()
    model = small_model(specs)
    ctx, _ = model.observe(make_batch(specs), gen())
    subset = ctx.frames(torch.tensor([0, 1, 3]), torch.tensor([7, 2, 2]))
    assert model.decoder.losses(subset)["infonce"].shape == (3, 1)


@pytest.mark.slow
def test_ratio_of_a_gaussian_toy_is_the_analytic_one():
    rho, dim = 0.8, 2
    decoder = build(dim, dim, projection=32)
    fit(decoder, lambda seed: gaussian_pair(rho, 256, dim, seed), steps=500)
    x, y = gaussian_pair(rho, 512, dim, seed=10_000)
    with torch.no_grad():
        score = decoder.score(x, {"state": y})
        shuffled = decoder.score(x, {"state": y.roll(1, 0)})
        metrics = decoder.metrics(frames_context(x, {"state": y}))
    learned = torch.cat([score, shuffled])
    truth = torch.cat([gaussian_log_ratio(rho, x, y), gaussian_log_ratio(rho, x, y.roll(1, 0))])
    correlation = torch.corrcoef(torch.stack([learned, truth]))[0, 1].item()
    mi = mutual_information(rho, dim)
    print(f"correlation {correlation:.3f}, bound {metrics['infonce_bound'].item():.3f} of {mi:.3f} nats")
    assert correlation > 0.95
    assert 0.85 * mi < metrics["infonce_bound"].item() < 1.1 * mi
    assert metrics["infonce_bound"].item() <= metrics["infonce_log_k"].item()


@pytest.mark.slow
def test_retrieval_is_near_bayes_optimal():
    """Features are noisy sights of one observation of the bank; the Bayes rule picks the highest true ratio."""
    rho, dim = 0.97, 4
    decoder = build(dim, dim, projection=32)
    fit(decoder, lambda seed: gaussian_pair(rho, 256, dim, seed), steps=400)
    x, y = gaussian_pair(rho, 64 * 20, dim, seed=10_000)
    own, best = 0.0, 0.0
    for part in range(20):
        features, bank = x[part * 64 :][:64], y[part * 64 :][:64]
        truth = torch.arange(64)
        own += (decoder.retrieve(features, {"state": bank}) == truth).float().mean().item() / 20
        optimum = gaussian_log_ratio(rho, features[:, None], bank[None]).argmax(1)
        best += (optimum == truth).float().mean().item() / 20
    print(f"top-1 {own:.3f}, Bayes {best:.3f}")
    assert own >= 0.9 * best
