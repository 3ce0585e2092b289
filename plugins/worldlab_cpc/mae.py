"""The masked autoencoder: a deterministic latent whose encoder learns by reconstructing masked patches."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldlab import tree
from worldlab.distributions import normal_like
from worldlab.interfaces import Context, Encoder, Latent, LatentSpec, Obs, Specs
from worldlab.nn import ChannelNorm, RunningMoments
from worldlab.specs import ObsSpec
from worldlab_cpc.configs import MAEEncoderConfig

GRID = 8
"""Patches along the shorter side of an image, about: a patch has 8 x 8 pixels at 64 x 64."""
POOL = 8
"""Numbers of a token that the latent reads."""


class Patches(nn.Module):
    """The tokens of an observation: the patches of each image and the entries of each vector. Patches do not overlap."""

    def __init__(self, obs: ObsSpec, width: int):
        super().__init__()
        self.obs = obs
        self.sides = {key: max(2, min(spec.shape[1:]) // GRID) for key, spec in obs.images.items()}
        self.images = nn.ModuleDict(
            {
                key: nn.Sequential(
                    nn.Conv2d(spec.shape[0], width, self.sides[key], self.sides[key]),
                    ChannelNorm(width), nn.SiLU(), nn.Conv2d(width, width, 1),
                )
                for key, spec in obs.images.items()
            }
        )  # fmt: skip
        self.entries = nn.ParameterDict(
            {key: nn.Parameter(torch.randn(spec.shape[0], width)) for key, spec in obs.vectors.items()}
        )
        blank = {key: torch.zeros(1, *spec.shape) for key, spec in obs.entries}
        sizes = [part.shape[1:] for part in self.targets(blank)]
        self.count = sum(count for count, _ in sizes)
        self.heads = nn.ModuleList(nn.Linear(width, size) for _, size in sizes)
        self.place = nn.Parameter(0.02 * torch.randn(self.count, width))

    def forward(self, obs: Obs) -> Tensor:
        """Return the tokens [N, P, width], with their places."""
        tokens = [self.images[key](self._padded(key, obs[key])).flatten(2).transpose(1, 2) for key in self.images]
        tokens += [obs[key][..., None] * weight for key, weight in self.entries.items()]
        return torch.cat(tokens, 1) + self.place

    def targets(self, obs: Obs) -> list[Tensor]:
        """Return what the tokens of each key show, [N, patches, pixels of a patch] or [N, entries, 1]."""
        patches = [
            F.unfold(self._padded(key, obs[key]), side, stride=side).transpose(1, 2) for key, side in self.sides.items()
        ]
        return [*patches, *(obs[key][..., None] for key in self.obs.vectors)]

    def error(self, tokens: Tensor, obs: Obs) -> Tensor:
        """Return half the squared error of the reconstruction of each token [N, P, width], summed over its entries: [N, P]."""
        targets = self.targets(obs)
        parts = tokens.split([target.shape[1] for target in targets], 1)
        heads = zip(self.heads, parts, targets, strict=True)
        return torch.cat([0.5 * (head(part) - target).square().sum(-1) for head, part, target in heads], 1)

    def _padded(self, key: str, image: Tensor) -> Tensor:
        side, (height, width) = self.sides[key], image.shape[2:]
        return F.pad(image, (0, -width % side, 0, -height % side))


def attention_layers(width: int, layers: int) -> nn.Sequential:
    """Build pre-norm transformer layers over tokens [N, P, width]; frames are independent."""
    return nn.Sequential(
        *(
            nn.TransformerEncoderLayer(width, 2, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        ),
        nn.LayerNorm(width),
    )


@final
class MAEEncoder(Encoder):
    """The encoder z = W transformer(patches) + noise, with the loss of a masked autoencoder of its own.

    He et al. 2021, arXiv:2111.06377: three quarters of the patches are left out, the encoder reads the rest, and a small
    decoder reconstructs the patches left out. In a world model: Seo et al. 2022 (MWM), arXiv:2206.14244. Deviations:
    entries of a vector are tokens too; patches are small convolutions without overlap, so a masked token leaks nothing; the
    reward and the decoder of the model train z as well, unless the encoder learns alone (`--train.schedule staged`);
    random frames of a batch, not all, train the autoencoder; running moments fix the scale of z.
    """

    Config = MAEEncoderConfig
    posterior_kind = "deterministic"
    uses_memory = False

    def __init__(self, config: MAEEncoderConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.config = config
        width = 4 * (config.units // 4)
        self.patches = Patches(specs.obs, width)
        self.encoder = attention_layers(width, config.layers)
        self.decoder = attention_layers(width, 1)
        self.masked = nn.Parameter(0.02 * torch.randn(width))
        self.pool = nn.Linear(width, POOL)
        self.linear = nn.Linear(POOL * self.patches.count, config.latent_dim)
        self.moments = RunningMoments(config.latent_dim)
        self.hidden = min(self.patches.count - 1, round(config.mask * self.patches.count))

    @classmethod
    def latent_spec(cls, config: MAEEncoderConfig) -> LatentSpec:
        return LatentSpec(config.latent_dim, "point")

    def embed(self, obs: Obs) -> Tensor:
        """Return the noiseless latent of each frame, [N, D], entries of mean 0 and variance 1 over frames. obs: [N, ...]."""
        tokens = self.encoder(self.patches(obs))
        return self.moments(self.linear(self.pool(tokens).flatten(1)))

    def infer(self, embed: Tensor, memory: Tensor | None, generator: torch.Generator | None) -> Latent:
        """Return z [N, D], noisy if a generator is given. embed [N, D] from `embed`; memory is not read."""
        if generator is None:
            return Latent(embed)
        return Latent(embed + self.config.noise * normal_like(embed, generator))

    def reconstruct(self, obs: Obs, order: Tensor) -> Tensor:
        """Return the decoder's tokens [N, P, width]. order [N, P] long: the first `hidden` tokens in it are left out."""
        tokens = self.patches(obs)
        rows = torch.arange(len(tokens), device=tokens.device)[:, None]
        seen = order[:, self.hidden :]
        read = self.encoder(tokens[rows, seen])
        blank = (self.masked + self.patches.place).expand(len(tokens), -1, -1)
        return self.decoder(blank.to(read.dtype).index_put((rows, seen), read))

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        """Return `masked`, shaped as ctx.row: the error of the tokens left out, of random frames, 0 elsewhere.

        It is scaled so that its mean is the mean over those frames, and by all / hidden tokens: nats per frame.
        """
        if player != "main":
            return {}
        if torch.is_grad_enabled():
            self.moments.measure(ctx.embed.flatten(0, 1))
        total = ctx.row.numel()
        count = min(self.config.frames, total)
        chosen = torch.randperm(total, generator=ctx.generator, device=ctx.row.device)[:count]
        obs = tree.tree_map(lambda leaf: leaf[chosen], tree.flatten_time(ctx.batch.obs))
        order = torch.rand(count, self.patches.count, generator=ctx.generator, device=ctx.row.device).argsort(1)
        error = self.patches.error(self.reconstruct(obs, order), obs).gather(1, order[:, : self.hidden])
        loss = error.sum(1) * (self.patches.count / self.hidden) * (total / count)
        out = torch.zeros(total, dtype=loss.dtype, device=loss.device)
        return {"masked": out.index_copy(0, chosen, loss).view_as(ctx.row)}

    def after_step(self, player: str) -> None:
        """Move the running moments of z."""
        if player == "main":
            self.moments.update()
