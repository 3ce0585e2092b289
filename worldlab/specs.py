"""Describes observations, actions and latents without torch.

The core derives these specs from the environment's spaces and the parts' configurations, and passes them to every
component as one `Specs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ArraySpec:
    """One observation entry after the core's preprocessing, as components get it.

    kind "image": shape (C, H, W), float in [-0.5, 0.5]; 256 levels k -> k / 255 - 0.5.
    kind "vector": shape (n,), float, scaled by the core (`model.vector_scaling`).
    """

    kind: Literal["image", "vector"]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ObsSpec:
    """The observation: named entries, in a fixed order."""

    entries: tuple[tuple[str, ArraySpec], ...]

    def __getitem__(self, key: str) -> ArraySpec:
        return dict(self.entries)[key]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(key for key, _ in self.entries)

    @property
    def images(self) -> dict[str, ArraySpec]:
        return {key: spec for key, spec in self.entries if spec.kind == "image"}

    @property
    def vectors(self) -> dict[str, ArraySpec]:
        return {key: spec for key, spec in self.entries if spec.kind == "vector"}


@dataclass(frozen=True)
class ActionSpec:
    """The action in the form that components and policies use: a float vector of width `dim`.

    kind "discrete": one-hot of `dim` choices. kind "continuous": each entry in [-1, 1], which the core
    maps to the environment's bounds.
    """

    kind: Literal["discrete", "continuous"]
    dim: int


@dataclass(frozen=True)
class LatentSpec:
    """The latent z of an encoder: always a flat, differentiable float vector of width `dim`.

    kind "gaussian": a reparameterised real vector with a density; "point": deterministic plus channel
    noise; "categorical": straight-through one-hots of `groups` x `classes`, flattened (dim = product).
    """

    dim: int
    kind: Literal["point", "gaussian", "categorical"] = "gaussian"
    groups: int = 0
    classes: int = 0
    slow: int = 0
    """Number of first entries that a dynamics with a slow clock may hold between its ticks (`Specs.held`)."""


@dataclass(frozen=True)
class Specs:
    """Everything a component may know about the other components when it is built.

    memory_dim: width H of the dynamics' memory h. use_memory: whether `Encoder.infer` gets h. decoder_memory: whether
    the decoder's features contain h, or zeros instead. held: number of first entries of z that the dynamics holds between
    the ticks of a slow clock; the memory then ends with their last value [N, held] and 1 at a tick, else 0 [N, 1].
    """

    obs: ObsSpec
    action: ActionSpec
    latent: LatentSpec
    memory_dim: int
    use_memory: bool
    decoder_memory: bool = True
    held: int = 0

    @property
    def feature_dim(self) -> int:
        """Return the width F of features = cat(memory, z), the input of heads, decoders and agents."""
        return self.memory_dim + self.latent.dim
