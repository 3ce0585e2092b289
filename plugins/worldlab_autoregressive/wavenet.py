"""A dynamics of dilated causal convolutions over time, whose cache of layer inputs is its state."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from worldlab.interfaces import ActionSpec, Dynamics, LatentSpec, Specs, State, Unrolled
from worldlab_autoregressive.codes import CodeDistribution
from worldlab_autoregressive.configs import WaveNetDynamicsConfig
from worldlab_autoregressive.mixtures import GaussianMixture
from worldlab_autoregressive.pixelcnn import gate
from worldlab_autoregressive.priors import PriorHead


class WaveNetLayer(nn.Module):
    """A gated convolution of two steps at a distance of `dilation`, with residual and skip outputs (eq. 2, figure 4)."""

    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.dilation = dilation
        self.conv = nn.Linear(2 * width, 2 * width)
        self.out = nn.Linear(width, 2 * width)

    def forward(self, now: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Map the inputs of this step and of `dilation` steps ago, [*, width] each, to the next layer's input and a skip."""
        residual, skip = self.out(gate(self.conv(torch.cat([before, now], -1)), -1)).chunk(2, -1)
        return now + residual, skip


class WaveNetMemory(nn.Module):
    """A memory that sees the last `reach` steps of its own episode exactly: 1 + sum of dilations 1, 2, 4, ...

    State: "h" [N, H], the last output; "inputs": for each layer the last `dilation` inputs [N, dilation, H], the newest
    last and 0 before the episode's start, as in the padding of a convolution.
    """

    def __init__(self, inputs: int, width: int, layers: int):
        super().__init__()
        self.width = width
        self.embed = nn.Linear(inputs, width)
        self.layers = nn.ModuleList(WaveNetLayer(width, 2**i) for i in range(layers))
        self.head = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    @property
    def reach(self) -> int:
        """Return the number of steps that the memory sees, the current one included."""
        return 1 + sum(2**i for i in range(len(self.layers)))

    def initial(self, n: int) -> State:
        weight = self.embed.weight
        inputs = tuple(weight.new_zeros(n, 2**i, self.width) for i in range(len(self.layers)))
        return {"h": weight.new_zeros(n, self.width), "inputs": inputs}

    def step(self, state: State, x: Tensor) -> State:
        """Advance by one step with input x [N, I]; return the next state."""
        now, skips, caches = self.embed(x), torch.zeros_like(state["h"]), []
        for layer, cache in zip(self.layers, state["inputs"], strict=True):
            caches.append(torch.cat([cache[:, 1:], now[:, None].to(cache.dtype)], 1))
            now, skip = layer(now, cache[:, 0].to(now.dtype))
            skips = skips + skip
        return {"h": self.head(skips).to(state["h"].dtype), "inputs": tuple(caches)}

    def sequence(self, state: State, x: Tensor, is_first: Tensor) -> Unrolled:
        """Advance by T steps with resets in one pass. x [N, T, I], is_first [N, T] bool."""
        length = x.shape[1]
        age = _age(is_first)
        now: Tensor = self.embed(x)
        skips, padded = torch.zeros_like(now), []
        for layer, cache in zip(self.layers, state["inputs"], strict=True):
            dilation = cache.shape[1]
            padded.append(torch.cat([cache, now.to(cache.dtype)], 1))  # [N, dilation + T, H]
            # A step whose episode began less than `dilation` steps ago sees 0 there.
            before = padded[-1][:, :length].masked_fill((age < dilation)[..., None], 0)
            now, skip = layer(now, before.to(now.dtype))
            skips = skips + skip
        h = self.head(skips).to(state["h"].dtype)

        def at(row: Tensor, time: Tensor) -> State:
            caches = []
            for inputs in padded:
                dilation = inputs.shape[1] - length
                place = time[:, None] + 1 + torch.arange(dilation, device=time.device)
                ago = torch.arange(dilation - 1, -1, -1, device=time.device)
                other = (ago > age[row, time][:, None])[..., None]  # of the episode before
                caches.append(inputs[row[:, None], place].masked_fill(other, 0))
            return {"h": h[row, time], "inputs": tuple(caches)}

        rows = torch.arange(len(x), device=x.device)
        return Unrolled(h, at(rows, torch.full_like(rows, length - 1)), at)


def _age(is_first: Tensor) -> Tensor:
    """Return how many steps ago the last reset was, [N, T]; very many if there was none in the sequence."""
    time = torch.arange(is_first.shape[1], device=is_first.device).expand(is_first.shape)
    started = torch.where(is_first, time, -(2**30)).cummax(1).values
    return time - started


@final
class WaveNetDynamics(Dynamics):
    """The memory h_t = sum of the skips of dilated causal convolutions over (z_<t, a_<t), with a prior p(z | h).

    Van den Oord et al. 2016, arXiv:1609.03499, section 2: kernels of two steps, dilations 1, 2, 4, ..., gated units
    tanh x sigmoid, residual and skip connections. A step reuses the cached inputs of each layer (Ramachandran et al. 2017,
    arXiv:1704.06001), which are the State; it equals the convolution over the whole sequence. Deviations: a step of the
    world is a "sample" of the waveform; the conditioning is the action beside z; the output is a mixture of Gaussians
    for a real z and an autoregressive network for codes (`PriorHead`), not a softmax of 256 levels.
    """

    Config = WaveNetDynamicsConfig
    prior_kind = "log_prob"

    def __init__(self, config: WaveNetDynamicsConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.net = WaveNetMemory(specs.latent.dim + specs.action.dim, config.memory, config.layers)
        self.head = PriorHead(config, specs.latent)

    @classmethod
    def memory_size(cls, config: WaveNetDynamicsConfig, latent: LatentSpec, action: ActionSpec) -> int:
        return config.memory

    def initial(self, n: int) -> State:
        return self.net.initial(n)

    def advance(self, state: State, z: Tensor, action: Tensor) -> State:
        return self.net.step(state, torch.cat([z, action], -1))

    def advance_sequence(self, state: State, z: Tensor, action: Tensor, is_first: Tensor) -> Unrolled:
        return self.net.sequence(state, torch.cat([z, action], -1), is_first)

    def memory(self, state: State) -> Tensor:
        return state["h"]

    def predict(self, memory: Tensor) -> GaussianMixture | CodeDistribution:
        return self.head(memory)
