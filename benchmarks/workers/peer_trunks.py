"""A plugin file: worldlab's variational encoder and decoder with the convolutional networks of torchrl and sheeprl.

Both networks are DreamerV3's (arXiv:2301.04104): kernels of 5, channels 8, 12, 16 and 16, and RMS norms. torchrl halves
the image by strides of 2; sheeprl convolves at full resolution, then pools. A comparison with equal networks then
measures the code around them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from worldlab_vae.configs import VAEDecoderConfig, VAEEncoderConfig
from worldlab_vae.encoder import VAEEncoder
from worldlab_vae.heads import LatentHead
from worldlab_vae.likelihoods import FixedNormal

from worldlab import hookimpl, tree
from worldlab.interfaces import Context, Decoder, Encoder, Latent, Obs
from worldlab.nn import ObsHead, ObsTrunk

if TYPE_CHECKING:
    from worldlab.specs import LatentSpec, Specs

CHANNELS = (8, 12, 16, 16)
KERNEL = 5
BLOCKS = 8
"""The blocks of the decoder's first layer: each block of outputs reads one block of inputs."""
HIDDEN = 128
"""The hidden units of sheeprl's first decoder layer for the latent."""
Build = Callable[..., nn.Module]


class ChannelRMSNorm(nn.Module):
    """RMS norm over the channels of each pixel, [N, C, H, W]."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.RMSNorm(channels, 1e-4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class BlockLinear(nn.Module):
    """A linear layer with block-diagonal weights, [N, inputs] -> [N, outputs]."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(BLOCKS, inputs // BLOCKS, outputs // BLOCKS) / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        blocks = x.unflatten(-1, (BLOCKS, -1)).transpose(0, 1)  # [blocks, N, inputs / blocks]
        return torch.bmm(blocks, self.weight).transpose(0, 1).flatten(1) + self.bias


class Trunk(nn.Module):
    """The encoder's network, [N, C, H, W] -> [N, size]. pool: convolve, then pool, instead of a stride of 2."""

    def __init__(self, shape: tuple[int, ...], width: int, pool: bool):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((shape[0], *CHANNELS)):
            layers.append(nn.Conv2d(before, after, KERNEL, stride=1 if pool else 2, padding=KERNEL // 2))
            layers += [nn.MaxPool2d(2)] if pool else []
            layers += [ChannelRMSNorm(after), nn.SiLU()]
        self.net = nn.Sequential(*layers)
        scale = 2 ** len(CHANNELS)
        self.size = CHANNELS[-1] * (shape[1] // scale) * (shape[2] // scale)

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image.contiguous(memory_format=torch.channels_last)).flatten(1)


class MirrorTrunk(nn.Module):
    """The decoder's network, [N, inputs] -> [N, C, H, W].

    first: the layer before the smallest maps, built as first(inputs, outputs). pool: upsample, then convolve, instead
    of a transposed convolution of stride 2.
    """

    def __init__(self, inputs: int, shape: tuple[int, ...], width: int, first: Build, pool: bool):
        super().__init__()
        scale = 2 ** len(CHANNELS)
        self.start = (CHANNELS[-1], shape[1] // scale, shape[2] // scale)
        self.first = first(inputs, self.start[0] * self.start[1] * self.start[2])
        layers: list[nn.Module] = [ChannelRMSNorm(CHANNELS[-1]), nn.SiLU()]
        for before, after in pairwise((*reversed(CHANNELS), shape[0])):
            if pool:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, KERNEL, padding=KERNEL // 2)]
            else:
                layers.append(nn.ConvTranspose2d(before, after, KERNEL, 2, KERNEL // 2, output_padding=1))
            layers += [ChannelRMSNorm(after), nn.SiLU()]
        self.net = nn.Sequential(*layers[:-2])
        self.squash = pool

    def forward(self, features: Tensor) -> Tensor:
        x = self.first(features).unflatten(1, self.start).contiguous(memory_format=torch.channels_last)
        x = self.net(x)
        return torch.sigmoid(x) - 0.5 if self.squash else x


class SplitFirst(nn.Module):
    """sheeprl's first layer: the memory through blocks, the latent through two layers, and their sum."""

    def __init__(self, inputs: int, outputs: int, memory: int):
        super().__init__()
        self.memory = memory
        self.blocks = BlockLinear(memory, outputs)
        self.latent = nn.Sequential(nn.Linear(inputs - memory, HIDDEN), nn.RMSNorm(HIDDEN, 1e-4), nn.SiLU())
        self.last = nn.Linear(HIDDEN, outputs)

    def forward(self, features: Tensor) -> Tensor:
        memory, z = features[:, : self.memory], features[:, self.memory :]
        return self.blocks(memory) + self.last(self.latent(z))


class TrunkEncoderConfig(VAEEncoderConfig):
    """Settings of the encoders with a peer's network. The latent is categorical."""

    pool: ClassVar[bool] = False


class PooledEncoderConfig(TrunkEncoderConfig):
    """Settings of the encoder with sheeprl's network."""

    pool: ClassVar[bool] = True


class TrunkDecoderConfig(VAEDecoderConfig):
    """Settings of the decoders with a peer's network."""

    pool: ClassVar[bool] = False


class PooledDecoderConfig(TrunkDecoderConfig):
    """Settings of the decoder with sheeprl's network."""

    pool: ClassVar[bool] = True


class StridedEncoder(Encoder):
    """The variational posterior of worldlab_vae with a peer's convolutions."""

    Config: ClassVar[Any] = TrunkEncoderConfig
    posterior_kind = "analytic"

    def __init__(self, config: Any, specs: Specs) -> None:
        super().__init__(config, specs)
        conv = partial(Trunk, pool=config.pool)
        self.trunk = ObsTrunk(specs.obs, config.width, config.units, config.layers, conv)
        inputs = self.trunk.size + (specs.memory_dim if specs.use_memory else 0)
        self.head = LatentHead(inputs, config.units, specs.latent, config.unimix, config.min_std, config.head_layers)

    @classmethod
    def latent_spec(cls, config: Any) -> LatentSpec:
        return VAEEncoder.latent_spec(config)

    def embed(self, obs: Obs) -> Tensor:
        return self.trunk(obs)

    def infer(self, embed: Tensor, memory: Tensor | None, generator: torch.Generator | None) -> Latent:
        dist = self.head(embed if memory is None else torch.cat([embed, memory], -1))
        return Latent(dist.mode if generator is None else dist.sample(generator), dist=dist)


class PooledEncoder(StridedEncoder):
    """The encoder with sheeprl's network."""

    Config = PooledEncoderConfig


class StridedDecoder(Decoder):
    """The squared error of worldlab_vae's decoder with a peer's convolutions."""

    Config: ClassVar[Any] = TrunkDecoderConfig
    score_kind = "log_density"

    def __init__(self, config: Any, specs: Specs) -> None:
        super().__init__(config, specs)
        first: Build = BlockLinear
        if config.pool:
            first = partial(SplitFirst, memory=specs.memory_dim)
        deconv = partial(MirrorTrunk, first=first, pool=config.pool)
        self.net = ObsHead(specs.obs, specs.feature_dim, config.width, config.units, config.layers, deconv)
        self.register_buffer("std", torch.tensor(config.std))

    def decode(self, features: Tensor) -> dict[str, FixedNormal]:
        return {key: FixedNormal(mean, self.get_buffer("std")) for key, mean in self.net(features).items()}

    def score(self, features: Tensor, obs: Obs) -> Tensor:
        return torch.stack([dist.log_prob(obs[key]) for key, dist in self.decode(features).items()]).sum(0)

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        if player != "main":
            return {}
        obs, shape = tree.flatten_time(ctx.batch.obs), ctx.features.shape[:2]
        decoded = self.decode(ctx.features.flatten(0, 1))
        return {key: dist.distortion(obs[key]).unflatten(0, shape) for key, dist in decoded.items()}


class PooledDecoder(StridedDecoder):
    """The decoder with sheeprl's network."""

    Config = PooledDecoderConfig


@hookimpl
def worldlab_register(register):
    module = __name__
    register.encoder("vae-strided", f"{module}:StridedEncoder", config=TrunkEncoderConfig, summary="torchrl's network.")
    register.encoder("vae-pooled", f"{module}:PooledEncoder", config=PooledEncoderConfig, summary="sheeprl's network.")
    register.decoder("vae-strided", f"{module}:StridedDecoder", config=TrunkDecoderConfig, summary="torchrl's network.")
    register.decoder("vae-pooled", f"{module}:PooledDecoder", config=PooledDecoderConfig, summary="sheeprl's network.")
