"""Shared by agents that learn a policy: the policy network, bounded actions, and the scale of returns."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from worldlab.distributions import Normal, OneHot, at_least_float32
from worldlab.nn import mlp
from worldlab.specs import Specs


@final
class _Project(torch.autograd.Function):
    """Projects x onto [low, high]. A gradient at or beyond a bound passes only if it leads back inside.

    So x stays near the bounds, and one step brings it back. Behind a tanh, a mean that was driven to a bound stayed there
    whatever came later: on CarRacing the brake's was tanh(-5.3), where a gradient is multiplied by 1e-4 (docs/log.md).
    Projected gradient; Hausknecht & Stone 2015, arXiv:1511.04143, section 5, compare it with others.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        ctx.save_for_backward(x, low, high)
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,), (x, low, high) = gradients, ctx.saved_tensors
        outward = ((x <= low) & (gradient > 0)) | ((x >= high) & (gradient < 0))
        return gradient.masked_fill(outward, 0), None, None


class Actor(nn.Module):
    """A policy that maps features [*, F] to a distribution over encoded actions: a Normal with bounded mean and std, or a
    OneHot.
    """

    bounds: Tensor

    def __init__(self, specs: Specs, units: int, layers: int, min_std: float, unimix: float):
        super().__init__()
        action = specs.action
        self.discrete = action.kind == "discrete"
        self.min_std, self.unimix = min_std, unimix
        outputs = action.dim if self.discrete else 2 * action.dim
        self.net = mlp(specs.feature_dim, units, layers, outputs)
        with torch.no_grad():  # start near uniform, without a preferred action
            self.net[-1].weight.mul_(0.01)  # type: ignore[operator,union-attr]
            self.net[-1].bias.zero_()  # type: ignore[operator,union-attr]
        if not self.discrete:  # stored: a checkpoint of a policy with a tanh mean must not load
            self.register_buffer("bounds", torch.tensor([-1.0, 1.0]))

    def forward(self, features: Tensor) -> Normal | OneHot:
        out = at_least_float32(self.net(features))
        if self.discrete:
            return OneHot.with_unimix(out[..., None, :], self.unimix)
        mean, raw = out.chunk(2, -1)
        return Normal(_Project.apply(mean, *self.bounds), (1 - self.min_std) * torch.sigmoid(raw + 2.0) + self.min_std)


def clip_action(action: Tensor) -> Tensor:
    """Clip a continuous action to [-1, 1], as the environment will, with the gradient of that.

    So the pathwise gradient is that of the expected return: a std shrinks where noise costs, also at a bound. Dreamer's
    truncated normal (arXiv:2010.02193, its code) passes the gradient of a clipped sample straight through, for a mean behind
    a tanh: the std at a bound does not shrink, and a car brakes by its noise (docs/log.md). The mean always has a gradient,
    since half of the samples around a mean at a bound lie inside.
    """
    return action.clamp(-1, 1)


def clipped_log_prob(policy: Normal, action: Tensor) -> Tensor:
    """Return the log-probability [*] of an action [*, A] clipped by `clip_action`: a density inside, a mass at the
    bounds.

    The density alone would bias the score function wherever a wide policy is clipped.
    """
    inside = Normal(policy.mean[..., None], policy.std[..., None]).log_prob(action[..., None])
    beyond = torch.special.log_ndtr((action * policy.mean - 1) / policy.std)  # P(sign(a) x > 1), for a = -1 or 1
    return torch.where(action.abs() >= 1, beyond, inside).sum(-1)


def log_prob(policy: Normal | OneHot, action: Tensor) -> Tensor:
    """Return the log-probability [*] of encoded actions [*, A], with the mass at the bounds of continuous ones."""
    return clipped_log_prob(policy, action) if isinstance(policy, Normal) else policy.log_prob(action)


class ReturnRange(nn.Module):
    """The scale of returns: a moving average of the range from their 5th to 95th percentile, at least 1. Non-finite
    returns are ignored: the trainer skips such an update, and the average must not contain it.

    Dividing by it makes one entropy weight suit all tasks. The minimum of 1 keeps sparse rewards from being amplified
    (arXiv:2301.04104, eq. 11).
    """

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("started", torch.zeros(()))

    @torch.no_grad()
    def update(self, returns: Tensor) -> Tensor:
        """Update with returns of any shape and return the scale."""
        ordered, finite = _sort_finite(returns)
        any_finite, started = finite > 0, self.get_buffer("started")
        rate = torch.where(started > 0, 0.01, 1.0)
        for bound, share in ((self.low, 0.05), (self.high, 0.95)):
            bound.copy_(torch.where(any_finite, bound.lerp(_quantile(ordered, finite, share), rate), bound))
        started.copy_(torch.maximum(started, any_finite))
        return (self.high - self.low).clamp(min=1.0)


def _sort_finite(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the finite values of x in ascending order, then the others as infinity: float32 [N]; and how many are finite."""
    finite = x.isfinite()
    return torch.where(finite, x.float(), torch.inf).flatten().sort().values, finite.sum()


def _quantile(ordered: Tensor, count: Tensor, share: float) -> Tensor:
    """Return a quantile of the first `count` of ascending values [N]: `torch.quantile` without a shape that depends on data."""
    rank = share * (count - 1).clamp(min=0).float()
    below, above = ordered.gather(0, torch.stack([rank.floor(), rank.ceil()]).long())
    return below.lerp(above, rank - rank.floor())


def sample_action(actor: Actor, features: Tensor, generator: torch.Generator) -> Tensor:
    """Sample actions [N, A] from a policy at features [N, F], within bounds, differentiable with respect to the
    policy.
    """
    action = actor(features).sample(generator)
    return action if actor.discrete else clip_action(action)
