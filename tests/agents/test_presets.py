"""The presets that are named systems: each trains, evaluates, dreams and resumes, and is built as its paper says."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import worldlab
from worldlab.cli.flags import read_flags
from worldlab.config.resolve import RunConfig, preset_names, resolve
from worldlab.registry import load_registry
from worldlab.training.compose import Composed, compose
from worldlab.training.streams import Streams

pytestmark = pytest.mark.usefixtures("blank_plots")
REGISTRY = load_registry()
PRESETS = {
    "dreamer-v3": "Pendulum",
    "forbes": "Pendulum",
    "iris": "CarRacing",
    "planet": "Pendulum",
    "td-mpc2": "CarRacing",
    "twister": "CarRacing",
}
"""Every preset on a task of one kind; tests/contract/test_matrix.py puts its parts together on pictures, too."""
TINY: dict[str, Any] = {
    "size": "nano",
    "device": "cpu",
    "env.time_limit": 12,
    "steps": 40,
    "train": {
        "prefill": 24,
        "pretrain": 2,
        "ratio": 0.1,
        "batch_size": 2,
        "batch_length": 8,
        "starts": 6,
        "threads": 1,
    },
    "eval": {"every": 0, "final_episodes": 1, "dream_horizon": 4},
    "log": {"every": 20, "pictures": 0, "checkpoint": 20, "track": ["none"]},
}
SEARCH = {"agent": {"candidates": 16, "iterations": 2, "elites": 4}}
"""A search at every decision, small."""


def settings_of(preset: str, **more: Any) -> dict[str, Any]:
    plans = preset in ("planet", "td-mpc2")
    return {**TINY, **(SEARCH if plans else {"agent": {"horizon": 4}}), **more}


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "env"), PRESETS.items())
def test_a_preset_trains_evaluates_dreams_and_resumes(preset: str, env: str, tmp_path: Path):
    run = worldlab.train(env, preset=preset, settings=settings_of(preset), run=tmp_path / "run")
    assert run.result is not None and run.result["env_steps"] == 40 and math.isfinite(run.result["return_mean"])
    trained = [line for line in run.metrics if "loss/reward" in line]
    assert trained and all(math.isfinite(value) for line in trained for value in line.values())
    drawn = run.dream(horizon=3, count=1)
    assert drawn["pictures_by"] == ("probe" if preset == "td-mpc2" else "decoder")
    longer = worldlab.resume(tmp_path / "run", settings={"steps": 60})
    assert longer.result is not None and longer.result["env_steps"] == 60
    assert longer.result["updates"] > run.result["updates"] - 1 and longer.config.presets == (preset,)


def built(preset: str, **flags: Any) -> tuple[RunConfig, Composed]:
    config = resolve(REGISTRY, presets=[preset], flags={"env": {"id": "Pendulum"}, **flags})
    obs = spaces.Dict({"obs": spaces.Box(-1, 1, (3,), np.float32)})
    act = spaces.Box(-2, 2, (1,), np.float32)
    return config, compose(config, REGISTRY, obs, act, Streams(0), torch.device("cpu"))


def test_dreamer_v3_has_codes_of_32_by_32_one_critic_and_the_score_function_gradient():
    config, found = built("dreamer-v3", size="small")
    agent: Any = found.agent
    assert (found.specs.latent.groups, found.specs.latent.classes) == (32, 32)
    assert len(agent.critic.each) == 1 and not agent._pathwise(found.model)
    assert found.model.rule.dyn == "kl" and config.core.model.rep_scale == 0.1
    prior: Any = found.model.dynamics.predict(found.model.dynamics.memory(found.model.dynamics.initial(1)))
    assert float(prior.probs.detach().min()) >= 0.01 / 32 - 1e-6, "1 % of a uniform"


def test_planets_bound_is_the_plain_one_and_it_plans_without_discount():
    config, found = built("planet", size="nano")
    agent: Any = found.agent
    assert config.core.model.rep_scale == 1.0 and found.specs.latent.dim == 30
    assert (agent.budget.candidates, agent.budget.iterations, agent.config.gamma) == (1000, 10, 1.0)
    assert agent.guide is None and agent.players() == {}


def test_nothing_of_td_mpc2_is_reconstructed():
    from worldlab.model.losses import model_losses
    from worldlab.model.noise import noise_batch, stream
    from worldlab.model.schedule import stage_at

    config, found = built("td-mpc2", size="large", model={"units": 16}, agent={"units": 16})
    assert (found.specs.latent.kind, found.specs.latent.dim) == ("point", 64 * 8)
    ctx, _ = found.model.observe(noise_batch(found.specs.obs, found.specs.action, 2, 4, stream(0)), stream(1))
    with torch.no_grad():
        found.model.reward.net[-1].weight.normal_()  # type: ignore[operator,union-attr]  # it starts at 0
    terms = model_losses(found.model, ctx, stage=stage_at(config.core.train, 10_000))
    assert set(terms) == {"dyn", "reward", "cont", "probe"}
    weights = list(found.model.encoder.parameters())
    seen = {
        name: any(
            grad is not None and bool(grad.any())
            for grad in torch.autograd.grad(term.mean(), weights, allow_unused=True, retain_graph=True)
        )
        for name, term in terms.items()
    }
    assert seen == {"dyn": True, "reward": True, "cont": True, "probe": False}, (
        "rewards and consistency train the latent"
    )


def test_iris_predicts_the_tokens_of_a_frame_one_after_another():
    _, found = built("iris", size="nano")
    assert found.specs.latent.groups == 16
    memory = torch.zeros(1, found.specs.memory_dim)
    prior: Any = found.model.dynamics.predict(memory)
    with torch.no_grad():
        prior.net.out.normal_()  # it starts at 0: independent tokens
    codes = torch.eye(found.specs.latent.classes)[torch.zeros(1, 16, dtype=torch.long)].requires_grad_()
    rows = prior.net.conditionals(memory, codes)
    for k in range(16):
        (grad,) = torch.autograd.grad(rows[0, k].square().sum(), codes, retain_graph=True)
        seen = grad[0].abs().sum(1) > 0
        assert seen[:k].all() and not seen[k:].any(), "token k reads the tokens before it and no other"
    assert found.agent.config.horizon == 20  # type: ignore[union-attr]


def test_forbes_has_a_flow_as_its_belief_and_twister_contrasts_ten_steps():
    _, found = built("forbes", size="nano")
    assert found.model.encoder.posterior_kind == "own_logq" and found.specs.use_memory
    assert found.agent._pathwise(found.model)  # type: ignore[union-attr]
    _, found = built("twister", size="nano")
    dynamics: Any = found.model.dynamics
    assert list(dynamics.critic.weights) == list(range(10)) and not found.specs.use_memory
    assert found.specs.latent.kind == "categorical"


PAGE = (Path(__file__).parents[2] / "docs" / "presets.md").read_text("utf-8")
SECTIONS = {text.partition("\n")[0].strip(): text for text in PAGE.split("\n## ")[1:]}


def test_the_page_has_every_preset_with_its_paper_command_and_deviations():
    tuning = {"debug", "few-steps", "gpu", "laptop", "offline"}
    assert set(SECTIONS) == set(preset_names(REGISTRY)) - tuning == {*PRESETS, "world-models"}
    for name, text in SECTIONS.items():
        assert "arXiv:" in text and "\n- Home: " in text and "\n- Result: " in text and "\n- Deviates: " in text, name


@pytest.mark.parametrize("preset", SECTIONS)
def test_the_commands_of_the_page_choose_the_preset(preset):
    (home,) = re.findall(r"`worldlab train ([^`]+)`", SECTIONS[preset])
    flags = read_flags(shlex.split(home))
    config = resolve(REGISTRY, presets=flags.presets, flags=flags.settings)
    assert config.presets == (preset,)
    (script,) = re.findall(r"`python benchmarks/(?:control|learn)\.py ([^`]+)`", SECTIONS[preset])
    words = shlex.split(script)
    given = shlex.split(words[words.index("--flags" if "--flags" in words else "--train") + 1])
    more = read_flags(given)
    found = resolve(REGISTRY, presets=more.presets, flags=more.settings)
    assert found.presets == (preset,)
    if "--agents" in words:
        assert words[words.index("--agents") + 1] == found.agent.name, "control.py chooses the agent by --agent"
