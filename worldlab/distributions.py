"""Distributions that parts exchange. Each is a tree of tensors, so it can be stacked, indexed and detached.

All have `sample(generator)` [N, D], `mode` [N, D] and, if the family supports them, `log_prob(x)`, `kl(other)`,
`entropy()` [N], in nats. Samples are differentiable: reparameterised or straight-through.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from worldlab.errors import ConfigError

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
UNIT_RAW = math.log(math.e - 1)
"""softplus(UNIT_RAW) = 1."""


def exact() -> bool:
    """Return whether this process promises the same bits (--strict). Faster forms that round differently are then off."""
    return torch.are_deterministic_algorithms_enabled()


class Distribution(Protocol):
    """The minimum that a part must return: samples and a mode."""

    def sample(self, generator: torch.Generator) -> Tensor: ...

    @property
    def mode(self) -> Tensor: ...


@runtime_checkable
class HasLogProb(Protocol):
    """Computes the log-density (or log-probability) of any x, in nats: [N]."""

    def log_prob(self, x: Tensor) -> Tensor: ...


@runtime_checkable
class HasKL(Protocol):
    """Computes KL(self || other) in closed form for another of its own type, in nats: [N]."""

    def kl(self, other: Any) -> Tensor: ...


@runtime_checkable
class HasEntropy(Protocol):
    """Computes its entropy, or a sample estimate whose mean and gradient equal those of the entropy: [N]."""

    def entropy(self) -> Tensor: ...


@runtime_checkable
class HasTemperature(Protocol):
    """Can be made wider (temperature above 1) or narrower. Ha & Schmidhuber 2018, arXiv:1803.10122, section 4.2."""

    def tempered(self, temperature: float) -> Distribution: ...


def tempered(dist: Distribution, temperature: float) -> Distribution:
    """Return a distribution at a temperature; 1 changes nothing. Raises: ConfigError if it has no temperature."""
    if temperature == 1.0:
        return dist
    if not isinstance(dist, HasTemperature):
        raise ConfigError(
            f"a {type(dist).__name__} has no temperature", fix="leave the temperature at 1, or choose another dynamics"
        )
    return dist.tempered(temperature)


@runtime_checkable
class HasExpectation(Protocol):
    """Computes its mean in closed form: [N, D]."""

    @property
    def expectation(self) -> Tensor: ...


def expectation(dist: Distribution) -> Tensor:
    """Return the mean of a distribution [N, D]; its mode, which then stands for it, if the mean is not known."""
    return dist.expectation if isinstance(dist, HasExpectation) else dist.mode


def symlog(x: Tensor) -> Tensor:
    """Compute sign(x) log(1 + |x|). Hafner et al. 2023, arXiv:2301.04104, eq. 9."""
    return torch.sign(x) * torch.log1p(x.abs())


def symexp(x: Tensor) -> Tensor:
    """Invert symlog."""
    return torch.sign(x) * torch.expm1(x.abs())


def at_least_float32(x: Tensor) -> Tensor:
    """Return x in float32 if it is of half precision (autocast): logs and determinants are sums of many small terms."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def one_hot(index: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Return one-hots [*, classes] of an index [*] long. `F.one_hot` also reads the index on the CPU, to check its range."""
    hot = torch.zeros(*index.shape, classes, dtype=dtype, device=index.device)
    return hot.scatter_(-1, index[..., None], 1.0)


def log_softmax(logits: Tensor) -> Tensor:
    """Return log-probabilities [*, G, C] of logits, normalised over the last dimension.

    torch vectorises a softmax over the last dimension only if it has at least 16 entries, but over another one always:
    32 groups of 4 classes take 0.12 of the time. Exact mode leaves the order of the sum as it is.
    """
    if logits.shape[-1] >= 16 or exact():
        return F.log_softmax(logits, -1)
    return F.log_softmax(logits.transpose(-1, -2), -2).transpose(-1, -2).contiguous()


def unit_softplus(raw: Tensor) -> Tensor:
    """Return softplus(raw + log(e - 1)), so that raw = 0 gives 1: a network whose outputs start near 0 starts at unit scale."""
    return F.softplus(raw + UNIT_RAW)


def normal_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Draw standard normal noise with the shape, dtype and device of x."""
    return torch.empty_like(x, memory_format=torch.contiguous_format).normal_(generator=generator)


def _to_float32(dist: Any) -> None:
    """Convert the parameters of a frozen distribution to float32 if a network under autocast computed them."""
    for name, value in cast(dict[str, Tensor], vars(dist)).items():
        if value.dtype in (torch.bfloat16, torch.float16):
            object.__setattr__(dist, name, value.float())


@dataclass(frozen=True)
class Normal:
    """Diagonal Gaussian over the last dimension. mean, std: [*, D]."""

    mean: Tensor
    std: Tensor

    def __post_init__(self) -> None:
        _to_float32(self)

    @property
    def mode(self) -> Tensor:
        return self.mean

    @property
    def expectation(self) -> Tensor:
        return self.mean

    def sample(self, generator: torch.Generator) -> Tensor:
        return self.mean + self.std * normal_like(self.mean, generator)

    def log_prob(self, x: Tensor) -> Tensor:
        return (-0.5 * ((x - self.mean) / self.std).square() - self.std.log() - HALF_LOG_2PI).sum(-1)

    def entropy(self) -> Tensor:
        return (0.5 + HALF_LOG_2PI + self.std.log()).sum(-1)

    def tempered(self, temperature: float) -> Normal:
        return Normal(self.mean, self.std * math.sqrt(temperature))

    def kl(self, other: Normal) -> Tensor:
        ratio = (self.std / other.std).square()
        shift = ((self.mean - other.mean) / other.std).square()
        return 0.5 * (ratio + shift - 1 - ratio.log()).sum(-1)


@dataclass(frozen=True)
class OneHot:
    """Independent categoricals over groups, as flat straight-through one-hots. logits: [*, G, C], normalised."""

    logits: Tensor

    def __post_init__(self) -> None:
        _to_float32(self)

    @classmethod
    def with_unimix(cls, logits: Tensor, unimix: float) -> OneHot:
        """Mix the softmax with a uniform, so that no class has probability 0 (arXiv:2301.04104, section 3)."""
        log_probs = log_softmax(at_least_float32(logits))
        if unimix:
            classes = logits.shape[-1]
            log_probs = torch.log((1 - unimix) * log_probs.exp() + unimix / classes)
        return cls(log_probs)

    @property
    def probs(self) -> Tensor:
        return self.logits.exp()

    @property
    def mode(self) -> Tensor:
        return one_hot(self.logits.argmax(-1), self.logits.shape[-1], self.logits.dtype).flatten(-2)

    @property
    def expectation(self) -> Tensor:
        return self.probs.flatten(-2)

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw a straight-through sample [*, G * C]: a one-hot value with the gradient of the probabilities."""
        uniform = torch.empty_like(self.logits, memory_format=torch.contiguous_format).uniform_(generator=generator)
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-10, 1 - 1e-7)))
        onehot = one_hot((self.logits + gumbel).argmax(-1), self.logits.shape[-1], self.logits.dtype)
        if not torch.is_grad_enabled():
            return onehot.flatten(-2)
        probs = self.probs
        return (onehot + (probs - probs.detach())).flatten(-2)

    def log_prob(self, x: Tensor) -> Tensor:
        return (torch.unflatten(x, -1, self.logits.shape[-2:]) * self.logits).sum((-2, -1))

    def entropy(self) -> Tensor:
        return -(self.probs * self.logits).sum((-2, -1))

    def tempered(self, temperature: float) -> OneHot:
        return OneHot(log_softmax(self.logits / temperature))

    def kl(self, other: OneHot) -> Tensor:
        return (self.probs * (self.logits - other.logits)).sum((-2, -1))


@dataclass(frozen=True)
class TwoHot:
    """A scalar as a distribution over symexp-spaced bins. logits: [*, 255].

    arXiv:2301.04104, section 3. The mean is computed in raw units, so it is unbiased for random targets.
    """

    logits: Tensor

    BINS = 255
    LIMIT = 20.0

    def __post_init__(self) -> None:
        _to_float32(self)

    @staticmethod
    def log_bins(reference: Tensor) -> Tensor:
        """Return the bin centres in symlog units, [255]."""
        return torch.linspace(-TwoHot.LIMIT, TwoHot.LIMIT, TwoHot.BINS, device=reference.device, dtype=reference.dtype)

    @staticmethod
    def initial_bias() -> Tensor:
        """Return the initial bias of a zero-weight head.

        A uniform start would give the bins at +-exp(20) weight that only many updates remove. The bias -2 |symlog bin|
        makes their initial contribution negligible and keeps the initial mean exactly 0.
        """
        return -2.0 * torch.linspace(-TwoHot.LIMIT, TwoHot.LIMIT, TwoHot.BINS).abs()

    @property
    def mean(self) -> Tensor:
        """Return the mean [*]. In exact mode mirrored bins are paired before the sum, so symmetric logits give exactly 0.

        Otherwise it is one product with the bins, a third of the time with its gradient.
        """
        if not exact():
            with torch.autocast(self.logits.device.type, enabled=False):
                return F.softmax(self.logits, -1) @ symexp(self.log_bins(self.logits))
        half = self.BINS // 2
        log_probs = F.log_softmax(self.logits, -1)
        # Both sides in the same memory layout: vectorised exp rounds differently at the end of a row.
        above, below = log_probs[..., half + 1 :].contiguous().exp(), log_probs[..., :half].flip(-1).exp()
        return ((above - below) * symexp(self.log_bins(self.logits)[half + 1 :])).sum(-1)

    @property
    def mode(self) -> Tensor:
        return self.mean

    def log_prob(self, x: Tensor) -> Tensor:
        """Return minus the cross-entropy of the two-hot target of x [*]; interpolated in raw units, its mean is x."""
        return self.log_probs(x[..., None])[..., 0]

    def log_probs(self, x: Tensor) -> Tensor:
        """Return `log_prob` of K targets of each distribution, x [*, K]: [*, K].

        The targets share one normalisation and one gather, whose backward pass fills one tensor of zeros.
        """
        values = symexp(self.log_bins(self.logits))
        x = x.clamp(values[0], values[-1])
        upper = torch.searchsorted(values, x.contiguous()).clamp(1, self.BINS - 1)
        low, high = values[upper - 1], values[upper]
        weight = (x - low) / (high - low)
        below, above = F.log_softmax(self.logits, -1).gather(-1, torch.cat([upper - 1, upper], -1)).chunk(2, -1)
        return (1 - weight) * below + weight * above


@dataclass(frozen=True)
class Bernoulli:
    """A binary variable. logits: [*]."""

    logits: Tensor

    def __post_init__(self) -> None:
        _to_float32(self)

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(self.logits)

    @property
    def mode(self) -> Tensor:
        return (self.logits > 0).to(self.logits.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        return -F.binary_cross_entropy_with_logits(self.logits, x, reduction="none")


def kl_to_standard_normal(dist: Normal) -> Tensor:
    """Compute KL(N(mean, std^2) || N(0, I)), [N], in nats. Kingma & Welling 2013, arXiv:1312.6114, appendix B."""
    return dist.kl(Normal(torch.zeros_like(dist.mean), torch.ones_like(dist.std)))
