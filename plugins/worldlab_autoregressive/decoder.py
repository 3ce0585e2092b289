"""The autoregressive decoder: every pixel is modelled given the features and a few preceding pixels."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from worldlab.interfaces import Alarm, Context, Decoder, Obs, Specs
from worldlab_autoregressive.configs import AutoregressiveDecoderConfig
from worldlab_autoregressive.masked_pixelcnn import MaskedPixelCNN, draw_masked
from worldlab_autoregressive.observations import ObservationModel
from worldlab_autoregressive.pixelcnn import PixelCNN
from worldlab_autoregressive.sampling import draw_with_cache


@final
class AutoregressiveDecoder(Decoder):
    """A decoder p(o | h, z): for images a conditional gated PixelCNN with mixtures of discretised logistics, for
    vectors a masked network with mixtures of Gaussians. Keys are independent of each other given features.

    Van den Oord et al. 2016, arXiv:1606.05328; Salimans et al. 2017, arXiv:1701.05517; with one masked stack instead of the
    gated ones: van den Oord et al. 2016, arXiv:1601.06759 (worldlab_autoregressive.masked_pixelcnn). Likelihoods of images are
    log-probabilities of their 256 levels; those of vectors are densities.
    """

    Config = AutoregressiveDecoderConfig
    score_kind = "log_density"
    renders = True
    draws = "sample"

    def __init__(self, config: AutoregressiveDecoderConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.auxiliary = config.auxiliary
        self.likelihood = "undefined" if specs.obs.vectors else "exact"
        self.frames = config.frames if specs.obs.images else 0  # vectors are cheap: all frames

        network, draw = (PixelCNN, draw_with_cache) if config.stack == "gated" else (MaskedPixelCNN, draw_masked)

        def build(shape: tuple[int, ...]) -> PixelCNN | MaskedPixelCNN:
            sizes = (config.channels, config.layers, config.components, config.width)
            return network(specs.feature_dim, shape, *sizes)

        self.model = ObservationModel(config, specs, build, draw)
        self.loss_weights = self.model.loss_weights(config.scale)

    def decode(self, features: Tensor) -> dict[str, Any]:
        """Return a distribution for each key. features [N, F]. Nothing is computed until a distribution is used."""
        return self.model.decode(features)

    def score(self, features: Tensor, obs: Obs) -> Tensor:
        """Return log p(o | features), [N] in nats: exact."""
        return self.model.log_prob(features, obs)

    def log_mass(self, features: Tensor, obs: Obs, generator: torch.Generator) -> Tensor:
        """Return log P of the images' grey levels, [N] in nats: exact. Raises: ConfigError if there are vectors."""
        return self.model.log_mass(features, obs)

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        """Return the terms of `ObservationModel.losses`."""
        return self.model.losses(ctx) if player == "main" else {}

    def metrics(self, ctx: Context) -> dict[str, Tensor]:
        """Return `bits_per_dim` (see `ObservationModel.metrics`)."""
        return self.model.metrics(ctx)

    def alarms(self, values: dict[str, float]) -> dict[str, Alarm]:
        """Return `latent_ignored` if another frame's features explain frames equally well and `auxiliary` is 0."""
        ignored = values.get("features_gap", 1.0) <= 2 * values.get("features_gap_se", 0.0)
        if not ignored or not self.model.pictures or self.auxiliary:
            return {}
        message = "the PixelCNN predicts images from neighbouring pixels and ignores the latent"
        return {"latent_ignored": Alarm(message, "set --decoder.auxiliary 1, or use fewer --decoder.layers")}
