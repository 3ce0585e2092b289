"""The invertible layers of image flows. Each maps [N, C, H, W] in both directions, given a conditioning map.

Each returns, besides its output, the log-scales it applied, as a tensor that broadcasts to [N, c, H, W]. Their sum over
the image is log|det Jacobian| (`sum_log_scales`); their largest magnitude reveals an unstable flow. Kingma & Dhariwal
2018 (Glow), arXiv:1807.03039; Dinh et al. 2016 (RealNVP), arXiv:1605.08803.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldlab.distributions import at_least_float32
from worldlab.nn import ChannelNorm

BOUND = 2.0
"""Log-scales from a network lie within +-BOUND: an unbounded flow diverges when it is inverted on new input."""
FLAT = 1e-2
"""Std, in the flow's unit, below which actnorm treats a channel as constant; a channel constant at first may vary
later."""


def bound_scale(raw: Tensor, bound: float = BOUND) -> Tensor:
    """Squash raw smoothly into (-bound, bound); the identity near 0."""
    return bound * torch.tanh(raw / bound)


def sum_log_scales(log_scale: Tensor, x: Tensor) -> Tensor:
    """Sum log-scales that broadcast to x's height and width over the image: [N]."""
    per_entry = log_scale.flatten(1).sum(1)
    return (per_entry * (x[0, 0].numel() // log_scale[0, 0].numel())).expand(len(x))


def squeeze(x: Tensor) -> Tensor:
    """Turn each 2 x 2 patch into channels: [N, C, H, W] -> [N, 4 C, H/2, W/2]. Inverse: F.pixel_shuffle(x, 2)."""
    return F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)


class ImageLayer(nn.Module, ABC):
    """An invertible map of images towards noise. cond: [N, K, H, W] of x's size."""

    @abstractmethod
    def forward(self, x: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """Map x [N, C, H, W] to an output of the same shape, and return the log-scales."""

    @abstractmethod
    def inverse(self, y: Tensor, cond: Tensor) -> Tensor:
        """Return the x that gives y."""

    def fit(self, x: Tensor) -> None:
        """Initialise from the first batch; most layers do nothing."""


class ActNorm(ImageLayer):
    """The map y = exp(s) (x - b), with s and b per channel, set so that the first batch has mean 0 and variance 1.

    Glow, section 3.1. Afterwards no batch statistics are used, so rows stay independent.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        return (x - self.bias) * self.log_scale.exp(), self.log_scale

    def inverse(self, y: Tensor, cond: Tensor) -> Tensor:
        return y * torch.exp(-self.log_scale) + self.bias

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        self.bias.copy_(x.mean((0, 2, 3), keepdim=True))
        self.log_scale.copy_(-x.std((0, 2, 3), keepdim=True, correction=0).clamp(min=FLAT).log())


class InvertibleConv(ImageLayer):
    """The map y = W x at every pixel, W = P L (U + diag(sign exp(d))), with d within +-BOUND. Glow, section 3.2, eq.
    11.

    W starts as a random rotation. log|det| = H W sum(d), without computing a determinant.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int):
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(channels, channels))[0]
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        log_diagonal = diagonal.abs().log().clamp(-0.95 * BOUND, 0.95 * BOUND)
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", diagonal.sign())
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        self.raw_diagonal = nn.Parameter(BOUND * torch.atanh(log_diagonal / BOUND))

    @property
    def log_diagonal(self) -> Tensor:
        return bound_scale(self.raw_diagonal)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the unit lower and the upper triangular factor, [C, C] each."""
        lower = self.lower.tril(-1) + torch.eye(len(self.sign), dtype=self.lower.dtype, device=self.lower.device)
        return lower, self.upper.triu(1) + torch.diag(self.sign * self.log_diagonal.exp())

    def weight(self) -> Tensor:
        """Return W, [C, C]."""
        lower, upper = self.factors()
        return self.permutation @ lower @ upper

    def forward(self, x: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        with _full_precision(x):
            return _mix(self.weight(), x), self.log_diagonal[None, :, None, None]

    def inverse(self, y: Tensor, cond: Tensor) -> Tensor:
        with _full_precision(y):
            lower, upper = (factor.double() for factor in self.factors())
            z = torch.linalg.solve_triangular(lower, self.permutation.T.double(), upper=False, unitriangular=True)
            return _mix(torch.linalg.solve_triangular(upper, z, upper=True).to(y.dtype), y)


def _mix(weight: Tensor, x: Tensor) -> Tensor:
    return F.conv2d(x, weight[:, :, None, None])


def _full_precision(x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, enabled=False)


class ShiftScaleNet(nn.Module):
    """A small network that maps part of an image and the condition to shifts and log-scales; its output starts at 0.

    x [N, C, H, W], cond [N, K, H, W] -> shift, log-scale [N, outputs, H, W] each, float32 at least. C may be 0. The
    condition enters through a 1x1 convolution: conditioning maps are smooth, so a larger kernel would add little.
    """

    def __init__(self, inputs: int, cond: int, channels: int, outputs: int):
        super().__init__()
        self.look = nn.Conv2d(inputs, channels, 3, padding=1) if inputs else None
        self.listen = nn.Conv2d(cond, channels, 1, bias=not inputs)
        self.body = nn.Sequential(
            ChannelNorm(channels), nn.SiLU(), nn.Conv2d(channels, channels, 1), ChannelNorm(channels), nn.SiLU()
        )
        self.last = nn.Conv2d(channels, 2 * outputs, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.listen(cond) if self.look is None else self.look(x) + self.listen(cond)
        shift, raw = at_least_float32(self.last(self.body(hidden))).chunk(2, 1)
        return shift, bound_scale(raw)


class ChannelCoupling(ImageLayer):
    """A coupling that scales and shifts half of the channels, given the other half. RealNVP, section 3.4.

    second: which half is transformed.
    """

    def __init__(self, size: int, cond: int, channels: int, second: bool = True):
        super().__init__()
        self.cut = size // 2
        self.second = second
        kept = self.cut if second else size - self.cut
        self.reader = ShiftScaleNet(kept, cond, channels, size - kept)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x[:, : self.cut], x[:, self.cut :]
        return (first, second) if self.second else (second, first)

    def _join(self, kept: Tensor, moved: Tensor) -> Tensor:
        return torch.cat([kept, moved] if self.second else [moved, kept], 1)

    def forward(self, x: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = self._parts(x)
        shift, log_scale = self.reader(kept, cond)
        return self._join(kept, moved * log_scale.exp() + shift), log_scale

    def inverse(self, y: Tensor, cond: Tensor) -> Tensor:
        kept, moved = self._parts(y)
        shift, log_scale = self.reader(kept, cond)
        return self._join(kept, (moved - shift) * torch.exp(-log_scale))


class CheckerboardCoupling(ImageLayer):
    """A coupling that scales and shifts every other pixel, given the remaining pixels. RealNVP, section 3.4, figure 3.

    odd: which colour of the board is transformed.
    """

    def __init__(self, size: int, cond: int, channels: int, odd: bool):
        super().__init__()
        self.odd = odd
        self.reader = ShiftScaleNet(size, cond, channels, size)

    def _moved_mask(self, x: Tensor) -> Tensor:
        row = torch.arange(x.shape[2], device=x.device)[:, None]
        column = torch.arange(x.shape[3], device=x.device)
        return ((row + column) % 2 == int(self.odd)).to(x.dtype)  # [H, W]

    def _shift_and_scale(self, x: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        moved = self._moved_mask(x)
        shift, log_scale = self.reader(x * (1 - moved), cond)
        return shift * moved, log_scale * moved

    def forward(self, x: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._shift_and_scale(x, cond)
        return x * log_scale.exp() + shift, log_scale

    def inverse(self, y: Tensor, cond: Tensor) -> Tensor:
        shift, log_scale = self._shift_and_scale(y, cond)
        return (y - shift) * torch.exp(-log_scale)


class Injector(ImageLayer):
    """An affine map of every entry whose mean and scale depend on the condition alone: y = exp(s(c)) x + t(c).

    The affine injector of Lugmayr et al. 2020 (SRFlow), arXiv:2006.14200, section 3.4. A coupling transforms half of
    the entries given the other half; the injector lets the condition act on all entries directly.
    """

    def __init__(self, size: int, cond: int, channels: int):
        super().__init__()
        self.reader = ShiftScaleNet(0, cond, channels, size)

    def forward(self, x: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self.reader(x, cond)
        return x * log_scale.exp() + shift, log_scale

    def inverse(self, y: Tensor, cond: Tensor) -> Tensor:
        shift, log_scale = self.reader(y, cond)
        return (y - shift) * torch.exp(-log_scale)
