from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import worldlab.testing.reference as reference
from worldlab import Config
from worldlab.agent import Agent
from worldlab.config.resolve import NoOptions, Part, RunConfig
from worldlab.errors import ConfigError, MemoryLimitError, PluginError
from worldlab.interfaces import parameter_count
from worldlab.registry import Registration, Registry
from worldlab.settings import CoreSettings
from worldlab.training.compose import Composed, compose
from worldlab.training.streams import Streams

OBS = spaces.Dict({"vector": spaces.Box(-np.inf, np.inf, (3,), np.float32)})
ACTION = spaces.Discrete(4)


class Still(Agent):
    """Always the first action."""

    def __init__(self, config: Any, specs: Any) -> None:
        super().__init__(config, specs)
        self.net = torch.nn.Linear(specs.feature_dim, specs.action.dim)

    def act(self, model, carry, features, state, generator, explore):
        return torch.eye(self.net.out_features)[torch.zeros(len(features), dtype=torch.long)], state


class Explodes(reference.ReferenceDecoder):  # type: ignore[misc]  # a test double
    def __init__(self, config: Any, specs: Any) -> None:
        raise ZeroDivisionError("width is zero")


class Huge(reference.ReferenceDecoder):  # type: ignore[misc]
    def __init__(self, config: Any, specs: Any) -> None:
        torch.empty(2**50)


class OwnLogq(reference.ReferenceEncoder):  # type: ignore[misc]
    posterior_kind = "own_logq"


class Unscored(reference.ReferenceDynamics):  # type: ignore[misc]
    prior_kind = "sampler"


class NeverReads(reference.ReferenceEncoder):  # type: ignore[misc]
    uses_memory = False


HERE = __name__


def entry(role: str, name: str, target: str, config: type[Config] | None = None, api: int = 1) -> Registration:
    return Registration(role, name, target, config, "", api, "worldlab-test", "1.2", "test")


REGISTRY = Registry(
    [
        entry("encoder", "ref", "worldlab.testing.reference:ReferenceEncoder"),
        entry("encoder", "aloof", f"{HERE}:NeverReads"),
        entry("encoder", "own_logq", f"{HERE}:OwnLogq"),
        entry("dynamics", "ref", "worldlab.testing.reference:ReferenceDynamics"),
        entry("dynamics", "parallel", "worldlab.testing.reference:ReferenceParallelDynamics"),
        entry("dynamics", "unscored", f"{HERE}:Unscored"),
        entry("decoder", "ref", "worldlab.testing.reference:ReferenceDecoder"),
        entry("decoder", "explodes", f"{HERE}:Explodes"),
        entry("decoder", "huge", f"{HERE}:Huge"),
        entry("decoder", "old", "worldlab.testing.reference:ReferenceDecoder", api=0),
        entry("decoder", "no decoder", "worldlab.testing.reference:ReferenceEncoder"),
        entry("decoder", "function", "worldlab.training.compose:compose"),
        entry("agent", "still", f"{HERE}:Still"),
    ]
)
OPTIONS: dict[str, Config] = {
    "encoder": reference.ReferenceEncoderConfig(),
    "dynamics": reference.ReferenceDynamicsConfig(),
    "decoder": reference.ReferenceDecoderConfig(),
    "agent": NoOptions(),
}


def build(encoder="ref", dynamics="ref", decoder="ref", seed: int = 0, obs: gymnasium.Space = OBS, **model) -> Composed:
    names = {"encoder": encoder, "dynamics": dynamics, "decoder": decoder, "agent": "still"}
    parts = {role: Part(name, OPTIONS[role]) for role, name in names.items()}
    core = CoreSettings.model_validate({"model": model})
    config = RunConfig(core=core, **parts, presets=())
    return compose(config, REGISTRY, obs, ACTION, Streams(seed), torch.device("cpu"))


def refusal(kind: type = PluginError, **choices):
    with pytest.raises(kind) as caught:
        build(**choices)
    assert "\n" not in caught.value.message
    return caught.value


def test_the_specs_come_from_the_spaces_and_the_parts():
    specs = build().specs
    assert specs.obs.keys == ("vector",) and specs.obs["vector"].shape == (3,)
    assert (specs.action.kind, specs.action.dim) == ("discrete", 4)
    assert (specs.latent.dim, specs.memory_dim, specs.feature_dim) == (8, 16, 24)


@pytest.mark.parametrize(
    "wish, encoder, dynamics, expected",
    [
        ("auto", "ref", "ref", True),
        ("auto", "ref", "parallel", False),
        ("yes", "ref", "parallel", True),
        ("no", "ref", "ref", False),
        ("auto", "aloof", "ref", False),
    ],
)
def test_whether_the_encoder_reads_the_memory(wish, encoder, dynamics, expected):
    """auto: yes with a recurrent dynamics, no with one that trains in parallel; never where the encoder has no use."""
    composed = build(encoder, dynamics, memory_in_encoder=wish)
    assert composed.specs.use_memory is expected
    assert ("reads the memory" in composed.explain()) == expected
    reads = composed.model.encoder.head.in_features - composed.model.encoder.trunk.size  # type: ignore[union-attr,operator]
    assert reads == (16 if expected else 0)


def test_a_memory_for_an_encoder_without_use_for_it_is_refused_with_a_way_out():
    with pytest.raises(ConfigError, match="'aloof' does not read the memory of dynamics 'ref'") as info:
        build("aloof", memory_in_encoder="yes")
    assert "--model.memory-in-encoder auto" in info.value.fix
    build("aloof", memory_in_encoder="auto")


def test_explain_names_the_parts_the_rule_and_the_true_parameter_counts():
    composed = build()
    text = composed.explain()
    lines = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert list(lines) == ["observation", "action", "latent", "encoder", "matching", "decoder", "agent", "parameters"]
    assert lines["observation"] == "vector [3]" and lines["action"] == "discrete, 4"
    assert "analytic" in lines["matching"] and "balanced KL" in lines["matching"]
    assert lines["agent"] == "Still" and "pictures by the decoder" in lines["decoder"]
    counts = {name: int(n.replace(",", "")) for name, n in (c.split() for c in lines["parameters"].split(", "))}
    assert sum(counts.values()) == parameter_count([composed.model, composed.agent])
    assert counts["encoder"] == sum(p.numel() for p in composed.model.encoder.parameters())


def test_weights_depend_on_the_seed_and_the_part_alone():
    def encoder_weights(**choices) -> torch.Tensor:
        return torch.nn.utils.parameters_to_vector(build(**choices).model.encoder.parameters())

    torch.manual_seed(1)
    first = encoder_weights()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = encoder_weights(decoder="ref")
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left as it was"
    assert torch.equal(first, again)
    assert not torch.equal(first, encoder_weights(seed=1))
    linear = build(dynamics="ref").model.reward.state_dict(), build(dynamics="parallel").model.reward.state_dict()
    assert all(torch.equal(linear[0][key], linear[1][key]) for key in linear[0])


def test_a_class_of_another_role_is_refused():
    error = refusal(decoder="no decoder")
    assert error.message == "plugin worldlab-test 1.2 (decoder 'no decoder') does not implement Decoder"
    assert "ReferenceEncoder" in str(error.cause)
    assert refusal(decoder="function").message.endswith("(decoder 'function') does not implement Decoder")


def test_an_api_mismatch_is_said_with_both_versions():
    error = refusal(decoder="old")
    assert "written for worldlab API 0, this is 1" in error.message and "worldlab-test" in str(error.fix)


def test_a_part_that_cannot_be_built_is_named_with_its_error():
    error = refusal(decoder="explodes")
    assert error.message == "plugin worldlab-test 1.2 (decoder 'explodes') cannot be built: width is zero"
    assert "ZeroDivisionError in Explodes.__init__" in str(error.cause) and error.exit_code == 3


def test_a_part_larger_than_the_memory_is_exit_9_and_no_fault_of_the_plugin():
    error = refusal(MemoryLimitError, decoder="huge")
    assert error.message == "decoder 'huge' does not fit in memory" and error.exit_code == 9
    assert "--size" in str(error.fix) and "allocate" in str(error.cause)


def test_an_unknown_part_gets_a_suggestion():
    assert "Did you mean 'parallel'?" in refusal(dynamics="paralel").message


def test_a_mix_that_cannot_train_is_refused_with_both_names_and_a_way_out():
    error = refusal(ConfigError, encoder="own_logq", dynamics="unscored")
    assert "Unscored" in error.message and "own_logq" in error.message and error.fix and error.exit_code == 2
