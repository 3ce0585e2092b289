"""The variational family end to end on a world whose rewards are known exactly, built as a run builds it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from worldlab_agents.configs import RandomConfig
from worldlab_envs.branch import cell_of, reward_of
from worldlab_vae.configs import VAEDecoderConfig, VAEDynamicsConfig, VAEEncoderConfig

from worldlab.config.resolve import Part, RunConfig
from worldlab.env.pool import EnvPool
from worldlab.env.spaces import action_spec, record_schema
from worldlab.experience.acting import ActingAgent
from worldlab.experience.collect import Collector, to_batch
from worldlab.experience.replay import Replay
from worldlab.registry import load_registry
from worldlab.settings import CoreSettings
from worldlab.training.compose import compose
from worldlab.training.session import open_env
from worldlab.training.streams import Streams
from worldlab.training.trainer import Generators, Trainer

CONFIG = RunConfig(
    core=CoreSettings.model_validate({"env": {"id": "branch"}, "train": {"learning_rate": 2e-3}}),
    encoder=Part("vae", VAEEncoderConfig(latent_dim=8, width=8, units=32)),
    dynamics=Part("vae", VAEDynamicsConfig(memory=32, units=32)),
    decoder=Part("vae", VAEDecoderConfig(width=8, units=32, std=0.3)),
    agent=Part("random", RandomConfig()),
    presets=(),
)


@pytest.mark.slow
def test_the_reward_head_explains_unseen_real_sequences():
    """R2 > 0.9 on held-out experience, after a short run on random data; the decoder draws the right cell."""
    torch.set_num_threads(1)
    registry, streams = load_registry(), Streams(0)
    _, make = open_env(CONFIG, registry)
    with EnvPool(make, 4, 0, seed=0) as pool:
        schema = record_schema(pool.observation_space, action_spec(pool.action_space))
        built = compose(CONFIG, registry, pool.observation_space, pool.action_space, streams, torch.device("cpu"))
        acting = ActingAgent(built.model, built.agent, pool.action_space, streams.torch("acting"))
        seen, unseen = (collected(pool, Replay(schema, 20_000, 4), acting, seed) for seed in (1, 2))
    trainer = Trainer(
        built.model, built.agent, CONFIG.core.train, Generators(streams.torch("model"), streams.torch("agent"))
    )
    rng = np.random.default_rng(0)
    for _ in range(200):
        trainer.update(to_batch(seen.sample(16, 16, rng), built.model.preprocess, torch.device("cpu")))
    batch = to_batch(unseen.sample(64, 16, rng), built.model.preprocess, torch.device("cpu"))
    with torch.no_grad():
        ctx, _ = built.model.observe(batch, None)
        predicted = built.model.reward(ctx.features).mean
        drawn = built.model.render(ctx.features.flatten(0, 1))["image"]
    real = built.model.preprocess.restore("image", batch.obs["image"].flatten(0, 1))
    cells = [cell_of(picture) for picture in real.numpy()]
    arrived = ~batch.is_first.flatten().numpy()
    known = np.array([reward_of(cell) for cell in cells])
    np.testing.assert_allclose(batch.reward.flatten().numpy()[arrived], known[arrived], atol=1e-6)
    residual = (predicted - batch.reward).square().sum()
    r2 = 1 - residual / (batch.reward - batch.reward.mean()).square().sum()
    shown = np.array([cell_of(picture) for picture in drawn.numpy()])
    assert r2 > 0.9, f"R2 {r2:.3f}"
    assert (shown == np.array(cells)).mean() > 0.9, f"right cell in {(shown == np.array(cells)).mean():.2%}"


def collected(pool: EnvPool, replay: Replay, acting: ActingAgent, seed: int) -> Replay:
    """500 random decisions in each environment."""
    collector = Collector(pool, replay, acting)
    collector.start()
    rng = np.random.default_rng(seed)
    for _ in range(500):
        collector.step(rng)
    return replay
