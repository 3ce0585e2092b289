"""The optimiser steps as torch's own does, without the compiler that torch's loads."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from worldlab.training.adam import Adam

START = """
import sys
from worldlab.cli import main
code = main(sys.argv[1:])
print(code, sorted({"torch", "torch._dynamo"} & sys.modules.keys()), file=sys.stderr)
"""


def walk(kind: type[torch.optim.Adam], fused: bool) -> tuple[list[torch.Tensor], dict]:
    """Make twelve steps; in the middle another optimiser goes on from the saved state. Return the weights and the state."""
    torch.manual_seed(0)
    net = nn.Linear(5, 3)
    net.bias.requires_grad_(False)
    groups = [{"params": [net.weight], "lr": 3e-3}, {"params": [net.bias]}]
    optimizer = kind(groups, 1e-2, betas=(0.8, 0.99), fused=fused)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5)
    for step in range(12):
        optimizer.zero_grad()
        net(torch.randn(7, 5)).square().sum().backward()
        optimizer.step()
        warm_up.step()
        if step == 5:
            saved, optimizer = optimizer.state_dict(), kind(groups, 1.0, fused=fused)
            optimizer.load_state_dict(saved)
    return [net.weight.detach(), net.bias.detach()], optimizer.state_dict()


@pytest.mark.parametrize("fused", [True, False])
def test_its_steps_and_its_state_are_torchs_bit_for_bit(fused):
    weights, state = walk(Adam, fused)
    expected, its_state = walk(torch.optim.Adam, fused)
    assert all(map(torch.equal, weights, expected)) and weights[0].abs().sum() > 0
    assert state["param_groups"] == its_state["param_groups"] and state["state"].keys() == its_state["state"].keys()
    for name, value in state["state"][0].items():
        assert torch.equal(value, its_state["state"][0][name]), name


def test_a_closure_computes_the_loss_with_gradients():
    weight = nn.Parameter(torch.ones(1))
    optimizer = Adam([weight], 0.5)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = weight.square().sum()
        value.backward()
        return value

    assert optimizer.step(loss).item() == 1.0 and weight.item() == pytest.approx(0.5)


def test_a_step_that_is_not_wanted_changes_nothing_and_the_others_are_plain_steps():
    """The host never learns which of them were made."""
    torch.manual_seed(0)
    nets = [nn.Linear(5, 3), nn.Linear(5, 3)]
    nets[1].load_state_dict(nets[0].state_dict())
    plain, conditional = (Adam(net.parameters(), 1e-2, fused=True) for net in nets)
    for wanted in (True, False, True):
        x = torch.randn(7, 5) if wanted else torch.full((7, 5), torch.nan)
        for net in nets:
            net.zero_grad()
            net(x).square().sum().backward()
        if wanted:
            plain.step()
        conditional.step_if(torch.tensor(wanted))
    assert all(map(torch.equal, nets[0].parameters(), nets[1].parameters()))
    for ours, theirs in zip(conditional.state.values(), plain.state.values(), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ("step", "exp_avg", "exp_avg_sq"))
    assert not hasattr(conditional, "found_inf")


@pytest.mark.slow
def test_a_run_loads_no_compiler(tmp_path):
    """A training, with checkpoint and evaluation, in a process of its own."""
    arguments = (
        "train --env CartPole --preset debug --size nano --steps 310 --train.pretrain 1 --train.ratio 0.02 --run run"
    )
    done = subprocess.run(
        [sys.executable, "-c", START, *arguments.split()], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1] == "0 ['torch']", done.stderr
