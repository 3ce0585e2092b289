"""An autoregressive distribution over categorical codes: q(c | x) = prod_i q(c_i | c_<i, x).

The encoder's posterior and the dynamics' prior over categorical latents both use this network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from worldlab.distributions import OneHot, exact, one_hot
from worldlab.nn import GRUCell
from worldlab_autoregressive.code_sampling import draw_codes


class CodeNet(nn.Module):
    """Conditionals of groups x classes given a context [N, I]; each probability is at least unimix / classes.

        logits_i = A_i context + B_i h_i,  h_0 = tanh(C context),  h_i = GRU(embed_i(c_{i-1}) + D context, h_{i-1})

    A alone is the usual factorised head; B h, which starts at 0, adds the dependence on the previous codes.
    """

    def __init__(self, inputs: int, groups: int, classes: int, units: int, unimix: float):
        super().__init__()
        self.shape = (groups, classes)
        self.unimix = unimix
        self.direct = nn.Linear(inputs, groups * classes)
        self.start = nn.Linear(inputs, 2 * units)
        bound = 1 / math.sqrt(units)
        # An embedding per group and class: class 3 of one group is unrelated to class 3 of another.
        self.embed = nn.Parameter(torch.empty(max(groups - 1, 1), classes, units).uniform_(-bound, bound))
        self.out = nn.Parameter(torch.zeros(groups, units, classes))
        self.cell = GRUCell(units, units)

    def conditionals(self, context: Tensor, codes: Tensor, temperature: float = 1.0) -> Tensor:
        """Return log q(. | c_<i, x) of given codes, all groups in one pass. context [N, I], codes [N, G, C] -> [N, G,
        C].
        """
        direct, h, bias = self.initialise(context)
        inputs = torch.einsum("ngc,gcu->ngu", codes[:, :-1], self.embed[: self.shape[0] - 1]) + bias[:, None]
        hidden = [h]
        for i in range(self.shape[0] - 1):
            hidden.append(self.cell(inputs[:, i], hidden[-1]))
        corrected = direct + torch.einsum("ngu,guc->ngc", torch.stack(hidden, 1), self.out)
        return self._normalise(corrected, temperature)

    def draw(self, context: Tensor, gumbel: Tensor | None, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Draw codes one after another. gumbel: noise [N, G, C], or None for the most likely code of each group in
        turn.

        Returns codes [N, G] long and log q(. | c_<i, x) along them, [N, G, C].
        """
        if temperature == 1 and not torch.is_grad_enabled() and not exact():
            return draw_codes(self, context, gumbel)
        direct, h, bias = self.initialise(context)
        codes, rows = [], []
        for i in range(self.shape[0]):
            if i:
                h = self.cell(self.embed[i - 1][codes[-1]] + bias, h)
            row = self._normalise(direct[:, i] + h @ self.out[i], temperature)
            rows.append(row)
            codes.append((row if gumbel is None else row + gumbel[:, i]).argmax(-1))
        return torch.stack(codes, 1), torch.stack(rows, 1)

    def initialise(self, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return A context [N, G, C], h_0 [N, U] and D context [N, U]."""
        h, bias = self.start(context).chunk(2, -1)
        return self.direct(context).unflatten(-1, self.shape), torch.tanh(h), bias

    def _normalise(self, logits: Tensor, temperature: float) -> Tensor:
        rows = OneHot.with_unimix(logits, self.unimix)
        return (rows if temperature == 1 else rows.tempered(temperature)).logits


def gumbel_noise(n: int, shape: tuple[int, int], reference: Tensor, generator: torch.Generator) -> Tensor:
    """Draw standard Gumbel noise [n, *shape], of the reference's dtype and device."""
    uniform = torch.empty(n, *shape, dtype=reference.dtype, device=reference.device).uniform_(generator=generator)
    return -torch.log(-torch.log(uniform.clamp(1e-10, 1 - 1e-7)))


def straight_through(codes: Tensor, log_probs: Tensor) -> Tensor:
    """Return flat one-hots [N, G * C] whose gradient is that of the conditionals' probabilities.

    The gradient is biased: it differentiates each code's own conditional with all other codes held fixed.
    """
    hot = one_hot(codes, log_probs.shape[-1], log_probs.dtype)
    probs = log_probs.exp()
    return (hot + (probs - probs.detach())).flatten(-2)  # with these brackets the value is exactly one-hot


@dataclass(frozen=True)
class SampledCodes:
    """One sample of an autoregressive q, with the conditionals along it. log_probs [*, G, C], codes [*, G] long."""

    log_probs: Tensor
    codes: Tensor

    def log_q(self) -> Tensor:
        """Return log q of these codes, [*] in nats."""
        return self._chosen().sum(-1)

    def entropy(self) -> Tensor:
        """Estimate H(q) from this sample, [*] in nats: the sum of the conditionals' entropies (Rao-Blackwell).

        Its mean is H(q), and the mean of its gradient is that of H(q). The entropy of a later group depends on the
        codes before it, which no pathwise gradient includes: a score-function term of value 0 adds this part, with the
        entropy so far as its baseline (REINFORCE with reward to go, Williams 1992).
        """
        groups = self.log_probs.shape[-2]
        each = -(self.log_probs.exp() * self.log_probs).sum(-1)  # [*, G]
        remaining = each.detach().flip(-1).cumsum(-1).flip(-1) - each.detach()
        place = torch.arange(groups, device=each.device, dtype=each.dtype)
        expected = each.detach().cumsum(-1) / (place + 1) * (groups - 1 - place)
        score = self._chosen()
        return (each + (remaining - expected) * (score - score.detach())).sum(-1)

    def _chosen(self) -> Tensor:
        return self.log_probs.gather(-1, self.codes[..., None])[..., 0]


@dataclass(frozen=True)
class CodeDistribution:
    """A distribution p(c | context) over flat one-hots [N, G * C]. context [N, I]."""

    context: Tensor
    net: CodeNet
    temperature: float = 1.0

    def tempered(self, temperature: float) -> CodeDistribution:
        """Divide the logits of every conditional by the temperature."""
        return replace(self, temperature=self.temperature * temperature)

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw straight-through one-hots, group by group."""
        noise = gumbel_noise(len(self.context), self.net.shape, self.context, generator)
        return straight_through(*self.net.draw(self.context, noise, self.temperature))

    @property
    def mode(self) -> Tensor:
        """Return the most likely code of each group given the previous ones (greedy, not always the most likely
        sequence).
        """
        codes, log_probs = self.net.draw(self.context, None, self.temperature)
        return one_hot(codes, log_probs.shape[-1], log_probs.dtype).flatten(-2)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p of one-hots x [N, G * C], [N] in nats; exact, in one pass. Gradients reach a straight-through
        x.
        """
        hot = x.unflatten(-1, self.net.shape)
        return (hot * self.net.conditionals(self.context, hot, self.temperature)).sum((-2, -1))
