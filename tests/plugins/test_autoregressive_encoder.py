"""The autoregressive encoder: a joint posterior over codes."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from autoregressive_toys import VECTOR, all_codes, flat_hot, gen, make_specs
from config_kit import configured
from torch import Tensor
from worldlab_autoregressive.codes import CodeDistribution, CodeNet, SampledCodes, gumbel_noise
from worldlab_autoregressive.configs import AutoregressiveEncoderConfig
from worldlab_autoregressive.encoder import AutoregressiveEncoder

from worldlab import tree
from worldlab.distributions import HasEntropy, OneHot
from worldlab.specs import ArraySpec

GROUPS, CLASSES = 4, 3


def net(groups: int = GROUPS, classes: int = CLASSES, unimix: float = 0.01, inputs: int = 5) -> CodeNet:
    """A float64 network whose codes really depend on each other (the correction starts at 0)."""
    torch.manual_seed(0)
    made = CodeNet(inputs, groups, classes, 16, unimix).double()
    with torch.no_grad():
        made.out.normal_(generator=gen(1))
        made.embed.normal_(generator=gen(2))
    return made


def encoder(obs=(VECTOR,), **config) -> AutoregressiveEncoder:
    torch.manual_seed(0)
    settings = configured(
        AutoregressiveEncoderConfig,
        **{"groups": GROUPS, "classes": CLASSES, "width": 4, "units": 16} | config,
    )
    return AutoregressiveEncoder(settings, make_specs(obs, AutoregressiveEncoder.latent_spec(settings)))


def context(n: int = 1, inputs: int = 5) -> Tensor:
    return torch.randn(n, inputs, generator=gen(3), dtype=torch.float64)


def test_probabilities_of_all_codes_sum_to_one():
    model, codes = net(), all_codes(GROUPS, CLASSES)
    q = CodeDistribution(context().expand(len(codes), -1), model)
    total = q.log_prob(flat_hot(codes, CLASSES)).exp().sum().item()
    assert total == pytest.approx(1, abs=1e-12)


def test_a_conditional_reads_the_codes_before_it_and_no_others():
    """d logits_i / d c_j: exactly 0 for j >= i, not 0 for every j < i."""
    model = net()
    hot = flat_hot(all_codes(GROUPS, CLASSES)[37], CLASSES).view(1, GROUPS, CLASSES)
    jacobian: Any = torch.autograd.functional.jacobian(lambda c: model.conditionals(context(), c)[0], hot)
    size = jacobian[:, :, 0].abs().sum((1, 3))  # [i, j]
    assert torch.equal(size.triu(), torch.zeros(GROUPS, GROUPS, dtype=torch.float64))
    assert (size[torch.tril(torch.ones(GROUPS, GROUPS), -1).bool()] > 1e-6).all()


def test_drawing_and_scoring_are_the_same_distribution():
    """The conditionals along a draw are those of the teacher-forced pass over the drawn codes."""
    model, given = net(), context(50)
    codes, along = model.draw(given, gumbel_noise(50, model.shape, given, gen()))
    scored = model.conditionals(given, F.one_hot(codes, CLASSES).double())
    torch.testing.assert_close(along, scored, rtol=0, atol=1e-12)


def test_samples_have_the_enumerated_frequencies():
    model, n = net(groups=2), 40_000
    codes, _ = model.draw(context().expand(n, -1), gumbel_noise(n, model.shape, context(), gen()))
    every = all_codes(2, CLASSES)
    expected = CodeDistribution(context().expand(len(every), -1), model).log_prob(flat_hot(every, CLASSES)).exp()
    found = torch.bincount(codes[:, 0] * CLASSES + codes[:, 1], minlength=len(every)) / n
    error = (expected * (1 - expected) / n).sqrt()
    assert ((found - expected).abs() < 4 * error).all()


def test_log_q_is_the_log_probability_of_this_very_z():
    model = encoder().double()
    embed = model.embed({"vector": torch.randn(20, 3, generator=gen(), dtype=torch.float64)})
    for generator in (gen(), None):
        latent = model.infer(embed, None, generator)
        expected = CodeDistribution(embed, model.net).log_prob(latent.z)
        torch.testing.assert_close(latent.log_q, expected, rtol=0, atol=1e-10)
        assert torch.equal(latent.z.unflatten(-1, (GROUPS, CLASSES)).argmax(-1), latent.tokens)


@pytest.mark.parametrize("groups", [1, 5])
def test_codes_drawn_without_gradients_are_those_drawn_with_gradients(groups):
    """The fast form (code_sampling.py) against the plain one: same noise, same codes, same conditionals; also in bfloat16."""
    torch.manual_seed(0)
    net = CodeNet(6, groups, 4, 16, 0.01)
    torch.nn.init.normal_(net.out)
    context = torch.randn(200, 6)
    noise = gumbel_noise(200, net.shape, context, generator=torch.Generator().manual_seed(1))
    for gumbel in (noise, None):
        codes, log_probs = net.draw(context, gumbel)
        with torch.no_grad():
            fast = net.draw(context, gumbel)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                half = net.draw(context.bfloat16(), gumbel)
        assert (fast[0] == codes).float().mean() > 0.999
        same = (fast[0] == codes).all(-1)
        torch.testing.assert_close(fast[1][same], log_probs[same].detach())
        assert (half[0] == codes).float().mean() > 0.9 and half[1].dtype == torch.float32


def test_without_a_generator_each_code_is_the_likeliest_given_those_before():
    model = encoder().double()
    embed = model.embed({"vector": torch.randn(20, 3, generator=gen(), dtype=torch.float64)})
    latent = model.infer(embed, None, None)
    conditionals = model.net.conditionals(embed, latent.z.unflatten(-1, (GROUPS, CLASSES)))
    assert torch.equal(conditionals.argmax(-1), latent.tokens)


def test_no_class_falls_below_its_share_of_the_uniform():
    model = net(unimix=0.09)
    with torch.no_grad():
        model.direct.weight.mul_(1e4)
    codes = F.one_hot(all_codes(GROUPS, CLASSES), CLASSES).double()
    log_probs = model.conditionals(context().expand(len(codes), -1), codes)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(len(codes), GROUPS, dtype=torch.float64))
    assert log_probs.exp().min().item() == pytest.approx(0.03, abs=1e-6)


def enumerated(model: CodeNet, given: Tensor) -> tuple[Tensor, Tensor]:
    """log q [C^G] of every row of codes, and the entropy's estimate from each of them as if it were drawn."""
    codes = all_codes(*model.shape)
    log_probs = model.conditionals(given.expand(len(codes), -1), F.one_hot(codes, model.shape[1]).double())
    drawn = SampledCodes(log_probs, codes)
    return drawn.log_q(), drawn.entropy()


def test_entropy_has_the_mean_and_the_gradient_of_the_entropy():
    """By enumeration, so without any Monte-Carlo error: E_q of the estimate and of its gradient against H and dH."""
    model, given = net(), context()
    log_q, estimate = enumerated(model, given)
    exact = -(log_q.exp() * log_q).sum()
    torch.testing.assert_close((log_q.exp() * estimate).sum(), exact)
    wanted = torch.autograd.grad(exact, list(model.parameters()), retain_graph=True)
    found = torch.autograd.grad((log_q.exp().detach() * estimate).sum(), list(model.parameters()))
    for a, b in zip(wanted, found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_entropy_varies_less_than_minus_log_q_and_the_pathwise_part_alone_is_wrong():
    model, given = net(), context()
    log_q, estimate = enumerated(model, given)
    q = log_q.exp().detach()

    def variance(x: Tensor) -> float:
        return (q * (x - (q * x).sum()).square()).sum().item()

    assert variance(estimate) < 0.5 * variance(-log_q)
    codes = all_codes(*model.shape)
    log_probs = model.conditionals(given.expand(len(codes), -1), F.one_hot(codes, CLASSES).double())
    pathwise = -(log_probs.exp() * log_probs).sum((-2, -1))
    right = torch.autograd.grad(-(log_q.exp() * log_q).sum(), model.out, retain_graph=True)[0]
    wrong = torch.autograd.grad((q * pathwise).sum(), model.out)[0]
    assert (right - wrong).abs().max() > 0.05 * right.abs().max()


def test_the_latent_is_a_tree_of_rows_with_an_entropy_at_any_shape():
    model = encoder()
    latent = model.infer(model.embed({"vector": torch.randn(6, 3, generator=gen())}), None, gen())
    assert isinstance(latent.dist, HasEntropy)
    folded = tree.unflatten_time(latent, 2)
    assert torch.equal(folded.dist.entropy(), latent.dist.entropy().view(2, 3))
    assert not any(leaf.requires_grad for leaf in tree.leaves(tree.detach(latent)))


def xor_posterior(x: Tensor, noise: float = 0.01) -> Tensor:
    """log p(c_1, c_2 | x), [N, 4], of x = c_1 xor c_2 seen with some noise, under uniform codes."""
    odd = torch.tensor([0, 1, 1, 0])
    return torch.where(odd == x[:, None], 1 - noise, noise).double().log().log_softmax(-1)


def fit_xor(make_log_q, parameters, steps: int) -> float:
    """Minimise KL(q || p) by its exact gradient (all four codes are summed over); returns it, in nats."""
    optimizer = torch.optim.Adam(parameters, 2e-2)
    truth = xor_posterior(torch.tensor([0, 1]))
    gap = torch.zeros(())
    for _ in range(steps):
        log_q = make_log_q()  # [2, 4]
        gap = (log_q.exp() * (log_q - truth)).sum(-1).mean()
        optimizer.zero_grad()
        gap.backward()
        optimizer.step()
    return gap.item()


def test_xor_posterior_a_factorised_q_misses_log_two_and_an_autoregressive_one_nothing():
    x = torch.eye(2, dtype=torch.float64)
    torch.manual_seed(0)
    linear = torch.nn.Linear(2, 4).double()
    codes = all_codes(2, 2)

    def factorised() -> Tensor:
        logits = OneHot.with_unimix(linear(x).unflatten(-1, (2, 2)), 0.01).logits
        return (logits[:, 0, codes[:, 0]] + logits[:, 1, codes[:, 1]]).reshape(2, 4)

    model = CodeNet(2, 2, 2, 16, 0.01).double()

    def autoregressive() -> Tensor:
        hot = flat_hot(codes, 2)
        return torch.stack([CodeDistribution(row.expand(4, -1), model).log_prob(hot) for row in x])

    reference, gap = fit_xor(factorised, linear.parameters(), 300), fit_xor(autoregressive, model.parameters(), 300)
    print(f"KL(q || p): factorised {reference:.3f}, autoregressive {gap:.4f} nats (log 2 = {math.log(2):.3f})")
    assert reference == pytest.approx(math.log(2), abs=0.1)
    assert gap <= 0.05


@pytest.mark.parametrize("size", [(3, 16, 16), (1, 48, 64), (4, 84, 84)])
def test_any_picture_and_a_dict(size):
    model = encoder((("image", ArraySpec("image", size)), VECTOR))
    obs = {"image": torch.rand(2, *size, generator=gen()) - 0.5, "vector": torch.randn(2, 3, generator=gen())}
    latent = model.infer(model.embed(obs), None, gen())
    grads = torch.autograd.grad(latent.dist.entropy().sum(), [p for p in model.trunk.parameters()], allow_unused=True)
    assert all(g is not None and g.abs().sum() > 0 for g in grads)


def test_registered_default_is_32_by_32():
    spec = AutoregressiveEncoder.latent_spec(AutoregressiveEncoderConfig())
    assert (spec.dim, spec.kind, spec.groups, spec.classes) == (1024, "categorical", 32, 32)
    assert not AutoregressiveEncoder.uses_memory and AutoregressiveEncoder.posterior_kind == "own_logq"
