"""Distributions over plans: a search samples candidates from them and fits them to the best candidates.

Letters: N states, S candidates, H steps, A entries of an encoded action. Both kinds have the same four methods, so a
planner supports continuous and discrete actions alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worldlab.distributions import normal_like
from worldlab.interfaces import State
from worldlab.specs import ActionSpec


def coloured_noise(shape: tuple[int, ...], beta: float, generator: torch.Generator) -> Tensor:
    """Draw standard normal noise over [*, H, A] whose power over the H steps falls as 1 / frequency^beta.

    0 is white noise. Temporally correlated actions reach further: Pinneri et al. 2020 (iCEM), arXiv:2008.06389, section
    3.1.
    """
    white = normal_like(torch.empty(shape, device=generator.device), generator)
    horizon = shape[-2]
    if beta == 0 or horizon < 3:
        return white
    spectrum = torch.fft.rfft(white, dim=-2)
    frequency = torch.fft.rfftfreq(horizon, device=white.device)
    frequency[0] = frequency[1]  # the mean over time gets the power of the lowest frequency
    scale = frequency ** (-beta / 2)
    # Parseval: each frequency between the first and the last carries two of the H shares of variance.
    count = torch.full_like(scale, 2.0)
    count[0] = 1.0
    if horizon % 2 == 0:
        count[-1] = 1.0
    scale = scale / ((count * scale.square()).sum() / horizon).sqrt()
    return torch.fft.irfft(spectrum * scale[:, None], n=horizon, dim=-2)


@dataclass(frozen=True)
class GaussianPlans:
    """Independent Gaussians over continuous actions, clipped to [-1, 1]. mean, std: [N, H, A]."""

    mean: Tensor
    std: Tensor

    @classmethod
    def initial(cls, n: int, horizon: int, action: ActionSpec, device: torch.device) -> GaussianPlans:
        mean = torch.zeros(n, horizon, action.dim, device=device)
        return cls(mean, torch.ones_like(mean))

    def sample(self, noise: Tensor) -> Tensor:
        """Return candidates [N, S, H, A] from standard normal noise of that shape."""
        return (self.mean[:, None] + self.std[:, None] * noise).clamp(-1, 1)

    def fit(self, plans: Tensor, weight: Tensor, keep: float, floor: float) -> GaussianPlans:
        """Fit to the weighted moments of plans [N, K, H, A], weight [N, K] summing to 1; `keep` is the share of the old
        moments.
        """
        w = weight[..., None, None]
        mean = (w * plans).sum(1)
        std = (w * (plans - mean[:, None]).square()).sum(1).sqrt()
        mean, std = keep * self.mean + (1 - keep) * mean, keep * self.std + (1 - keep) * std
        return GaussianPlans(mean, std.clamp(min=floor))

    def shift(self) -> GaussianPlans:
        """Return the plan one step later: the first step is dropped, the last is repeated, and all stds are reset to
        1.
        """
        mean = torch.cat([self.mean[:, 1:], self.mean[:, -1:]], 1)
        return GaussianPlans(mean, torch.ones_like(self.std))

    @property
    def best(self) -> Tensor:
        """The most likely plan [N, H, A]."""
        return self.mean


@dataclass(frozen=True)
class CategoricalPlans:
    """Independent categoricals over discrete actions. logits: [N, H, A], normalised."""

    logits: Tensor

    @classmethod
    def initial(cls, n: int, horizon: int, action: ActionSpec, device: torch.device) -> CategoricalPlans:
        return cls(torch.log_softmax(torch.zeros(n, horizon, action.dim, device=device), -1))

    def sample(self, noise: Tensor) -> Tensor:
        """Return one-hot candidates [N, S, H, A] from standard normal noise of that shape: Gumbel-max on its
        quantiles.
        """
        uniform = torch.special.ndtr(noise).clamp(1e-6, 1 - 1e-6)
        chosen = (self.logits[:, None] - torch.log(-torch.log(uniform))).argmax(-1)
        return F.one_hot(chosen, self.logits.shape[-1]).to(self.logits.dtype)

    def fit(self, plans: Tensor, weight: Tensor, keep: float, floor: float) -> CategoricalPlans:
        """Fit to the weighted frequencies of plans [N, K, H, A]; `floor` is the share of a uniform."""
        share = keep * self.logits.exp() + (1 - keep) * (weight[..., None, None] * plans).sum(1)
        share = (1 - floor) * share + floor / share.shape[-1]
        return CategoricalPlans(torch.log(share.clamp(min=1e-8)))

    def shift(self) -> CategoricalPlans:
        """Return the plan one step later, mixed half with a uniform, so that the next search can choose other
        actions.
        """
        share = torch.cat([self.logits[:, 1:], self.logits[:, -1:]], 1).exp()
        return CategoricalPlans(torch.log(0.5 * share + 0.5 / share.shape[-1]))

    @property
    def best(self) -> Tensor:
        """The most likely plan [N, H, A], one-hot."""
        return F.one_hot(self.logits.argmax(-1), self.logits.shape[-1]).to(self.logits.dtype)


Plans = GaussianPlans | CategoricalPlans


def initial_plans(n: int, horizon: int, action: ActionSpec, device: torch.device) -> Plans:
    """Return initial plans without preferences."""
    kind = CategoricalPlans if action.kind == "discrete" else GaussianPlans
    return kind.initial(n, horizon, action, device)


def planning_state(plans: Plans, elites: Tensor) -> State:
    """Build a planner's state: its plans and the candidates [N, K, H, A] to evaluate again."""
    saved = {"logits": plans.logits} if isinstance(plans, CategoricalPlans) else {"mean": plans.mean, "std": plans.std}
    return {"plans": saved, "elites": elites}


def restore_plans(state: State) -> Plans:
    """Return the plans in a planner's state."""
    saved = state["plans"]
    return CategoricalPlans(saved["logits"]) if "logits" in saved else GaussianPlans(saved["mean"], saved["std"])
