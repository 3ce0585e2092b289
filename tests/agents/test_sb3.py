"""Stable-Baselines3's algorithms in dreams: they learn there, keep to our random streams, and are saved whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from bandit_kit import CONTINUOUS, DISCRETE, Bandit, experience, gen, specs_for
from config_kit import configured
from torch import Tensor
from worldlab_agents.configs import SB3Config
from worldlab_agents.sb3 import SB3Agent, make_starts, seed_global_streams

from worldlab.agent import OwnLearner
from worldlab.errors import ConfigError
from worldlab.runs.optimizer_state import flatten_optimizer
from worldlab.specs import ActionSpec
from worldlab.tree import select

SMALL: dict[str, Any] = {"num_envs": 16, "horizon": 5, "every": 1, "units": 16, "layers": 1, "batch_size": 64}


def agent(action: ActionSpec, config: SB3Config) -> SB3Agent:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SB3Agent(config, specs_for(action))


def train(made: SB3Agent, action: ActionSpec, rounds: int, seed: int = 0) -> dict[str, Tensor]:
    world: Any = Bandit(action)
    noise, out = gen(seed), {}
    for _ in range(rounds):
        out = made.learn(world, experience(), noise)
    return out


def chosen(made: SB3Agent, explore: bool = False) -> Tensor:
    features = torch.linspace(-1, 1, 9)[:, None].expand(-1, 2)
    world: Any = None
    return made.act(world, {}, features, {}, gen(), explore)[0]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "DQN"])
def test_discrete_algorithms_find_the_best_choice(algorithm):
    config = configured(SB3Config, algorithm=algorithm, steps=320, learning_rate=3e-3, gamma=0.5, **SMALL)
    made = agent(DISCRETE, config)
    out = train(made, DISCRETE, 30)
    assert (chosen(made).argmax(-1) == 2).all()
    assert out and all(torch.isfinite(value) for value in out.values())


@pytest.mark.slow
def test_dqns_values_reach_beyond_the_horizon_of_a_dream():
    """Reward 1 for ever at gamma 0.9 is worth 10: each sync of the target network adds a tenth of what is missing."""
    made = agent(DISCRETE, configured(SB3Config, algorithm="DQN", steps=320, learning_rate=3e-3, gamma=0.9, **SMALL))
    train(made, DISCRETE, 40)
    values = made.algorithm.q_net(torch.linspace(-1, 1, 9)[:, None].expand(-1, 2))
    assert (values[:, 2] > 8.5).all() and (values[:, 2] < 11).all()
    assert made.algorithm.exploration_rate == pytest.approx(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["PPO", "SAC", "TD3", "DDPG"])
def test_continuous_algorithms_find_the_best_action(algorithm):
    config = configured(
        SB3Config, algorithm=algorithm, steps=320, learning_rate=3e-3, gamma=0.5, gradient_steps=1, **SMALL
    )
    made = agent(CONTINUOUS, config)
    train(made, CONTINUOUS, 20 if algorithm == "SAC" else 40)
    torch.testing.assert_close(chosen(made), torch.full((9, 1), 0.5), atol=0.2, rtol=0)
    assert chosen(made, explore=True).abs().max() <= 1


@pytest.mark.parametrize("algorithm", ["TD3", "DDPG"])
def test_a_deterministic_policy_tries_other_actions_in_dreams_than_its_own(algorithm):
    """Dreams are all it learns from."""
    spreads = []
    for exploration in (0.0, 0.3):
        config = configured(
            SB3Config, algorithm=algorithm, steps=320, exploration=exploration, learning_rate=1e-9, **SMALL
        )
        made = agent(CONTINUOUS, config)
        train(made, CONTINUOUS, 2)
        buffer = made.algorithm.replay_buffer
        spreads.append(float(buffer.actions[: buffer.size()].std()))
    assert spreads[1] == pytest.approx((spreads[0] ** 2 + 0.3**2) ** 0.5, abs=0.05)


@pytest.mark.parametrize("steps", [20, 33])
def test_a_round_of_whole_rollouts_is_as_long_as_was_asked_for(steps):
    made = agent(
        DISCRETE, configured(SB3Config, algorithm="PPO", **{**SMALL, "num_envs": 16, "steps": steps, "batch_size": 16})
    )
    train(made, DISCRETE, 1)
    assert made.algorithm.num_timesteps == steps // 16 * 16
    with pytest.raises(ConfigError, match="a round of one step"):
        agent(DISCRETE, configured(SB3Config, algorithm="PPO", **{**SMALL, "num_envs": 1, "steps": 1}))


@pytest.mark.parametrize(
    ("config", "action"),
    [(configured(SB3Config, algorithm="SAC", steps=512, **SMALL), DISCRETE), (SB3Config(algorithm="DQN"), CONTINUOUS)],
)
def test_an_algorithm_that_does_not_fit_the_actions_is_refused_with_those_that_do(config, action):
    with pytest.raises(ConfigError) as caught:
        agent(action, config)
    assert config.algorithm in caught.value.message and "ppo" in (caught.value.fix or "")


@pytest.mark.parametrize(
    ("config", "action"),
    [
        (configured(SB3Config, algorithm="PPO", steps=64, **SMALL), DISCRETE),
        (configured(SB3Config, algorithm="SAC", steps=64, **SMALL), CONTINUOUS),
    ],
)
def test_learning_repeats_and_leaves_the_global_streams_alone(config, action):
    states = []
    for _ in range(2):
        made = agent(action, config)
        before = torch.get_rng_state(), np.random.get_state()[1].copy()
        train(made, action, 3)
        chosen(made, explore=True)
        assert torch.equal(before[0], torch.get_rng_state()) and np.array_equal(before[1], np.random.get_state()[1])
        states.append(made.state_dict())
        torch.rand(3)
        np.random.rand(3)
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


def test_what_an_algorithm_keeps_outside_its_policy_is_saved_and_trained():
    config = configured(SB3Config, algorithm="SAC", steps=128, **SMALL)
    made, other = agent(CONTINUOUS, config), agent(CONTINUOUS, config)
    train(made, CONTINUOUS, 3)
    assert isinstance(made, OwnLearner) and not made.players()
    assert "log_ent_coef" in made.state_dict() and made.log_ent_coef.item() != 0
    assert made.log_ent_coef is made.algorithm.log_ent_coef
    other.load_state_dict(made.state_dict())
    assert torch.equal(chosen(other, explore=True), chosen(made, explore=True))
    assert set(made.optimizers()) == {"actor_optimizer", "critic_optimizer", "ent_coef_optimizer"}
    for optimizer in made.optimizers().values():
        tensors, _ = flatten_optimizer(optimizer)
        assert tensors  # every one was stepped


def test_dreams_start_at_states_that_are_not_terminal():
    seen = replace(experience(), cont=torch.tensor([0, 1.0, 0, 0, 1, 0, 0, 0]))
    drawn = make_starts(seen)(100, gen()).z
    assert set(drawn.flatten().tolist()) == set(select(seen.carry, [1, 4]).z.flatten().tolist())


def test_seeded_depends_on_the_generator_alone():
    draws = []
    for seed in (1, 1, 2):
        with seed_global_streams(gen(seed)):
            draws.append((torch.rand(1).item(), float(np.random.rand())))
    assert draws[0] == draws[1] != draws[2]
