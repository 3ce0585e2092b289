"""The three contrastive parts together, and with a partner of another kind."""

from typing import final

import pytest
import torch
from config_kit import configured
from cpc_toys import IMAGE, VECTOR, gen, make_batch, make_specs, small_model, vector_specs
from family_kit import registered_without_torch, train
from model_kit import weighted_losses, weighted_terms
from torch import Tensor
from worldlab_cpc.configs import CPCDynamicsConfig, CPCEncoderConfig
from worldlab_cpc.dynamics import CPCDynamics
from worldlab_cpc.encoder import CPCEncoder

from worldlab import Config
from worldlab.distributions import Normal
from worldlab.interfaces import Batch, Encoder, Latent, LatentSpec
from worldlab.model.health import HealthMonitor, latent_health
from worldlab.nn import mlp
from worldlab.settings import ModelSettings
from worldlab.world_model import WorldModel


@final
class GaussianEncoder(Encoder):
    """The smallest encoder with an analytic posterior."""

    Config = Config
    posterior_kind = "analytic"
    uses_memory = False

    def __init__(self, config: Config, specs) -> None:
        super().__init__(config, specs)
        self.net = mlp(5, 16, 1, 2 * specs.latent.dim)

    @classmethod
    def latent_spec(cls, config: Config) -> LatentSpec:
        return LatentSpec(8)

    def embed(self, obs) -> Tensor:
        return self.net(obs["state"])

    def infer(self, embed, memory, generator) -> Latent:
        mean, raw = embed.chunk(2, -1)
        dist = Normal(mean, torch.nn.functional.softplus(raw) + 0.1)
        return Latent(dist.mode if generator is None else dist.sample(generator), dist=dist)


def test_registration_needs_no_torch():
    out = registered_without_torch("worldlab_cpc")
    for role, cls in (("encoder", "CPCEncoder"), ("dynamics", "CPCDynamics"), ("decoder", "CPCDecoder")):
        assert f"('{role}', 'cpc', 'worldlab_cpc.{role}:{cls}', '{cls}Config')" in out


@pytest.mark.parametrize("frames", [0, 7])
@pytest.mark.parametrize("obs", [(IMAGE,), (VECTOR,), (IMAGE, VECTOR)], ids=["image", "vector", "both"])
def test_five_steps_train_every_parameter(obs, frames: int):
    torch.manual_seed(0)
    specs = make_specs(obs=obs)
    model = small_model(specs, ModelSettings(units=16, frames_per_update=frames))
    trace = train(model, (make_batch(specs, rows=4, length=8, seed=i) for i in range(5)))
    assert all(torch.isfinite(torch.tensor(trace)))
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum().item() > 0, name
    ctx, seen = model.observe(make_batch(specs), gen())
    assert all(torch.isfinite(value) for value in HealthMonitor(model).metrics(ctx).values())
    dream = model.imagine(seen.final, torch.zeros(4, 3, specs.action.dim), 3, gen())
    assert torch.isfinite(dream.features).all()
    assert set(model.render(dream.features[:, -1])) == set(specs.obs.keys)


def test_loss_terms_are_per_frame_and_nothing_leaks_from_a_masked_row():
    specs = make_specs()
    model = small_model(specs)
    batch = make_batch(specs)
    batch.mask[3] = 0
    ctx, _ = model.observe(batch, gen())
    for name, term in model.dynamics.losses(ctx).items() | model.decoder.losses(ctx).items():
        assert term.shape == (4, 8), name
    assert not model.decoder.losses(ctx)["infonce"][3].any() and not model.dynamics.losses(ctx)["infonce"][3].any()


def test_an_analytic_encoder_is_tied_by_the_frozen_score():
    torch.manual_seed(0)
    specs = make_specs(kind="gaussian")
    parts = small_model(specs)
    model = WorldModel(specs, GaussianEncoder(Config(), specs), parts.dynamics, parts.decoder, ModelSettings())
    assert (model.rule.dyn, model.rule.rep) == ("own", "score_anchor")
    trace = train(model, (make_batch(specs, seed=i) for i in range(3)))
    assert all(torch.isfinite(torch.tensor(trace)))
    ctx, _ = model.observe(make_batch(specs), gen())
    rep = weighted_terms(model, ctx)["rep"].sum()
    to_dynamics = torch.autograd.grad(rep, list(model.dynamics.parameters()), allow_unused=True, retain_graph=True)
    assert all(g is None for g in to_dynamics)
    assert torch.autograd.grad(rep, [ctx.latent.z])[0].abs().sum().item() > 0


class Distracted:
    """A controlled 3-dimensional state, seen through a random mixture with louder noise that nothing predicts."""

    STATE, NOISE, SEEN = 3, 6, 24

    def __init__(self) -> None:
        self.mix = torch.randn(self.STATE + self.NOISE, self.SEEN, generator=gen(7)) / 3
        self.specs = vector_specs(self.SEEN, latent=8, memory=32, action=self.STATE)

    def draw(self, rows: int, length: int, seed: int) -> tuple[Batch, Tensor]:
        g = gen(seed)
        action = torch.rand(rows, length, self.STATE, generator=g) * 2 - 1
        state = [torch.randn(rows, self.STATE, generator=g)]
        for t in range(1, length):
            drift = 0.05 * torch.randn(rows, self.STATE, generator=g)
            state.append(0.85 * state[-1] + 0.8 * action[:, t] + drift)
        states = torch.stack(state, 1)
        noise = 1.5 * torch.randn(rows, length, self.NOISE, generator=g)
        seen = torch.tanh(torch.cat([states, noise], -1) @ self.mix)
        zero, first = torch.zeros(rows, length), torch.zeros(rows, length, dtype=torch.bool)
        first[:, 0] = True
        batch = Batch({"state": seen}, action * ~first[..., None], zero, zero + 1, first, zero + 1)
        return batch, states


def state_r2(encoder: CPCEncoder, world: Distracted) -> float:
    """R^2 of a ridge regression from the latent of one frame to the true state, on held-out rows."""
    with torch.no_grad():
        (train_batch, train_state), (test_batch, test_state) = world.draw(100, 20, 900), world.draw(100, 20, 901)
        x, held = (encoder.embed({"state": b.obs["state"].flatten(0, 1)}) for b in (train_batch, test_batch))
        y, truth = train_state.flatten(0, 1), test_state.flatten(0, 1)
        x, held = (torch.cat([part, torch.ones(len(part), 1)], -1) for part in (x, held))
        weights = torch.linalg.solve(x.T @ x + 1e-2 * torch.eye(x.shape[1]), x.T @ y)
        return (1 - (truth - held @ weights).square().mean() / truth.var()).item()


@pytest.mark.slow
def test_a_fit_learns_the_state_without_collapse_and_uses_actions():
    torch.manual_seed(0)
    world = Distracted()
    encoder = CPCEncoder(configured(CPCEncoderConfig, latent_dim=8, units=64, layers=2, static_scale=0.3), world.specs)
    dynamics = CPCDynamics(configured(CPCDynamicsConfig, memory=32, units=64, horizon=2, projection=16), world.specs)
    before = state_r2(encoder, world)
    model = WorldModel(world.specs, encoder, dynamics, small_model(world.specs).decoder, ModelSettings())
    parameters = [*encoder.parameters(), *dynamics.parameters()]
    optimizer = torch.optim.Adam(parameters, 2e-3)
    for step in range(300):
        ctx, _ = model.observe(world.draw(16, 12, step)[0], gen(step))
        terms = [*weighted_losses(encoder, ctx).values(), *weighted_losses(dynamics, ctx).values()]
        optimizer.zero_grad()
        torch.stack([term.mean() for term in terms]).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 100)
        optimizer.step()
    with torch.no_grad():
        ctx, _ = model.observe(world.draw(64, 12, 902)[0], None)
        health, metrics = latent_health(ctx.latent.z.flatten(0, 1)), dynamics.metrics(ctx)
    after = state_r2(encoder, world)
    print({k: round(float(v), 3) for k, v in (health | metrics).items()}, f"R2 {before:.3f} -> {after:.3f}")
    assert after > before + 0.05
    assert health["effective_rank"].item() > 8 / 4 and health["min_std"].item() > 0.1
    assert metrics["action_gap"].item() > 0.5
    assert metrics["infonce_bound"].item() <= metrics["infonce_log_k"].item()
