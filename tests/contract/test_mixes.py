"""Whole world models: a few mixes pass the world-model checks, and mixes with a broken component fail them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from zoo.decoders import CriticLeaks
from zoo.dynamics import HiddenState
from zoo.encoders import BatchNormed

from worldlab.registry import load_registry
from worldlab.testing import check_mix, checks_for, parametrize_with_checks, small_config
from worldlab.testing.bench import Choice, reference_mix
from worldlab.testing.reference import ReferenceDynamics, ReferenceEncoder, ReferenceParallelDynamics
from worldlab.testing.runner import make_mix_subject


def _choice(role: str, name: str) -> Choice:
    registration = load_registry().get(role, name)
    return Choice(registration.load(), small_config(registration.config))


def _mixes():
    for name in ("vae", "cpc"):
        yield make_mix_subject(
            *(_choice(role, name) for role in ("encoder", "dynamics", "decoder")), label=f"pure-{name}"
        )
    parallel = Choice(ReferenceParallelDynamics, ReferenceParallelDynamics.Config())
    yield make_mix_subject(_choice("encoder", "cpc"), parallel, _choice("decoder", "vae"), label="cpc-parallel-vae")


@parametrize_with_checks(_mixes())
def test_mix(subject, check):
    check(subject)


class DelayedAction(ReferenceDynamics):
    """Uses the action before the last, so that rewards are credited to the wrong action."""

    def initial(self, n):
        return {**super().initial(n), "action": torch.zeros(n, 2)}

    def advance(self, state, z, action):
        return {**super().advance(state, z, state["action"]), "action": action}


class Blind(ReferenceEncoder):
    """Ignores the observation."""

    def embed(self, obs):
        return 0 * super().embed(obs)


class NumpyWeights(ReferenceEncoder):
    """Initialises from numpy, which the core does not seed."""

    def __init__(self, config, specs):
        super().__init__(config, specs)
        self.head.bias.data += torch.from_numpy(np.random.default_rng().normal(size=len(self.head.bias)))


BROKEN = [
    ("W1", {"dynamics": DelayedAction}, "does not follow action[k]"),
    ("W2", {"encoder": Blind}, "reward R2"),
    ("W3", {"decoder": CriticLeaks}, "another player"),
    ("W4", {"encoder": BatchNormed}, "differs from observe"),
    ("W5", {"dynamics": HiddenState}, "differ"),
    ("W6", {"encoder": NumpyWeights}, "different parameters"),
]


@pytest.mark.parametrize(("check", "changes", "message"), BROKEN, ids=[row[0] for row in BROKEN])
def test_broken_mixes_fail_the_intended_check(check, changes, message):
    correct = reference_mix()
    mix = replace(correct, **{role: Choice(cls, getattr(correct, role).config) for role, cls in changes.items()})
    (result,) = check_mix(mix.encoder, mix.dynamics, mix.decoder, only={check})
    assert not result.passed
    assert message in result.cause


def test_every_world_model_check_has_a_broken_mix():
    assert {c.id for c in checks_for("world_model")} == {row[0] for row in BROKEN}
