"""The ensemble of any dynamics: one memory, members of their own, a member for each imagined row."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from family_kit import FAMILIES, gen, make_batch
from torch import Tensor
from worldlab_vae.configs import EnsembleDynamicsConfig
from worldlab_vae.ensemble import EnsembleDynamics

from worldlab.config import provenance
from worldlab.config.resolve import resolve
from worldlab.distributions import expectation
from worldlab.errors import ConfigError, PluginError
from worldlab.evaluation.dream_env import DreamPool
from worldlab.model.losses import model_losses
from worldlab.registry import load_registry
from worldlab.testing import build, checks_for, run_checks, small_config
from worldlab.testing.bench import Bench
from worldlab.testing.sizes import complete
from worldlab.tree import leaves
from worldlab.world_model import WorldModel

REGISTRY = load_registry()


def bench_of(member: str = "vae", count: int = 3) -> Bench:
    return build("dynamics:ensemble", "vector", member=member, count=count)


def ensemble_of(model: WorldModel) -> EnsembleDynamics:
    assert isinstance(model.dynamics, EnsembleDynamics)
    return model.dynamics


def plain(member: str) -> WorldModel:
    """The same world with the member itself, and the same initial weights."""
    made = small_config(REGISTRY.get("dynamics", member).config)  # type: ignore[arg-type]
    return build(f"dynamics:{member}", "vector", **dict(made)).model


def know(model: WorldModel, means: list[float]) -> None:
    """Let the members of a vae ensemble expect latents with these entries, with the smallest std, whatever the memory."""
    for member, mean in zip(ensemble_of(model).each(), means, strict=True):
        last: Any = member.head.net[-1]
        torch.nn.init.zeros_(last.weight)
        half = len(last.bias) // 2
        with torch.no_grad():
            last.bias[:half], last.bias[half:] = mean, -20.0


@pytest.mark.parametrize("member", FAMILIES)
def test_one_member_is_the_dynamics_itself_bit_for_bit(member: str):
    one, other = bench_of(member, count=1).model, plain(member)
    other.dynamics.load_state_dict(ensemble_of(one).first.state_dict())
    batch = make_batch(one.specs)
    found = []
    for model in (one, other):
        ctx, seen = model.observe(batch, gen(1))
        terms = [term.value for term in model_losses(model, ctx).values()]
        grads = torch.autograd.grad(torch.stack([t.mean() for t in terms]).sum(), list(model.encoder.parameters()))
        plan = torch.zeros(len(batch.reward), 3, model.specs.action.dim)
        found.append([*terms, *grads, model.imagine(seen.final, plan, 3, gen(2)).features])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("member", FAMILIES)
def test_members_of_every_family_share_the_memory_and_pass_the_checks(member: str):
    config = complete(small_config(EnsembleDynamicsConfig, member=member, count=2), "dynamics")
    quick = {check.id for check in checks_for("dynamics") if not check.slow}
    wrong = [
        f"{r.check}: {r.cause}" for r in run_checks("dynamics", EnsembleDynamics, config, only=quick) if not r.passed
    ]
    assert not wrong


@pytest.mark.parametrize("member", FAMILIES)
def test_the_memory_has_one_set_of_weights_which_is_saved_once_and_copied_with_the_members(member: str):
    model = copy.deepcopy(bench_of(member).model)
    dynamics = ensemble_of(model)
    sizes = {name: value.numel() for name, value in dynamics.state_dict().items()}
    per_member = [sum(n for name, n in sizes.items() if name.startswith(f"members.{k}.")) for k in range(3)]
    whole = sum(value.numel() for value in plain(member).dynamics.state_dict().values())
    assert per_member[0] == whole and per_member[1] == per_member[2] < whole
    memory = model.features(model.initial(2))[:, : model.specs.memory_dim]
    for part in dynamics.each():
        state = part.advance(
            part.initial(2), torch.ones(2, model.specs.latent.dim), torch.ones(2, model.specs.action.dim)
        )
        assert part.memory(state).shape == memory.shape
        assert torch.equal(part.memory(state), dynamics.memory(dynamics.advance(dynamics.initial(2), *_ones(model))))
    expected = [expectation(part.predict(memory)) for part in dynamics.each()]
    assert not torch.equal(expected[0], expected[1]) and not torch.equal(expected[1], expected[2])


def _ones(model: WorldModel) -> tuple[Tensor, Tensor]:
    return torch.ones(2, model.specs.latent.dim), torch.ones(2, model.specs.action.dim)


def test_disagreement_is_the_variance_of_what_the_members_expect():
    """Means 0, 1 and 5 in every entry: the unbiased variance is 7."""
    model = bench_of().model
    know(model, [0.0, 1.0, 5.0])
    features = torch.randn(2, 4, model.specs.feature_dim)
    torch.testing.assert_close(model.disagreement(features), torch.full((2, 4), 7.0))
    ctx, _ = model.observe(make_batch(model.specs), gen())
    torch.testing.assert_close(model.dynamics.metrics(ctx.detach())["disagreement"], torch.tensor(7.0))


def test_an_imagined_row_keeps_its_member_and_members_are_drawn_evenly():
    model = bench_of().model
    know(model, [0.0, 10.0, 20.0])
    z = dreamt_latents(model, rows=600, seed=0)
    member = (z.mean(-1) / 10).round()  # [600, 5]
    assert torch.equal(member, member[:, :1].expand(-1, 5))
    shares = torch.bincount(member[:, 0].long(), minlength=3) / 600
    assert (shares - 1 / 3).abs().max() < 4 * (2 / 9 / 600) ** 0.5  # four standard errors
    assert torch.equal(dreamt_latents(model, 600, seed=0), z)
    still = model.imagine(model.initial(6), torch.zeros(6, 2, model.specs.action.dim), 2, None)
    assert torch.equal(still.features[:, 1:, model.specs.memory_dim :], torch.zeros(6, 2, model.specs.latent.dim))


def dreamt_latents(model: WorldModel, rows: int, seed: int) -> Tensor:
    plan = torch.zeros(rows, 5, model.specs.action.dim)
    dream = model.imagine(model.fork(model.initial(1), rows), plan, 5, gen(seed))
    return dream.features[:, 1:, model.specs.memory_dim :]


def test_a_dream_that_restarts_leaves_the_members_of_the_others():
    model = bench_of().model
    pool = DreamPool(model, lambda n, _: model.initial(n), 8, horizon=2, seed=0)
    pool.reset()
    assert pool._carry is not None and pool._carry.member is not None
    before = pool._carry.member.clone()
    pool._ages[:] = [2, 0, 0, 0, 0, 0, 0, 0]  # the first row ends after this step
    model.cont.forward = lambda features: torch.distributions.Bernoulli(torch.ones(len(features)))  # type: ignore[method-assign]
    pool.step(torch.zeros(8, model.specs.action.dim).numpy())
    assert torch.equal(pool._carry.member[1:], before[1:])


def test_rows_are_resampled_for_each_member_as_often_as_a_bootstrap_draws_them():
    """Poisson(1): a share of 1/e of the rows is left out, and the mean weight is 1."""
    model = bench_of(count=50).model
    ctx, _ = model.observe(make_batch(model.specs, rows=40), gen())
    weights = ensemble_of(model).row_weights(ctx)
    assert weights.shape == (50, 40)
    assert abs(weights.mean().item() - 1) < 0.1 and abs((weights == 0).float().mean().item() - 0.368) < 0.05


@pytest.mark.parametrize("member", ["vae", "gan"])
def test_a_row_of_weight_0_trains_no_member_and_the_others_by_their_weight(member: str, monkeypatch):
    """The gradient of a member is its own gradient at the weighted rows: by the matching rule, and by its own losses."""
    model = bench_of(member).model
    dynamics = ensemble_of(model)
    weights = torch.tensor([[0.0, 0, 0, 0], [2.0, 0, 0, 0], [1.0, 1, 1, 1]])
    monkeypatch.setattr(EnsembleDynamics, "row_weights", lambda self, ctx: weights)
    ctx, _ = model.observe(make_batch(model.specs), gen())
    terms = {name: t for name, t in model_losses(model, ctx).items() if name == "dyn" or name.startswith("dynamics/")}
    loss = torch.stack([t.weighted().mean() for t in terms.values()]).sum()
    head = [p for p in dynamics.each()[1].parameters() if p.requires_grad]
    none = [p for name, p in dynamics.first.named_parameters() if name.startswith(("head", "generator"))]
    grads = torch.autograd.grad(loss, [*none, *head], allow_unused=True, retain_graph=True)
    assert none and all(g is None or not g.any() for g in grads[: len(none)])
    assert any(g is not None and bool(g.any()) for g in grads[len(none) :])
    other_rows = torch.stack([t.weighted()[1:].sum() for t in terms.values()]).sum()
    left_out = torch.autograd.grad(other_rows, head, allow_unused=True)
    assert all(g is None or not g.any() for g in left_out)


def test_settings_of_the_member_have_its_name_and_a_run_records_its_origin(caplog):
    flags: dict[str, Any] = {"dynamics": {"name": "ensemble", "member": "gan", "gan": {"energy_scale": 0.2}}}
    with caplog.at_level(logging.WARNING):
        config = resolve(REGISTRY, presets=["laptop"], flags=flags)
    member = config.dynamics.inner["member"].options
    assert (type(member).__name__, member.energy_scale) == ("GANDynamicsConfig", 0.2)  # type: ignore[attr-defined]
    assert member.units == resolve(REGISTRY, presets=["laptop"]).core.model.units  # type: ignore[attr-defined]
    assert not caplog.records
    again = resolve(REGISTRY, tables=[config.to_mapping() | {"presets": ["laptop"]}])
    assert again.dynamics == config.dynamics
    parts = provenance.components(config, REGISTRY)
    assert parts["dynamics.member"]["name"] == "gan" and parts["dynamics"]["name"] == "ensemble"


def test_members_that_do_not_exist_or_nest_are_refused():
    with pytest.raises(PluginError, match=r"no dynamics named 'vea'\. Did you mean 'vae'"):
        resolve(REGISTRY, presets=["laptop"], flags={"dynamics": {"name": "ensemble", "member": "vea"}})
    with pytest.raises(ConfigError, match="built from other components itself"):
        resolve(REGISTRY, presets=["laptop"], flags={"dynamics": {"name": "ensemble", "member": "ensemble"}})


def test_disagreement_needs_two_members():
    bench_of(count=2).model.check_members()
    for model in (bench_of(count=1).model, plain("vae")):
        with pytest.raises(ConfigError, match="one prediction"):
            model.check_members()


def test_the_players_hold_every_parameter_once():
    model = bench_of("gan").model
    groups = {name: player.parameters for name, player in ensemble_of(model).players().items()}
    held = [p for group in groups.values() for p in group]
    trained = [p for p in model.dynamics.parameters() if p.requires_grad]
    assert set(groups) == {"main", "critic"} and len(held) == len(set(held)) and set(trained) <= set(held)
    assert len(leaves(model.dynamics.initial(2))) == 1
