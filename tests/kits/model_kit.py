"""Reference components put together as a toy world model, and other small things the core's tests share."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from worldlab.interfaces import Batch, Component, Context, Decoder, Dynamics, Encoder
from worldlab.model.losses import model_losses, part_terms
from worldlab.model.noise import noise_batch
from worldlab.model.schedule import JOINT, Stage
from worldlab.settings import ModelSettings
from worldlab.specs import ActionSpec, ObsSpec, Specs
from worldlab.testing.reference import (
    ReferenceDecoder,
    ReferenceDecoderConfig,
    ReferenceDynamics,
    ReferenceDynamicsConfig,
    ReferenceEncoder,
    ReferenceEncoderConfig,
    ReferenceParallelDynamics,
)
from worldlab.testing.toys import ACTIONS, OBS
from worldlab.world_model import WorldModel

MEMORY = 6


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build_parts(
    *,
    obs: ObsSpec = OBS["vector"],
    action: ActionSpec = ACTIONS["continuous"],
    kind: Literal["gaussian", "categorical", "point"] = "gaussian",
    use_memory: bool = True,
    parallel: bool = False,
) -> tuple[Specs, Encoder, Dynamics, Decoder]:
    torch.manual_seed(0)
    encoder, memory = ReferenceEncoderConfig(kind=kind, latent_dim=4), ReferenceDynamicsConfig(memory=MEMORY)
    specs = Specs(obs, action, ReferenceEncoder.latent_spec(encoder), MEMORY, use_memory)
    dynamics = (ReferenceParallelDynamics if parallel else ReferenceDynamics)(memory, specs)
    return specs, ReferenceEncoder(encoder, specs), dynamics, ReferenceDecoder(ReferenceDecoderConfig(), specs)


def build_model(settings: ModelSettings | None = None, decoder: Decoder | None = None, **choices) -> WorldModel:
    specs, encoder, dynamics, own = build_parts(**choices)
    return WorldModel(specs, encoder, dynamics, decoder or own, settings or ModelSettings(units=8))


def batch_for(model: WorldModel, rows: int = 3, length: int = 8, seed: int = 0) -> Batch:
    """Noise with a reset in the middle of row 0."""
    return noise_batch(model.specs.obs, model.specs.action, rows, length, gen(seed))


def weights(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module: torch.nn.Module, before: dict[str, Tensor]) -> set[str]:
    """Names of the entries of state_dict that differ from `before`."""
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def weighted_terms(model: WorldModel, ctx: Context, player: str = "main", stage: Stage = JOINT) -> dict[str, Tensor]:
    """The terms of one player's loss as they are added: weighted, unreduced."""
    return {name: term.weighted() for name, term in model_losses(model, ctx, player, stage).items()}


def weighted_losses(part: Component, ctx: Context, player: str = "main") -> dict[str, Tensor]:
    """A part's own terms times the weights it declares, by the names it gives them."""
    terms = part_terms("part", part, ctx, player)
    return {term.name.removeprefix("part/"): term.weighted() for term in terms}
