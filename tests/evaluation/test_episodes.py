from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from evaluation_kit import OBS, Evaluated
from gymnasium import spaces
from model_kit import build_model, gen

from worldlab.evaluation.episodes import eval_workers, evaluate
from worldlab.experience.acting import ActingAgent

PLAYED: list[tuple[int, float, int]] = []


class Uneven(gymnasium.Env):
    """Has episodes of 1 to 9 steps, by the seed; the reward is the episode's secret. Logs (env, return, length)."""

    observation_space = spaces.Dict({"vector": spaces.Box(-np.inf, np.inf, (3,), np.float32)})
    action_space = spaces.Box(-1, 1, (2,), np.float32)
    made = 0

    def __init__(self) -> None:
        self.number = Uneven.made
        Uneven.made += 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.length = int(self.np_random.integers(1, 10))
        self.secret, self.t = float(self.np_random.integers(1, 100)), 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        reward = self.secret + float(np.abs(action).sum())
        if self.t == self.length:
            PLAYED.append((self.number, self.secret, self.length))
        return self._obs(), reward, self.t == self.length, False, {}

    def _obs(self):
        return {"vector": np.array([self.secret, self.t, self.length], np.float32)}


@pytest.fixture
def acting():
    Uneven.made = 0
    PLAYED.clear()
    return ActingAgent(build_model(obs=OBS), Evaluated(), Uneven.action_space, gen())


@pytest.mark.parametrize("episodes", [1, 3, 10, 13, 25])
def test_each_environment_plays_its_share_fixed_beforehand(acting, episodes):
    """The evaluated episodes are the first ones of each environment, whatever the lengths of the others."""
    result = evaluate(acting, Uneven, episodes=episodes, seed=0)
    envs = min(episodes, 10)
    share = [episodes // envs + (i < episodes % envs) for i in range(envs)]
    expected = []
    for env in range(envs):
        expected += [length for number, _, length in PLAYED if number == env][: share[env]]
    assert result.lengths == expected and len(result.returns) == episodes
    secrets = [s for env in range(envs) for s in [s for n, s, _ in PLAYED if n == env][: share[env]]]
    for ret, length, secret in zip(result.returns, result.lengths, secrets, strict=True):
        assert 0 <= ret - secret * length <= 2 * length  # each step pays the secret and at most |a1| + |a2|
    assert not acting.agent.explored


def test_the_same_seed_gives_the_same_numbers_and_another_other_ones(acting):
    first = evaluate(acting, Uneven, episodes=12, seed=3)
    acting.generator.manual_seed(99)  # judging draws nothing from it
    assert evaluate(acting, Uneven, episodes=12, seed=3) == first
    assert evaluate(acting, Uneven, episodes=12, seed=4).returns != first.returns


def test_frames_are_the_first_episode_of_the_first_environment(acting):
    result = evaluate(acting, Uneven, episodes=4, seed=1, record="vector")
    frames = np.array(result.frames)
    assert len(frames) == result.lengths[0]
    assert frames[:, 1].tolist() == list(range(result.lengths[0]))  # the observations acted on
    assert (frames[:, 2] == result.lengths[0]).all()
    assert evaluate(acting, Uneven, episodes=4, seed=1).frames == []


def test_summary_is_the_mean_and_the_sample_deviation(acting):
    result = evaluate(acting, Uneven, episodes=5, seed=0)
    summary = result.summary()
    assert summary["episodes"] == 5 and summary["protocol"]["deterministic"] is True
    mean = sum(result.returns) / 5
    assert summary["return_mean"] == pytest.approx(mean)
    variance = sum((ret - mean) ** 2 for ret in result.returns) / 4
    assert summary["return_std"] == pytest.approx(variance**0.5)
    assert evaluate(acting, Uneven, episodes=1, seed=0).summary()["return_std"] is None


def test_evaluation_uses_workers_only_if_training_does():
    assert eval_workers(0) == 0 and eval_workers(2) >= 1


def test_predict_works_with_stable_baselines(acting):
    """SB3's evaluate_policy accepts our agent and measures the same returns as our own evaluation."""
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

    env = VecMonitor(DummyVecEnv([Uneven]))
    env.seed(5)
    returns, lengths = evaluate_policy(acting, env, n_eval_episodes=2, return_episode_rewards=True, warn=False)
    assert len(returns) == 2 and isinstance(lengths, list)
    alone = ActingAgent(acting.model, acting.agent, Uneven.action_space, gen())
    run_by_hand(alone, Uneven, seed=5, expected=returns[0], length=lengths[0])


def run_by_hand(acting: ActingAgent, make, seed: int, expected: float, length: int) -> None:
    """Play one episode of one environment with `predict`, step by step."""
    env, state, total = make(), None, 0.0
    obs, _ = env.reset(seed=seed)
    start = np.ones(1, bool)
    for _ in range(length):
        batch = {key: value[None] for key, value in obs.items()}
        action, state = acting.predict(batch, state, start, deterministic=True)
        obs, reward, done, _, _ = env.step(action[0])
        start = np.array([done])
        total += reward
    assert done and total == pytest.approx(expected, rel=1e-5)
