"""A conditional density of images over 256 grey levels, and the distribution that the core uses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldlab.distributions import normal_like
from worldlab.errors import ConfigError
from worldlab.nn import reached
from worldlab_flow.condition import ConditionMaps
from worldlab_flow.configs import FlowDecoderConfig
from worldlab_flow.dequantise import LOG_LEVELS, UniformNoise, VariationalNoise, from_unit, grey_levels, to_unit
from worldlab_flow.glow import FlowStatistics, ImageFlow, count_levels
from worldlab_flow.layers import ShiftScaleNet


class PictureModel(nn.Module):
    """A model of P(levels | features): an ImageFlow of dequantised images [N, C, H, W], its conditioning maps and its
    noise.
    """

    fitted: Tensor

    def __init__(self, key: str, shape: tuple[int, ...], features: int, config: FlowDecoderConfig):
        super().__init__()
        levels = count_levels(shape, config.levels)
        if not levels:
            raise ConfigError(
                f"image flows need an even height and width; '{key}' is {shape[1]} x {shape[2]}",
                cause="each level of the flow halves both sides, and an odd side has no exact half",
                fix="resize the images, e.g. --env.size 64, or choose another decoder",
            )
        self.shape = shape
        self.maps = ConditionMaps(features, shape, levels, config.width)
        self.flow = ImageFlow(shape, self.maps.channels, config.channels, config.architecture, config.depth)
        variational = config.dequantisation == "variational"
        self.sketch = nn.ConvTranspose2d(config.width, shape[0], 4, 2, 1) if config.guide else None
        self.noise = VariationalNoise(shape[0], config.channels, 2) if variational else UniformNoise()
        # With init "plain" no layer is set from data.
        self.register_buffer("fitted", torch.tensor(config.init == "plain"))
        if config.init == "plain":
            for part in self.flow.modules():
                if isinstance(part, ShiftScaleNet):
                    part.last.reset_parameters()

    def bound(self, features: Tensor, image: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one sample, [N], of the lower bound on log P(levels | features), in nats."""
        return self.bound_from_maps(self.maps(features), image, generator)

    def bound_from_maps(
        self, maps: list[Tensor], image: Tensor, generator: torch.Generator, fit: bool = False
    ) -> Tensor:
        """Draw the same from conditioning maps. fit: set the actnorms from this batch if they are not set yet (Glow,
        section 3.1).
        """
        levels = grey_levels(image)
        noise, log_q = self.noise(levels, generator)
        if fit and not reached(self, "fitted", True):
            with torch.no_grad():
                self.flow.encode(to_unit(levels, noise), maps, fit=True)
            self.fitted.fill_(True)  # saved with the weights
        return self._log_mass(maps, levels, noise) - log_q

    def sketch_error(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """Return half the squared error, [N], of an image predicted from the finest map alone: nats of a unit
        Gaussian.
        """
        assert self.sketch is not None
        return 0.5 * (self.sketch(maps[0]) - image).square().flatten(1).sum(1)

    def centre_log_prob(self, features: Tensor, image: Tensor) -> Tensor:
        """Return the log of the density at the bins' centres times their volume, [N]: deterministic, close to log P if
        smooth.
        """
        return self._log_mass(self.maps(features), grey_levels(image), 0.5)

    def flow_statistics(self, features: Tensor, image: Tensor) -> FlowStatistics:
        """Return log-determinant and log-scales of the pass towards noise, at the centre of the bins."""
        return self.flow.encode(to_unit(grey_levels(image), 0.5), self.maps(features))[1]

    def _log_mass(self, maps: list[Tensor], levels: Tensor, noise: Tensor | float) -> Tensor:
        return self.flow.log_prob(to_unit(levels, noise), maps) - math.prod(self.shape) * LOG_LEVELS

    def draw(self, features: Tensor, noise: list[Tensor]) -> Tensor:
        """Return the image of the given noise by level, in the core's unit, not rounded."""
        return from_unit(self.flow.decode(noise, self.maps(features)))

    def zero_noise(self, like: Tensor) -> list[Tensor]:
        """Return zeros [N, c, h, w] by level, for as many images as `like` has rows."""
        return [like.new_zeros(len(like), *shape) for shape in self.flow.noise_shapes]


@dataclass(frozen=True)
class FlowPicture:
    """A distribution P(image | features) over [N, C, H, W]. features: [N, F]; model: the network."""

    features: Tensor
    model: PictureModel

    @property
    def mode(self) -> Tensor:
        """Return the image of noise 0, differentiable; a typical image, not the most likely one."""
        return self.model.draw(self.features, self.model.zero_noise(self.features))

    def sample(self, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Draw an image of whole grey levels in one pass. temperature scales the noise: below 1, closer to the mode.

        Gradients pass the rounding straight through.
        """
        noise = [temperature * normal_like(level, generator) for level in self.model.zero_noise(self.features)]
        picture = self.model.draw(self.features, noise)
        return picture + (grey_levels(picture).clamp(0, 255) / 255 - 0.5 - picture).detach()

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log of the density at the centres of x's bins times their volume, [N] in nats."""
        return self.model.centre_log_prob(self.features, x)
