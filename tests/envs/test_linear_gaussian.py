"""The linear-Gaussian oracle against independent oracles: one big joint Gaussian, and brute-force control."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from scipy.stats import multivariate_normal
from worldlab_envs.linear_gaussian import ADAPTER, LinearGaussian

from worldlab.settings import EnvSettings


def rollout(env, policy, steps, seed):
    obs, info = env.reset(seed=seed)
    seen, actions, total, state = [obs], [], 0.0, info["state"]
    for _ in range(steps):
        action = policy(state)
        obs, reward, _, _, info = env.step(action)
        state = info["state"]
        seen.append(obs)
        actions.append(action)
        total += reward
    return np.array(seen), np.array(actions), total


@pytest.mark.parametrize("state_dim", [2, 4])
def test_kalman_equals_the_joint_gaussian(state_dim):
    env = LinearGaussian(state_dim)
    rng = np.random.default_rng(0)
    n, p, steps = state_dim, state_dim // 2, 6
    seen, actions, _ = rollout(env, lambda x: rng.uniform(-1, 1, p).astype(np.float32), steps, seed=1)
    # All states are linear in (x0, w0, w1, ...): x_t = sum of A^(t-1-k) (B u_k + w_k) + A^t x0.
    mean, maps = [np.zeros(n)], [np.hstack([np.eye(n), np.zeros((n, n * steps))])]
    for t in range(steps):
        mean.append(env.A @ mean[-1] + env.B @ actions[t])
        step = env.A @ maps[-1]
        step[:, n * (t + 1) : n * (t + 2)] += np.eye(n)
        maps.append(step)
    source = np.zeros((n * (steps + 1),) * 2)
    source[:n, :n] = np.eye(n)
    source[n:, n:] = np.kron(np.eye(steps), env.Q)
    C = np.kron(np.eye(steps + 1), env.C)
    M = np.vstack(maps)
    cov = C @ M @ source @ M.T @ C.T + np.kron(np.eye(steps + 1), env.R)
    joint = multivariate_normal(C @ np.concatenate(mean), cov).logpdf(seen.ravel().astype(np.float64))
    scores = env.kalman_log_likelihood(seen, actions)
    assert scores.shape == (steps + 1,) and scores.sum() == pytest.approx(joint, abs=1e-8)


def test_the_system_is_stable_and_noise_has_the_stated_size():
    env = LinearGaussian(2)
    assert np.abs(np.linalg.eigvals(env.A)).max() == pytest.approx(0.95)
    rests = []
    for seed in range(40):
        state, rest = None, []
        _, info = env.reset(seed=seed)
        for _ in range(50):
            state = info["state"]
            _, _, _, _, info = env.step(np.array([0.5]))
            rest.append(info["state"] - env.A @ state - env.B @ [0.5])
        rests += rest
    np.testing.assert_allclose(np.cov(np.array(rests).T), env.Q, atol=0.001)


def test_lqr_gain_is_a_fixed_point_and_beats_its_neighbours():
    env = LinearGaussian(2, process_std=0.02)
    K = env.lqr_gain()
    # oracle: backwards dynamic programming
    P = env.W.copy()
    for _ in range(500):
        gain = np.linalg.solve(env.U + env.B.T @ P @ env.B, env.B.T @ P @ env.A)
        P = env.W + env.A.T @ P @ (env.A - env.B @ gain)
    np.testing.assert_allclose(K, gain, atol=1e-9)


def test_control_pays():
    env = LinearGaussian()
    K = env.lqr_gain()
    best = np.mean([rollout(env, lambda x: -K @ x, 100, seed)[2] for seed in range(10)])
    idle = np.mean([rollout(env, lambda x: np.zeros(2), 100, seed)[2] for seed in range(10)])
    assert best > 0.7 * idle and best < 0


def test_it_is_a_good_gymnasium_citizen():
    check_env(gymnasium.make(ADAPTER.id).unwrapped, skip_render_check=True)
    env = ADAPTER.make(ADAPTER.resolve("linear-gaussian"), EnvSettings())
    env.reset(seed=0)
    ends = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(100)]
    assert ends[-1] == (False, True) and not any(map(any, ends[:-1]))
