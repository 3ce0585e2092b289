"""The dynamics `wavenet`: what the memory sees, and that one pass over time equals its steps."""

from __future__ import annotations

import pytest
import torch
from autoregressive_toys import codes_spec, gen, make_specs, resets, scan, sequence
from config_kit import configured
from worldlab_autoregressive.configs import WaveNetDynamicsConfig
from worldlab_autoregressive.wavenet import WaveNetDynamics

from worldlab import tree
from worldlab.specs import LatentSpec


def build(latent: LatentSpec | None = None, **settings) -> WaveNetDynamics:
    torch.manual_seed(0)
    config = configured(WaveNetDynamicsConfig, **{"memory": 8, "layers": 3, "units": 16, "code_units": 8, **settings})
    return WaveNetDynamics(config, make_specs(latent=latent)).double()


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_the_memory_sees_exactly_the_steps_of_the_formula(layers):
    """The support of the Jacobian is 1 + sum (k - 1) d steps, with kernels of k = 2 and dilations d = 1, 2, 4, ..."""
    dynamics, length = build(layers=layers), 20
    z, action = sequence(make_specs(), 1, length)
    z.requires_grad_()
    run = dynamics.advance_sequence(dynamics.initial(1), z, action, resets(1, length))
    weight = torch.randn(8, generator=gen(1), dtype=torch.float64)
    (grad,) = torch.autograd.grad((run.memory[0, -1] * weight).sum(), z)
    reach = 1 + sum(2**i for i in range(layers))
    assert reach == dynamics.net.reach == 2**layers
    assert torch.equal((grad[0] != 0).any(-1), torch.arange(length) >= length - reach)


@pytest.mark.parametrize("latent", [LatentSpec(4), codes_spec(2, 3)], ids=["real", "codes"])
def test_one_pass_equals_the_steps_also_at_resets_and_from_a_warm_state(latent):
    dynamics, specs = build(latent), make_specs(latent=latent)
    warm_z, warm_action = sequence(specs, 3, 7, seed=5)
    state = scan(dynamics, dynamics.initial(3), warm_z, warm_action, resets(3, 7))[-1]
    z, action = sequence(specs, 3, 12)
    first = resets(3, 12, (0, 0), (1, 3), (1, 4), (2, 11))
    states = scan(dynamics, state, z, action, first)
    run = dynamics.advance_sequence(state, z, action, first)
    for time, expected in enumerate(states):
        found = run.at(torch.arange(3), torch.full((3,), time))
        for a, b in zip(tree.leaves(found), tree.leaves(expected), strict=True):
            torch.testing.assert_close(a, b)
        torch.testing.assert_close(run.memory[:, time], expected["h"])
    for a, b in zip(tree.leaves(run.final), tree.leaves(states[-1]), strict=True):
        torch.testing.assert_close(a, b)
