import pytest
import torch
from autoregressive_toys import all_codes, gen, noisy
from worldlab_autoregressive.codes import CodeDistribution, CodeNetwork

GROUPS, CLASSES = 4, 3


def network(unimix: float = 0.01) -> CodeNetwork:
    torch.manual_seed(0)
    net = CodeNetwork(5, GROUPS, CLASSES, 16, unimix)
    noisy(net)
    return net.double()


@pytest.mark.parametrize("unimix", [0.0, 0.1])
def test_the_probabilities_of_all_codes_sum_to_one(unimix: float):
    codes = all_codes(GROUPS, CLASSES).double()
    context = torch.randn(1, 5, generator=gen(), dtype=torch.float64).expand(len(codes), -1)
    log_prob = CodeDistribution(context, network(unimix)).log_prob(codes)
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert log_prob.exp().std() > 1e-4  # not merely uniform


def test_no_group_sees_itself_or_those_after_it():
    net = network()
    context = torch.randn(1, 5, generator=gen(), dtype=torch.float64)
    codes = torch.rand(1, GROUPS * CLASSES, generator=gen(), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda c: net.log_probs(context, c)[0], codes)
    assert isinstance(jacobian, torch.Tensor)
    reads = jacobian[:, :, 0].unflatten(-1, (GROUPS, CLASSES)).abs().amax((1, 3))  # [group, group that is read]
    before = torch.ones(GROUPS, GROUPS).tril(-1).bool()
    assert reads[~before].max().item() == 0
    assert reads[before].min().item() > 0


def test_a_draw_knows_its_own_log_probability_and_follows_it():
    net = network()
    context = torch.randn(1, 5, generator=gen(), dtype=torch.float64)
    many = CodeDistribution(context.expand(20_000, -1), net)
    with torch.no_grad():
        z, log_q = net.draw(many.context, gen(1))
        torch.testing.assert_close(log_q, many.log_prob(z))
        codes = all_codes(GROUPS, CLASSES).double()
        expected = CodeDistribution(context.expand(len(codes), -1), net).log_prob(codes).exp()
        place = CLASSES ** torch.arange(GROUPS - 1, -1, -1)
        index = (z.unflatten(-1, (GROUPS, CLASSES)).argmax(-1) * place).sum(-1)
    found = torch.bincount(index, minlength=len(codes)) / len(index)
    error = (expected * (1 - expected) / len(index)).sqrt()
    assert ((found - expected).abs() <= 4.5 * error + 1e-9).all()  # 81 codes, each within 4.5 standard errors


def test_the_mode_is_greedy():
    net = network()
    context = torch.randn(3, 5, generator=gen(), dtype=torch.float64)
    mode = CodeDistribution(context, net).mode.detach()
    log_probs = net.log_probs(context, mode)
    assert torch.equal(mode.unflatten(-1, (GROUPS, CLASSES)).argmax(-1), log_probs.argmax(-1))


def test_gradients_reach_z_and_earlier_groups_straight_through():
    net = network()
    context = torch.randn(3, 5, generator=gen(), dtype=torch.float64, requires_grad=True)
    z, _ = net.draw(context, gen(2))
    last = z[:, -CLASSES:] @ torch.arange(CLASSES).double()
    assert torch.autograd.grad(last.sum(), context)[0].abs().min().item() > 0
