import math
from dataclasses import replace

import pytest
import torch
from config_kit import configured
from cpc_toys import gaussian_pair, gen, make_batch, make_specs, mutual_information, small_model
from torch import Tensor
from worldlab_cpc.configs import CPCDynamicsConfig
from worldlab_cpc.dynamics import CPCDynamics, one_step_infonce
from worldlab_cpc.future import actions_between, horizon_mask

from worldlab.distributions import Normal, OneHot
from worldlab.interfaces import Batch, Context, Latent, LatentSpec, ScoresLatent
from worldlab.model.health import HealthMonitor


def build(latent: int = 4, memory: int = 6, action: int = 2, **config) -> CPCDynamics:
    torch.manual_seed(0)
    specs = make_specs(latent=latent, memory=memory, action=action)
    return CPCDynamics(
        configured(CPCDynamicsConfig, **{"memory": memory, "units": 16, "projection": 8} | config), specs
    )


def memory_context(dynamics: CPCDynamics, memory: Tensor, z: Tensor, trains_z=True) -> Context:
    """A context in which memory [B, T, H] and z [B, T, D] are given instead of observed."""
    shape = memory.shape[:2]
    zero = torch.zeros(shape)
    batch = Batch({}, torch.zeros(*shape, 2), zero, zero, zero.bool(), torch.ones(shape))
    row, time = torch.meshgrid(torch.arange(shape[0]), torch.arange(shape[1]), indexing="ij")
    prior = dynamics.predict(memory.flatten(0, 1))
    return Context(
        batch,
        z,
        memory,
        Latent(z),
        torch.cat([memory, z], -1),
        prior,
        row,
        time,
        gen(),
        z_trains_through_dynamics=trains_z,
    )


class Known(torch.nn.Module):
    """Stands in for the prior head: p(z | h) = N(rho h, 1 - rho^2)."""

    def __init__(self, rho: float, min_std: float):
        super().__init__()
        self.rho = rho
        self.raw = math.log(math.expm1(math.sqrt(1 - rho**2) - min_std)) - 0.5413

    def forward(self, memory: Tensor) -> Tensor:
        return torch.cat([self.rho * memory, torch.full_like(memory, self.raw)], -1)


def test_predicted_std_starts_near_one_and_keeps_its_floor():
    dynamics = build(min_std=0.2)
    prior = dynamics.predict(torch.randn(100, 6, generator=gen()))
    assert 0.7 < prior.std.mean().item() < 1.7
    assert dynamics.predict(torch.randn(100, 6, generator=gen()) * 1e4).std.min().item() >= 0.2


def test_the_untrained_critics_know_nothing():
    specs = make_specs(latent=64, memory=64)
    ctx, _ = small_model(specs).observe(make_batch(specs, rows=16), gen())
    losses = small_model(specs).dynamics.losses(ctx)
    assert losses["infonce"].mean().item() == pytest.approx(math.log(16), abs=0.2)
    assert HealthMonitor(small_model(specs)).metrics(ctx)["dynamics/infonce_bound"].item() < 0.1


def test_codes_are_predicted_as_codes_and_scored_by_their_probability():
    torch.manual_seed(0)
    specs = replace(make_specs(latent=12, memory=6), latent=LatentSpec(12, "categorical", 3, 4))
    dynamics = CPCDynamics(configured(CPCDynamicsConfig, memory=6, units=16, projection=8), specs)
    prior = dynamics.predict(torch.randn(6, 6, generator=gen()))
    assert isinstance(prior, OneHot)
    draw = prior.sample(gen()).detach().unflatten(-1, (3, 4))
    torch.testing.assert_close(draw.sum(-1), torch.ones(6, 3))
    z, mask = draw.flatten(-2).unflatten(0, (2, 3)), torch.ones(2, 3)
    logs = torch.stack([OneHot(prior.logits[[t, 3 + t]]).log_prob(z[0, t]) for t in range(3)])  # row 0 by either memory
    torch.testing.assert_close(one_step_infonce(prior, z, mask).loss[0], logs.logsumexp(1) - logs[:, 0])
    dynamics.marginal_mean.copy_(torch.tensor([0.5, 0.5, 0, 0] * 3))
    first, third = (torch.eye(12)[[i, 4 + i, 8 + i]].sum(0) for i in (0, 2))
    memory = torch.zeros(1, 6)
    gain = dynamics.score_latent(memory, third) - dynamics.score_latent(memory, first)
    expected = dynamics.predict(memory).log_prob(third) - dynamics.predict(memory).log_prob(first)
    torch.testing.assert_close(gain, expected + 3 * math.log((0.99 * 0.5 + 0.0025) / 0.0025), rtol=1e-3, atol=1e-3)


def test_state_is_pure_and_rows_are_independent():
    dynamics = build()
    state = dynamics.initial(3)
    z, action = torch.randn(3, 4, generator=gen()), torch.randn(3, 2, generator=gen(1))
    after = dynamics.memory(dynamics.advance(state, z, action))
    assert not state["h"].any() and after.shape == (3, 6)
    alone = dynamics.memory(dynamics.advance(dynamics.initial(1), z[1:2], action[1:2]))
    torch.testing.assert_close(after[1:2], alone)


def test_one_step_asks_which_memory_of_the_same_time_predicted_z():
    g = gen()
    mean, std = torch.randn(12, 2, generator=g), torch.rand(12, 2, generator=g) + 0.5
    z = torch.randn(3, 4, 2, generator=g)
    mask = torch.ones(3, 4)
    mask[2, 3] = 0
    contrast = one_step_infonce(Normal(mean, std), z, mask)
    for b in range(3):
        for t in range(4):
            rivals = [c for c in range(3) if mask[c, t] or c == b]
            logs = {c: Normal(mean[c * 4 + t], std[c * 4 + t]).log_prob(z[b, t]) for c in rivals}
            expected = torch.stack(list(logs.values())).logsumexp(0) - logs[b]
            assert contrast.loss[b, t].item() == pytest.approx(expected.item(), abs=1e-4)
            assert contrast.log_k[b, t].item() == pytest.approx(math.log(len(rivals)))


def test_actions_and_mask_of_k_steps_by_enumeration():
    rows, length = 3, 7
    action = torch.arange(rows * length * 2, dtype=torch.float32).view(rows, length, 2)
    is_first = torch.rand(rows, length, generator=gen()) < 0.25
    mask = (torch.rand(rows, length, generator=gen(1)) < 0.8).float()
    for k in range(1, 6):
        between, valid = actions_between(action, k), horizon_mask(is_first, mask, k)
        assert between.shape == (rows, length - k, 2 * k) and valid.shape == (rows, length - k)
        for b in range(rows):
            for t in range(length - k):
                torch.testing.assert_close(between[b, t], action[b, t + 1 : t + k + 1].flatten())
                crossed = any(bool(is_first[b, s]) for s in range(t + 1, t + k + 1))
                assert valid[b, t].item() == float(not crossed and bool(mask[b, t]) and bool(mask[b, t + k]))


def test_future_loss_equals_its_definition():
    """Recomputed pair by pair; zeros after the last query and across the reset."""
    specs = make_specs(latent=4, memory=6)
    model = small_model(specs, horizon=3)
    dynamics = model.dynamics
    ctx, _ = model.observe(make_batch(specs, rows=3, length=6), gen())
    loss = dynamics.losses(ctx)["future"]
    batch, z = ctx.batch, ctx.latent.z
    expected = torch.zeros(3, 6)
    for k, query in enumerate(dynamics.future.queries, 1):
        for b in range(3):
            for t in range(6 - k):
                if batch.is_first[b, t + 1 : t + k + 1].any():
                    continue
                query_vectors = query(
                    torch.cat([ctx.memory[b, t], z[b, t], batch.prev_action[b, t + 1 : t + k + 1].flatten()])
                )
                scores = torch.cosine_similarity(query_vectors[None], dynamics.future.key(z[:, t + k]), dim=-1) / 0.1
                expected[b, t] += (scores.logsumexp(0) - scores[b]) / 3
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    assert not loss[:, 5].any() and not loss[1, 3] > expected[1, 3] + 1e-4


def test_k_step_heads_are_independent():
    specs = make_specs(latent=4, memory=6)
    model = small_model(specs, horizon=3)
    ctx, _ = model.observe(make_batch(specs, rows=3, length=2), gen())
    loss = model.dynamics.losses(ctx)["future"].sum()
    gradients = torch.autograd.grad(loss, list(model.dynamics.future.queries.parameters()), allow_unused=True)
    reached = [g is not None for g in gradients]
    third = len(reached) // 3
    assert all(reached[:third]) and not any(reached[third:])


@pytest.mark.parametrize("trained", [True, False])
def test_z_is_trained_only_where_the_context_allows_it(trained: bool):
    dynamics = build()
    z = torch.randn(5, 7, 4, generator=gen()).requires_grad_()
    ctx = memory_context(dynamics, torch.randn(5, 7, 6, generator=gen(1)), z, trained)
    losses = dynamics.losses(ctx)
    for name, term in losses.items():
        (gradient,) = torch.autograd.grad(term.sum(), [z], allow_unused=True, retain_graph=True)
        reached = gradient is not None and gradient.abs().sum().item() > 0
        assert reached == (trained and name != "nll"), name
    assert dynamics.losses(ctx, "critic") == {}


def test_score_is_the_log_ratio_and_gains_nothing_from_shrinking_z():
    """Gaussian memory and latent: mean score = mutual information, and d score / d log scale of z = 0."""
    rho, n = 0.8, 100_000
    dynamics = build(latent=3, memory=3)
    dynamics.head = Known(rho, 0.1)
    h, z = gaussian_pair(rho, n, 3, seed=0)
    dynamics.losses(memory_context(dynamics, h.view(10_000, -1, 3)[:100], z.view(10_000, -1, 3)[:100]))
    dynamics.marginal_mean.zero_()
    dynamics.marginal_var.fill_(1)
    score = dynamics.score_latent(h, z)
    assert isinstance(dynamics, ScoresLatent)
    assert score.mean().item() == pytest.approx(mutual_information(rho, 3), abs=4 * score.std().item() / math.sqrt(n))
    scale = torch.ones(()).requires_grad_()
    (slope,) = torch.autograd.grad(dynamics.score_latent(h, scale * z).mean(), [scale])
    assert abs(slope.item()) < 0.03
    # The bare likelihood, in contrast, would pay one nat a dimension for it.
    (bare,) = torch.autograd.grad(dynamics.predict(h).log_prob(scale * z).mean(), [scale])
    assert bare.item() == pytest.approx(-3, abs=0.05)


def test_marginal_follows_training_data_only():
    dynamics = build()
    z = torch.randn(50, 7, 4, generator=gen()) * 3 + 1
    ctx = memory_context(dynamics, torch.zeros(50, 7, 6), z)
    dynamics.eval()
    dynamics.losses(ctx)
    with torch.no_grad():
        dynamics.train().losses(ctx)
    assert not dynamics.marginal_count.any()
    dynamics.losses(ctx)
    torch.testing.assert_close(dynamics.marginal_mean, z.mean((0, 1)))
    torch.testing.assert_close(dynamics.marginal_var, z.flatten(0, 1).var(0, correction=0))


def test_a_batch_that_overflows_leaves_the_marginal_as_it_was():
    dynamics = build()
    z = torch.randn(50, 7, 4, generator=gen())
    dynamics.losses(memory_context(dynamics, torch.zeros(50, 7, 6), z))
    before = dynamics.marginal_mean.clone(), dynamics.marginal_var.clone()
    z[0, 0, 0] = 1e20
    dynamics.losses(memory_context(dynamics, torch.zeros(50, 7, 6), z))
    assert torch.equal(dynamics.marginal_mean, before[0]) and torch.equal(dynamics.marginal_var, before[1])


def test_masked_steps_do_not_move_the_marginal_or_compete():
    dynamics = build(horizon=0)
    z = torch.randn(4, 3, 4, generator=gen())
    ctx = memory_context(dynamics, torch.randn(4, 3, 6, generator=gen(1)), z)
    ctx.batch.mask[3] = 0
    bad = replace(ctx, latent=Latent(torch.cat([z[:3], 100 + z[3:]])))
    assert torch.equal(dynamics.losses(bad)["infonce"], dynamics.losses(ctx)["infonce"])
    torch.testing.assert_close(dynamics.marginal_mean, z[:3].mean((0, 1)))


def test_action_gap_is_zero_for_a_dynamics_blind_to_actions():
    specs = make_specs(latent=4, memory=6)
    model = small_model(specs)
    with torch.no_grad():
        model.dynamics.recurrence.input[0].weight[:, specs.latent.dim :] = 0
    ctx, _ = model.observe(make_batch(specs), gen())
    assert abs(HealthMonitor(model).metrics(ctx)["dynamics/action_gap"].item()) < 1e-5


def test_one_row_or_one_step_is_no_error():
    specs = make_specs(latent=4, memory=6)
    model = small_model(specs)
    for rows, length in ((1, 6), (3, 1), (1, 1)):
        ctx, _ = model.observe(make_batch(specs, rows=rows, length=length), gen())
        values = [*model.dynamics.losses(ctx).values(), *model.dynamics.metrics(ctx).values()]
        assert all(torch.isfinite(value).all() for value in values)


@pytest.mark.slow
def test_the_critic_alone_recovers_the_density_and_the_known_information():
    """Trained by InfoNCE only, the Gaussian is p(z | h), so it can be sampled; the bound meets the truth.

    Asked the other way round ("which z follows this memory?") the optimum would be N(h / rho, (1 - rho^2) / rho^2).
    """
    rho, dim, rows = 0.8, 2, 128
    dynamics = build(latent=dim, memory=dim, nll_scale=0.0, horizon=0, units=64)
    optimizer = torch.optim.Adam(dynamics.head.parameters(), 3e-3)
    steps = 400
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        h, z = gaussian_pair(rho, rows * 4, dim, seed=step + 1)
        ctx = memory_context(dynamics, h.view(rows, 4, dim), z.view(rows, 4, dim))
        optimizer.zero_grad()
        dynamics.losses(ctx)["infonce"].mean().backward()
        optimizer.step()
        schedule.step()
    h, z = gaussian_pair(rho, 128 * 40, dim, seed=10_000)
    with torch.no_grad():
        prior = dynamics.predict(h)
        metrics = dynamics.metrics(memory_context(dynamics, h.view(128, 40, dim), z.view(128, 40, dim)))
    slope = (prior.mean * h).mean() / h.square().mean()
    assert slope.item() == pytest.approx(rho, abs=0.06)
    assert prior.std.mean().item() == pytest.approx(math.sqrt(1 - rho**2), abs=0.06)
    mi = mutual_information(rho, dim)
    print(f"slope {slope:.3f}, std {prior.std.mean():.3f}, bound {metrics['infonce_bound']:.3f} of {mi:.3f} nats")
    assert 0.9 * mi <= metrics["infonce_bound"].item() <= mi + 0.08
