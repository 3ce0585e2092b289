"""Builds a world model and an agent from a configuration, or explains why they do not fit together."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, TypeVar

import gymnasium
import torch

from worldlab.agent import Agent
from worldlab.config.resolve import Part, RunConfig
from worldlab.env.spaces import action_spec, obs_spec
from worldlab.errors import ConfigError, MemoryLimitError, PluginError, WorldlabError, is_out_of_memory, one_line
from worldlab.interfaces import Component, Decoder, Dynamics, Encoder, parameter_count
from worldlab.registry import Registration, Registry
from worldlab.registry.faults import where
from worldlab.registry.hookspecs import API_VERSION
from worldlab.settings import Config
from worldlab.specs import LatentSpec, Specs
from worldlab.training.streams import Streams
from worldlab.world_model import WorldModel

ResultT = TypeVar("ResultT")
_CHECK = "worldlab check-plugin {0.role}:{0.name}   runs all checks on it"
ROLES: dict[str, type[Component]] = {"encoder": Encoder, "dynamics": Dynamics, "decoder": Decoder}


@dataclass(frozen=True)
class Composed:
    """A world model and an agent for an environment's spaces."""

    specs: Specs
    model: WorldModel
    agent: Agent

    def explain(self) -> str:
        """Describe the choices and their reasons, for `worldlab train --explain`."""
        model, specs = self.model, self.specs
        counts = {role: parameter_count([part]) for role, part in model.parts.items()}
        counts["heads"] = parameter_count([model.reward, model.cont])
        if model.probe is not None:
            counts["probe"] = parameter_count([model.probe])
        counts["agent"] = parameter_count([self.agent])
        memory = "reads" if specs.use_memory else "does not read"
        lines = [
            f"observation  {', '.join(f'{key} {list(spec.shape)}' for key, spec in specs.obs.entries)}",
            f"action       {specs.action.kind}, {specs.action.dim}",
            f"latent       {specs.latent.kind}, z of {specs.latent.dim}; memory h of {specs.memory_dim}",
            f"encoder      {type(model.encoder).__name__}: {memory} the memory",
            f"matching     {model.rule.why}",
            f"decoder      {type(model.decoder).__name__}: score is a {model.decoder.score_kind.replace('_', '-')};"
            f" pictures by the {model.drawn_by}{'' if specs.decoder_memory else '; sees z only'}",
            f"agent        {type(self.agent).__name__}",
            "parameters   " + ", ".join(f"{name} {count:,}" for name, count in counts.items()),
        ]
        return "\n".join(lines)


def compose(
    config: RunConfig,
    registry: Registry,
    obs_space: gymnasium.Space,
    action_space: gymnasium.Space,
    streams: Streams,
    device: torch.device,
) -> Composed:
    """Build the world model and the agent. Initial weights depend only on the seed and the parts.

    Raises: PluginError with the name of the component that failed; ConfigError for a mix that cannot be trained.
    """
    obs, action = obs_spec(obs_space), action_spec(action_space)
    chosen = {role: (registry.get(role, _part(config, role).name), _part(config, role)) for role in ROLES}
    classes = {role: load_part(registration, ROLES[role]) for role, (registration, _) in chosen.items()}
    encoder_class, dynamics_class = classes["encoder"], classes["dynamics"]
    assert issubclass(encoder_class, Encoder) and issubclass(dynamics_class, Dynamics)
    latent = _call_class_method(chosen["encoder"][0], encoder_class, "latent_spec", LatentSpec, config.encoder.options)
    memory = _call_class_method(
        chosen["dynamics"][0], dynamics_class, "memory_size", int, config.dynamics.options, latent, action
    )
    parallel = _call_class_method(
        chosen["dynamics"][0], dynamics_class, "runs_in_parallel", bool, config.dynamics.options
    )
    if config.core.model.memory_in_encoder == "yes" and not encoder_class.uses_memory:
        raise ConfigError(
            f"encoder '{config.encoder.name}' does not read the memory of dynamics '{config.dynamics.name}'",
            cause="model.memory_in_encoder = yes requires it, but this encoder infers each frame on its own",
            fix="--model.memory-in-encoder auto, or an encoder that reads the memory",
        )
    staged = config.core.train.schedule == "staged"
    reads = _resolve_auto(config.core.model.memory_in_encoder, not parallel and not staged)
    held = _call_class_method(chosen["dynamics"][0], dynamics_class, "holds", int, config.dynamics.options, latent)
    use_memory = encoder_class.uses_memory and reads
    specs = Specs(obs, action, latent, memory, use_memory, decoder_memory=not staged, held=held if use_memory else 0)
    built = {
        role: _build(registration, classes[role], part.options, specs, streams)
        for role, (registration, part) in chosen.items()
    }
    with _seeded(streams, "heads"):
        model = WorldModel(specs, built["encoder"], built["dynamics"], built["decoder"], config.core.model)
    agent_registration = registry.get("agent", config.agent.name)
    agent = _build(agent_registration, load_part(agent_registration, Agent), config.agent.options, specs, streams)
    return Composed(specs, model.to(device), agent.to(device))


def _resolve_auto(choice: str, auto: bool) -> bool:
    return choice == "yes" or (choice == "auto" and auto)


def _part(config: RunConfig, role: str) -> Part:
    return getattr(config, role)


def load_part(registration: Registration, interface: type) -> type:
    """Import a component's class. Raises: PluginError if it cannot be imported or does not implement its role."""
    cls = registration.load()
    if registration.api != API_VERSION:
        raise PluginError(
            one_line(f"{registration.who} was written for worldlab API {registration.api}, this is {API_VERSION}"),
            fix=f"install a version of {registration.distribution} for API {API_VERSION}",
        )
    if not (isinstance(cls, type) and issubclass(cls, interface)):
        raise PluginError(
            one_line(f"{registration.who} does not implement {interface.__name__}"),
            cause=f"{registration.target} is {cls!r}",
            fix=f"let it implement worldlab.interfaces.{interface.__name__}",
        )
    return cls


def _call_class_method(registration: Registration, cls: type, method: str, kind: type[ResultT], *args: Any) -> ResultT:
    """Call a class method before any part is built. Raises: PluginError if it fails or returns another type."""
    try:
        result = getattr(cls, method)(*args)
    except WorldlabError:
        raise
    except (Exception, SystemExit) as error:
        message = f"{registration.who} {method} raised {type(error).__name__}: {error}"
        raise PluginError(one_line(message), cause=f"at {where(error)}", fix=_CHECK.format(registration)) from error
    if not isinstance(result, kind):
        message = f"{registration.who} {method} gives a {type(result).__name__}, expected {kind.__name__}"
        raise PluginError(one_line(message), cause=registration.target, fix=_CHECK.format(registration))
    return result


def _build(registration: Registration, cls: type, options: Config, specs: Specs, streams: Streams):
    try:
        with _seeded(streams, registration.role):
            part = cls(options, specs)
        if registration.role in ROLES:
            copy.deepcopy(part)  # health copies the untrained encoder: fail early if a part holds an open file
        return part
    except WorldlabError:
        raise
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error):
            raise _too_large(registration, error) from error
        raise PluginError(
            one_line(f"{registration.who} cannot be built: {error}"),
            cause=one_line(f"{type(error).__name__} in {cls.__name__}.__init__, at {where(error)}: {error}", 500),
            fix=_CHECK.format(registration),
        ) from error


def _too_large(registration: Registration, error: BaseException) -> MemoryLimitError:
    return MemoryLimitError(
        one_line(f"{registration.role} {registration.name!r} does not fit in memory"),
        cause=one_line(error, 300),
        fix=f"a smaller --size, or smaller settings of --{registration.role}.* (worldlab train --help)",
    )


class _seeded:
    """A context that seeds torch's global generator for one part's initial weights and restores it afterwards."""

    def __init__(self, streams: Streams, name: str):
        self.seed = streams.derive(f"init/{name}")

    def __enter__(self) -> None:
        self.before = torch.get_rng_state()
        torch.manual_seed(self.seed)

    def __exit__(self, *_: object) -> None:
        torch.set_rng_state(self.before)
