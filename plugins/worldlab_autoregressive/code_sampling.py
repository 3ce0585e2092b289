"""Fast sampling of autoregressive codes without gradients: fewer and smaller operations per code than `CodeNet.draw`.

A code has few classes, so the cell's product with the embedding of the previous code is a row of a table: one product
of the embeddings with the cell's input weights replaces one per code and row. A code is drawn by an exponential race,
argmax_c p_c / e_c with e_c ~ Exp(1), which is argmax_c log p_c + gumbel_c without its logarithm; the logarithms of all
groups are taken at the end. From the same noise the codes equal those of `CodeNet.draw` up to rounding. 32 groups of
4 classes take 0.6 of the time of `CodeNet.draw` at 64 and at 1,024 rows (128 units, 1 thread).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from worldlab_autoregressive.codes import CodeNet


@torch.no_grad()
def draw_codes(net: CodeNet, context: Tensor, gumbel: Tensor | None) -> tuple[Tensor, Tensor]:
    """Draw codes from q(. | context [N, I]) at temperature 1. gumbel: noise [N, G, C], or None for the most likely codes.

    Returns codes [N, G] long and log q(. | c_<i, x) along them, [N, G, C].
    """
    with torch.autocast(context.device.type, enabled=False):  # the products in place below are not cast
        return _draw(net, context.to(net.embed.dtype), gumbel)


def _draw(net: CodeNet, context: Tensor, gumbel: Tensor | None) -> tuple[Tensor, Tensor]:
    direct, h, bias = net.initialise(context)
    inputs, memory = net.cell.linear.weight.t().split([net.embed.shape[-1], h.shape[-1]])
    table = net.embed @ inputs  # [G - 1, C, 3 U]
    constant = bias @ inputs  # [N, 3 U]
    logits = direct.transpose(0, 1).contiguous()  # [G, N, C]
    race = None if gumbel is None else torch.exp(-gumbel).transpose(0, 1).contiguous()  # [G, N, C]
    classes = logits.shape[-1]
    codes: list[Tensor] = []
    for i, row in enumerate(logits):
        if i:
            gates = F.embedding(codes[-1], table[i - 1]).add_(constant).addmm_(h, memory)
            h = net.cell.gated(gates, h)
        probs = torch.softmax(row.addmm_(h, net.out[i]), -1)
        row.copy_(probs.mul_(1 - net.unimix).add_(net.unimix / classes))
        codes.append((row if race is None else row / race[i]).argmax(-1))
    return torch.stack(codes, 1), logits.log_().transpose(0, 1)


__all__ = ["draw_codes"]
