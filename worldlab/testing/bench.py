"""The bench of a check: a component under test, built into a whole world model with reference partners."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from worldlab import tree
from worldlab.agent import Agent
from worldlab.errors import ConfigError, one_line
from worldlab.interfaces import Batch, Component, Context, Decoder, Dynamics, Encoder, Obs
from worldlab.model.noise import actions, noise_batch, noise_obs, stream
from worldlab.registry.faults import where
from worldlab.settings import Config, ModelSettings, TrainSettings
from worldlab.specs import ActionSpec, ObsSpec, Specs
from worldlab.testing import toys
from worldlab.testing.checks import CannotRun, CheckFailure, NotApplicable
from worldlab.testing.reference import (
    ReferenceDecoder,
    ReferenceDecoderConfig,
    ReferenceDynamics,
    ReferenceDynamicsConfig,
    ReferenceEncoder,
    ReferenceEncoderConfig,
)
from worldlab.training.trainer import Generators, Trainer
from worldlab.world_model import WorldModel

log = logging.getLogger("worldlab.testing")
"""Says at the level DEBUG what each check builds and trains: `check-plugin --verbose`, or pytest's --log-level=DEBUG."""

JITTER = 0.05
"""Std of the noise added to parameters before a check, relative to the parameter, or absolute where it is 0: a
zero-initialised layer would hide every dependence through it."""


Toy = Callable[[ObsSpec, ActionSpec, int, int, torch.Generator], Batch]
"""A function that makes a batch [B, T] of toy data from an observation, an action, B, T and a generator."""


class _Strict(TrainSettings):
    """Training that ends at the first update that is not finite."""

    max_skips: ClassVar[int] = 1


@dataclass(frozen=True)
class Choice:
    """A component class and its configuration."""

    cls: Any
    config: Config

    def __str__(self) -> str:
        return f"{self.cls.__name__}({', '.join(f'{name}={value!r}' for name, value in self.config)})"


@dataclass(frozen=True)
class Mix:
    """The encoder, dynamics and decoder of a world model, with their configurations."""

    encoder: Choice
    dynamics: Choice
    decoder: Choice


def reference_mix(**latent: Any) -> Mix:
    """Return the three reference components. latent: settings of ReferenceEncoderConfig."""
    return Mix(
        Choice(ReferenceEncoder, ReferenceEncoderConfig(**latent)),
        Choice(ReferenceDynamics, ReferenceDynamicsConfig()),
        Choice(ReferenceDecoder, ReferenceDecoderConfig()),
    )


class IdleAgent(Agent):
    """An agent without parameters, so that the trainer trains only the world model."""

    def __init__(self, config: Any, specs: Specs) -> None:
        super().__init__(config, specs)
        self.width = specs.action.dim

    def act(self, model: WorldModel, carry: Any, features: Tensor, state: Any, generator: Any) -> tuple[Tensor, Any]:
        """Return the zero action [N, A]."""
        return features.new_zeros(len(features), self.width), state


@dataclass(frozen=True)
class Bench:
    """A world model and the role of the component under test."""

    role: str
    mix: Mix
    model: WorldModel

    @property
    def specs(self) -> Specs:
        return self.model.specs

    @property
    def encoder(self) -> Encoder:
        return self.model.encoder

    @property
    def dynamics(self) -> Dynamics:
        return self.model.dynamics

    @property
    def decoder(self) -> Decoder:
        return self.model.decoder

    @property
    def part(self) -> Component:
        """The component under test."""
        return self.model.parts[self.role]

    @property
    def config(self) -> Config:
        """The configuration of the component under test."""
        return getattr(self.mix, self.role).config

    def obs(self, n: int, seed: int = 0) -> Obs:
        """Return observations of noise, {key: [n, ...]}."""
        return noise_obs(self.specs.obs, (n,), stream(seed))

    def latents(self, *shape: int, seed: int = 0) -> Tensor:
        """Return random latents [*shape, D]."""
        return toys.latents(self.specs.latent, shape, stream(100 + seed))

    def actions(self, *shape: int, seed: int = 0) -> Tensor:
        """Return random actions [*shape, A]."""
        return actions(self.specs.action, shape, stream(200 + seed))

    def features(self, n: int, seed: int = 0) -> Tensor:
        """Return random features [n, F]: a normal memory and a latent of the declared kind."""
        memory = torch.randn(n, self.specs.memory_dim, generator=stream(300 + seed))
        return torch.cat([memory, self.latents(n, seed=seed)], -1)

    def batch(self, rows: int = 3, length: int = 8, seed: int = 0, scale: float = 1.0) -> Batch:
        """Return a batch of noise with a reset in the middle of row 0."""
        return noise_batch(self.specs.obs, self.specs.action, rows, length, stream(seed), scale)

    def context(self, batch: Batch | None = None, seed: int = 0) -> Context:
        """Return the context of a forward pass over the batch (default: `self.batch()`)."""
        return self.model.observe(batch if batch is not None else self.batch(), stream(seed))[0]

    def updates(
        self, steps: int, make: Callable[[torch.Generator], Batch], lr: float = 3e-3
    ) -> Iterator[dict[str, Tensor]]:
        """Train with the real trainer on the batches of make(generator); yield its scalars after each update.

        Raises: DivergedError at the first update that is not finite.
        """
        settings = _Strict(learning_rate=lr, critic_learning_rate=lr)
        trainer = Trainer(self.model, IdleAgent(None, self.specs), settings, Generators(stream(1), stream(2)))
        source = stream(3)
        for _ in range(steps):
            yield trainer.update(make(source))

    def fit(
        self,
        steps: int,
        toy: Toy = toys.moving_dot,
        rows: int = 8,
        length: int = 4,
        until: Callable[[], bool] | None = None,
    ) -> int:
        """Train on toy data and return the number of updates. `until`, called every 25 updates, stops early if True."""
        log.debug("trains up to %d updates on %d rows of %d steps (%s)", steps, rows, length, toy.__name__)
        done = 0
        for _ in self.updates(steps, lambda gen: toy(self.specs.obs, self.specs.action, rows, length, gen)):
            done += 1
            if until is not None and done % 25 == 0 and until():
                break
        log.debug("trained %d updates", done)
        return done

    def __str__(self) -> str:
        """Describe what was built: the interfaces between the components, then each with its settings."""
        specs = self.specs
        obs = ", ".join(f"{key} {list(entry.shape)}" for key, entry in specs.obs.entries)
        parts = ", ".join(f"{role} {getattr(self.mix, role)}" for role in self.model.parts)
        memory = f"memory {specs.memory_dim}, {'read' if specs.use_memory else 'not read'} by the encoder"
        latent = f"{specs.latent.kind} latent {specs.latent.dim}"
        return f"obs {obs}; {specs.action.kind} action {specs.action.dim}; {latent}; {memory}; {parts}"


@dataclass(frozen=True)
class Subject:
    """The subject of a check: a component with reference partners, or (role "world_model") a whole world model."""

    role: str
    label: str
    mixes: tuple[Mix, ...]
    """World models in order of preference: a dynamics need not support every kind of latent."""
    registration: Any = None
    settings: ModelSettings = field(default_factory=lambda: ModelSettings(units=16, free_nats=0.0))

    @property
    def choice(self) -> Choice:
        """The class and configuration under test."""
        return getattr(self.mixes[0], self.role)

    def bench(
        self,
        obs: str = "",
        action: str = "continuous",
        use_memory: bool | None = None,
        seed: int = 0,
        fresh: bool = False,
    ) -> Bench:
        """Build a world model with the first observation and the first partners that the component supports.

        obs: names in toys.OBS separated by spaces, tried in order; "" tries all of them. use_memory: whether the
        encoder gets the memory; None follows the core's "auto" rule. fresh: keep the initial weights instead of
        jittering them.

        Raises: NotApplicable if the component supports none of the named observations, CheckFailure if it supports none
        at all.
        """
        reason = ""
        for name in obs.split() or toys.OBS:
            for mix in self.mixes:
                try:
                    return self._build(mix, name, action, use_memory, seed, fresh)
                except ConfigError as exc:
                    reason = reason or exc.message
        if obs:
            raise NotApplicable(f"does not support {obs} with {action} actions: {reason}")
        raise CheckFailure(f"supports none of the observations {', '.join(toys.OBS)}: {reason}", "support one of them")

    def with_latent(self, **latent: Any) -> Subject:
        """Return the same component with a reference latent such as kind="categorical"; an encoder is unchanged."""
        if self.role == "encoder":
            return self
        encoder = reference_mix(**latent).encoder
        return replace(self, mixes=(replace(self.mixes[0], encoder=encoder),))

    def with_config(self, config: Config) -> Subject:
        """Return the same component with another configuration."""
        mixes = tuple(
            replace(mix, **{self.role: replace(getattr(mix, self.role), config=config)}) for mix in self.mixes
        )
        return replace(self, mixes=mixes)

    def with_default_losses(self) -> Subject:
        """Return the same subject with the core's default loss settings.

        The other checks use no free nats, because free nats cut gradients.
        """
        return replace(self, settings=ModelSettings(units=32))

    def _build(self, mix: Mix, obs: str, action: str, use_memory: bool | None, seed: int, fresh: bool) -> Bench:
        try:
            return self._build_bench(mix, obs, action, use_memory, seed, fresh)
        except (ConfigError, CheckFailure):
            raise
        except Exception as exc:
            raise CannotRun(
                f"it cannot be built: {type(exc).__name__}: {one_line(exc, 160)} (at {where(exc)})",
                "correct __init__, latent_spec or memory_size; python -m pydoc worldlab.interfaces   prints the contract",
            ) from exc

    def _build_bench(self, mix: Mix, obs: str, action: str, use_memory: bool | None, seed: int, fresh: bool) -> Bench:
        encoder, dynamics, decoder = mix.encoder, mix.dynamics, mix.decoder
        latent = encoder.cls.latent_spec(encoder.config)
        act = toys.ACTIONS[action]
        offers_memory = not hasattr(dynamics.cls, "advance_sequence") if use_memory is None else use_memory
        specs = Specs(
            obs=toys.OBS[obs],
            action=act,
            latent=latent,
            memory_dim=dynamics.cls.memory_size(dynamics.config, latent, act),
            use_memory=offers_memory and encoder.cls.uses_memory,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            parts = {
                role: choice.cls(choice.config, specs)
                for role, choice in (("encoder", encoder), ("dynamics", dynamics), ("decoder", decoder))
            }
            model = WorldModel(specs, settings=self.settings, **parts)
        bench = Bench(self.role, mix, model)
        if not fresh and self.role != "world_model":
            jitter(bench.part, seed)
        log.debug("builds %s", bench)
        return bench


@torch.no_grad()
def jitter(part: torch.nn.Module, seed: int) -> None:
    """Add noise to every parameter, with a std of JITTER times its value, or of JITTER where it is 0.

    Positive parameters stay positive.
    """
    gen = stream(seed + 1000)
    for p in part.parameters():
        p.add_(JITTER * torch.where(p == 0, 1.0, p.abs()) * torch.randn(p.shape, generator=gen))


def clone(value: Any) -> Any:
    """Return a detached copy of a tree of tensors."""
    return tree.tree_map(lambda leaf: leaf.detach().clone(), value)
