from dataclasses import replace

import pytest
import torch
from gan_toys import FourModes, context, gen, make_batch, make_specs, play, small_dynamics, small_model
from model_kit import weighted_losses
from worldlab_gan.dynamics import GANDynamics
from worldlab_gan.energy import distance, energy_score
from worldlab_gan.temporal import extract_windows, place_at_start

from worldlab.distributions import Normal
from worldlab.interfaces import Latent, ScoresLatent
from worldlab.model.matching import choose, terms
from worldlab.settings import ModelSettings
from worldlab.specs import LatentSpec
from worldlab.testing.reference import ReferenceEncoder, ReferenceEncoderConfig
from worldlab.world_model import WorldModel

CODES = LatentSpec(6, "categorical", 2, 3)


def build(latent: LatentSpec | None = None, **config) -> GANDynamics:
    torch.manual_seed(0)
    return small_dynamics(make_specs(latent=latent), **config)


def observed(length: int = 6, rows: int = 4, **dynamics):
    specs = make_specs()
    model = small_model(specs, **dynamics)
    return model, model.observe(make_batch(specs, rows, length), gen())[0]


def test_same_seed_same_sample_and_the_average_predicts():
    dynamics = build()
    memory = torch.randn(5, 6, generator=gen())
    dist = dynamics.predict(memory)
    assert torch.equal(dist.sample(gen(3)), dynamics.predict(memory).sample(gen(3)))
    before = dist.sample(gen(3))
    with torch.no_grad():
        for p in dynamics.generator.parameters():
            p.add_(0.1)
    assert torch.equal(dynamics.predict(memory).sample(gen(3)), before)
    dynamics.after_step("critic")
    assert torch.equal(dynamics.predict(memory).sample(gen(3)), before)
    dynamics.after_step("main")
    assert not torch.equal(dynamics.predict(memory).sample(gen(3)), before)


def test_dreams_give_the_memory_gradients_and_the_average_none():
    dynamics = build()
    memory = torch.randn(5, 6, generator=gen(), requires_grad=True)
    dynamics.predict(memory).sample(gen(1)).sum().backward()
    assert memory.grad is not None and memory.grad.abs().sum() > 0
    assert all(p.grad is None for p in dynamics.average.parameters())
    assert all(p.grad is None for p in dynamics.generator.parameters())


def test_the_action_moves_what_is_generated():
    dynamics = build()
    state, z = dynamics.initial(200), torch.randn(200, 4, generator=gen())
    noise = dynamics.generator.draw(torch.zeros(200, 6), gen(1))
    moved = [
        dynamics.generator(dynamics.memory(dynamics.advance(state, z, action)), noise)
        for action in (torch.zeros(200, 2), torch.ones(200, 2))
    ]
    assert distance(*moved).mean() > 0.01


@pytest.mark.parametrize("posterior", ["deterministic", "implicit", "analytic"])
@pytest.mark.parametrize("temporal", [False, True])
def test_no_loss_trains_the_latent_that_is_to_be_predicted(posterior: str, temporal: bool):
    dynamics = build(temporal=temporal)
    z = torch.randn(5, 4, 4, generator=gen(), requires_grad=True)
    memory = torch.randn(5, 4, 6, generator=gen(1), requires_grad=True)
    batch = make_batch(make_specs(), 5, 4)
    ctx = replace(context(torch.zeros(5, 4)), batch=batch, memory=memory, latent=Latent(z), row=torch.zeros(5, 4))
    ctx = replace(ctx, z_trains_through_dynamics=posterior == "deterministic")
    for name, term in dynamics.losses(ctx).items():
        to_z, to_memory = torch.autograd.grad(term.sum(), [z, memory], allow_unused=True, retain_graph=True)
        assert to_z is None, name
        assert to_memory is not None and to_memory.abs().sum() > 0, name


def test_the_memory_is_no_way_to_flatter_the_critic():
    """A generator that ignores the memory leaves `adversarial` no path to it: the critic's condition is cut."""
    dynamics = build()
    with torch.no_grad():
        dynamics.generator.net.linears[0].weight.zero_()  # type: ignore[operator, union-attr]
    memory = torch.randn(8, 6, generator=gen(), requires_grad=True)
    loss = dynamics.losses(context(torch.randn(8, 4), memory))["adversarial"].sum()
    assert not torch.autograd.grad(loss, [memory])[0].any()


def test_losses_by_their_definitions():
    dynamics = build(adversarial_scale=0.7, energy_scale=0.3, samples=3)
    z, memory = torch.randn(8, 4, generator=gen()), torch.randn(8, 6, generator=gen(1))
    found = weighted_losses(dynamics, context(z, memory, seed=5))
    repeated = memory.repeat(3, 1)
    samples = dynamics.generator(repeated, dynamics.generator.draw(repeated, gen(5))).unflatten(0, (3, -1))
    fake = torch.stack([dynamics.critic(x, memory) for x in samples])
    expected = 0.7 * torch.log1p(torch.exp(dynamics.critic(z, memory) - fake)).mean(0)
    torch.testing.assert_close(found["adversarial"][:, 0], expected)
    torch.testing.assert_close(found["energy"][:, 0], 0.3 * energy_score(samples, z))
    game = dynamics.losses(context(z, memory, seed=5), "critic")
    fake = dynamics.critic(dynamics.generator(memory, dynamics.generator.draw(memory, gen(5))), memory)
    torch.testing.assert_close(game["critic"][:, 0], torch.log1p(torch.exp(fake - dynamics.critic(z, memory))))


def test_codes_stay_codes_and_every_loss_reaches_their_generator():
    dynamics = build(CODES, temporal=True)
    codes = torch.randint(0, 3, (4, 5, 2), generator=gen())
    z = torch.eye(3)[codes].flatten(-2)
    memory = torch.randn(4, 5, 6, generator=gen(1))
    batch = make_batch(make_specs(), 4, 5)
    ctx = replace(context(torch.zeros(4, 6)), batch=batch, memory=memory, latent=Latent(z), row=torch.zeros(4, 5))
    for name, term in dynamics.losses(ctx).items():
        gradients = torch.autograd.grad(term.sum(), list(dynamics.generator.parameters()), retain_graph=True)
        assert all(torch.isfinite(g).all() and g.abs().sum() > 0 for g in gradients), name
    dist = dynamics.predict(memory.flatten(0, 1))
    for drawn in (dist.sample(gen()), dist.mode):
        assert set(drawn.unique().tolist()) == {0.0, 1.0}


# ---- windows ----


def test_windows_by_enumeration():
    g, rows, length = gen(), 3, 7
    batch = make_batch(make_specs(), rows, length)
    batch.is_first.copy_(torch.rand(rows, length, generator=g) < 0.2)
    batch.mask.copy_((torch.rand(rows, length, generator=g) < 0.8).float())
    z, memory = torch.randn(rows, length, 4, generator=g), torch.randn(rows, length, 6, generator=g)
    seen = extract_windows(z, memory, batch)
    valid = {}
    for b in range(rows):
        for t in range(length - 2):
            w, other = b * (length - 2) + t, (b - 1) % rows
            actions = [torch.cat([batch.prev_action[r, t + 1], batch.prev_action[r, t + 2]]) for r in (b, other)]
            torch.testing.assert_close(seen.condition[w], torch.cat([z[b, t], actions[0]]))
            torch.testing.assert_close(seen.swapped[w], torch.cat([z[b, t], actions[1]]))
            torch.testing.assert_close(seen.next_latents[w], torch.cat([z[b, t + 1], z[b, t + 2]]))
            torch.testing.assert_close(seen.memory[w], memory[b, t + 1])
            torch.testing.assert_close(seen.action[w], batch.prev_action[b, t + 2])
            inside = all(bool(batch.mask[b, t + i]) for i in range(3))
            valid[b, t] = inside and not bool(batch.is_first[b, t + 1] | batch.is_first[b, t + 2])
            assert bool(seen.valid[b, t]) == valid[b, t]
    for (b, t), own in valid.items():
        assert bool(seen.swappable[b, t]) == (own and valid[(b - 1) % rows, t])
    term = place_at_start(torch.ones(rows * (length - 2)), seen.valid)
    assert term.shape == (rows, length) and not term[:, -2:].any() and torch.equal(term[:, :-2], seen.valid)


def test_the_second_generated_step_follows_from_the_first():
    """d z'_2 / d z'_1 through the memory, and the second action moves the second step only."""
    model, ctx = observed(temporal=True)
    dynamics = model.dynamics
    seen = extract_windows(ctx.latent.z.detach(), ctx.memory.detach(), ctx.batch)
    base = dynamics._generate_two_steps(seen, gen(2))
    other = dynamics._generate_two_steps(replace(seen, action=seen.action + 1), gen(2))
    assert torch.equal(base[:, :4], other[:, :4]) and not torch.allclose(base[:, 4:], other[:, 4:])
    noise = dynamics.generator.draw(seen.memory, gen(2))
    torch.testing.assert_close(base[:, :4], dynamics.generator(seen.memory, noise))


def test_short_batches_and_single_rows_have_no_windows_or_no_negatives():
    for rows, length in ((3, 2), (1, 5), (1, 1), (2, 3)):
        model, ctx = observed(length, rows, temporal=True)
        game = model.dynamics.losses(ctx.detach(), "critic")
        assert all(term.shape == (rows, length) and torch.isfinite(term).all() for term in game.values())
        assert ("temporal_critic" in game) == (length >= 3)
        if rows == 1 and length >= 3:
            assert not game["temporal_swapped"].any()
        assert all(torch.isfinite(value) for value in model.dynamics.metrics(ctx.detach()).values())


def test_nothing_of_a_padded_row_is_in_the_windows():
    model, ctx = observed(temporal=True)
    ctx.batch.mask[3] = 0
    for player in ("main", "critic"):
        for name, term in model.dynamics.losses(ctx.detach(), player).items():
            assert not name.startswith("temporal") or not term[3].any(), name


# ---- the score that ties other encoders ----


def test_the_score_is_minus_the_critic_and_drives_q_to_p():
    """p = N(1, 1) dreamed, q = N(m, 1) inferred at m = 0: (m - 1)^2 / 2 = KL(q || p) falls with m, so must -score."""
    dynamics = build(LatentSpec(1))
    optimizer = torch.optim.Adam(dynamics.critic.parameters(), 1e-2)
    memory = torch.zeros(512, 6)
    for step in range(150):
        q, p = torch.randn(512, 1, generator=gen(step)), 1 + torch.randn(512, 1, generator=gen(1000 + step))
        loss = torch.nn.functional.softplus(dynamics.critic(p, memory) - dynamics.critic(q, memory)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert isinstance(dynamics, ScoresLatent)
    mean = torch.zeros(1, requires_grad=True)
    score = dynamics.score_latent(memory, mean + torch.randn(512, 1, generator=gen(7)))
    (slope,) = torch.autograd.grad(-score.mean(), [mean])
    assert slope.item() == pytest.approx(-1, abs=0.25)  # d KL / d m at m = 0
    z = torch.linspace(-1, 2, 20)[:, None]
    learned = dynamics.score_latent(memory[:20], z)
    truth = Normal(torch.ones(20, 1), torch.ones(20, 1)).log_prob(z) - Normal(
        torch.zeros(20, 1), torch.ones(20, 1)
    ).log_prob(z)
    assert torch.corrcoef(torch.stack([learned, truth]))[0, 1] > 0.95


def test_an_analytic_encoder_is_tied_by_the_frozen_score():
    specs = make_specs()
    parts = small_model(specs)
    encoder = ReferenceEncoder(ReferenceEncoderConfig(latent_dim=4), specs)
    model = WorldModel(specs, encoder, parts.dynamics, parts.decoder, ModelSettings(units=16))
    rule = choose(encoder, parts.dynamics)
    assert (rule.dyn, rule.rep) == ("own", "score_anchor")
    ctx, _ = model.observe(make_batch(specs), gen())
    rep = terms(rule, ctx, parts.dynamics, ModelSettings().free_nats)["rep"].sum()
    own = torch.autograd.grad(rep, list(parts.dynamics.critic.parameters()), allow_unused=True, retain_graph=True)
    assert all(g is None for g in own)
    assert torch.autograd.grad(rep, [ctx.latent.z])[0].abs().sum() > 0


# ---- watching ----


def test_spread_of_a_calibrated_sampler_is_one():
    """spread = E|z' - z''| / E|z' - z|; with the truth's own distribution both are the same mean."""
    dynamics = build(samples=8)

    class Truth(torch.nn.Module):
        scale = 1.0

        def draw(self, condition, generator):
            return torch.randn(*condition.shape[:-1], 4, generator=generator)

        def forward(self, condition, noise):
            return self.scale * noise

    for scale, low, high in ((1.0, 0.97, 1.03), (0.5, 0.6, 0.7), (0.0, 0.0, 1e-4)):
        Truth.scale = scale
        dynamics.average.mean = Truth()
        found = dynamics.metrics(context(torch.randn(3000, 4, generator=gen(77)), torch.zeros(3000, 6)))[
            "spread"
        ].item()
        assert low <= found <= high
        assert bool(dynamics.alarms({"spread": found})) == (scale == 0)


def test_action_gap_is_zero_for_a_dynamics_blind_to_actions():
    model, ctx = observed(samples=16)
    with torch.no_grad():
        model.dynamics.recurrence.input[0].weight[:, 4:] = 0  # type: ignore[index]
        value = model.dynamics.metrics(ctx.detach())["action_gap"].item()
    # Same memories, other noise: 0 up to sampling.
    assert abs(value) < 0.1


def test_watching_does_not_move_the_random_stream():
    model, ctx = observed()
    before = ctx.generator.get_state()
    first, second = model.dynamics.metrics(ctx.detach()), model.dynamics.metrics(ctx.detach())
    assert torch.equal(ctx.generator.get_state(), before) and first == second


# ---- four modes ----


def test_the_toy_is_what_it_says():
    """Oracle and Gaussian baseline: apart by more than the margin asked for, and the Gaussian is off every mode."""
    world, g = FourModes(), gen(5)
    oracle = world.judge(lambda memory: world.sample(memory, g))
    gaussian = world.judge(lambda memory: world.gaussian(memory, g))
    torch.testing.assert_close(torch.tensor(oracle.shares), world.WEIGHTS, rtol=0, atol=0.01)
    assert oracle.energy == pytest.approx(oracle.apart / 2, abs=0.04)
    assert gaussian.energy > oracle.energy + 0.13 and sum(gaussian.shares) < 0.2


@pytest.mark.slow
def test_three_of_four_modes_are_generated_with_their_weights():
    """Energy score at least 0.1 below the best factorised Gaussian's; the rarest mode is what a GAN loses, as
    everywhere."""
    world, g = FourModes(), gen()
    torch.manual_seed(0)
    specs = make_specs(latent=LatentSpec(2), memory=3)
    dynamics = small_dynamics(specs, units=64, noise=8)

    def draw(step: int):
        memory = world.memory(128, g)
        return context(world.sample(memory, g), memory, seed=step)

    for _ in play(dynamics, draw, 800, 3e-3):
        pass
    g = gen(5)
    found = world.judge(lambda memory: dynamics.predict(memory).sample(g))
    gaussian = world.judge(lambda memory: world.gaussian(memory, g))
    oracle = world.judge(lambda memory: world.sample(memory, g))
    print({"found": found, "gaussian": gaussian, "oracle": oracle})
    assert found.energy <= gaussian.energy - 0.1
    hit = torch.tensor(found.shares) > world.WEIGHTS / 2
    assert hit.sum() >= 3
    assert found.apart >= 0.8 * oracle.apart


@pytest.mark.slow
def test_codes_are_generated_with_their_joint_distribution():
    """Two codes that always agree, the class drawn by a memory's own chances: no factorised prior can dream that."""
    torch.manual_seed(0)
    specs = make_specs(latent=CODES, memory=2)
    dynamics, g = small_dynamics(specs, units=32, noise=4), gen()
    chances = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])

    def draw(step: int, n: int = 128):
        memory = torch.eye(2)[torch.randint(2, (n,), generator=g)]
        code = torch.multinomial(memory @ chances, 1, generator=g)[:, 0]
        return context(torch.eye(3)[code].repeat(1, 2), memory, seed=step)

    for _ in play(dynamics, draw, 500, 3e-3):
        pass
    with torch.no_grad():
        for row in range(2):
            memory = torch.eye(2)[[row]].expand(4000, 2)
            z = dynamics.predict(memory).sample(gen(3)).view(-1, 2, 3)
            agree = (z[:, 0] * z[:, 1]).sum(-1).mean().item()
            shares = z.mean((0, 1))
            print(f"agree {agree:.3f}, shares {shares.tolist()}, truth {chances[row].tolist()}")
            assert agree > 0.8  # independent codes of these shares agree in 0.46 and 0.54 of all cases
            assert 0.5 * (shares - chances[row]).abs().sum() < 0.12
