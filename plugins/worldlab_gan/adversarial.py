"""The adversarial game that all three parts share: losses, gradient penalties, and the terms of a critic step.

The critic compares pairs: a real and a generated sample under one condition. Two properties stabilise training. Pairs
make dropping a mode costly, and zero-centred gradient penalties at real and at generated samples let the game converge:
Huang et al. 2025 (R3GAN), arXiv:2501.05441.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldlab import tree
from worldlab.distributions import at_least_float32
from worldlab.interfaces import Player
from worldlab_gan.configs import Game


class Critic(Protocol):
    """A critic D(x, c) = head(embed(x), c), [N], high where x looks real. x: a tensor or a tree of tensors, [N, ...];
    c: [N, C].

    The split into two steps lets one embedding be scored under several conditions.
    """

    def embed(self, x: Any, /) -> Tensor: ...

    def head(self, embedding: Tensor, condition: Tensor, /) -> Tensor: ...


def critic_loss(game: Game, real: Tensor, fake: Tensor) -> Tensor:
    """Return the loss of the critic for each pair of its values. [N], [N] -> [N].

    relativistic: softplus(fake - real), arXiv:2501.05441, after Jolicoeur-Martineau 2018, arXiv:1807.00734.
    non_saturating: the cross-entropy of Goodfellow et al. 2014, arXiv:1406.2661. hinge: Lim & Ye 2017,
    arXiv:1705.02894; spectral is hinge, too. wasserstein: fake - real, Arjovsky et al. 2017, arXiv:1701.07875, eq. 2.
    """
    if game.loss == "wasserstein":
        return fake - real
    if game.loss == "relativistic":
        return F.softplus(fake - real)
    if game.loss == "non_saturating":
        return F.softplus(-real) + F.softplus(fake)
    return F.relu(1 - real) + F.relu(1 + fake)


def matching_loss(game: Game, right: Tensor, wrong: Tensor) -> Tensor:
    """Return the loss of a head that tells right from wrong pairs of real data. [N], [N] -> [N].

    It is the game's own, but for wasserstein, which is unbounded where no penalty holds the slope: there relativistic.
    """
    return critic_loss(Game("relativistic", 0.0, 0.0) if game.loss == "wasserstein" else game, right, wrong)


def generator_loss(game: Game, real: Tensor, fake: Tensor) -> Tensor:
    """Return the loss of the generator, low where generated samples score as real. [*], [*] -> [*], broadcast."""
    if game.loss == "relativistic":
        return F.softplus(real - fake)
    return F.softplus(-fake) if game.loss == "non_saturating" else -fake


def game_players(main: Iterable[nn.Parameter], critic: Iterable[nn.Parameter]) -> dict[str, Player]:
    """Return both players. The critic's Adam has beta1 = 0: Karras et al. 2018, arXiv:1812.04948, appendix C."""
    return {"main": Player(list(main)), "critic": Player(list(critic), betas=(0.0, 0.999))}


def critic_weights(game: Game) -> dict[str, float]:
    """Return the weights of the terms of `critic_terms`: the game and its penalties. A weight of 0 drops a penalty."""
    return {"critic": 1.0, "r1": 0.5 * game.r1, "r2": 0.5 * game.r2, "gp": game.gp}


@torch.no_grad()
def limit_slopes(game: Game, *critics: nn.Module | None) -> None:
    """Divide the weights of each layer by their spectral norm where it exceeds 1, if the game is spectral.

    Miyato et al. 2018 (SNGAN), arXiv:1802.05957, divide by an estimate of it in every pass. Projecting the weights after
    each step, as here, keeps them exactly in range: Gouk et al. 2018, arXiv:1804.04368. The norm of a convolution is that
    of its kernel as a matrix, as in both papers; as an operator it can be larger.
    """
    if game.loss != "spectral":
        return
    for critic in critics:
        for layer in critic.modules() if critic is not None else ():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                norm = torch.linalg.matrix_norm(layer.weight.flatten(1).float(), 2)
                layer.weight.div_(norm.clamp(min=1.0).to(layer.weight.dtype))


@dataclass(frozen=True)
class CriticOutput:
    """What a critic computes at x: its value [N], the embedding of x [N, P], and the squared norm of its gradient at x
    [N].
    """

    value: Tensor
    embedding: Tensor
    slope: Tensor


def evaluate_critic(critic: Critic, x: Any, condition: Tensor, with_slope: bool = True) -> CriticOutput:
    """Evaluate the critic at a detached x (a tree), differentiable in the critic's weights, in float32 at least.

    Mescheder et al. 2018, arXiv:1801.04406: the slope at real samples is the penalty R1, at generated samples R2. The
    slope is 0 unless `with_slope`.
    """
    grad_enabled = torch.is_grad_enabled()
    with torch.enable_grad(), torch.autocast(condition.device.type, enabled=False):
        # A squared gradient multiplies many small numbers, which bfloat16 would round to 0.
        x = tree.tree_map(lambda leaf: at_least_float32(leaf.detach()).requires_grad_(with_slope), x)
        embedding = critic.embed(x)
        value = critic.head(embedding, at_least_float32(condition.detach()))
        slope = torch.zeros_like(value)
        if with_slope:
            gradients = torch.autograd.grad(
                value.sum(), tree.leaves(x), create_graph=grad_enabled, retain_graph=grad_enabled
            )
            slope = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0)
    output = CriticOutput(value, embedding, slope)
    return output if grad_enabled else tree.detach(output)


@dataclass(frozen=True)
class CriticOutputs:
    """A critic's outputs on pairs of real and generated samples under one condition."""

    real: CriticOutput
    fake: CriticOutput
    between: CriticOutput | None = None
    """At a random point of the line between both, if the game has a penalty there."""


def evaluate_pair(
    game: Game, critic: Critic, real: Any, fake: Any, condition: Tensor, generator: torch.Generator
) -> CriticOutputs:
    """Evaluate the critic on both samples, with the slopes that the game penalises."""
    between = None
    if game.gp:
        share = torch.rand(len(condition), generator=generator, device=condition.device)
        between = evaluate_critic(critic, interpolate(real, fake, share), condition)
    return CriticOutputs(
        evaluate_critic(critic, real, condition, game.r1 > 0),
        evaluate_critic(critic, fake, condition, game.r2 > 0),
        between,
    )


def interpolate(real: Any, fake: Any, share: Tensor) -> Any:
    """Return real + share (fake - real) for each row of two trees of the same structure; share: [N]."""

    def mix(a: Tensor, b: Tensor) -> Tensor:
        return a + share.view(-1, *[1] * (a.dim() - 1)) * (b - a)  # not lerp: under autocast the types differ

    return tree.tree_map(mix, real, fake)


def critic_terms(game: Game, outputs: CriticOutputs) -> dict[str, Tensor]:
    """Return the critic's loss terms, [N] each, unweighted: the game, and those penalties whose weight is not 0.

    gp: (|gradient| - 1)^2 between the samples, Gulrajani et al. 2017, arXiv:1704.00028, eq. 3.
    """
    out = {"critic": critic_loss(game, outputs.real.value, outputs.fake.value)}
    if game.r1:
        out["r1"] = outputs.real.slope
    if game.r2:
        out["r2"] = outputs.fake.slope
    if outputs.between is not None:
        out["gp"] = ((outputs.between.slope + 1e-12).sqrt() - 1).square()
    return out


def critic_metrics(critic: Critic, real: Any, fake: Any, condition: Tensor) -> dict[str, Tensor]:
    """Return `critic_gap`, the mean value of real minus generated samples, and `critic_slope`, the root mean square
    gradient.
    """
    on_real, on_fake = evaluate_critic(critic, real, condition), evaluate_critic(critic, fake, condition)
    return {
        "critic_gap": (on_real.value - on_fake.value).mean(),
        "critic_slope": (0.5 * (on_real.slope + on_fake.slope)).mean().sqrt(),
    }
