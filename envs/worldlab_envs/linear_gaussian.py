"""A linear-Gaussian system, for which optimal prediction and control are known exactly."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldlab_envs.gymnasium_adapter import NamedAdapter

ID = "worldlab/LinearGaussian-v0"
ADAPTER = NamedAdapter("linear-gaussian", ID, __name__, (-math.inf, 0.0))


class LinearGaussian(gymnasium.Env):
    """Noisy, partially observed oscillators, driven by the action.

    ## Spaces
    Action: Box [-1, 1]^m, m = state_dim / 2. Observation: Box R^p float32, p = state_dim / 2. state_dim: 2 or 4.

    ## Dynamics
        x_0     ~ N(0, I)
        x_{t+1} = A x_t + B u_t + w_t,    w_t ~ N(0, Q),  Q = process_std^2 I
        y_t     = C x_t + v_t,            v_t ~ N(0, R),  R = observation_std^2 I

    Each oscillator k is the 2 x 2 block 0.95 * rotation(0.3 + 0.2 k) of A; oscillator 1 also drives oscillator 0
    through 0.1 I. All eigenvalues of A have modulus 0.95. u_t is the action clipped to [-1, 1]. It changes the second
    coordinate of each oscillator by 0.3 u; the observation is the first, so one frame does not determine the state.

    ## Reward
    At x_{t+1} after u_t: r = -(x_{t+1}' W x_{t+1} + u_t' U u_t), W = 0.1 I, U = 0.01 I.

    ## Ends
    Truncated after `horizon` steps; never terminates.

    ## Exact quantities
    `kalman_log_likelihood`: log p(y_t | y_<t, u_<t), an upper bound on the mean log-density of any model's predictions.
    `lqr_gain`: K of the optimal u = -K x of the infinite-horizon problem without bounds on u.
    A, B, C, Q, R, W, U are public. `info["state"]` holds x.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, state_dim: int = 4, horizon: int = 100, process_std: float = 0.1, observation_std: float = 0.1):
        if state_dim not in (2, 4):
            raise ValueError(f"state_dim is 2 or 4, got {state_dim}")
        blocks = state_dim // 2
        self.A = np.zeros((state_dim, state_dim))
        for k in range(blocks):
            cos, sin = np.cos(0.3 + 0.2 * k), np.sin(0.3 + 0.2 * k)
            self.A[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = 0.95 * np.array([[cos, -sin], [sin, cos]])
        if blocks == 2:
            self.A[:2, 2:] = 0.1 * np.eye(2)
        self.B = np.kron(np.eye(blocks), np.array([[0.0], [0.3]]))
        self.C = np.kron(np.eye(blocks), np.array([[1.0, 0.0]]))
        self.Q = process_std**2 * np.eye(state_dim)
        self.R = observation_std**2 * np.eye(blocks)
        self.W = 0.1 * np.eye(state_dim)
        self.U = 0.01 * np.eye(blocks)
        self.horizon = horizon
        self.observation_space = spaces.Box(-np.inf, np.inf, (blocks,), np.float32)
        self.action_space = spaces.Box(-1, 1, (blocks,), np.float32)
        self._x = np.zeros(state_dim)
        self._t = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._x = self.np_random.standard_normal(len(self._x))
        self._t = 0
        return self._observe(), {"state": self._x.copy()}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        u = np.clip(np.asarray(action, np.float64), -1, 1)
        noise = np.sqrt(np.diag(self.Q)) * self.np_random.standard_normal(len(self._x))
        self._x = self.A @ self._x + self.B @ u + noise
        self._t += 1
        reward = -float(self._x @ self.W @ self._x + u @ self.U @ u)
        return self._observe(), reward, False, self._t >= self.horizon, {"state": self._x.copy()}

    def truth(self) -> dict[str, np.ndarray]:
        """Return the state x."""
        return {"x": self._x.copy()}

    def kalman_log_likelihood(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Return the exact log-likelihood of each observation given the observations before it, in nats.

        observations: [T + 1, p], from the reset on. actions: [T, m]; actions[t] leads from observations[t] to
        observations[t + 1]. Returns: float64 [T + 1].
        """
        mean, cov = np.zeros(len(self._x)), np.eye(len(self._x))
        actions = np.clip(np.asarray(actions, np.float64), -1, 1)
        scores = []
        for t, y in enumerate(np.asarray(observations, np.float64)):
            if t > 0:
                mean = self.A @ mean + self.B @ actions[t - 1]
                cov = self.A @ cov @ self.A.T + self.Q
            spread = self.C @ cov @ self.C.T + self.R
            error = y - self.C @ mean
            _, logdet = np.linalg.slogdet(2 * np.pi * spread)
            scores.append(-0.5 * (logdet + error @ np.linalg.solve(spread, error)))
            gain = np.linalg.solve(spread, self.C @ cov).T
            mean, cov = mean + gain @ error, cov - gain @ self.C @ cov
        return np.array(scores)

    def lqr_gain(self) -> np.ndarray:
        """Return K [m, state_dim]: u = -K x minimises the expected sum of x' W x + u' U u over an infinite horizon."""
        from scipy.linalg import solve_discrete_are

        P = solve_discrete_are(self.A, self.B, self.W, self.U)
        return np.linalg.solve(self.U + self.B.T @ P @ self.B, self.B.T @ P @ self.A)

    def _observe(self) -> np.ndarray:
        noise = np.sqrt(np.diag(self.R)) * self.np_random.standard_normal(len(self.R))
        return (self.C @ self._x + noise).astype(np.float32)


if ID not in gymnasium.registry:
    gymnasium.register(ID, entry_point=f"{__name__}:LinearGaussian")
