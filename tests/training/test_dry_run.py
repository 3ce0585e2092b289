"""Before anything is collected each part is asked once: forty wrong ones, each refused by name with expected and got."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from worldlab.agent import Agent
from worldlab.config.resolve import NoOptions, Part, RunConfig
from worldlab.distributions import Normal
from worldlab.errors import ConfigError, PluginError
from worldlab.interfaces import Decoder, Latent, Player
from worldlab.registry import Registration, Registry, load_registry
from worldlab.settings import CoreSettings
from worldlab.testing import small_config
from worldlab.testing.reference import (
    ReferenceDecoder,
    ReferenceDynamics,
    ReferenceEncoder,
    ReferenceParallelDynamics,
)
from worldlab.training import dry_run as module
from worldlab.training.compose import Composed, compose
from worldlab.training.streams import Streams

OBS = spaces.Dict(
    {
        "image": spaces.Box(0, 255, (16, 16, 3), np.uint8),
        "vector": spaces.Box(-np.inf, np.inf, (3,), np.float32),
    }
)
ACTION = spaces.Box(-1, 1, (2,), np.float32)
SOUND: dict[str, type] = {"encoder": ReferenceEncoder, "dynamics": ReferenceDynamics, "decoder": ReferenceDecoder}


class Idle(Agent):
    def __init__(self, config: Any, specs: Any) -> None:
        super().__init__(config, specs)

    def act(self, model, carry, features, state, generator, explore):
        return features.new_zeros(len(features), 2), state


class _Wrong:
    """Classes by their name, so that a Registration can name them; the tests put them here."""


def built(
    action: spaces.Space = ACTION, obs: spaces.Dict = OBS, **classes: type
) -> tuple[Composed, dict[str, Registration]]:
    """A model of the reference parts and the given classes, as `worldlab train` composes it."""
    entries, parts = {}, {}
    for role, cls in {**SOUND, "agent": Idle, **classes}.items():
        setattr(_Wrong, cls.__name__, cls)
        target = f"{__name__}:_Wrong.{cls.__name__}"
        config = None if role == "agent" else cls.Config
        entries[role] = Registration(role, "mine", target, config, "", 1, "worldlab-mine", "0.3", "test")
        parts[role] = Part("mine", NoOptions() if config is None else config())
    config = RunConfig(core=CoreSettings(), **parts, presets=())
    registry = Registry(entries.values())
    return compose(config, registry, obs, action, Streams(0), torch.device("cpu")), entries


def wrong(role: str, base: type | None = None, **members: Any) -> type:
    """A reference component with some of its members replaced."""
    return type("Wrong", (base or SOUND[role],), members)


def returning(method: str, change: Any, base: type) -> Any:
    """The method of the base class with its result changed."""

    def call(self, *args):
        return change(getattr(base, method)(self, *args))

    return call


def altered(role: str, method: str, change: Any, base: type | None = None) -> type:
    base = base or SOUND[role]
    return wrong(role, base, **{method: returning(method, change, base)})


def raising(*_: Any) -> Any:
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def leaving(*_: Any) -> Any:
    raise SystemExit(0)


@dataclass(frozen=True)
class Odd:
    """A prior whose mode and sample are of another shape."""

    mode: torch.Tensor
    drawn: torch.Tensor

    def sample(self, generator):
        return self.drawn


@dataclass(frozen=True)
class Flat:
    """A Gaussian of unit variance over whole pictures."""

    mode: torch.Tensor

    def log_prob(self, x):
        return -0.5 * (x - self.mode).square().flatten(1).sum(1)


def without(terms: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Loss terms averaged over time by the plugin."""
    return {name: term.mean(1) for name, term in terms.items()}


def loss(term: Any) -> Any:
    """A losses() of one term made from the context."""
    return lambda self, ctx, player="main": {"x": term(ctx)}


N8, BT = r"expected \[N, D\] = \[3, 8\]", r"expected \[B, T\] = \[3, 4\]"
OTHER = Odd(torch.zeros(1, 5), torch.zeros(1, 5))
GIVEN: dict[str, list[tuple[str, Any, str]]] = {  # method, what is done to its result, what the sentence says
    "encoder": [
        ("embed", lambda x: x[None], r"gives \[1, 3, \d+\], expected \[N, E\] = \[3, \*\]"),
        ("embed", lambda x: x[:1], r"gives \[1, \d+\], expected \[N, E\]"),
        ("embed", lambda x: x.sum(), r"gives \[\], expected \[N, E\]"),
        ("embed", lambda x: x.numpy(), r"gives a ndarray, expected a float tensor"),
        ("embed", lambda x: x.long(), r"gives torch.int64, expected torch.float32"),
        ("embed", lambda x: x * float("nan"), r"gives not finite: \d+ of \d+ values"),
        ("embed", lambda x: x / 0, r"not finite"),
        ("embed", lambda x: x.to("meta"), r"gives on meta, expected cpu"),
        ("infer", lambda x: x.z, r"gives a Tensor, expected a Latent"),
        ("infer", lambda x: replace(x, z=x.z[:, :4]), rf"Latent.z is \[3, 4\], {N8}"),
        ("infer", lambda x: replace(x, z=x.z[:, None]), rf"Latent.z is \[3, 1, 8\], {N8}"),
        ("infer", lambda x: replace(x, z=x.z * float("inf")), r"Latent.z is not finite"),
        ("infer", lambda x: Latent(x.z), r"without dist, expected one: posterior_kind is 'analytic'"),
    ],
    "dynamics": [
        ("initial", lambda x: {"h": x["h"][0]}, r"gives a leaf \[16\], expected \[N, ...\] = \[3\]"),
        ("advance", lambda x: {"h": x["h"][:, :5]}, r"gives a leaf \[3, 5\], expected \[N, ...\] = \[3, 16\]"),
        ("advance", lambda x: {**x, "more": x["h"]}, r"gives 2 leaves, expected the 1 of initial"),
        ("memory", lambda x: x[:, :7], r"gives \[3, 7\], expected \[N, H\] = \[3, 16\]"),
        ("memory", lambda x: x * float("nan"), r"not finite: 48 of 48 values"),
        ("predict", lambda x: Odd(x.mean[:, 0], x.mean), rf"mode is \[3\], {N8}"),
        ("predict", lambda x: Odd(x.mean, x.mean.T), rf"sample is \[8, 3\], {N8}"),
        ("predict", lambda x: x.mean, r"mode is a builtin_function_or_method, expected a float tensor"),
    ],
    "decoder": [
        ("score", lambda x: x[:, None], r"gives \[3, 1\], expected \[N\] = \[3\]"),
        ("score", lambda x: x.mean(), r"gives \[\], expected \[N\] = \[3\]"),
        ("score", lambda x: x.log(), r"not finite"),
        ("decode", lambda x: {"image": x["image"]}, r"gives the keys \['image'\], expected \['image', 'vector'\]"),
        ("decode", list, r"gives a list, expected a dict by observation key"),
        ("decode", lambda x: {**x, "vector": OTHER}, r"mode is \[1, 5\], expected \[N, \*shape\] = \[1, 3\]"),
        ("losses", without, rf"'reconstruction' is \[3\], {BT}"),
    ],
}
REPLACED: dict[str, list[tuple[str, dict[str, Any], str]]] = {  # method to blame, members, what the sentence says
    "encoder": [
        ("embed", {"embed": raising}, r"raised RuntimeError: mat1 and mat2"),
        ("embed", {"embed": leaving}, r"raised SystemExit: 0"),
        ("infer", {"infer": lambda self, embed, memory: None}, r"raised TypeError: .*positional"),
        ("infer", {"posterior_kind": "own_logq"}, r"Latent.log_q is a NoneType, expected a float tensor \[N\] = \[3\]"),
        ("players", {"players": lambda self: {"main": Player([])}}, r"lists '.*' 0 times, expected once"),
        ("players", {"players": lambda self: {"main": Player([*self.parameters()] * 2)}}, r"2 times, expected once"),
        ("players", {"players": lambda self: [1]}, r'gives no "main"'),
        (
            "players",
            {"players": lambda self: {"main": [*self.parameters()]}},
            r"gives a list as 'main', expected a Player",
        ),
        ("losses", {"losses": loss(lambda ctx: ctx.latent.z.mean())}, rf"'x' is \[\], {BT}"),
        ("losses", {"losses": loss(lambda ctx: ctx.latent.z.sum(-1).T)}, rf"'x' is \[4, 3\], {BT}"),
        ("losses", {"losses": lambda self, ctx, player="main": ctx.embed}, r"gives a Tensor, expected \{name"),
        ("losses", {"losses": raising}, r"raised RuntimeError"),
        ("state_dict", {"get_extra_state": lambda self: {"f": raising}}, r"holds a dict at '_extra_state'"),
        ("state_dict", {"get_extra_state": lambda self: raising}, r"holds a function at '_extra_state'"),
    ],
    "dynamics": [
        ("initial", {"initial": lambda self, n: {}}, r"without tensors"),
        ("advance", {"advance": raising}, r"raised RuntimeError"),
        ("losses", {"losses": loss(lambda ctx: ctx.memory.sum(-1) / 0)}, r"'x' is not finite"),
        ("state_dict", {"get_extra_state": lambda self: open}, r"holds a builtin_function_or_method"),
    ],
    "decoder": [
        ("decode", {"decode": raising}, r"raised RuntimeError"),
        ("losses", {"losses": lambda self, ctx, player="main": {}}, r"gives no terms, expected at least one: nothing "),
        (
            "losses",
            {"loss_weights": {"other": 2.0}},
            r"gives 'reconstruction', which loss_weights does not have \(other",
        ),
        ("losses", {"loss_weights": {}}, r"gives 'reconstruction', which loss_weights does not have \(none"),
        ("loss_weights", {"loss_weights": {"reconstruction": "1"}}, r"is \{'reconstruction': '1'\}, expected \{name: "),
        ("loss_weights", {"loss_weights": [1.0]}, r"is \[1.0\], expected \{name: number\} or None"),
    ],
}
PARALLEL: list[tuple[str, Any, str]] = [
    ("advance_sequence", lambda x: x.memory, r"gives a Tensor, expected an Unrolled"),
    ("advance_sequence", lambda x: replace(x, memory=x.memory.mT), r"expected \[B, T, H\] = \[3, 4, 16\]"),
    ("advance_sequence", lambda x: replace(x, final={"h": x.final["h"][0]}), r"gives a leaf \[16\]"),
]
CASES = [
    *((role, altered(role, method, change), method, says) for role in GIVEN for method, change, says in GIVEN[role]),
    *((role, wrong(role, **members), method, says) for role in REPLACED for method, members, says in REPLACED[role]),
    *(("dynamics", altered("dynamics", m, c, ReferenceParallelDynamics), m, says) for m, c, says in PARALLEL),
]


@pytest.mark.parametrize(
    ("role", "cls", "method", "says"), CASES, ids=[f"{c[0]}-{c[2]}-{n}" for n, c in enumerate(CASES)]
)
def test_a_wrong_component_is_refused_by_name(role, cls, method, says):
    composed, who = built(**{role: cls})
    with pytest.raises(PluginError) as caught:
        module.dry_run(composed.model, composed.agent, who)
    error = caught.value
    assert error.message.startswith(f"plugin worldlab-mine 0.3 ({role} 'mine') {method} ") and len(error.message) <= 100
    assert re.search(says, str(error.cause)), error.cause
    assert f"Wrong.{method} " in str(error.cause) and str(error.fix).startswith(f"worldlab check-plugin {role}:mine")
    assert error.exit_code == 3


def test_there_are_forty_of_them():
    assert len(CASES) >= 40


def test_an_exception_is_shown_with_its_place():
    composed, who = built(encoder=wrong("encoder", embed=raising))
    with pytest.raises(PluginError) as caught:
        module.dry_run(composed.model, composed.agent, who)
    assert re.search(r"test_dry_run\.py:\d+$", str(caught.value.cause), re.MULTILINE)


def test_a_part_that_fails_on_a_whole_batch_only_is_the_one_to_blame():
    class Small(ReferenceEncoder):  # type: ignore[misc]  # a test double
        def embed(self, obs):
            return super().embed(obs) if len(obs["vector"]) == module.ROWS else raising()

    composed, who = built(encoder=Small)
    with pytest.raises(PluginError, match=r"\(encoder 'mine'\) embed raised RuntimeError: mat1"):
        module.dry_run(composed.model, composed.agent, who)


@pytest.mark.parametrize("dynamics", [ReferenceDynamics, ReferenceParallelDynamics])
def test_sound_parts_pass_and_nothing_is_changed(dynamics):
    composed, who = built(dynamics=dynamics)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    before = {name: value.clone() for name, value in composed.model.state_dict().items()}
    module.dry_run(composed.model, composed.agent, who)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in composed.model.state_dict().items())
    assert all(p.grad is None for p in composed.model.parameters())


def test_weights_of_more_terms_than_there_are_pass_and_so_does_a_decoder_that_trains_by_its_density():
    class Plain(Decoder):
        """Implements no losses."""

        Config = ReferenceDecoder.Config
        score_kind = "log_density"

        def __init__(self, config, specs):
            super().__init__(config, specs)
            self.net = nn.Linear(specs.feature_dim, 16 * 16 * 3 + 3)

        def decode(self, features):
            mean = self.net(features)
            image, vector = mean.split([768, 3], -1)
            return {"image": Flat(image.view(-1, 3, 16, 16)), "vector": Normal(vector, torch.ones_like(vector))}

        def score(self, features, obs):
            return torch.stack([dist.log_prob(obs[key]) for key, dist in self.decode(features).items()]).sum(0)

    for decoder in (wrong("decoder", loss_weights={"reconstruction": 2, "rarely": 0.5}), Plain):
        composed, who = built(decoder=decoder)
        module.dry_run(composed.model, composed.agent, who)


def test_a_temperature_that_the_dynamics_lacks_is_refused_before_anything_is_collected():
    class Blunt:
        def __init__(self, dist):
            self.mode, self.sample, self.log_prob, self.kl = dist.mode, dist.sample, dist.log_prob, dist.kl

    class Hot(Idle):
        dream_temperature = 1.3

    class Fixed(ReferenceDynamics):  # type: ignore[misc]  # a test double
        prior_kind = "log_prob"

        def predict(self, memory):
            return Blunt(super().predict(memory))

    composed, who = built(agent=Hot)
    module.dry_run(composed.model, composed.agent, who)
    composed, who = built(dynamics=Fixed)
    module.dry_run(composed.model, composed.agent, who)
    composed, who = built(dynamics=Fixed, agent=Hot)
    with pytest.raises(ConfigError, match="a Blunt has no temperature"):
        module.dry_run(composed.model, composed.agent, who)


def test_a_part_that_cannot_be_copied_is_refused_when_it_is_built(tmp_path):
    class Logging(ReferenceEncoder):  # type: ignore[misc]  # a test double
        def __init__(self, config, specs):
            super().__init__(config, specs)
            self.log = open(tmp_path / "log.txt", "w")  # noqa: SIM115

    with pytest.raises(
        PluginError, match=r"plugin worldlab-mine 0\.3 \(encoder 'mine'\) cannot be built: cannot pickle"
    ):
        built(encoder=Logging)


def test_an_agent_that_cannot_be_saved_is_refused():
    class Hoarder(Idle):
        def get_extra_state(self):
            return object()

    composed, who = built(agent=Hoarder)
    with pytest.raises(PluginError, match=r"agent 'mine'\) state_dict holds a object at '_extra_state'"):
        module.dry_run(composed.model, composed.agent, who)


@pytest.mark.parametrize(
    ("role", "member", "says"),
    [
        (
            "encoder",
            {"latent_spec": classmethod(lambda cls, config: 8)},
            r"latent_spec gives a int, expected LatentSpec",
        ),
        ("dynamics", {"memory_size": classmethod(raising)}, r"memory_size raised RuntimeError: mat1"),
        ("dynamics", {"memory_size": classmethod(lambda cls, *_: "16")}, r"memory_size gives a str, expected int"),
    ],
)
def test_what_is_asked_before_anything_is_built(role, member, says):
    with pytest.raises(PluginError, match=r"plugin worldlab-mine 0\.3") as caught:
        built(**{role: wrong(role, **member)})
    assert re.search(says, caught.value.message)


def test_a_sparse_state_is_refused():
    class Sparse(ReferenceDecoder):  # type: ignore[misc]  # a test double
        def __init__(self, config, specs):
            super().__init__(config, specs)
            self.register_buffer("table", torch.eye(3).to_sparse())
            self.frozen = nn.Identity()

    composed, who = built(decoder=Sparse)
    with pytest.raises(PluginError, match=r"state_dict holds 'table' as torch\.sparse_coo, expected a dense tensor"):
        module.dry_run(composed.model, composed.agent, who)


# ---- the agent ----


class Learner(Idle):
    """A sound agent with a value function and a state."""

    def __init__(self, config, specs):
        super().__init__(config, specs)
        self.value = nn.Linear(specs.feature_dim, 1)
        self.width = specs.action.dim

    def initial(self, n):
        return {"steps": torch.zeros(n)}

    def act(self, model, carry, features, state, generator, explore):
        action = nn.functional.one_hot(torch.zeros(len(features), dtype=torch.long), self.width).float()
        return action, {"steps": state["steps"] + 1}

    def players(self):
        return {"value": Player(list(self.value.parameters()), 1e-3)}

    def losses(self, model, seen, generator):
        loss = (self.value(model.features(seen.carry))[:, 0] - seen.reward).square().mean()
        return {"value": loss}, {"value_loss": loss.detach()}


ACTS: list[tuple[str, Any, str]] = [
    ("act", lambda x: (x[0].argmax(-1), x[1]), r"the action is \[3\], expected \[N, A\] = \[3, 2\]"),
    ("act", lambda x: (x[0] * 0 + 0.5, x[1]), r"gives the discrete action \[0.5, 0.5\], expected a one-hot"),
    ("act", lambda x: (x[0] / 0, x[1]), r"the action is not finite"),
    ("act", lambda x: x[0], r"gives a Tensor, expected \(actions \[N, A\], state\)"),
    ("act", lambda x: (x[0], {}), r"without tensors"),
    ("act", lambda x: (x[0], {"steps": x[1]["steps"][0]}), r"gives a leaf \[\], expected \[N, ...\] = \[3\]"),
    ("initial", lambda x: {"steps": x["steps"][:1]}, r"gives a leaf \[1\], expected \[N, ...\] = \[3\]"),
    ("players", lambda x: list(x), r"gives a list, expected"),
    ("players", lambda x: {"value": Player(x["value"].parameters)}, r"gives 'value' without a learning rate"),
    ("losses", lambda x: x[0], r"gives a dict, expected two dicts"),
    ("losses", lambda x: ({"valu": x[0]["value"]}, {}), r"a loss of 'valu', which players\(\) does not have \(value\)"),
    ("losses", lambda x: ({"value": x[0]["value"].expand(3)}, {}), r"'value' is \[3\], expected a scalar"),
    ("losses", lambda x: ({"value": x[0]["value"].detach()}, {}), r"gives 'value' without a gradient"),
    ("losses", lambda x: ({"value": x[0]["value"] / 0}, {}), r"'value' is not finite"),
    ("losses", lambda x: (x[0], {"curve": torch.zeros(3)}), r"gives the metric 'curve' as \[3\], expected one number"),
    ("after_step", lambda x: raising(), r"raised RuntimeError"),
]


@pytest.mark.parametrize(("method", "change", "says"), ACTS, ids=[f"{row[0]}-{n}" for n, row in enumerate(ACTS)])
def test_a_wrong_agent_is_refused_by_name(method, change, says):
    wrong_agent = type("Wrong", (Learner,), {method: returning(method, change, Learner)})
    composed, who = built(spaces.Discrete(2), agent=wrong_agent)
    with pytest.raises(PluginError) as caught:
        module.dry_run(composed.model, composed.agent, who)
    assert caught.value.message.startswith(f"plugin worldlab-mine 0.3 (agent 'mine') {method} ")
    assert re.search(says, str(caught.value.cause)), caught.value.cause
    assert caught.value.exit_code == 3 and f"pydoc worldlab.agent.Agent.{method}" in str(caught.value.fix)


def test_a_sound_agent_passes_and_is_not_changed():
    composed, who = built(spaces.Discrete(2), agent=Learner)
    before = {name: value.clone() for name, value in composed.agent.state_dict().items()}
    module.dry_run(composed.model, composed.agent, who)
    assert all(torch.equal(value, before[name]) for name, value in composed.agent.state_dict().items())
    assert all(p.grad is None for p in composed.agent.parameters())


def test_log_mass_is_checked_on_pictures_and_never_called_on_vectors():
    class Short(ReferenceDecoder):  # type: ignore[misc]  # a test double
        likelihood = "exact"

        def log_mass(self, features, obs, generator):
            levels = (obs["image"] + 0.5) * 255
            assert len(obs) == 1 and torch.allclose(levels, levels.round(), atol=1e-3)
            return torch.zeros(1)

    composed, who = built(decoder=Short)
    assert not composed.model.has_log_mass
    module.dry_run(composed.model, composed.agent, who)
    with pytest.raises(PluginError, match=r"log_mass gives \[1\], expected \[N\] = \[3\]"):
        composed, who = built(obs=spaces.Dict({"image": OBS["image"]}), decoder=Short)
        module.dry_run(composed.model, composed.agent, who)


REAL = load_registry()


@pytest.mark.parametrize("name", REAL.names("encoder"))
def test_the_installed_families_pass(name):
    """With their default choices, on pictures and vectors, in small sizes."""
    entries = {role: REAL.get(role, name) for role in SOUND}
    parts = {role: Part(name, small_config(entry.config or NoOptions)) for role, entry in entries.items()}
    config = RunConfig(core=CoreSettings(), **parts, agent=Part("random", NoOptions()), presets=())
    composed = compose(config, REAL, OBS, ACTION, Streams(0), torch.device("cpu"))
    module.dry_run(composed.model, composed.agent, {**entries, "agent": REAL.get("agent", "random")})


@pytest.mark.parametrize("name", REAL.names("agent"))
def test_the_installed_agents_pass(name):
    entries = {role: REAL.get(role, "vae") for role in SOUND} | {"agent": REAL.get("agent", name)}
    parts = {role: Part(entry.name, small_config(entry.config or NoOptions)) for role, entry in entries.items()}
    if "candidates" in type(parts["agent"].options).model_fields:
        parts["agent"] = Part(name, small_config(type(parts["agent"].options), candidates=64, elites=8))
    config = RunConfig(core=CoreSettings(), **parts, presets=())
    composed = compose(config, REAL, OBS, ACTION, Streams(0), torch.device("cpu"))
    module.dry_run(composed.model, composed.agent, entries)
