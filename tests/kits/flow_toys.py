"""Small worlds for the tests of the flow family: specs, parts with stirred weights, and data whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from config_kit import configured
from family_kit import gen as gen
from family_kit import make_batch as make_batch
from torch import Tensor, nn
from worldlab_flow.configs import FlowDecoderConfig, FlowDynamicsConfig, FlowEncoderConfig
from worldlab_flow.decoder import FlowDecoder
from worldlab_flow.dynamics import FlowDynamics
from worldlab_flow.encoder import FlowEncoder

from worldlab.interfaces import Batch, Context, Latent
from worldlab.settings import ModelSettings
from worldlab.specs import ActionSpec, ArraySpec, LatentSpec, ObsSpec, Specs
from worldlab.world_model import WorldModel

IMAGE = ("image", ArraySpec("image", (3, 16, 16)))
VECTOR = ("state", ArraySpec("vector", (5,)))


def make_specs(latent: int = 6, memory: int = 10, obs=(VECTOR,), use_memory: bool = False, **kind) -> Specs:
    spec = LatentSpec(latent, **kind)
    return Specs(ObsSpec(tuple(obs)), ActionSpec("continuous", 3), spec, memory, use_memory)


def image_specs(shape: tuple[int, int, int], features: int = 6) -> Specs:
    return make_specs(latent=features, memory=0, obs=(("image", ArraySpec("image", shape)),))


@torch.no_grad()
def stirred(part, size: float = 0.3, seed: int = 0):
    """Move every weight, so that nothing is the identity any more."""
    g = gen(seed)
    for p in part.parameters():
        p.add_(size * torch.randn(p.shape, generator=g, dtype=torch.float64).to(p.dtype))
    return part


def jacobian(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """d run(x) / d x of one row: x [D], run: [1, D] -> [1, D']. Returns [D', D]."""
    out = torch.autograd.functional.jacobian(lambda row: run(row[None])[0], x)
    assert isinstance(out, Tensor)
    return out


def slogdet(run: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """log|det| of run's Jacobian at x [1, ...], by autograd; run: [1, ...] -> [1, D]."""
    matrix = jacobian(lambda flat: run(flat.view_as(x)), x.flatten())
    return torch.linalg.slogdet(matrix).logabsdet.item()


def count_calls(module: nn.Module, run: Callable[[], object]) -> int:
    """How often module was called while run ran."""
    calls = []
    handle = module.register_forward_hook(lambda *_: calls.append(1))
    run()
    handle.remove()
    return len(calls)


# ---- parts ----


def encoder(config: dict | None = None, **specs) -> FlowEncoder:
    torch.manual_seed(0)
    given = make_specs(**specs)
    sizes = {"latent_dim": given.latent.dim, "width": 4, "units": 16, "layers": 1}
    return FlowEncoder(configured(FlowEncoderConfig, **(sizes | (config or {}))), given)


def dynamics(config: dict | None = None, **specs) -> FlowDynamics:
    torch.manual_seed(0)
    given = make_specs(**specs)
    sizes = {"memory": given.memory_dim, "units": 16}
    return FlowDynamics(configured(FlowDynamicsConfig, **(sizes | (config or {}))), given)


def decoder(specs: Specs, **config) -> FlowDecoder:
    torch.manual_seed(0)
    sizes = {"levels": 3, "depth": 2, "channels": 8, "width": 4, "units": 16}
    return FlowDecoder(configured(FlowDecoderConfig, **(sizes | config)), specs)


def small_model(specs: Specs, settings: ModelSettings | None = None, **config) -> WorldModel:
    sizes = {"latent_dim": specs.latent.dim, "width": 4, "units": 16, "layers": 1}
    return WorldModel(
        specs,
        FlowEncoder(configured(FlowEncoderConfig, **sizes), specs),
        FlowDynamics(FlowDynamicsConfig(memory=specs.memory_dim, units=16), specs),
        decoder(specs, **config),
        settings or ModelSettings(units=16),
    )


# ---- data ----


def frames_context(features: Tensor, obs: dict[str, Tensor], seed: int = 0) -> Context:
    """M unrelated frames as a decoder sees them: features [M, F], obs [M, ...] leaves."""
    m = len(features)
    zero = torch.zeros(m, 1)
    leaves = {key: leaf[:, None] for key, leaf in obs.items()}
    batch = Batch(leaves, zero[..., None], zero, zero, zero.bool(), torch.ones(m, 1))
    row, time = torch.arange(m)[:, None], torch.zeros(m, 1, dtype=torch.long)
    z = features[:, None]
    return Context(batch, z, z[..., :0], Latent(z), z, None, row, time, gen(seed))


def grey(levels: Tensor) -> Tensor:
    """Whole levels 0..255 as the core's pictures."""
    return levels / 255 - 0.5


def fit(parameters, loss: Callable[[int], Tensor], steps: int, rate: float = 3e-3) -> None:
    """Adam with a cosine schedule; loss(step) is a scalar."""
    optimizer = torch.optim.Adam(list(parameters), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()
        schedule.step()


class PPCA:
    """x = W z + noise, z standard normal: the posterior p(z | x) = N(M^-1 W^T x / s^2, M^-1), M = I + W^T W / s^2."""

    def __init__(self, dim: int = 4, observed: int = 5, noise: float = 0.6, seed: int = 0):
        self.weight = torch.randn(observed, dim, generator=gen(seed))
        self.noise = noise
        self.precision = torch.eye(dim) + self.weight.T @ self.weight / noise**2
        self.dim = dim

    def draw(self, n: int, seed: int) -> Tensor:
        g = gen(seed)
        z = torch.randn(n, self.dim, generator=g)
        return z @ self.weight.T + self.noise * torch.randn(n, len(self.weight), generator=g)

    def joint(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, z), [N]."""
        fit = torch.distributions.Normal(z @ self.weight.T, self.noise).log_prob(x).sum(-1)
        return fit + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)

    def posterior(self, x: Tensor) -> torch.distributions.MultivariateNormal:
        mean = torch.linalg.solve(self.precision, self.weight.T @ x.T / self.noise**2).T
        return torch.distributions.MultivariateNormal(mean, precision_matrix=self.precision)

    @property
    def mean_field_gap(self) -> float:
        """KL of the best factorised Gaussian to the posterior, whose variances are 1 / diag(M)."""
        return 0.5 * (self.precision.diagonal().log().sum() - torch.logdet(self.precision)).item()


MODES = torch.tensor([0.4, 0.3, 0.2, 0.1])


def next_latents(memory: Tensor, seed: int, dim: int = 2, std: float = 0.15) -> Tensor:
    """[n, dim] near one of four points that turn and grow with memory [n, 3], weights .4 .3 .2 .1."""
    g, n = gen(seed), len(memory)
    which = torch.multinomial(MODES, n, replacement=True, generator=g)
    angle = which * (math.pi / 2) + memory[:, 0]
    centre = torch.stack([torch.cos(angle), torch.sin(angle)], -1) * (1.5 + 0.3 * memory[:, 1:2])
    centre = torch.cat([centre, memory[:, 2:].expand(n, dim - 2)], -1)
    return centre + std * torch.randn(n, dim, generator=g)


def four_modes(n: int, seed: int, dim: int = 2) -> tuple[Tensor, Tensor]:
    """memory [n, 3] uniform on [-1, 1] and its next latents [n, dim]."""
    memory = 2 * torch.rand(n, 3, generator=gen(seed)) - 1
    return memory, next_latents(memory, seed + 10**7, dim)


def energy_score(samples: Tensor, target: Tensor) -> float:
    """E|X - y| - E|X - X'| / 2 over rows; samples [S, N, D], target [N, D]. Lower is better."""
    to_target = (samples - target).norm(dim=-1).mean()
    apart = (samples - samples.roll(1, 0)).norm(dim=-1).mean()
    return (to_target - apart / 2).item()
