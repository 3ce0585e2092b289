"""Building blocks that several families share. Call them; do not inherit from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldlab.errors import PluginError
from worldlab.specs import ObsSpec

LARGE = 1 << 15
"""Entries from which on a hyperbolic tangent is faster as a sigmoid."""


def mlp(inputs: int, units: int, layers: int, outputs: int | None = None, *, zero: bool = False) -> nn.Sequential:
    """Build Linear + LayerNorm + SiLU blocks, and a linear output if `outputs` is given (0 at first if `zero`)."""
    blocks: list[nn.Module] = []
    for _ in range(layers):
        blocks += [nn.Linear(inputs, units), nn.LayerNorm(units), nn.SiLU()]
        inputs = units
    if outputs is not None:
        last = nn.Linear(inputs, outputs)
        if zero:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        blocks.append(last)
    return nn.Sequential(*blocks)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each pixel, [N, C, H, W].

    It uses no batch statistics and is cheap in channels_last.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def conv_stages(shape: tuple[int, ...]) -> int:
    """Return how often to halve the shorter side of (C, H, W) to reach about 4 pixels: 64 -> 4, 32 -> 3, 16 -> 2."""
    return max(1, min(5, int(math.log2(min(shape[1:]) / 4))))


class ConvTrunk(nn.Module):
    """Convolutions (kernel 4, stride 2, doubling width) with ChannelNorm and SiLU. [N, C, H, W] -> [N, size]."""

    def __init__(self, shape: tuple[int, ...], width: int):
        super().__init__()
        stages = conv_stages(shape)
        channels = [shape[0], *[width * 2**i for i in range(stages)]]
        blocks: list[nn.Module] = []
        for before, after in pairwise(channels):
            blocks += [nn.Conv2d(before, after, 4, 2, 1), ChannelNorm(after), nn.SiLU()]
        self.net = nn.Sequential(*blocks)
        height, side = shape[1], shape[2]
        for _ in range(stages):
            height, side = height // 2, side // 2
        self.size = channels[-1] * height * side

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image.contiguous(memory_format=torch.channels_last)).flatten(1)


class DeconvTrunk(nn.Module):
    """The mirror of ConvTrunk: [N, inputs] -> [N, outputs, H, W].

    Sizes that powers of two do not divide are cropped.
    """

    def __init__(self, inputs: int, shape: tuple[int, ...], width: int, outputs: int | None = None):
        super().__init__()
        stages = conv_stages(shape)
        self.shape = shape
        self.start = tuple(-(-side // 2**stages) for side in shape[1:])
        channels = [width * 2**i for i in reversed(range(stages))]
        self.first = nn.Linear(inputs, channels[0] * self.start[0] * self.start[1])
        blocks: list[nn.Module] = [ChannelNorm(channels[0]), nn.SiLU()]
        for before, after in pairwise(channels):
            blocks += [nn.ConvTranspose2d(before, after, 4, 2, 1), ChannelNorm(after), nn.SiLU()]
        blocks.append(nn.ConvTranspose2d(channels[-1], outputs or shape[0], 4, 2, 1))
        self.net = nn.Sequential(*blocks)

    def forward(self, features: Tensor) -> Tensor:
        x = self.first(features).unflatten(1, (-1, *self.start))
        x = self.net(x.contiguous(memory_format=torch.channels_last))
        top = (x.shape[2] - self.shape[1]) // 2
        left = (x.shape[3] - self.shape[2]) // 2
        return x[:, :, top : top + self.shape[1], left : left + self.shape[2]]


class ObsTrunk(nn.Module):
    """Embeds an observation [N, ...] as [N, size]: one `conv(shape, width)` per image, one MLP for all vectors."""

    def __init__(self, obs: ObsSpec, width: int, units: int, layers: int, conv: Callable[..., nn.Module] = ConvTrunk):
        super().__init__()
        self.images = nn.ModuleDict({key: conv(spec.shape, width) for key, spec in obs.images.items()})
        self.vector_keys = tuple(obs.vectors)
        self.size = sum(cast(int, trunk.size) for trunk in self.images.values())
        self.vectors: nn.Module | None = None
        if self.vector_keys:
            self.vectors = mlp(sum(spec.shape[0] for spec in obs.vectors.values()), units, layers)
            self.size += units

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        parts = [trunk(obs[key]) for key, trunk in self.images.items()]
        if self.vectors is not None:
            parts.append(self.vectors(torch.cat([obs[key] for key in self.vector_keys], -1)))
        return torch.cat(parts, -1)


class ObsHead(nn.Module):
    """The mirror of ObsTrunk: features [N, F] -> {key: [N, *shape]}; one `deconv(inputs, shape, width)` per image."""

    def __init__(
        self,
        obs: ObsSpec,
        features: int,
        width: int,
        units: int,
        layers: int,
        deconv: Callable[..., nn.Module] = DeconvTrunk,
    ):
        super().__init__()
        self.images = nn.ModuleDict({key: deconv(features, spec.shape, width) for key, spec in obs.images.items()})
        self.sizes = {key: spec.shape[0] for key, spec in obs.vectors.items()}
        self.vectors = mlp(features, units, layers, sum(self.sizes.values())) if self.sizes else None

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        out = {key: trunk(features) for key, trunk in self.images.items()}
        if self.vectors is not None:
            out.update(zip(self.sizes, self.vectors(features).split(list(self.sizes.values()), -1), strict=True))
        return out


def tanh(x: Tensor) -> Tensor:
    """Return the hyperbolic tangent of x [*]; for a large x as 2 sigmoid(2 x) - 1.

    torch's own takes up to nine times as long as its sigmoid on a CPU. With its gradient this form takes half of the time
    from 32,768 entries on, and more for few entries. Its error is up to 2e-7, so runs that promise the same bits
    (`worldlab.distributions.exact`) do without it.
    """
    if x.numel() < LARGE or x.device.type != "cpu" or torch.are_deterministic_algorithms_enabled():
        return torch.tanh(x)
    return 2 * torch.sigmoid(2 * x) - 1


class GRUCell(nn.Module):
    """Gated recurrent unit with layer-normalised gates and one matrix product per step.

    inputs [N, I], h [N, H] -> [N, H].
    Cho et al. 2014, arXiv:1406.1078, with the update bias of -1 of DreamerV2 (arXiv:2010.02193), which makes the memory
    change slowly at first.
    """

    def __init__(self, inputs: int, hidden: int):
        super().__init__()
        self.linear = nn.Linear(inputs + hidden, 3 * hidden, bias=False)
        self.norm = nn.LayerNorm(3 * hidden)

    def forward(self, inputs: Tensor, h: Tensor) -> Tensor:
        return self.gated(self.linear(torch.cat([inputs, h], -1)), h)

    def gated(self, gates: Tensor, h: Tensor) -> Tensor:
        """Return the next h [N, H] from h and the product of cat(inputs, h) with `linear`, [N, 3 H]."""
        reset, candidate, update = self.norm(gates).chunk(3, -1)
        candidate = tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update - 1)
        return h + update * (candidate - h)  # not lerp: under autocast the types differ


class RecurrentMemory(nn.Module):
    """The recurrent memory of a world model: h' = GRU(mlp(z, a), h). Hafner et al. 2018, arXiv:1811.04551, eq. 4.

    inputs: width of cat(z, a). units, layers: size of the network before the cell. memory: width H of h.
    A state is {"h": [N, H]}; a Dynamics calls `initial` and `step` from its own `initial` and `advance`.
    """

    def __init__(self, inputs: int, units: int, memory: int, layers: int = 1):
        super().__init__()
        self.width = memory
        self.input = mlp(inputs, units, layers)
        self.cell = GRUCell(units, memory)

    def initial(self, n: int) -> dict[str, Tensor]:
        """Return the state of n rows before the first observation: zeros."""
        return {"h": self.cell.linear.weight.new_zeros(n, self.width)}

    def step(self, state: dict[str, Tensor], z: Tensor, action: Tensor) -> dict[str, Tensor]:
        """Return the state after z [N, D] and action [N, A]."""
        return {"h": self.cell(self.input(torch.cat([z, action], -1)), state["h"])}


class RunningMoments(nn.Module):
    """Standardises outputs y [N, D] of a network over frames: (y - mean) / std, with running moments.

    They are batch normalisation's (Ioffe & Szegedy 2015, arXiv:1502.03167), but no batch standardises itself, so rows stay
    independent. A component calls `measure` in its losses and `update` in `after_step`.
    """

    mean: Tensor
    std: Tensor
    started: Tensor
    RATE = 0.1
    MIN_STD = 1 / 30
    """Smallest std that divides: frames that hardly differ say nothing about the scale."""

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.register_buffer("started", torch.tensor(False))
        self._measured: tuple[Tensor, Tensor] | None = None

    def forward(self, y: Tensor) -> Tensor:
        return (y - self.mean) / self.std

    @torch.no_grad()
    def measure(self, y: Tensor) -> None:
        """Measure the standardised outputs y [N, D] of a training batch; evaluations are left out."""
        if self.training:
            self._measured = (y.mean(0) * self.std + self.mean, y.std(0, correction=0) * self.std)

    @torch.no_grad()
    def update(self) -> bool:
        """Move the moments to what was measured: all the way the first time. Returns whether they had been set before."""
        before = reached(self, "started", True)
        if self._measured is not None:
            mean, std = (moment.to(self.mean.dtype) for moment in self._measured)
            rate = self.RATE if before else 1.0
            self.mean.lerp_(mean, rate)
            self.std.lerp_(std, rate).clamp_(min=self.MIN_STD)
            self.started.fill_(True)
            self._measured = None
        return before


def random_shift(image: Tensor, pad: int, generator: torch.Generator) -> Tensor:
    """Shift each image of [N, C, H, W] by up to `pad` pixels, repeating the edges.

    Kostrikov et al. 2020 (DrQ), arXiv:2004.13649.
    """
    n, _, height, side = image.shape
    padded = F.pad(image, (pad, pad, pad, pad), mode="replicate")
    offset = torch.randint(0, 2 * pad + 1, (2, n), generator=generator, device=image.device)
    rows = offset[0][:, None] + torch.arange(height, device=image.device)
    columns = offset[1][:, None] + torch.arange(side, device=image.device)
    index = torch.arange(n, device=image.device)[:, None, None]
    return padded[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def frozen(*modules: nn.Module) -> AbstractContextManager[None]:
    """Return a context in which gradients flow through these modules but not into their weights."""
    return frozen_parameters(p for module in modules for p in module.parameters())


@contextmanager
def frozen_parameters(parameters: Iterable[nn.Parameter]) -> Generator[None]:
    """Freeze these parameters within the context: they receive no gradient."""
    parameters = [p for p in parameters if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


@torch.no_grad()
def ema_update(target: nn.Module, source: nn.Module, rate: float | Tensor) -> None:
    """Set target <- (1 - rate) target + rate source for weights, and copy buffers. rate: a number or a scalar tensor."""
    for a, b in zip(target.parameters(), source.parameters(), strict=True):
        a.lerp_(b, rate.to(a.dtype) if isinstance(rate, Tensor) else rate)
    for a, b in zip(target.buffers(), source.buffers(), strict=True):
        a.copy_(b)


# ---- values that the host may not read ----

_fixed: list[bool] = []


@contextmanager
def fixed_shapes() -> Generator[None]:
    """Within the block, `may_read` is False also on the CPU: no shape and no branch of an update depends on a value."""
    _fixed.append(True)
    try:
        yield
    finally:
        _fixed.pop()


def may_read(x: Tensor) -> bool:
    """Return whether code may branch on a value of x. On a GPU that would wait for all work in progress."""
    return x.device.type == "cpu" and not _fixed


def reached(module: nn.Module, name: str, last: bool | int) -> bool:
    """Return whether a buffer of a module has its last value, such as the state of an initialisation from data.

    Once it has, it is not read again, because that would stop a GPU in every update. Loading weights forgets it.
    """
    if name in module.__dict__.get("_reached", ()):
        return True
    found = bool(module.get_buffer(name) == last)
    if found:
        if "_reached" not in module.__dict__:
            module.register_load_state_dict_post_hook(_forget)  # pyright: ignore[reportUnknownMemberType]
        module.__dict__.setdefault("_reached", set()).add(name)
    return found


def _forget(module: nn.Module, _: object) -> None:
    module.__dict__.get("_reached", set()).clear()


def check_shape(x: Tensor, expected: tuple[int | None, ...], what: str) -> None:
    """Raise PluginError unless x has this shape (None matches any size)."""
    fits = x.dim() == len(expected) and all(e is None or e == s for e, s in zip(expected, x.shape, strict=True))
    if not fits:
        wanted = ", ".join("*" if e is None else str(e) for e in expected)
        raise PluginError(f"{what} has shape {list(x.shape)}; the contract says [{wanted}]")


__all__ = [
    "ChannelNorm",
    "ConvTrunk",
    "DeconvTrunk",
    "GRUCell",
    "ObsHead",
    "ObsTrunk",
    "RecurrentMemory",
    "RunningMoments",
    "check_shape",
    "conv_stages",
    "ema_update",
    "fixed_shapes",
    "frozen",
    "frozen_parameters",
    "may_read",
    "mlp",
    "random_shift",
    "reached",
    "tanh",
]
