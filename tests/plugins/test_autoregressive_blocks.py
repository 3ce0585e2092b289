"""The masked network: its pass from block to block gives what one pass over the whole vector gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from worldlab_autoregressive.blocks import BlockNet, BlockPass


def inputs(blocks: int, width: int, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return (
        torch.randn(5, blocks * width, generator=g, dtype=torch.float64, requires_grad=True),
        torch.randn(5, context, generator=g, dtype=torch.float64, requires_grad=True),
    )


# Blocks, width, context, outputs, units, layers. The last has fewer units than blocks, so some blocks reach no unit.
SHAPES = [(4, 1, 3, 2, 16, 1), (3, 4, 6, 5, 20, 2), (6, 2, 1, 1, 31, 3), (1, 3, 2, 4, 8, 2), (6, 1, 2, 3, 4, 2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_pass_from_block_to_block_equals_one_pass_with_its_gradients(shape):
    torch.manual_seed(0)
    blocks, width, context, *_ = shape
    net = BlockNet(*shape).double()
    x, given = inputs(blocks, width, context)
    whole = net(x, given)
    run, parts = BlockPass(net, given), []
    for block in x.unflatten(-1, (blocks, width)).unbind(1):
        parts.append(run.outputs())
        run.append(block)
    in_turn = torch.stack(parts, 1)
    torch.testing.assert_close(in_turn, whole, rtol=1e-12, atol=1e-12)
    if blocks == 1:
        return  # no output depends on x
    weight = torch.randn(whole.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    wanted = [x, given, *net.parameters()]
    grads: Any = [torch.autograd.grad((out * weight).sum(), wanted, allow_unused=True) for out in (whole, in_turn)]
    for expected, found in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_the_pass_computes_each_unit_once():
    """Multiplications of all blocks in turn: at most those of one pass, where a pass for each block takes blocks times."""
    from torch.utils.flop_counter import FlopCounterMode

    net = BlockNet(16, 1, 8, 3, 64, 2)
    x, given = torch.randn(32, 16), torch.randn(32, 8)
    with torch.no_grad(), FlopCounterMode(display=False) as whole:
        net(x, given)
    with torch.no_grad(), FlopCounterMode(display=False) as in_turn:
        run = BlockPass(net, given)
        for block in x.split(1, 1):
            run.outputs()
            run.append(block)
    assert 0 < in_turn.get_total_flops() <= whole.get_total_flops()
