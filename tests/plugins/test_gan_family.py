"""The three adversarial parts together, and with the core."""

from dataclasses import replace

import pytest
import torch
from config_kit import configured
from family_kit import registered_without_torch
from gan_toys import (
    IMAGE,
    VECTOR,
    gen,
    make_batch,
    make_specs,
    small_decoder,
    small_dynamics,
    small_encoder,
    small_model,
)
from model_kit import weighted_terms
from worldlab_gan.decoder import GANDecoder
from worldlab_gan.dynamics import GANDynamics
from worldlab_gan.encoder import GANEncoder

from worldlab import tree
from worldlab.distributions import Normal
from worldlab.interfaces import Decoder, Dynamics, Encoder
from worldlab.model.health import HealthMonitor
from worldlab.settings import ModelSettings, TrainSettings
from worldlab.specs import LatentSpec
from worldlab.testing import run_checks
from worldlab.testing.bench import IdleAgent
from worldlab.testing.reference import ReferenceEncoder, ReferenceEncoderConfig
from worldlab.training.trainer import Generators, Trainer
from worldlab.world_model import WorldModel


def test_registration_needs_no_torch():
    out = registered_without_torch("worldlab_gan")
    for role, cls in (("encoder", "GANEncoder"), ("dynamics", "GANDynamics"), ("decoder", "GANDecoder")):
        assert f"('{role}', 'gan', 'worldlab_gan.{role}:{cls}', '{cls}Config')" in out


def trainer_of(model: WorldModel) -> Trainer:
    settings = configured(TrainSettings, learning_rate=1e-3, critic_learning_rate=1e-3, max_skips=1)
    return Trainer(model, IdleAgent(None, model.specs), settings, Generators(gen(1), gen(2)))


@pytest.mark.parametrize("frames", [None, 7])
@pytest.mark.parametrize("obs", [(IMAGE,), (VECTOR,), (IMAGE, VECTOR)], ids=["image", "vector", "both"])
def test_updates_dreams_and_pictures_are_finite(obs, frames: int | None):
    torch.manual_seed(0)
    specs = make_specs(obs=obs)
    parts = (small_encoder(specs), small_dynamics(specs, temporal=True), small_decoder(specs))
    model = WorldModel(specs, *parts, ModelSettings(units=16, frames_per_update=frames))
    trainer = trainer_of(model)
    for i in range(4):
        scalars = trainer.update(make_batch(specs, seed=i))
        assert all(torch.isfinite(torch.as_tensor(value)) for value in scalars.values())
    ctx, seen = model.observe(make_batch(specs), gen())
    assert all(torch.isfinite(torch.as_tensor(value)) for value in HealthMonitor(model).metrics(ctx).values())
    dream = model.imagine(seen.final, torch.zeros(4, 3, specs.action.dim), 3, gen())
    assert torch.isfinite(dream.features).all()
    pictures = model.render(dream.features[:, -1])
    assert set(pictures) == set(specs.obs.keys)


def test_each_players_step_moves_its_own_parameters_only():
    specs = make_specs(obs=(IMAGE, VECTOR))
    model = small_model(specs, temporal=True)
    groups = {name: player.parameters for name, player in model.players().items()}
    ctx, _ = model.observe(make_batch(specs), gen())
    critics = weighted_terms(model, ctx.detach(), "critic")
    assert {name.partition("/")[0] for name in critics} == {"encoder", "dynamics", "decoder"}
    total = torch.stack([term.mean() for term in critics.values()]).sum()
    found = torch.autograd.grad(total, groups["main"], allow_unused=True, retain_graph=True)
    assert all(g is None for g in found)
    own = torch.autograd.grad(total, groups["critic"], allow_unused=True)
    assert all(g is not None and torch.isfinite(g).all() for g in own)


def test_the_critics_share_an_optimiser_that_forgets_fast():
    """beta1 = 0: Karras et al. 2018, arXiv:1812.04948, appendix C. Encoder, dynamics and decoder agree on it."""
    model = small_model(make_specs(obs=(IMAGE, VECTOR)), temporal=True)
    trainer = Trainer(
        model,
        IdleAgent(None, model.specs),
        TrainSettings(learning_rate=1e-3, critic_learning_rate=5e-4),
        Generators(gen(1), gen(2)),
    )
    groups = {name: opt.param_groups[0] for name, opt in trainer.optimizers.items()}
    assert {name: (group["lr"], group["betas"]) for name, group in groups.items()} == {
        "model/main": (1e-3, (0.9, 0.999)),
        "model/critic": (5e-4, (0.0, 0.999)),
    }
    held = {id(p) for p in groups["model/critic"]["params"]}
    for part in model.parts.values():
        critic = {id(p) for name, p in part.named_parameters() if name.split(".")[0] in ("critic", "temporal", "match")}
        assert critic and critic == held & {id(p) for p in part.parameters()}


@pytest.mark.parametrize("kind", ["gaussian", "point", "categorical"])
def test_the_dynamics_dreams_every_kind_of_latent(kind: str):
    torch.manual_seed(0)
    config = ReferenceEncoderConfig(kind=kind, latent_dim=4)  # type: ignore[arg-type]
    specs = make_specs(latent=ReferenceEncoder.latent_spec(config))
    parts = (ReferenceEncoder(config, specs), small_dynamics(specs), small_decoder(specs))
    model = WorldModel(specs, *parts, ModelSettings(units=16))
    trainer = trainer_of(model)
    for i in range(3):
        trainer.update(make_batch(specs, seed=i))
    _, seen = model.observe(make_batch(specs), gen())
    z = model.imagine(seen.final, torch.zeros(4, 3, 2), 3, gen()).features[:, 1:, specs.memory_dim :]
    if kind == "categorical":
        assert ((z - z.round()).abs() < 1e-6).all() and (z.unflatten(-1, (2, 4)).sum(-1).round() == 1).all()


def test_the_encoder_is_held_to_whatever_prior_there_is():
    """A sampler, a mixture of memories or the standard normal of the staged schedule: all it asks is samples."""
    specs = make_specs()
    model = small_model(specs)
    ctx, _ = model.observe(make_batch(specs), gen())
    n = ctx.row.numel()
    for prior in (ctx.prior, Normal(torch.zeros(n, 4), torch.ones(n, 4)), tree.detach(ctx.prior)):
        for player in ("main", "critic"):
            terms = model.encoder.losses(replace(ctx, prior=prior), player)
            assert terms and all(torch.isfinite(term).all() for term in terms.values())


NEEDED = {"encoder": GANEncoder, "dynamics": GANDynamics, "decoder": GANDecoder}
MODES = [("dynamics", {"temporal": True}), ("decoder", {"pix_l1": 1.0, "r2": 0.5}), ("encoder", {"r1": 0.0, "r2": 0.0})]


@pytest.mark.parametrize(("role", "config"), MODES)
def test_settings_and_constants_that_are_no_choices_pass_the_checks_too(role: str, config: dict):
    """The conformance suite runs every Literal by itself; these are its other switches."""
    cls: type[Encoder] | type[Dynamics] | type[Decoder] = NEEDED[role]
    slow = {"E9", "C6"}
    checks = {f"{letter}{n}" for letter in "PEDTC" for n in range(1, 15)} - slow
    small = configured(cls.Config, **{**cls.Config.at_size("nano"), **config})
    found = run_checks(role, cls, small, only=checks)
    assert found and not [f"{r.check}: {r.cause}" for r in found if not r.passed]


def test_latent_of_one_dimension():
    specs = make_specs(latent=LatentSpec(1))
    model = small_model(specs)
    trainer_of(model).update(make_batch(specs))
