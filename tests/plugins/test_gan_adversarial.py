import math

import pytest
import torch
from gan_toys import gen
from worldlab_gan.adversarial import (
    critic_loss,
    critic_metrics,
    critic_terms,
    critic_weights,
    evaluate_critic,
    evaluate_pair,
    generator_loss,
    interpolate,
    limit_slopes,
)
from worldlab_gan.configs import Game
from worldlab_gan.critics import VectorCritic


class Linear:
    """D(x, c) = w x: its gradient is w everywhere."""

    def __init__(self, weight):
        self.weight = weight

    def embed(self, x):
        return x

    def head(self, embedding, condition):
        return embedding @ self.weight


def test_losses_are_their_definitions():
    real, fake = torch.tensor([0.3, -2.0, 1.5]), torch.tensor([-0.4, 0.5, 3.0])
    for i in range(3):
        r, f = float(real[i]), float(fake[i])
        log1pexp = [math.log1p(math.exp(x)) for x in (f - r, -r, f, r - f, -f)]
        expected = {
            "relativistic": (log1pexp[0], log1pexp[3]),
            "non_saturating": (log1pexp[1] + log1pexp[2], log1pexp[4]),
            "hinge": (max(0.0, 1 - r) + max(0.0, 1 + f), -f),
            "wasserstein": (f - r, -f),
            "spectral": (max(0.0, 1 - r) + max(0.0, 1 + f), -f),
        }
        for loss, (critic, generator) in expected.items():
            game = Game(loss, 0, 0)  # type: ignore[arg-type]
            assert critic_loss(game, real, fake)[i].item() == pytest.approx(critic, abs=1e-6)
            assert generator_loss(game, real, fake)[i].item() == pytest.approx(generator, abs=1e-6)


def test_hinge_leaves_the_critic_alone_outside_its_margin():
    real, fake = torch.tensor([1.5, 0.5], requires_grad=True), torch.tensor([-1.5, -0.5], requires_grad=True)
    on_real, on_fake = torch.autograd.grad(critic_loss(Game("hinge", 0, 0), real, fake).sum(), [real, fake])
    assert on_real.tolist() == [0, -1] and on_fake.tolist() == [0, 1]


def test_a_relativistic_critic_that_cannot_tell_loses_log_2():
    value = torch.randn(5, generator=gen())
    game = Game("relativistic", 0, 0)
    torch.testing.assert_close(critic_loss(game, value, value), torch.full((5,), math.log(2)))
    torch.testing.assert_close(generator_loss(game, value, value), torch.full((5,), math.log(2)))


def test_penalty_of_a_linear_critic_is_its_squared_weight():
    weight = torch.tensor([3.0, -4.0], requires_grad=True)
    x, condition = torch.randn(6, 2, generator=gen()), torch.zeros(6, 0)
    torch.testing.assert_close(evaluate_critic(Linear(weight), x, condition).slope, torch.full((6,), 25.0))
    game = Game("relativistic", 0.5, 0.2)
    held, weights = (
        critic_terms(game, evaluate_pair(game, Linear(weight), x, x + 1, condition, gen())),
        critic_weights(game),
    )
    terms = {name: weights[name] * term for name, term in held.items()}
    torch.testing.assert_close(terms["r1"], torch.full((6,), 0.5 * 0.5 * 25))
    torch.testing.assert_close(terms["r2"], torch.full((6,), 0.5 * 0.2 * 25))
    (gradient,) = torch.autograd.grad(terms["r1"].mean(), [weight])
    torch.testing.assert_close(gradient, 0.5 * weight.detach())
    assert critic_metrics(Linear(weight), x, x + 1, condition)["critic_slope"].item() == pytest.approx(5)


def test_penalty_of_a_network_and_its_gradient_equal_finite_differences():
    torch.manual_seed(0)
    critic = VectorCritic(3, 2, 8, 2).double()
    x, condition = torch.randn(4, 3, generator=gen()).double(), torch.randn(4, 2, generator=gen(1)).double()
    step, slope = 1e-6, torch.zeros(4, dtype=torch.double)
    for i in range(3):
        move = torch.zeros(3).double()
        move[i] = step
        slope += ((critic(x + move, condition) - critic(x - move, condition)) / (2 * step)).square()
    torch.testing.assert_close(evaluate_critic(critic, x, condition).slope, slope, rtol=1e-6, atol=1e-9)
    weight = critic.trunk[0].weight
    (gradient,) = torch.autograd.grad(evaluate_critic(critic, x, condition).slope.sum(), [weight])
    with torch.no_grad():
        before = weight[1, 2].item()
        sums = []
        for sign in (1, -1):
            weight[1, 2] = before + sign * 1e-5
            sums.append(evaluate_critic(critic, x, condition).slope.sum().item())
        weight[1, 2] = before
    assert gradient[1, 2].item() == pytest.approx((sums[0] - sums[1]) / 2e-5, rel=1e-4)


def test_penalty_of_a_tree_adds_its_leaves():
    weight = torch.tensor([1.0, 2.0])

    class Sum(Linear):
        def embed(self, x):
            return x["a"] @ weight + x["b"].flatten(1).sum(1)

        def head(self, embedding, condition):
            return embedding

    slope = evaluate_critic(
        Sum(weight), {"a": torch.zeros(2, 2), "b": torch.zeros(2, 3, 2, 2)}, torch.zeros(2, 0)
    ).slope
    torch.testing.assert_close(slope, torch.full((2,), 5.0 + 12))


def test_penalties_are_float32_under_autocast_and_can_be_watched_without_gradients():
    torch.manual_seed(0)
    critic = VectorCritic(3, 2, 8, 1)
    x, condition = torch.randn(4, 3, generator=gen()), torch.randn(4, 2, generator=gen(1))
    exact = evaluate_critic(critic, x, condition)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = evaluate_critic(critic, x.bfloat16().float(), condition)
    assert mixed.value.dtype == mixed.slope.dtype == torch.float32
    with torch.no_grad():
        watched = evaluate_critic(critic, x, condition)
    torch.testing.assert_close(watched.slope, exact.slope.detach())
    assert not watched.value.requires_grad and exact.value.requires_grad and not x.requires_grad


def test_a_switched_off_penalty_has_no_term():
    for r1, r2, names in ((0.0, 0.0, {"critic"}), (0.5, 0.0, {"critic", "r1"}), (0.0, 0.5, {"critic", "r2"})):
        game = Game("relativistic", r1, r2)
        outputs = evaluate_pair(game, Linear(torch.ones(2)), *torch.randn(2, 3, 2), torch.zeros(3, 0), gen())
        assert set(critic_terms(game, outputs)) == names


@pytest.mark.slow
def test_the_first_gans_critic_learns_the_bayes_rule():
    """Goodfellow et al. 2014, proposition 1: D*(x) = p / (p + q), here of N(0, 1) against N(1, 0.7^2)."""
    torch.manual_seed(0)
    critic, g, game = VectorCritic(1, 0, 32, 2), gen(), Game("non_saturating", 0.0, 0.0)
    optimizer = torch.optim.Adam(critic.parameters(), 3e-3, betas=(0.0, 0.999))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    for _ in range(600):
        real, fake = torch.randn(512, 1, generator=g), 1 + 0.7 * torch.randn(512, 1, generator=g)
        terms = critic_terms(game, evaluate_pair(game, critic, real, fake, torch.zeros(512, 0), g))
        optimizer.zero_grad()
        terms["critic"].mean().backward()
        optimizer.step()
        schedule.step()
    x = torch.linspace(-2.5, 2.5, 101)[:, None]
    p, q = (torch.distributions.Normal(m, s).log_prob(x[:, 0]) for m, s in ((0.0, 1.0), (1.0, 0.7)))
    with torch.no_grad():
        learned = torch.sigmoid(critic(x, torch.zeros(101, 0)))
    error = (learned - torch.sigmoid(p - q)).abs().mean().item()
    print(f"mean absolute error {error:.4f}")
    assert error < 0.05


def test_the_penalty_of_wgan_gp_is_that_of_a_linear_critic_and_lies_between_the_samples():
    """D(x) = w x: (|w| - 1)^2 for any point; and the points lie on the lines between real and generated samples."""
    game = Game.of("wasserstein", 0.3, 0.3)
    assert (game.r1, game.r2, game.gp) == (0.0, 0.0, 10.0) and Game.of("hinge", 0.3, 0.1) == Game("hinge", 0.3, 0.1)
    weight, condition = torch.tensor([3.0, -4.0]), torch.zeros(6, 0)
    real = torch.randn(6, 2, generator=gen())
    terms = critic_terms(game, evaluate_pair(game, Linear(weight), real, real + 1, condition, gen()))
    assert set(terms) == {"critic", "gp"} and critic_weights(game)["gp"] == 10
    torch.testing.assert_close(terms["gp"], torch.full((6,), 16.0))
    torch.testing.assert_close(terms["critic"], torch.full((6,), -1.0))
    share = torch.tensor([0.0, 0.25, 1.0])
    mixed = interpolate({"a": torch.zeros(3, 2)}, {"a": torch.ones(3, 2)}, share)["a"]
    torch.testing.assert_close(mixed, share[:, None].expand(3, 2))


def test_layers_of_a_spectral_critic_have_singular_values_of_at_most_one():
    torch.manual_seed(0)
    critic = VectorCritic(3, 0, 16, 2)
    before = [p.clone() for p in critic.parameters()]
    limit_slopes(Game.of("hinge", 0, 0), critic)
    assert all(torch.equal(a, b) for a, b in zip(before, critic.parameters(), strict=True)), "of no other game"
    with torch.no_grad():
        critic.trunk[0].weight.mul_(50)
        critic.trunk[2].weight.mul_(0.01)
    small = critic.trunk[2].weight.clone()
    limit_slopes(Game.of("spectral", 0.3, 0.3), critic, None)
    assert torch.linalg.svdvals(critic.trunk[0].weight)[0].item() == pytest.approx(1.0, abs=1e-5)
    assert torch.equal(critic.trunk[2].weight, small), "what is below 1 stays"
    x, y = torch.randn(500, 3, generator=gen()), torch.randn(500, 3, generator=gen(1))
    rise = (critic(x, x[:, :0]) - critic(y, y[:, :0])).abs()
    assert (rise <= (x - y).norm(dim=1) + 1e-5).all(), "the critic's slope is at most 1"
    conv = torch.nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        conv.weight.mul_(9)
    limit_slopes(Game.of("spectral", 0, 0), torch.nn.Sequential(conv))
    assert torch.linalg.svdvals(conv.weight.flatten(1))[0].item() == pytest.approx(1.0, abs=1e-5)
    assert Game.of("spectral", 0.3, 0.3) == Game("spectral", 0.0, 0.0)


@pytest.mark.slow
def test_a_wasserstein_critic_measures_the_distance_of_two_gaussians():
    """Between N(0, 1) and N(1.5, 1) it is 1.5, the slope of the best critic 1 (Kantorovich and Rubinstein)."""
    torch.manual_seed(0)
    critic, g, game = VectorCritic(1, 0, 32, 2), gen(), Game.of("wasserstein", 0, 0)
    optimizer = torch.optim.Adam(critic.parameters(), 3e-3, betas=(0.0, 0.9))
    found = []
    for _ in range(400):
        real, fake = 1.5 + torch.randn(256, 1, generator=g), torch.randn(256, 1, generator=g)
        terms = critic_terms(game, evaluate_pair(game, critic, real, fake, torch.zeros(256, 0), g))
        optimizer.zero_grad()
        sum(critic_weights(game)[name] * term.mean() for name, term in terms.items()).backward()  # type: ignore[union-attr]
        optimizer.step()
        found.append(-terms["critic"].mean().item())
    assert sum(found[-100:]) / 100 == pytest.approx(1.5, abs=0.15)
