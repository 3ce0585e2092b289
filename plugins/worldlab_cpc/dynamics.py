"""The contrastive dynamics: a recurrent memory whose prediction (Gaussian, or codes) is trained as a critic.

InfoNCE alone learns a density ratio, which cannot be sampled, so it cannot imagine. Two choices make it a density: the
score is a normalised log-density, and the classification task is "which memory predicted this z?", whose only Gaussian
optimum is p(z | h) itself (README.md derives it).
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from worldlab import tree
from worldlab.distributions import Normal, OneHot, unit_softplus
from worldlab.interfaces import ActionSpec, Context, Dynamics, LatentSpec, Specs, State
from worldlab.nn import RecurrentMemory, mlp
from worldlab_cpc.configs import UNIMIX, CPCDynamicsConfig
from worldlab_cpc.future import FutureCritic
from worldlab_cpc.infonce import InfoNCEResult, infonce_loss, masked_mean

MARGINAL_RATE = 0.01
"""Rate of the running moments of z, the baseline of `score_latent`."""


@final
class CPCDynamics(Dynamics):
    """A GRU memory with p(z | h), Gaussian or independent codes, trained by InfoNCE over the batch at equal time, and
    k-step heads.

    One-step critic: Nguyen et al. 2021 (TPC), arXiv:2106.07156. k-step heads: worldlab_cpc.future.
    """

    Config = CPCDynamicsConfig
    prior_kind = "critic"
    reparameterised = True
    marginal_mean: Tensor
    marginal_var: Tensor
    marginal_count: Tensor

    def __init__(self, config: CPCDynamicsConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.config = config
        self.loss_weights = {"infonce": 1.0, "nll": config.nll_scale, "future": config.horizon_scale}
        self.latent = specs.latent
        dim, action = specs.latent.dim, specs.action.dim
        self.recurrence = RecurrentMemory(dim + action, config.units, config.memory, config.layers)
        outputs = dim if specs.latent.kind == "categorical" else 2 * dim
        self.head = mlp(config.memory, config.units, config.layers, outputs)
        with torch.no_grad():
            # Nearly equal predictions for all memories: the critic starts uninformed, with a loss of about log K.
            self.head[-1].weight.mul_(0.1)  # type: ignore[union-attr]
        self.future: FutureCritic | None = None
        if config.horizon:
            weights = dict.fromkeys(range(1, config.horizon + 1), 1 / config.horizon)
            sizes = (config.units, config.projection, config.temperature)
            self.future = FutureCritic(config.memory + dim, dim, action, weights, *sizes)
        self.register_buffer("marginal_mean", torch.zeros(dim))
        self.register_buffer("marginal_var", torch.ones(dim))
        self.register_buffer("marginal_count", torch.zeros(()))

    @classmethod
    def memory_size(cls, config: CPCDynamicsConfig, latent: LatentSpec, action: ActionSpec) -> int:
        return config.memory

    def initial(self, n: int) -> State:
        return self.recurrence.initial(n)

    def advance(self, state: State, z: Tensor, action: Tensor) -> State:
        return self.recurrence.step(state, z, action)

    def memory(self, state: State) -> Tensor:
        return state["h"]

    def predict(self, memory: Tensor) -> Normal | OneHot:
        """Return p(z | h) for memory [N, H]: a Normal over z [N, D] with std at least `min_std`, or a OneHot over
        codes.
        """
        out = self.head(memory)
        if self.latent.kind == "categorical":
            return OneHot.with_unimix(out.unflatten(-1, (self.latent.groups, self.latent.classes)), UNIMIX)
        mean, raw = out.chunk(2, -1)
        return Normal(mean, unit_softplus(raw) + self.config.min_std)

    def score_latent(self, memory: Tensor, z: Tensor) -> Tensor:
        """Return log p(z | h) - log p(z), [N] in nats: the quantity that InfoNCE estimates, without a batch of
        negatives.

        memory [N, H], z [N, D]. p(z) is a Gaussian with the running moments of z, or the running frequencies of its
        codes. Without that baseline a collapsed latent would score best; with it, shrinking z gains nothing (the
        expected derivative with respect to its scale is 0).
        """
        return self.predict(memory).log_prob(z) - self._marginal().log_prob(z)

    def _marginal(self) -> Normal | OneHot:
        if self.latent.kind == "categorical":
            shares = self.marginal_mean.unflatten(-1, (self.latent.groups, self.latent.classes))
            return OneHot.with_unimix(shares.clamp(min=1e-6).log(), UNIMIX)
        return Normal(self.marginal_mean, self.marginal_var.sqrt())

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        """Return `infonce`, `nll` and, with a horizon, `future`, each [B, T] in nats; 0 where no valid pair exists.

        Only a deterministic encoder gets gradients through z, as in TPC; the matching rule trains any other posterior.
        """
        if player != "main":
            return {}
        assert isinstance(ctx.prior, Normal | OneHot)
        stopped = ctx.latent.z.detach()
        z = ctx.latent.z if ctx.z_trains_through_dynamics else stopped
        if self.training and torch.is_grad_enabled():
            self._update_marginal(stopped, ctx.batch.mask)
        nll = -ctx.prior.log_prob(stopped.flatten(0, 1)).view_as(ctx.batch.mask)
        out = {
            "infonce": one_step_infonce(ctx.prior, z, ctx.batch.mask).loss * ctx.batch.mask,
            "nll": nll,
        }
        if self.future is not None:
            out["future"] = self.future.loss(torch.cat([ctx.memory, z], -1), z, ctx.batch)
        return out

    def metrics(self, ctx: Context) -> dict[str, Tensor]:
        """Return accuracy, bound and log K of the one-step InfoNCE, and `action_gap`, the information of the true
        actions in nats.
        """
        assert isinstance(ctx.prior, Normal | OneHot)
        mask = ctx.batch.mask
        contrast = one_step_infonce(ctx.prior, ctx.latent.z, mask)
        out = {
            "infonce_accuracy": masked_mean(contrast.correct, mask),
            "infonce_bound": masked_mean(contrast.bound, mask),
            "infonce_log_k": masked_mean(contrast.log_k, mask),
        }
        if len(mask) > 1 and mask.shape[1] > 1:
            out["action_gap"] = self._action_gap(ctx, ctx.prior)
        return out

    def _action_gap(self, ctx: Context, prior: Normal | OneHot) -> Tensor:
        """Return the mean fall of log p(z | h) when the last action is taken from another row; 0 if the dynamics
        ignores actions.
        """
        batch = ctx.batch
        before = {"h": ctx.memory[:, :-1].flatten(0, 1)}
        z, action = ctx.latent.z, batch.prev_action.roll(1, 0)
        state = self.advance(before, z[:, :-1].flatten(0, 1), action[:, 1:].flatten(0, 1))
        shuffled = self.predict(self.memory(state)).log_prob(z[:, 1:].flatten(0, 1)).view_as(batch.mask[:, 1:])
        true = prior.log_prob(z.flatten(0, 1)).view_as(batch.mask)[:, 1:]
        # The first step of an episode has no previous action, so neither this row nor the other row may start one.
        valid = batch.mask[:, 1:] * ~batch.is_first[:, 1:] * ~batch.is_first.roll(1, 0)[:, 1:]
        return masked_mean(true - shuffled, valid)

    @torch.no_grad()
    def _update_marginal(self, z: Tensor, mask: Tensor) -> None:
        """Move the running mean and variance of z [B, T, D] towards the batch's; the first batch sets them. A batch
        with non-finite moments is skipped, because running averages would never recover.
        """
        weight = (mask / mask.sum().clamp(min=1))[..., None]
        mean = (z * weight).sum((0, 1))
        var = ((z - mean).square() * weight).sum((0, 1)).clamp(min=1e-6)
        finite = mean.isfinite().all() & var.isfinite().all()
        self.marginal_count += finite
        rate = (1 / self.marginal_count.clamp(min=1)).clamp(min=MARGINAL_RATE)
        self.marginal_mean.copy_(torch.where(finite, self.marginal_mean.lerp(mean, rate), self.marginal_mean))
        self.marginal_var.copy_(torch.where(finite, self.marginal_var.lerp(var, rate), self.marginal_var))


def one_step_infonce(prior: Normal | OneHot, z: Tensor, mask: Tensor) -> InfoNCEResult:
    """Classify which memory predicted each z: z at (b, t) against the predictions of all rows at t. Leaves [B, T].

    prior: over B * T rows; z [B, T, D]; mask [B, T]. Negatives are taken at the same time across the batch, so that no
    frame competes with near copies of itself.
    """
    batch = len(z)
    by_time = tree.tree_map(lambda leaf: leaf.unflatten(0, (batch, -1)).transpose(0, 1)[:, None], prior)
    scores = by_time.log_prob(z.transpose(0, 1)[:, :, None])  # [T, B of z, B of memory]
    contrast = infonce_loss(scores, (mask > 0).T[:, None, :])
    return InfoNCEResult(contrast.loss.T, contrast.log_k.T, contrast.correct.T)
