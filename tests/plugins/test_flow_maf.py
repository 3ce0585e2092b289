"""The masked autoregressive prior: exact both ways, one call for a density, D for a sample."""

from __future__ import annotations

import pytest
import torch
from config_kit import configured
from flow_toys import count_calls, gen, jacobian, stirred
from worldlab_flow.configs import FlowDynamicsConfig
from worldlab_flow.dynamics import FlowDynamics
from worldlab_flow.inverse_autoregressive import MaskedAutoregressiveFlow
from worldlab_flow.location_scale import FlowDensity, FlowHead

from worldlab.specs import ActionSpec, LatentSpec, ObsSpec, Specs

DIMS = pytest.mark.parametrize("dim", [1, 3, 6])


def density(dim: int, rows: int = 1) -> FlowDensity:
    torch.manual_seed(0)
    flow, head = MaskedAutoregressiveFlow(dim, 4, 2, 16, 1), FlowHead(4, dim, 0.05)
    stirred(flow, 0.3), stirred(head, 0.3, 1)
    context = torch.randn(rows, 4, generator=gen(2), dtype=torch.float64)
    return head.double()(context, flow.double())


@DIMS
def test_log_det_is_autograds_and_samples_are_inverted(dim: int):
    p = density(dim)
    x = torch.randn(dim, generator=gen(3), dtype=torch.float64)
    matrix = jacobian(lambda row: p.flow.normalise(row, p.context)[0], x)
    noise, log_det = p.flow.normalise(x[None], p.context)
    assert abs(log_det.item() - torch.linalg.slogdet(matrix).logabsdet.item()) < 1e-8
    torch.testing.assert_close(p.flow.generate(noise, p.context)[0], x, rtol=0, atol=1e-8)
    slopes = p.flow.normalise_with_slopes(x[None], p.context)[1]  # type: ignore[attr-defined]
    torch.testing.assert_close(torch.cat(slopes, -1).sum(-1), log_det)


def test_one_transform_reads_the_entries_before_it_only():
    """d noise_i / d x_j = 0 for j > i, exactly, and not for j < i."""
    flow = stirred(MaskedAutoregressiveFlow(5, 4, 1, 16, 1)).double()
    context = torch.zeros(1, 4, dtype=torch.float64)
    matrix = jacobian(lambda row: flow.normalise(row, context)[0], torch.randn(5, generator=gen(), dtype=torch.float64))
    assert not matrix.triu(1).any() and (matrix.tril(-1).abs() + torch.ones(5, 5).triu() > 0).all()


def test_a_density_takes_one_call_for_each_transform_and_a_sample_one_for_each_entry():
    p = density(6, rows=4)
    networks = [module for name, module in p.flow.named_modules() if name.endswith("hyper")]  # type: ignore[attr-defined]
    assert len(networks) == 2
    for network in networks:
        assert count_calls(network, lambda: p.log_prob(p.mean)) == 1
        assert count_calls(network, lambda: p.sample(gen())) in (6, 7)


def test_the_dynamics_predicts_with_it():
    config = configured(FlowDynamicsConfig, coupling="maf", memory=6, units=16)
    specs = Specs(ObsSpec(()), ActionSpec("continuous", 1), LatentSpec(4), 6, True)
    dynamics = FlowDynamics(config, specs)
    prior = dynamics.predict(torch.randn(3, 6, generator=gen()))
    assert isinstance(prior.flow, MaskedAutoregressiveFlow)
    draw = prior.sample(gen())
    assert draw.shape == (3, 4) and draw.requires_grad and prior.log_prob(draw).isfinite().all()
