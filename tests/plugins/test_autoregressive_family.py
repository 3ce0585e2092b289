"""The three autoregressive parts together, and with latents of every kind."""

import subprocess
import sys

import pytest
import torch
from autoregressive_toys import CODES, GAUSSIAN, IMAGE, VECTOR, dynamics, gen, make_specs
from worldlab_autoregressive.configs import AutoregressiveDecoderConfig, AutoregressiveEncoderConfig
from worldlab_autoregressive.decoder import AutoregressiveDecoder
from worldlab_autoregressive.encoder import AutoregressiveEncoder

from worldlab.interfaces import LatentSpec, ParallelDynamics
from worldlab.settings import ModelSettings
from worldlab.specs import Specs
from worldlab.testing import toys
from worldlab.testing.reference import ReferenceEncoder, ReferenceEncoderConfig
from worldlab.world_model import WorldModel


def model(obs=(VECTOR,), **config) -> WorldModel:
    specs = make_specs(CODES, obs=obs)
    torch.manual_seed(0)
    encoder = AutoregressiveEncoder(AutoregressiveEncoderConfig(groups=4, classes=3, width=4, units=16), specs)
    decoder = AutoregressiveDecoder(
        AutoregressiveDecoderConfig(channels=6, condition_channels=3, width=2, units=16, mixtures=3, layers=2), specs
    )
    return WorldModel(specs, encoder, dynamics(CODES, **config), decoder, ModelSettings(head_units=16))


def test_registration_needs_no_torch():
    code = (
        "import sys, worldlab_autoregressive\n"
        "class R:\n"
        "    seen = []\n"
        "    def __getattr__(self, role):\n"
        "        return lambda name, target, **rest: R.seen.append((role, name, target, rest['config'].__name__))\n"
        "worldlab_autoregressive.worldlab_register(R())\n"
        "assert 'torch' not in sys.modules\n"
        "print(R.seen)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for role in ("encoder", "dynamics", "decoder"):
        cls = f"Autoregressive{role.title()}"
        assert (
            f"('{role}', 'autoregressive', 'worldlab_autoregressive.{role}:{cls}', '{cls}Config')" in out
        )


@pytest.mark.parametrize("kind", ["transformer", "mdn_rnn"])
def test_a_whole_model_of_the_family_trains_dreams_and_draws(kind: str):
    world = model((IMAGE, VECTOR), memory_kind=kind)
    assert (world.rule.dyn, world.rule.rep) == ("nll", "logq_nll") and world.drawn_by == "decoder"
    batch = toys.noise_batch(world.specs.obs, world.specs.action, 3, 8, gen())
    main = world.players()["main"]
    optimizer = torch.optim.Adam(main, 1e-3)
    for step in range(3):
        ctx, seen = world.observe(batch, gen(step))
        terms = world.losses(ctx)
        optimizer.zero_grad()
        torch.stack([term.mean() for term in terms.values()]).sum().backward()
        optimizer.step()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in main)
    assert all(torch.isfinite(value) for value in world.metrics(ctx).values())
    carry = seen.at(torch.tensor([0, 2]), torch.tensor([3, 7]))
    dream = world.imagine(carry, torch.zeros(2, 12, 2), 12, gen())
    assert dream.features.shape == (2, 13, 16 + 12) and torch.isfinite(dream.features).all()
    drawn = world.render(dream.features[:, -1])
    assert drawn["image"].shape == (2, 8, 8, 3) and drawn["state"].shape == (2, 4)


def test_the_priors_loss_trains_the_dynamics_and_rep_the_encoder_only():
    world = model()
    ctx, _ = world.observe(toys.noise_batch(world.specs.obs, world.specs.action, 3, 8, gen()), gen())
    terms = world.losses(ctx)
    head = list(world.dynamics.head.parameters())
    # The prior's target is stopped; the encoder still hears from it through the latents that the memory has read.
    assert all(g is not None for g in torch.autograd.grad(terms["dyn"].sum(), head, retain_graph=True))
    found = torch.autograd.grad(terms["rep"].sum(), list(world.dynamics.parameters()), allow_unused=True, retain_graph=True)
    assert all(g is None for g in found)
    reached = torch.autograd.grad(terms["rep"].sum(), list(world.encoder.codes.parameters()))
    assert all(g.abs().sum() > 0 for g in reached)


@pytest.mark.parametrize("kind", ["gaussian", "categorical", "point"])
def test_the_dynamics_takes_latents_of_other_families(kind: str):
    config = ReferenceEncoderConfig(kind=kind, latent_dim=6, groups=4, classes=3)
    latent = ReferenceEncoder.latent_spec(config)
    specs = make_specs(latent)
    torch.manual_seed(0)
    part = AutoregressiveDecoder(AutoregressiveDecoderConfig(units=16, mixtures=2), specs)
    world = WorldModel(specs, ReferenceEncoder(config, specs), dynamics(latent), part, ModelSettings(head_units=16))
    assert world.rule.dyn == "nll" and isinstance(world.dynamics, ParallelDynamics)
    ctx, _ = world.observe(toys.noise_batch(specs.obs, specs.action, 3, 6, gen()), gen())
    assert torch.isfinite(world.losses(ctx)["dyn"]).all()


def test_filtering_step_by_step_is_observing_the_sequence():
    world = model()
    batch = toys.noise_batch(world.specs.obs, world.specs.action, 3, 12, gen())
    with torch.no_grad():
        expected = world.observe(batch, None)[0].features
        carry = world.initial(3)
        for t in range(12):
            z = world.encoder.infer(world.encoder.embed({"state": batch.obs["state"][:, t]}), None, None).z
            from worldlab.rollout import reset_rows

            before, action = reset_rows(world.dynamics, carry, batch.prev_action[:, t], batch.is_first[:, t])
            state = world.dynamics.advance(before["state"], before["z"], action)
            carry = {"state": state, "z": z}
            found = torch.cat([world.dynamics.memory(state), z], -1)
            torch.testing.assert_close(found, expected[:, t], rtol=0, atol=1e-5)


def test_a_gaussian_specs_memory_is_the_configs_width():
    latent: LatentSpec = GAUSSIAN
    specs: Specs = make_specs(latent)
    part = dynamics(latent)
    assert type(part).memory_size(part.Config(memory=40), latent, specs.action) == 40
