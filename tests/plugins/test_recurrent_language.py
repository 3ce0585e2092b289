"""A recurrent language model: the LSTM dynamics on one token a step, against the entropy of a known grammar."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from config_kit import configured
from worldlab_autoregressive.configs import AutoregressiveDynamicsConfig
from worldlab_autoregressive.dynamics import AutoregressiveDynamics

from worldlab.specs import ActionSpec, LatentSpec, ObsSpec, Specs

CLASSES, KEPT = 4, 0.9


def sentences(count: int, length: int, generator: torch.Generator) -> torch.Tensor:
    """Each token repeats the one two steps before with probability .9, else it is uniform; as one-hots [B, T, 4]."""
    tokens = torch.randint(CLASSES, (count, length), generator=generator)
    kept = torch.rand(count, length, generator=generator) < KEPT
    for t in range(2, length):
        tokens[:, t] = torch.where(kept[:, t], tokens[:, t - 2], tokens[:, t])
    return F.one_hot(tokens, CLASSES).float()


def test_an_lstm_over_tokens_reaches_the_entropy_that_no_bigram_reaches():
    """The token before says nothing (log 4 = 1.386 nats); the two before leave 0.349 nats."""
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    config = configured(AutoregressiveDynamicsConfig, memory_kind="lstm", memory=24, units=16, unimix=0.0)
    specs = Specs(ObsSpec(()), ActionSpec("discrete", 2), LatentSpec(CLASSES, "categorical", 1, CLASSES), 24, False)
    dynamics = AutoregressiveDynamics(config, specs)
    optimizer = torch.optim.Adam(dynamics.parameters(), 2e-2)
    length, nats = 12, []
    first = torch.zeros(64, length, dtype=torch.bool)
    first[:, 0] = True
    for _ in range(120):
        z = sentences(64, length, g)
        before = torch.cat([torch.zeros_like(z[:, :1]), z[:, :-1]], 1)
        run = dynamics.advance_sequence(dynamics.initial(64), before, torch.zeros(64, length, 2), first)
        loss = -dynamics.predict(run.memory.flatten(0, 1)).log_prob(z.flatten(0, 1)).view(64, length)[:, 2:]
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        nats.append(loss.mean().item())
    repeats = KEPT + (1 - KEPT) / CLASSES
    other = (1 - KEPT) / CLASSES
    entropy = -repeats * math.log(repeats) - (CLASSES - 1) * other * math.log(other)
    assert abs(nats[0] - math.log(CLASSES)) < 0.1
    assert entropy - 0.05 < sum(nats[-20:]) / 20 < entropy + 0.1 < 0.5 * math.log(CLASSES)
