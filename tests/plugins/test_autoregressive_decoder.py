"""The autoregressive decoder: vectors entry by entry, lazy distributions, losses, metrics, and a z that is used."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from autoregressive_toys import IMAGE, VECTOR, gen, make_specs
from config_kit import configured
from model_kit import weighted_losses
from torch import Tensor
from worldlab_autoregressive.configs import AutoregressiveDecoderConfig
from worldlab_autoregressive.decoder import AutoregressiveDecoder
from worldlab_autoregressive.pixelcnn import PixelCNN
from worldlab_autoregressive.vectors import EntryNet, VectorDistribution
from worldlab_vae.configs import VAEDynamicsConfig, VAEEncoderConfig
from worldlab_vae.dynamics import VAEDynamics
from worldlab_vae.encoder import VAEEncoder

from worldlab import tree
from worldlab.errors import ConfigError
from worldlab.interfaces import HasLogMass
from worldlab.model.noise import noise_obs
from worldlab.settings import ModelSettings
from worldlab.specs import ArraySpec
from worldlab.testing import run_checks, toys
from worldlab.testing.bench import Choice, Mix, Subject
from worldlab.testing.probes import linear_probe, log_density_bias

SMALL = {"channels": 6, "layers": 2, "components": 3, "width": 4, "units": 16, "auxiliary": 0.0}


def build(obs=(IMAGE, VECTOR), **config) -> AutoregressiveDecoder:
    torch.manual_seed(0)
    return AutoregressiveDecoder(configured(AutoregressiveDecoderConfig, **SMALL | config), make_specs(obs))


def observations(decoder: AutoregressiveDecoder, n: int) -> dict[str, Tensor]:
    return noise_obs(decoder.model.obs, (n,), gen(1))


def entry_net(entries: int = 4, features: int = 5) -> EntryNet:
    """A float64 network with every weight well away from 0."""
    torch.manual_seed(0)
    net = EntryNet(features, entries, units=24, layers=2, components=3, min_std=0.05).double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=gen(p.numel())).double())
    return net


def features(n: int, width: int = 5) -> Tensor:
    return torch.randn(n, width, generator=gen(), dtype=torch.float64)


# ---- vectors ----


def test_an_entry_sees_those_before_it_and_the_features():
    """Jacobian of each entry's mixture: strictly lower triangular in the entries, full in the features."""
    net = entry_net()
    given, x = features(1).requires_grad_(), torch.randn(1, 4, generator=gen(1), dtype=torch.float64).requires_grad_()
    m = net.mixture(net.context(given), x)
    weight = torch.randn(3, 1, generator=gen(2), dtype=torch.float64)
    size, reads = torch.zeros(4, 4), torch.zeros(4)
    for i in range(4):
        out = ((m.logits[0, i][:, None] + m.mean[0, i] + m.std[0, i]) * weight).sum()
        to_x, to_features = torch.autograd.grad(out, [x, given], retain_graph=True)
        size[i], reads[i] = to_x[0].abs(), to_features.abs().sum()
    assert torch.equal(size.triu(), torch.zeros(4, 4))
    assert (size[torch.tril(torch.ones(4, 4), -1).bool()] > 1e-8).all() and (reads > 0).all()


def test_a_vectors_density_integrates_to_one_and_is_the_product_of_its_conditionals():
    net = entry_net(entries=2)
    grid = torch.linspace(-8, 8, 301, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    with torch.no_grad():
        given = VectorDistribution(features(1).expand(len(points), -1), net)
        log_prob = given.log_prob(points)
        mass = log_prob.exp().sum().item() * (grid[1] - grid[0]).item() ** 2
        x = torch.randn(6, 2, generator=gen(3), dtype=torch.float64)
        context = net.context(features(6))
        chain = torch.zeros(6, dtype=torch.float64)
        for i in range(2):
            hidden = torch.cat(
                [x[:, :i], torch.full((6, 2 - i), 99.0, dtype=torch.float64)], 1
            )  # entries not yet known
            m = net.mixture(context, hidden)
            each = torch.distributions.Normal(m.mean[:, i, :, 0], m.std[:, i, :, 0]).log_prob(x[:, i : i + 1])
            chain += torch.logsumexp(m.logits[:, i] + each, -1)
        whole = VectorDistribution(features(6), net).log_prob(x)
    assert mass == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(whole, chain, rtol=0, atol=1e-10)


def test_vectors_are_sampled_from_their_density():
    net, n = entry_net(entries=3), 4000
    given = VectorDistribution(features(1).expand(n, -1), net)
    with torch.no_grad():
        drawn = given.sample(gen(1))
        assert abs(log_density_bias(drawn, given.log_prob(drawn), 0)) < 4
        wrong = given.log_prob(drawn[:, [1, 0, 2]])  # the test has the power to see entries exchanged
    assert abs(log_density_bias(drawn, wrong, 0)) > 4


def test_the_mode_of_a_vector_is_greedy_entry_by_entry():
    net = entry_net()
    mode = VectorDistribution(features(5), net).mode
    with torch.no_grad():
        m = net.mixture(net.context(features(5)), mode)
    torch.testing.assert_close(m.mode, mode, rtol=0, atol=1e-12)


# ---- the decoder ----


def test_decoding_computes_nothing_until_it_is_asked(monkeypatch):
    decoder = build()
    monkeypatch.setattr(torch.nn.Module, "__call__", lambda *_: pytest.fail("a network ran"))
    found = decoder.decode(torch.randn(1000, 20))
    assert list(found) == ["image", "vector"]


def test_score_is_the_sum_over_keys_and_repeats():
    decoder = build()
    given, obs = torch.randn(4, 20, generator=gen()), observations(decoder, 4)
    parts = [dist.log_prob(obs[key]) for key, dist in decoder.decode(given).items()]
    assert torch.equal(decoder.score(given, obs), torch.stack(parts).sum(0))
    assert torch.equal(decoder.score(given, obs), decoder.score(given, obs))


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 20, 31), (4, 12, 12), (9, 8, 8)])
def test_pictures_of_any_channels_and_size(shape):
    decoder = build((("image", ArraySpec("image", shape)),))
    given = torch.randn(2, 20, generator=gen()).requires_grad_()
    dist = decoder.decode(given)["image"]
    drawn = dist.sample(gen(1))
    assert drawn.shape == dist.mode.shape == (2, *shape)
    assert torch.equal(dist.mode, dist.mode) and torch.equal(drawn, dist.sample(gen(1)))
    assert drawn.abs().max() <= 0.5 and dist.mode.abs().max() <= 0.5
    (grad,) = torch.autograd.grad(dist.log_prob(drawn).sum(), given)
    assert (grad.abs().sum(1) > 0).all()


def bench_of(decoder_config: dict, obs: str, **settings):
    """An AR decoder in a vae world, as the trainer builds it."""
    mix = Mix(
        Choice(VAEEncoder, VAEEncoderConfig(width=8, units=64, latent_dim=8)),
        Choice(VAEDynamics, VAEDynamicsConfig(memory=64, units=64)),
        Choice(AutoregressiveDecoder, configured(AutoregressiveDecoderConfig, **decoder_config)),
    )
    return Subject("decoder", "", (mix,), settings=ModelSettings(units=32, **settings)).bench(obs, fresh=True)


def test_losses_are_weighted_negative_scores_of_all_or_of_chosen_frames():
    bench = bench_of(SMALL | {"scale": 0.5, "layers": 1}, "dict")
    ctx = bench.context()
    chosen = ctx.frames(torch.tensor([0, 2]), torch.tensor([1, 3]))
    for given in (ctx, chosen):
        terms = weighted_losses(bench.decoder, given)
        score = bench.decoder.score(given.features.flatten(0, 1), tree.flatten_time(given.batch.obs))
        assert set(terms) == {"image", "vector"} and all(t.shape == given.row.shape for t in terms.values())
        torch.testing.assert_close(sum(terms.values()), -0.5 * score.view_as(given.row))
    assert bench.decoder.losses(ctx, "critic") == {} and bench.decoder.frames == 32


def test_the_auxiliary_likelihood_reads_features_and_no_pixel():
    """It exists only if asked for; the term of a pixel depends on no other pixel, and it trains the latent."""
    assert not list(build().model.auxiliary.parameters())
    bench = bench_of(SMALL | {"layers": 1, "auxiliary": 2.0}, "image")
    ctx = bench.context()
    term = bench.decoder.losses(ctx)["image_auxiliary"]
    assert bench.decoder.loss_weights == {"image": 1.0, "image_auxiliary": 2.0}
    assert torch.autograd.grad(term.sum(), ctx.latent.z, retain_graph=True)[0].abs().sum() > 0
    worlds = [torch.randint(256, (1, 1, 3, 16, 16), generator=gen(s)) / 255 - 0.5 for s in range(2)]

    def change(picture: Tensor) -> float:
        """What the term gains when one pixel, and nothing else, turns from black to white."""
        terms = []
        for value in (-0.5, 0.5):
            moved = picture.clone()
            moved[..., 7, 7] = value
            batch = tree.tree_map(lambda leaf, x=moved: x if leaf.dim() == 5 else leaf[:1, :1], ctx.batch)
            rest: Any = replace(ctx, prior=None, batch=None)  # type: ignore[arg-type]
            frame = tree.tree_map(lambda leaf: leaf[:1, :1], rest)
            terms.append(bench.decoder.losses(replace(frame, batch=batch))["image_auxiliary"].item())
        return terms[1] - terms[0]

    assert change(worlds[0]) == pytest.approx(change(worlds[1]), rel=1e-3)
    assert not any(r.cause for r in run_checks("decoder", AutoregressiveDecoder, bench.config, only={"P3", "P4", "C5"}))


def test_bits_per_dim_is_the_score_in_bits_and_eight_for_a_uniform_model(monkeypatch):
    bench = bench_of(SMALL | {"layers": 1}, "image")
    ctx = bench.context().detach()
    uniform = -16 * 16 * 3 * math.log(256)
    monkeypatch.setattr(PixelCNN, "log_prob", lambda self, features, x: torch.full((len(x),), uniform))
    assert bench.decoder.metrics(ctx)["bits_per_dim"].item() == pytest.approx(8, abs=1e-5)
    assert bench_of(SMALL, "vector").decoder.metrics(ctx) == {}


def test_log_mass_is_the_exact_score_of_pictures_and_nothing_for_vectors():
    pictures, both = build((IMAGE,)), build()
    given, obs = torch.randn(2, 20, generator=gen()), observations(both, 2)
    assert isinstance(pictures, HasLogMass) and (pictures.likelihood, both.likelihood) == ("exact", "undefined")
    assert torch.equal(pictures.log_mass(given, obs, gen()), pictures.score(given, obs))
    with pytest.raises(ConfigError, match="not probabilities"):
        both.log_mass(given, obs, gen())


def test_an_ignored_latent_raises_an_alarm_with_its_cure():
    ignored = {"features_gap": 0.1, "features_gap_se": 0.2}
    (alarm,) = build().alarms(ignored).values()
    assert "--decoder.auxiliary" in alarm.cure
    assert not build().alarms({"features_gap": 9.0, "features_gap_se": 0.2}) and not build().alarms({})
    assert not build(auxiliary=1.0).alarms(ignored) and not build((VECTOR,)).alarms(ignored)


def test_the_receptive_field_cannot_be_set_wider_than_15_pixels():
    with pytest.raises(ValueError):
        AutoregressiveDecoderConfig(layers=8)
    assert 2 * AutoregressiveDecoderConfig(layers=7).layers + 1 == 15


@pytest.mark.slow
def test_the_latent_is_used_and_shuffling_it_costs_nats():
    """No posterior collapse: after a short training on a moving dot KL(q || p) > 1 nat, pictures of the wrong latent
    cost more than a nat a frame, and the dot can be read from z."""
    bench = bench_of({"channels": 12, "layers": 4, "components": 5, "width": 8, "units": 64}, "image")
    held = toys.moving_dot(bench.specs.obs, bench.specs.action, 32, 8, gen(9))

    @torch.no_grad()
    def judged() -> tuple[float, float, float]:
        ctx = bench.context(held)
        kl = tree.flatten_time(ctx.latent.dist).kl(ctx.prior).mean().item()
        features, obs = ctx.features[:, -1], tree.tree_map(lambda leaf: leaf[:, -1], held.obs)
        shuffled = torch.cat([ctx.memory[:, -1], ctx.latent.z[:, -1].roll(1, 0)], -1)  # z alone comes from another row
        gap = (bench.decoder.score(features, obs) - bench.decoder.score(shuffled, obs)).mean().item()
        return kl, gap, linear_probe(ctx.latent.z.flatten(0, 1), held.reward.flatten())

    for _ in bench.updates(150, lambda g: toys.moving_dot(bench.specs.obs, bench.specs.action, 8, 4, g), lr=1e-3):
        pass
    kl, gap, r2 = judged()
    print(f"KL {kl:.2f} nats, shuffling z costs {gap:.1f} nats a frame, probe R2 {r2:.2f}")
    assert kl > 1 and gap > 1
