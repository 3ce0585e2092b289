"""torchrl's DreamerV3 learner, from the example in its wheel, at its size1m (640,867 parameters for vectors).

The wheel has the code of the example but not its configuration files, so `configure` writes the values down. On the
CPU the example runs eagerly unless its two compile settings say otherwise, and it uses bfloat16 on CUDA only.
"""

from __future__ import annotations

import runpy
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import torchrl
from omegaconf import OmegaConf
from tensordict import TensorDict

EXAMPLE = Path(torchrl.__file__).parents[1] / "sota-implementations" / "dreamer_v3"
COMPILE = {
    "off": {},
    "step": {"compile_rssm": "step"},
    "scan": {"compile_rssm": "scan"},
    "train-step": {"compile_rssm": "scan", "compile_train_step": True},
}
"""The settings of each way to compile: one step of the recurrence, its scan, or the whole update around the scan."""
VERSIONS = {"torchrl": version("torchrl"), "tensordict": version("tensordict")}
VECTOR, ACTION, PIXELS = 24, 6, (3, 64, 64)


class Spaces(gymnasium.Env):
    """An environment of which the learner reads only the spaces."""

    action_space = gymnasium.spaces.Box(-1, 1, (ACTION,), np.float32)
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (VECTOR,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return np.zeros(VECTOR, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(VECTOR, np.float32), 0.0, False, False, {}


def make_env(**_: Any) -> Any:
    """Build the environment that the example asks for."""
    from torchrl.envs.libs.gym import GymWrapper

    return GymWrapper(Spaces())


def configure(batch: int, length: int, horizon: int, compile: str) -> Any:
    """Return the example's configuration."""
    return OmegaConf.create(
        {
            "env": {
                "backend": "custom",
                "factory": "torchrl_learner:make_env",
                "name": "spaces",
                "task": "",
                "seed": 0,
                "use_seed": False,
                "max_episode_steps": 1000,
                "vector_key": "observation",
                "pixels_key": "pixels",
                "milestone_key": None,
            },
            "collector": {"num_envs": 1, "backend": "sync"},
            "replay_buffer": {"batch_size": batch, "seq_len": length, "online": False},
            "networks": {
                "rnn_hidden_dim": 512,
                "num_categoricals": 32,
                "num_classes": 4,
                "decoder_event_dims": None,
                "hidden_dim": 64,
                "encoder_layers": 3,
                "decoder_layers": 3,
                "reward_layers": 1,
                "value_layers": 3,
                "actor_layers": 3,
                "dynamics_layers": 1,
                "prior_layers": 2,
                "posterior_layers": 1,
                "num_blocks": 8,
                "recurrent_model": "block_gru",
                "num_reward_bins": 255,
                "num_value_bins": 255,
                "unimix": 0.01,
                "policy_min_std": 0.1,
                "policy_max_std": 1.0,
                "norm_eps": 1e-4,
                "image_depth": 4,
                "image_mults": [2, 3, 4, 4],
                "image_kernel_size": 5,
                "image_decoder_blocks": 8,
            },
            "optimization": {
                "compile": "off",
                "compile_rssm": None,
                "compile_train_step": False,
                "compile_train_step_mode": "default",
                "cudagraph_train_step": False,
                "rssm_scan_unroll": 8,
                "mixed_precision": False,
                "separate_policy_rng": False,
                "deferred_policy_sync": False,
                "lr": 4e-5,
                "adaptive_grad_clip": 0.3,
                "optimizer_eps": 1e-20,
                "warmup_steps": 1000,
                "free_bits": 1.0,
                "dynamic_loss_weight": 1.0,
                "representation_loss_weight": 0.1,
                "continuation_horizon": 333,
                "imagination_horizon": horizon,
                "use_reinforce": True,
                "return_normalization_rate": 0.01,
                "return_normalization_min_scale": 1.0,
                "gamma": 1.0,
                "lmbda": 0.95,
                "slow_critic_regularization": 1.0,
                "slow_critic_tau": 0.02,
                "replay_value_loss_weight": 0.3,
                **COMPILE[compile],
            },
        }
    )


def build(kind: str, config: Any) -> tuple[Any, Any]:
    """Build the learner and its optimisation stepper. kind: "vector" or "pixels"."""
    sys.path.insert(0, str(EXAMPLE))
    example = runpy.run_path(str(EXAMPLE / "train.py"), run_name="example")
    device = torch.device("cpu")
    size = {"obs_dim": VECTOR} if kind == "vector" else {"obs_dim": 0, "pixels_shape": PIXELS}
    learner = example["_build_learner"](config, device, action_dim=ACTION, **size)
    return learner, example["_make_learner_update"](config, device, learner)


def sample(kind: str, config: Any) -> TensorDict:
    """Return a batch of random experience."""
    b, t, networks = config.replay_buffer.batch_size, config.replay_buffer.seq_len, config.networks
    pixels = {"pixels": torch.randint(0, 256, (b, t, *PIXELS), dtype=torch.uint8)}
    obs = {"observation": torch.randn(b, t, VECTOR)} if kind == "vector" else pixels
    never = torch.zeros(b, t, 1, dtype=torch.bool)
    ends = {name: never.clone() for name in ("done", "terminated", "truncated")}
    return TensorDict(
        {
            "state": torch.zeros(b, t, networks.num_categoricals * networks.num_classes),
            "belief": torch.zeros(b, t, networks.rnn_hidden_dim),
            "action": torch.rand(b, t, ACTION) * 2 - 1,
            "is_init": never.clone(),
            "next": {**obs, "reward": torch.randn(b, t, 1), **ends},
        },
        [b, t],
    )
