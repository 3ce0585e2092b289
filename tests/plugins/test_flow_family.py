"""The three parts together, and with partners of other kinds."""

import pytest
import torch
from family_kit import registered_without_torch, train
from flow_toys import IMAGE, VECTOR, gen, make_batch, make_specs, small_model
from worldlab_flow.configs import FlowDecoderConfig, FlowDynamicsConfig, FlowEncoderConfig
from worldlab_flow.decoder import FlowDecoder
from worldlab_flow.dynamics import FlowDynamics
from worldlab_flow.encoder import FlowEncoder

from worldlab.model import matching
from worldlab.model.health import HealthMonitor
from worldlab.model.noise import stream
from worldlab.settings import ModelSettings
from worldlab.specs import LatentSpec
from worldlab.testing import small_config, toys
from worldlab.testing.bench import Choice, reference_mix
from worldlab.testing.runner import make_mix_subject


def test_registration_needs_no_torch():
    out = registered_without_torch("worldlab_flow")
    for role, cls in (("encoder", "FlowEncoder"), ("dynamics", "FlowDynamics"), ("decoder", "FlowDecoder")):
        assert f"('{role}', 'flow', 'worldlab_flow.{role}:{cls}', '{cls}Config')" in out


def test_they_are_tied_by_a_monte_carlo_kl():
    model = small_model(make_specs())
    assert (model.rule.dyn, model.rule.rep) == ("nll", "logq_nll")
    ctx, _ = model.observe(make_batch(model.specs), gen())
    z = ctx.latent.z.flatten(0, 1)
    expected = ctx.latent.log_q.flatten() - ctx.prior.log_prob(z)
    torch.testing.assert_close(matching.divergence(ctx), expected)


@pytest.mark.parametrize("frames", [None, 7])
@pytest.mark.parametrize("obs", [(IMAGE,), (VECTOR,), (IMAGE, VECTOR)], ids=["image", "vector", "both"])
def test_five_steps_train_every_parameter(obs, frames: int | None):
    torch.manual_seed(0)
    specs = make_specs(obs=obs, use_memory=True)
    model = small_model(specs, ModelSettings(units=16, frames_per_update=frames))
    trace = train(model, [make_batch(specs, seed=i) for i in range(5)])
    assert all(torch.isfinite(torch.tensor(trace)))
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum().item() > 0, name
    ctx, seen = model.observe(make_batch(specs), gen())
    assert all(torch.isfinite(value) for value in HealthMonitor(model).metrics(ctx).values())
    dream = model.imagine(seen.final, torch.zeros(4, 3, specs.action.dim), 3, gen())
    assert torch.isfinite(dream.features).all()
    assert set(model.render(dream.features[:, -1])) == set(specs.obs.keys)


@pytest.mark.parametrize("kind", ["gaussian", "point", "categorical"])
def test_the_dynamics_learns_from_any_encoder(kind: str):
    """Three real updates with the core's trainer, then a dream."""
    reference = reference_mix(kind=kind)
    dynamics = Choice(FlowDynamics, small_config(FlowDynamicsConfig))
    bench = make_mix_subject(reference.encoder, dynamics, reference.decoder, kind).bench("vector")
    assert bench.fit(3) == 3
    _, seen = bench.model.observe(bench.batch(), gen())
    dream = bench.model.imagine(seen.final, bench.actions(3, 4), 4, gen())
    assert torch.isfinite(dream.features).all()
    if kind == "categorical":
        z = dream.features[..., bench.specs.memory_dim :].unflatten(-1, (2, 4))
        torch.testing.assert_close(z.sum(-1), torch.ones(3, 5, 2))
        torch.testing.assert_close(z.max(-1).values, torch.ones(3, 5, 2))


def test_configs_say_what_the_parts_emit_and_need():
    assert FlowEncoder.latent_spec(FlowEncoderConfig(latent_dim=12)) == LatentSpec(12, "gaussian")
    assert (
        FlowEncoder.posterior_kind == "own_logq"
        and FlowDynamics.prior_kind == "log_prob"
        and FlowDynamics.reparameterised
    )
    assert FlowDynamics.memory_size(FlowDynamicsConfig(memory=24), LatentSpec(3), make_specs().action) == 24
    assert FlowDecoder.score_kind == "log_density" and FlowDecoder.renders
    assert FlowDecoderConfig().dequantisation == "uniform" and FlowDecoderConfig().architecture == "glow"


@pytest.mark.slow
def test_pictures_of_a_dot_are_explained_by_the_features():
    """Flow decoder and dynamics: bits fall by more than 3 and a frame's own features explain it better than another's."""
    reference = reference_mix()
    dynamics = Choice(FlowDynamics, small_config(FlowDynamicsConfig))
    sizes = FlowDecoderConfig(levels=2, depth=2, channels=8, width=8, units=32)
    bench = (
        make_mix_subject(reference.encoder, dynamics, Choice(FlowDecoder, sizes), "dot")
        .with_default_losses()
        .bench("image")
    )
    batch = toys.moving_dot(bench.specs.obs, bench.specs.action, 32, 4, stream(9))

    @torch.no_grad()
    def state() -> tuple[float, float, float]:
        values = HealthMonitor(bench.model).metrics(bench.context(batch))
        names = ("decoder/bits_per_dim", "decoder/features_gap", "decoder/features_gap_se")
        return tuple(float(values[name]) for name in names)  # type: ignore[return-value]

    before = state()
    bench.fit(250, until=lambda: state()[0] < before[0] - 3 and state()[1] > 5 * state()[2])
    bits, gap, error = state()
    print(f"bits {before[0]:.2f} -> {bits:.2f}; own features are worth {gap:.1f} +- {error:.1f} nats")
    assert bits < before[0] - 3 and gap > 5 * error
