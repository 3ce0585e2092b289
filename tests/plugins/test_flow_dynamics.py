import pytest
import torch
from flow_toys import (
    dynamics,
    energy_score,
    fit,
    four_modes,
    gen,
    make_batch,
    make_specs,
    next_latents,
    small_model,
    stirred,
)
from model_kit import weighted_terms
from torch import nn
from worldlab_flow.argmax import CodeDensity
from worldlab_flow.location_scale import FlowDensity

from worldlab.interfaces import ScoresLatent
from worldlab.nn import mlp


def test_real_latents_get_a_flow_and_codes_an_argmax_flow():
    memory = torch.randn(2, 10, generator=gen())
    assert isinstance(dynamics().predict(memory), FlowDensity)
    assert isinstance(dynamics(kind="point").predict(memory), FlowDensity)
    assert isinstance(dynamics(latent=6, kind="categorical", groups=2, classes=3).predict(memory), CodeDensity)
    assert not isinstance(dynamics(), ScoresLatent)


def test_mode_is_the_image_of_the_noise_mode_and_samples_follow_the_seed():
    part = stirred(dynamics())
    p = part.predict(torch.randn(3, 10, generator=gen()))
    assert torch.equal(p.mode, p.mean + p.std * p.flow.generate(torch.zeros_like(p.mean), p.context))
    assert torch.equal(p.sample(gen(1)), p.sample(gen(1))) and not torch.equal(p.sample(gen(1)), p.sample(gen(2)))


def test_metrics_tell_an_exploding_flow():
    specs = make_specs()
    model = small_model(specs)
    ctx, _ = model.observe(make_batch(specs), gen())
    calm = model.dynamics.metrics(ctx)
    assert calm["log_scale_max"] < 1e-3 and torch.isfinite(calm["log_det_mean"])
    stirred(model.dynamics.flow, 2.0)
    assert model.dynamics.metrics(ctx)["log_scale_max"] > 1
    p, z = model.dynamics.predict(ctx.memory.flatten(0, 1)), ctx.latent.z.flatten(0, 1)
    log_det = p.flow.normalise((z - p.mean) / p.std, p.context)[1] - p.std.log().sum(-1)
    torch.testing.assert_close(model.dynamics.metrics(ctx)["log_det_mean"], log_det.mean())


def test_the_matching_rule_trains_it_by_likelihood_and_stops_the_latent():
    specs = make_specs()
    model = small_model(specs)
    stirred(model)
    ctx, _ = model.observe(make_batch(specs), gen())
    losses = weighted_terms(model, ctx)
    z = ctx.latent.z.flatten(0, 1)
    expected = -model.dynamics.predict(ctx.memory.flatten(0, 1)).log_prob(z).view_as(ctx.row)
    reset = ctx.batch.is_first
    torch.testing.assert_close(losses["dyn"][~reset], expected[~reset])
    own = list(model.dynamics.parameters())
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(losses["dyn"].sum(), own, retain_graph=True))
    stopped = torch.autograd.grad(losses["rep"].sum(), own, allow_unused=True)
    assert all(g is None or not g.any() for g in stopped)


class MixtureDensity(nn.Module):
    """The reference: a mixture density network of 5 diagonal Gaussians (Bishop 1994)."""

    def __init__(self, inputs: int, dim: int, components: int = 5, units: int = 64):
        super().__init__()
        self.shape = (components, dim)
        self.net = mlp(inputs, units, 2, components * (1 + 2 * dim))

    def forward(self, memory):
        k, d = self.shape
        logits, mean, raw = self.net(memory).split([k, k * d, k * d], -1)
        std = torch.nn.functional.softplus(raw.unflatten(-1, (k, d))) + 0.03
        parts = torch.distributions.Independent(torch.distributions.Normal(mean.unflatten(-1, (k, d)), std), 1)
        return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=logits), parts)


@pytest.mark.slow
@pytest.mark.parametrize("dim", [2, 3])
def test_four_futures_are_told_apart_as_well_as_by_a_mixture(dim: int):
    """Next latents near one of four points, weights .4 .3 .2 .1: energy score <= that of an MDN + 0.05."""
    part = dynamics({"units": 64, "transforms": 4}, latent=dim, memory=3)
    torch.manual_seed(0)
    mixture = MixtureDensity(3, dim)

    def flow_loss(step: int):
        memory, z = four_modes(128, step, dim)
        return -part.predict(memory).log_prob(z).mean()

    def mixture_loss(step: int):
        memory, z = four_modes(128, step, dim)
        return -mixture(memory).log_prob(z).mean()

    fit(part.parameters(), flow_loss, 200, 5e-3)
    fit(mixture.parameters(), mixture_loss, 400, 5e-3)
    memory, z = four_modes(2000, 10**6, dim)
    with torch.no_grad():
        ours = torch.stack([part.predict(memory).sample(gen(s)) for s in range(40)])
        torch.manual_seed(1)
        theirs = mixture(memory).sample((40,))
        oracle = torch.stack([next_latents(memory, s, dim) for s in range(40)])
        nats = part.predict(memory).log_prob(z).mean(), mixture(memory).log_prob(z).mean()
    scores = {name: energy_score(x, z) for name, x in (("flow", ours), ("mdn", theirs), ("oracle", oracle))}
    print({name: round(value, 3) for name, value in scores.items()}, [round(float(n), 2) for n in nats])
    assert scores["flow"] <= scores["mdn"] + 0.05
