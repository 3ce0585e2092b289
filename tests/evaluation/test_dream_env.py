"""Tests of dreams as environments: the checkers of both libraries, and a dream whose value is known."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
import torch
from evaluation_kit import Constant
from gymnasium.utils.env_checker import check_env as gymnasium_check
from model_kit import batch_for, build_model, gen
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_checker import check_env as sb3_check

from worldlab.distributions import Normal, OneHot, tempered
from worldlab.errors import ConfigError
from worldlab.evaluation.dream_env import DreamEnv, DreamPool, DreamVecEnv, DreamVectorEnv, starts_from
from worldlab.rollout import Carry
from worldlab.testing.toys import ACTIONS
from worldlab.world_model import WorldModel

COUNT = 7


def dream_pool(action="discrete", num=COUNT, horizon=5, cont=1.0, reward=1.0, **options) -> DreamPool:
    model = build_model(action=ACTIONS[action])
    model.reward, model.cont = Constant(reward), Constant(cont)  # type: ignore[assignment]
    starts = starts_from(model, batch_for(model), gen())
    return DreamPool(model, starts, num, horizon, **options)


@pytest.mark.parametrize("action", ["discrete", "continuous"])
def test_both_libraries_checkers_accept_a_dream(action):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*infinity.*|.*not within.*|.*different from the unwrapped.*")
        sb3_check(DreamEnv(dream_pool(action, num=1)), warn=False)
        gymnasium_check(DreamEnv(dream_pool(action, num=1)), skip_render_check=True)


@pytest.mark.parametrize("action", ["discrete", "continuous"])
def test_a_vector_of_dreams_is_a_gymnasium_vector_env(action):
    env = DreamVectorEnv(dream_pool(action, horizon=3, cont=0.7))
    assert env.metadata["autoreset_mode"] == gymnasium.vector.AutoresetMode.SAME_STEP
    first, _ = env.reset(seed=4)
    assert first in env.observation_space and first.shape == (COUNT, env.single_observation_space.shape[0])
    recorded = gymnasium.wrappers.vector.RecordEpisodeStatistics(env)
    recorded.reset(seed=4)
    env.action_space.seed(0)
    done = np.zeros(COUNT, bool)
    for _ in range(12):
        obs, reward, terminated, truncated, infos = recorded.step(env.action_space.sample())
        assert obs in env.observation_space and reward.dtype == np.float64
        done = terminated | truncated
        assert not (terminated & truncated).any()
        if done.any():
            assert (infos["_final_obs"] == done).all() and set(infos["episode"]["l"][done]) <= {1, 2, 3}
            for row in np.flatnonzero(done):
                assert infos["final_obs"][row] in env.single_observation_space
                assert not np.array_equal(infos["final_obs"][row], obs[row])


def test_the_same_seed_dreams_the_same_and_another_does_not():
    runs = []
    for seed in (3, 3, 4):
        env = DreamVectorEnv(dream_pool("continuous", cont=0.8))
        out = [env.reset(seed=seed)[0]]
        for _ in range(6):
            out.append(env.step(np.zeros((COUNT, 2), np.float32))[0])
        runs.append(np.stack(out))
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])


def test_a_step_is_the_models_step_and_truncation_returns_the_final_observation():
    made = dream_pool("continuous", horizon=2)
    env = DreamVecEnv(made)
    start = env.reset()
    action = np.linspace(-1, 1, 2 * COUNT, dtype=np.float32).reshape(COUNT, 2)
    carry, noise = made._carry, torch.Generator()
    np.testing.assert_array_equal(start, made.model.features(carry).numpy())
    noise.set_state(made.generator.get_state())
    _, expected, _, _ = made.model.step(carry, torch.from_numpy(action), noise)
    obs, reward, done, infos = env.step(action)
    np.testing.assert_array_equal(obs, expected.detach().numpy())
    assert (reward == 1).all() and not done.any() and infos == [{}] * COUNT
    obs, _, done, infos = env.step(action)
    assert done.all()
    for row, info in enumerate(infos):
        assert info["TimeLimit.truncated"] and not np.array_equal(info["terminal_observation"], obs[row])
    assert not env.step(action)[2].any()  # ages began anew


def test_returns_in_a_known_dream_match_the_closed_form():
    """Reward 2 per step, continue probability 0.8, at most 6 steps: E = 2 sum_k 0.8^k."""
    made = dream_pool("discrete", num=2000, horizon=6, cont=0.8, reward=2.0)
    env = DreamVecEnv(made)
    env.reset()
    total, alive = np.zeros(2000), np.ones(2000, bool)
    for _ in range(6):
        _, reward, done, _ = env.step(np.zeros(2000, int))
        total += reward * alive
        alive &= ~done
    assert not alive.any()
    expected = 2 * sum(0.8**k for k in range(6))
    assert abs(total.mean() - expected) < 4 * total.std() / 2000**0.5


@pytest.mark.slow
def test_sb3s_value_of_a_known_dream_matches_the_closed_form():
    """Reward 1, continue probability 0.9, a long horizon: V = 1 / (1 - 0.9 gamma) everywhere, for any policy."""
    env = DreamVecEnv(dream_pool("discrete", num=32, horizon=1000, cont=0.9))
    with torch.random.fork_rng():
        algo = PPO("MlpPolicy", env, gamma=0.9, n_steps=16, batch_size=256, learning_rate=3e-3, seed=0, device="cpu")
        algo.learn(30_000)
        with torch.no_grad():
            value = algo.policy.predict_values(torch.from_numpy(env.reset())).mean().item()
    assert value == pytest.approx(1 / (1 - 0.9 * 0.9), rel=0.05)


@pytest.mark.parametrize("action", ["discrete", "continuous"])
def test_any_sb3_algorithm_learns_in_it_without_further_code(action):
    with torch.random.fork_rng():
        A2C("MlpPolicy", DreamVecEnv(dream_pool(action, cont=0.9)), n_steps=4, device="cpu").learn(100)


def test_dreams_start_at_states_that_are_not_terminal():
    model = build_model()
    batch = batch_for(model)
    _, seen = model.observe(batch, gen())
    assert (batch.cont == 0).sum() == 1
    ended = model.features(seen.at(*torch.nonzero(batch.cont == 0, as_tuple=True)))
    carry = starts_from(model, batch, gen())(500, gen(1))
    drawn = model.features(carry)
    assert len(torch.unique(drawn, dim=0)) == 23  # of 24 steps, all but the ending
    assert not (drawn == ended).all(1).any()
    with pytest.raises(ValueError, match="nowhere to start"):
        starts_from(model, type(batch)(**{**vars(batch), "cont": torch.zeros_like(batch.cont)}), gen())


def test_temperature_widens_only_distributions_that_have_one():
    normal = Normal(torch.zeros(1, 2), torch.tensor([[1.0, 2.0]]))
    assert tempered(normal, 1.0) is normal
    warm: Normal = tempered(normal, 4.0)  # type: ignore[assignment]
    torch.testing.assert_close(warm.std, torch.tensor([[2.0, 4.0]]))
    codes = OneHot(torch.log_softmax(torch.tensor([[[0.0, 1.0]]]), -1))
    cold: OneHot = tempered(codes, 0.5)  # type: ignore[assignment]
    torch.testing.assert_close(cold.probs[0, 0, 1], torch.sigmoid(torch.tensor(2.0)))

    class Blunt:
        mode = torch.zeros(1)

        def sample(self, generator):
            return self.mode

    with pytest.raises(ConfigError, match="Blunt has no temperature"):
        tempered(Blunt(), 2.0)


def test_a_hotter_dream_strays_further(monkeypatch):
    spread = []
    for temperature in (0.1, 1.0, 10.0):
        made = dream_pool("continuous", num=500, temperature=temperature)
        one: WorldModel = made.model
        carry = one.initial(1)
        made.starts = lambda n, g, carry=carry: Carry({"h": carry.state["h"].expand(n, -1)}, carry.z.expand(n, -1))
        made.reset()
        z = made.step(np.zeros((500, 2), np.float32)).features[:, one.specs.memory_dim :]
        spread.append(z.std(0).mean())
    np.testing.assert_allclose([spread[1] / spread[0], spread[2] / spread[1]], 10**0.5, rtol=0.1)
