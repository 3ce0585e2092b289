import pytest
import torch
from autoregressive_toys import gen, noisy
from worldlab_autoregressive.vectors import VectorDistribution, VectorNetwork


def network(n: int = 4, units: int = 24) -> VectorNetwork:
    torch.manual_seed(0)
    net = VectorNetwork(5, n, units, 3, 0.01)
    noisy(net)
    return net.double()


@pytest.mark.parametrize(("n", "units"), [(4, 24), (5, 3), (1, 8)])
def test_an_entry_sees_those_before_it_and_no_other(n: int, units: int):
    net = network(n, units)
    given = net.given(torch.randn(1, 5, generator=gen(), dtype=torch.float64))
    x = torch.randn(1, n, generator=gen(1), dtype=torch.float64)

    def outputs(x: torch.Tensor) -> torch.Tensor:
        mixture = net(x, given)
        return torch.cat([mixture.logits, mixture.mean[..., 0], mixture.std[..., 0]], -1)[0]  # [n, 3 K]

    jacobian = torch.autograd.functional.jacobian(outputs, x)
    assert isinstance(jacobian, torch.Tensor)
    reads = jacobian[:, :, 0].abs().amax(1) > 0
    before = torch.ones(n, n).tril(-1).bool()
    assert not reads[~before].any()
    if units >= n:
        assert reads[before].all()
    elif n > 1:
        assert reads.any(1)[1:].all()  # with fewer units than entries some pairs are not linked, but none is alone


def test_the_density_integrates_to_one_and_samples_follow_it():
    net = network(2)
    features = torch.randn(1, 5, generator=gen(), dtype=torch.float64)
    line = torch.linspace(-25, 25, 801, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    with torch.no_grad():
        density = VectorDistribution(features.expand(len(grid), -1), net).log_prob(grid).exp().view(801, 801)
        drawn = VectorDistribution(features.expand(40_000, -1), net).sample(gen(1))
    cell = float(line[1] - line[0]) ** 2
    assert density.sum().item() * cell == pytest.approx(1, abs=5e-3)
    first, both = density.sum(1) * cell, density * cell
    mean = (first * line).sum()
    assert abs(drawn[:, 0].mean().item() - mean.item()) < 5 * drawn[:, 0].std().item() / 200
    product = (both * line[:, None] * line).sum()
    spread = (drawn[:, 0] * drawn[:, 1]).std().item() / 200
    assert abs((drawn[:, 0] * drawn[:, 1]).mean().item() - product.item()) < 5 * spread


def test_the_mode_walks_greedily():
    net = network()
    features = torch.randn(3, 5, generator=gen(), dtype=torch.float64)
    mode = VectorDistribution(features, net).mode
    mixture = net(mode, net.given(features))
    torch.testing.assert_close(mode, mixture.mode[..., 0])
