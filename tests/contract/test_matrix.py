"""Every mix of the families, and every named system among the parts of each family: it trains, routes gradients by its
rule, imagines, renders and can be saved.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from config_kit import configured
from family_kit import FAMILIES
from torch import Tensor
from worldlab_agents.configs import DreamerConfig

from worldlab.config.resolve import Part, RunConfig
from worldlab.env.find import open_adapter
from worldlab.env.pool import EnvPool
from worldlab.env.spaces import action_spec, record_schema
from worldlab.errors import ConfigError
from worldlab.experience.acting import ActingAgent
from worldlab.experience.collect import Collector, to_batch
from worldlab.experience.replay import Replay
from worldlab.interfaces import Batch, Context
from worldlab.model import matching
from worldlab.model.health import HealthMonitor
from worldlab.model.noise import stream
from worldlab.registry import load_registry
from worldlab.settings import CoreSettings, TrainSettings
from worldlab.testing import small_config
from worldlab.testing.sizes import complete
from worldlab.training.compose import Composed, compose
from worldlab.training.streams import Streams
from worldlab.training.trainer import Generators, Trainer
from worldlab.tree import leaves, tree_map

ROLES = ("encoder", "dynamics", "decoder")
REGISTRY = load_registry()
NAMES = {role: [r.name for r in REGISTRY.registrations(role)] for role in ROLES}
MIXES = list(itertools.product(FAMILIES, repeat=len(ROLES)))
SYSTEMS = [
    tuple(name if other == role else family for other in ROLES)
    for role in ROLES
    for name in NAMES[role]
    if name not in FAMILIES
    for family in FAMILIES
]
"""Rows of one swap each: a named system in its role, a family in the others."""
TRAIN: dict[str, Any] = {"learning_rate": 1e-3, "critic_learning_rate": 1e-3, "starts": 6}
CORE = CoreSettings.model_validate(
    {
        "env": {"id": "branch"},
        "model": {"units": 16, "frames_per_update": 8, "free_nats": 0.0},
        "train": TRAIN,
    }
)
AGENT = configured(DreamerConfig, horizon=2, units=8, layers=1)
ADAPTER = partial(open_adapter(REGISTRY, "branch")[0].make, "worldlab/Branch-v0", CORE.env)
with EnvPool(ADAPTER, 1, 0, seed=0) as _pool:
    SPACES = (_pool.observation_space, _pool.action_space)


def part(role: str, name: str, family: str) -> Part:
    """A component at its smallest size; one that is built from others is built from those of the row's family."""
    config = REGISTRY.get(role, name).config
    assert config is not None
    return Part(name, complete(small_config(config, **dict.fromkeys(config.component_fields(), family)), role))


def build(mix: tuple[str, ...], seed: int = 0, core: CoreSettings = CORE) -> Composed:
    parts = {role: part(role, name, mix[0]) for role, name in zip(ROLES, mix, strict=True)}
    config = RunConfig(core=core, **parts, agent=Part("dreamer", AGENT), presets=())
    obs, action = SPACES
    return compose(config, REGISTRY, obs, action, Streams(seed), torch.device("cpu"))


@cache
def experience() -> Batch:
    """Return random walks in the branch environment, collected into a real replay; some sequences contain a reset."""
    built = build(MIXES[0])
    acting = ActingAgent(built.model, built.agent, SPACES[1], stream(0))
    with EnvPool(ADAPTER, 4, 0, seed=0) as pool:
        replay = Replay(record_schema(pool.observation_space, action_spec(pool.action_space)), 4000, 4)
        collector = Collector(pool, replay, acting)
        collector.start()
        rng = np.random.default_rng(0)
        for _ in range(200):
            collector.step(rng)
    sampled = replay.sample(256, 6, rng)
    order = np.argsort(sampled["cont"][:, :-1].sum(1), kind="stable")[
        [0, 1, -1, -2]
    ]  # two with a termination, two without
    chosen = {key: value[order] for key, value in sampled.items()}
    batch = to_batch(chosen, built.model.preprocess, torch.device("cpu"))
    assert batch.is_first[:, 1:].any() and not batch.cont.all()
    return batch


def reached(total: Tensor, inputs: list[Tensor]) -> bool:
    """Return whether total has a non-zero gradient with respect to any of the inputs."""
    if not total.requires_grad:
        return False
    found = torch.autograd.grad(total, inputs, allow_unused=True, retain_graph=True)
    return any(grad is not None and bool(grad.any()) for grad in found)


def check_routing(built: Composed, ctx: Context) -> None:
    """Check that `dyn` and a dynamics' own loss do not train the predicted latent, nor `rep` the dynamics."""
    model, rule = built.model, built.model.rule
    # Only the latent is replaced: earlier latents may be trained through the memory.
    apart = tree_map(lambda x: x.detach().requires_grad_() if x.is_floating_point() else x, ctx.latent)
    ctx, held = replace(ctx, latent=apart), [x for x in leaves(apart) if x.requires_grad]
    weights = [p for p in model.dynamics.parameters() if p.requires_grad]
    terms = {
        name: term.sum() for name, term in matching.terms(rule, ctx, model.dynamics, model.settings.free_nats).items()
    }
    own = {name: term.sum() for name, term in model.dynamics.losses(ctx).items()}
    assert "dyn" in terms or own, "a dynamics learns by the matching rule, by its own losses, or by both"
    assert rule.dyn != "own" or own
    learns = torch.stack([terms["dyn"]] if "dyn" in terms else list(own.values())).sum()
    assert reached(learns, weights)
    assert reached(learns, held) == (
        rule.dyn == "own" and model.encoder.posterior_kind == "deterministic" and model.dynamics.prior_kind == "critic"
    )
    assert ("rep" in terms) == (rule.rep != "none")
    if "rep" in terms:
        assert reached(terms["rep"], held) and not reached(terms["rep"], weights)
    assert ("anchor" in terms) == (rule.rep == "score_anchor")
    if "anchor" in terms:
        assert reached(terms["anchor"], held) and not reached(terms["anchor"], weights)


@pytest.mark.slow
@pytest.mark.parametrize("mix", MIXES + SYSTEMS, ids="-".join)
def test_mix(mix: tuple[str, ...]):
    torch.set_num_threads(1)
    built, batch = build(mix), experience()
    model = built.model
    settings = configured(TrainSettings, max_skips=1, **TRAIN)
    trainer = Trainer(model, built.agent, settings, Generators(stream(1), stream(2)))
    trainer.update(batch)  # some parameters start at 0 or are initialised from the first batch
    ctx, _ = model.observe(batch, stream(3))
    check_routing(built, ctx)
    forgotten = {name for name, p in model.named_parameters() if p.requires_grad}
    for update in range(9):  # nine where a frame or a row that trains a parameter is drawn rarely
        scalars = trainer.update(batch)
        assert all(bool(torch.isfinite(value)) for value in scalars.values())
        forgotten -= {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
        if update >= 3 and not forgotten:
            break
    assert not forgotten, f"never trained: {sorted(forgotten)[:3]}"

    with torch.no_grad():
        ctx, seen = model.observe(batch, stream(3))
        dream = _dream(built, seen.final)
        picture = model.render(dream.features[:, -1])
        values = HealthMonitor(model).metrics(ctx)
    assert torch.isfinite(dream.features).all() and (dream.cont >= 0).all() and (dream.cont <= 1).all()
    (drawn,) = picture.values()
    assert drawn.shape == (4, 16, 16, 3) and drawn.dtype == torch.uint8
    assert all(bool(torch.isfinite(value)) for value in values.values())

    other = build(mix, seed=1)
    other.model.load_state_dict(model.state_dict())
    other.agent.load_state_dict(built.agent.state_dict())
    with torch.no_grad():
        again = _dream(other, other.model.observe(batch, stream(3))[1].final)
    assert torch.equal(again.features, dream.features) and torch.equal(again.reward, dream.reward)


def _dream(built: Composed, carry):
    state = built.agent.initial(4)
    choose = lambda features: built.agent.act(built.model, carry, features, state, stream(5), True)[0]  # noqa: E731
    return built.model.imagine(carry, choose, 3, stream(4))


def test_every_family_has_every_role():
    assert all(set(FAMILIES) <= set(names) for names in NAMES.values()), f"a family lacks a role: {NAMES}"


SWAPS = [
    tuple(name if other == role else "vae" for other in ROLES)
    for role in ROLES
    for name in NAMES[role]
    if name != "vae"
]
"""Every part among those of the vae family."""


@pytest.mark.parametrize("mix", [("vae", "vae", "vae"), *SWAPS], ids="-".join)
def test_several_samples_train_every_mix_with_densities_and_no_other(mix: tuple[str, ...]):
    core = CORE.model_copy(update={"model": CORE.model.model_copy(update={"samples": 2})})
    plain = build(mix).model
    has_density = (
        plain.encoder.posterior_kind in ("analytic", "own_logq")
        and plain.dynamics.prior_kind in ("analytic", "log_prob")
        and plain.decoder.score_kind == "log_density"
    )
    if not has_density:
        role, part = next((role, plain.parts[role]) for role, name in zip(ROLES, mix, strict=True) if name != "vae")
        with pytest.raises(ConfigError, match="needs densities") as caught:
            build(mix, core=core)
        assert f"{role} {type(part).__name__}" in (caught.value.cause or "")
        return
    built = build(mix, core=core)
    before = {role: [p.detach().clone() for p in part.parameters()] for role, part in built.model.parts.items()}
    out = Trainer(built.model, built.agent, TrainSettings(**TRAIN), Generators(stream(0), stream(1))).update(
        experience()
    )
    assert all(bool(value.isfinite().all()) for value in out.values()) and {"loss/dyn", "loss/rep"} <= set(out)
    for role, part in built.model.parts.items():
        assert any(not torch.equal(a, b) for a, b in zip(before[role], part.parameters(), strict=True)), role
