"""What a check works on: a component under test, built into a whole world model with reference partners."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from worldlab import tree
from worldlab.agent import Agent
from worldlab.errors import ConfigError, one_line
from worldlab.interfaces import Batch, Component, Context, Decoder, Dynamics, Encoder, Obs
from worldlab.model.noise import actions, noise_batch, noise_obs, stream
from worldlab.registry.discovery import where
from worldlab.settings import Config, ModelSettings, TrainSettings
from worldlab.specs import ActionSpec, ObsSpec, Specs
from worldlab.testing import toys
from worldlab.testing.checks import CannotBuild, CheckFailure, NotApplicable
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

JITTER = 0.05
"""Parameters are moved by this share of themselves before structure is probed, those at 0 by this much: a zero-initialised
layer hides every path through it, wanted or not."""


Toy = Callable[[ObsSpec, ActionSpec, int, int, torch.Generator], Batch]
"""Makes a batch [B, T] of toy data."""


@dataclass(frozen=True)
class Choice:
    """A component class and its configuration."""

    cls: Any
    config: Config


@dataclass(frozen=True)
class Mix:
    """The three choices of a world model."""

    encoder: Choice
    dynamics: Choice
    decoder: Choice


def reference_mix(**latent: Any) -> Mix:
    """The reference partners; latent: settings of ReferenceEncoderConfig."""
    return Mix(
        Choice(ReferenceEncoder, ReferenceEncoderConfig(**latent)),
        Choice(ReferenceDynamics, ReferenceDynamicsConfig()),
        Choice(ReferenceDecoder, ReferenceDecoderConfig()),
    )


class IdleAgent(Agent):
    """Learns nothing: the trainer then fits the world model alone."""

    def __init__(self, config: Any, specs: Specs) -> None:
        super().__init__(config, specs)
        self.width = specs.action.dim

    def act(self, model: WorldModel, carry: Any, features: Tensor, state: Any, generator: Any) -> tuple[Tensor, Any]:
        """The zero action [N, A]."""
        return features.new_zeros(len(features), self.width), state


@dataclass(frozen=True)
class Bench:
    """One built world model and the role in it that is under test."""

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
        """Its configuration."""
        return getattr(self.mix, self.role).config

    def obs(self, n: int, seed: int = 0) -> Obs:
        """Structureless observations {key: [n, ...]}."""
        return noise_obs(self.specs.obs, (n,), stream(seed))

    def latents(self, *shape: int, seed: int = 0) -> Tensor:
        """Random latents [*shape, D]."""
        return toys.latents(self.specs.latent, shape, stream(100 + seed))

    def actions(self, *shape: int, seed: int = 0) -> Tensor:
        """Random actions [*shape, A]."""
        return actions(self.specs.action, shape, stream(200 + seed))

    def features(self, n: int, seed: int = 0) -> Tensor:
        """Random features [n, F]: a normal memory and a latent of the declared kind."""
        memory = torch.randn(n, self.specs.memory_dim, generator=stream(300 + seed))
        return torch.cat([memory, self.latents(n, seed=seed)], -1)

    def batch(self, rows: int = 3, length: int = 8, seed: int = 0, scale: float = 1.0) -> Batch:
        """A structureless batch with a reset in the middle of row 0."""
        return noise_batch(self.specs.obs, self.specs.action, rows, length, stream(seed), scale)

    def context(self, batch: Batch | None = None, seed: int = 0) -> Context:
        """The posterior's context of a batch."""
        return self.model.observe(batch if batch is not None else self.batch(), stream(seed))[0]

    def updates(
        self, steps: int, make: Callable[[torch.Generator], Batch], lr: float = 3e-3
    ) -> Iterator[dict[str, Tensor]]:
        """Train with the real trainer on batches make(generator); yields its scalars after each update.

        Raises DivergedError at the first update that is not finite.
        """
        settings = TrainSettings(learning_rate=lr, critic_learning_rate=lr, max_skips=1)
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
        """Train on a toy; stop early once `until`, asked every 25 updates, is true. Returns the updates taken."""
        done = 0
        for _ in self.updates(steps, lambda gen: toy(self.specs.obs, self.specs.action, rows, length, gen)):
            done += 1
            if until is not None and done % 25 == 0 and until():
                break
        return done


@dataclass(frozen=True)
class Subject:
    """What is checked: a component among reference partners, or (role "world_model") a whole mix."""

    role: str
    label: str
    mixes: tuple[Mix, ...]
    """In order of preference: a dynamics need not accept every kind of latent."""
    registration: Any = None
    settings: ModelSettings = field(default_factory=lambda: ModelSettings(head_units=16, free_nats=0.0))

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
        """Build a world model on the first observation (of those named, or of all) and partners the component accepts.

        use_memory None: as the core's "auto" does. fresh: keep the initial weights as they are, else jitter them.
        obs: names in toys.OBS; "" for all of them.

        Raises NotApplicable if the component refuses what was named, CheckFailure if it refuses everything.
        """
        refusal = ""
        for name in obs.split() or toys.OBS:
            for mix in self.mixes:
                try:
                    return self._build(mix, name, action, use_memory, seed, fresh)
                except ConfigError as exc:
                    refusal = refusal or exc.message
        if obs:
            raise NotApplicable(f"refuses {obs} with {action} actions: {refusal}")
        raise CheckFailure(f"accepts none of the observations {', '.join(toys.OBS)}: {refusal}", "support one of them")

    def with_latent(self, **latent: Any) -> Subject:
        """The same component with one kind of reference latent, e.g. kind="categorical"."""
        if self.role == "encoder":
            return self
        encoder = reference_mix(**latent).encoder
        return replace(self, mixes=(replace(self.mixes[0], encoder=encoder),))

    def with_config(self, config: Config) -> Subject:
        """The same component with another configuration."""
        mixes = tuple(
            replace(mix, **{self.role: replace(getattr(mix, self.role), config=config)}) for mix in self.mixes
        )
        return replace(self, mixes=mixes)

    def with_default_losses(self) -> Subject:
        """The same under the core's own loss settings. Structure is checked without free nats: they close paths."""
        return replace(self, settings=ModelSettings(head_units=32))

    def _build(self, mix: Mix, obs: str, action: str, use_memory: bool | None, seed: int, fresh: bool) -> Bench:
        try:
            return self._built(mix, obs, action, use_memory, seed, fresh)
        except (ConfigError, CheckFailure):
            raise
        except Exception as exc:
            raise CannotBuild(
                f"it cannot be built: {type(exc).__name__}: {one_line(exc, 160)} (at {where(exc)})",
                "worldlab train --plugin FILE shows the same; docs/plugins.md has what each role must have",
            ) from exc

    def _built(self, mix: Mix, obs: str, action: str, use_memory: bool | None, seed: int, fresh: bool) -> Bench:
        encoder, dynamics, decoder = mix.encoder, mix.dynamics, mix.decoder
        latent = encoder.cls.latent_spec(encoder.config)
        act = toys.ACTIONS[action]
        reads = not hasattr(dynamics.cls, "advance_sequence") if use_memory is None else use_memory
        specs = Specs(
            obs=toys.OBS[obs],
            action=act,
            latent=latent,
            memory_dim=dynamics.cls.memory_size(dynamics.config, latent, act),
            use_memory=reads and encoder.cls.uses_memory,
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
        return bench


@torch.no_grad()
def jitter(part: torch.nn.Module, seed: int) -> None:
    """Move every parameter by noise, JITTER of its size or of 1 where it is 0: nothing rests exactly at its initial value, and
    what must stay positive does."""
    gen = stream(seed + 1000)
    for p in part.parameters():
        p.add_(JITTER * torch.where(p == 0, 1.0, p.abs()) * torch.randn(p.shape, generator=gen))


def clone(value: Any) -> Any:
    """A deep copy of a tree of tensors, cut from the graph."""
    return tree.tree_map(lambda leaf: leaf.detach().clone(), value)
