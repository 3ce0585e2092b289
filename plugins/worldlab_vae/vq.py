"""The encoder of VQ-VAE: a frame as a few tokens, each the nearest vector of a codebook."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from worldlab.interfaces import Alarm, Context, Encoder, Latent, LatentSpec, Obs, Specs
from worldlab_vae.codebook import Codebook
from worldlab_vae.configs import VQEncoderConfig
from worldlab_vae.quantise import TokenNet, code_metrics, straight_through


@final
class VQEncoder(Encoder):
    """A deterministic posterior over G tokens of K codes: k_g = argmin_k |y_g(o) - e_gk|, with y(o) a network.

    Van den Oord et al. 2017, arXiv:1711.00937: the gradient is straight-through, the commitment term
    beta |y - sg(e_k)|^2 keeps y near its code, and moving averages move the codes (`Codebook`). Deviations: z is the
    one-hots of the codes, so every dynamics over codes models it, with the gradient of the code vectors (`quantise`);
    each token has a codebook of its own and reads the whole frame (a vector observation has no grid); y is
    standardised (`TokenNet`); the prior is the dynamics, trained at the same time.
    """

    Config = VQEncoderConfig
    posterior_kind = "deterministic"
    uses_memory = False

    def __init__(self, config: VQEncoderConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.shape = (config.tokens, config.code_dim)
        self.loss_weights = {"commit": config.commitment}
        self.net = TokenNet(specs.obs, config.width, config.units, config.layers, config.tokens * config.code_dim)
        self.codebook = Codebook(config.tokens, config.codes, config.code_dim)
        self._seen: tuple[Tensor, Tensor] | None = None  # vectors of the last losses, until `after_step` uses them

    @classmethod
    def latent_spec(cls, config: VQEncoderConfig) -> LatentSpec:
        return LatentSpec(config.tokens * config.codes, "categorical", config.tokens, config.codes)

    def embed(self, obs: Obs) -> Tensor:
        """Return y, the vectors of all tokens before quantisation, [N, G * d]. obs: [N, ...] leaves."""
        return self.net(obs)

    def infer(self, embed: Tensor, memory: Tensor | None, generator: torch.Generator | None) -> Latent:
        """Return z [N, G * K] and tokens [N, G]; there is no noise, and memory is not read."""
        y = embed.unflatten(1, self.shape)
        codes = self.codebook.nearest(y)
        return Latent(straight_through(y, codes, self.codebook.vectors), tokens=codes)

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        """Return `commit`: |y - sg(e)|^2 / 2 of a frame, shaped as ctx.row. Keeps the vectors for `after_step`."""
        if player != "main":
            return {}
        assert ctx.latent.tokens is not None
        y = ctx.embed.flatten(0, 1).unflatten(1, self.shape)
        self._keep(y.detach(), ctx)
        near = self.codebook.look_up(ctx.latent.tokens.flatten(0, 1))
        return {"commit": 0.5 * (y - near).square().sum((1, 2)).view_as(ctx.row)}

    def _keep(self, y: Tensor, ctx: Context) -> None:
        """Keep the vectors of all frames, and K random ones of them."""
        if not (self.training and torch.is_grad_enabled()):
            return
        self.net.moments.measure(y.flatten(1))
        chosen = torch.randint(len(y), (self.codebook.vectors.shape[1],), generator=ctx.generator, device=y.device)
        self._seen = (y, y[chosen])

    def after_step(self, player: str) -> None:
        """Move the codes towards the vectors of the batch; the first time, place them by k-means."""
        if player != "main" or self._seen is None:
            return
        if self.net.moments.update():  # the first batch only sets the scale of y
            self.codebook.update(*self._seen)
        self._seen = None

    def metrics(self, ctx: Context) -> dict[str, Tensor]:
        """Return `used` (see `code_metrics`)."""
        return code_metrics(ctx, self.codebook.vectors.shape[1])

    def alarms(self, values: dict[str, float]) -> dict[str, Alarm]:
        """Return `codes_unused` if nearly all frames share one code of each token."""
        one_code = 1.05 / self.codebook.vectors.shape[1]
        if values.get("used", 1.0) > one_code:
            return {}
        return {"codes_unused": Alarm("all frames have the same codes", "fewer --encoder.codes, or --encoder fsq")}
