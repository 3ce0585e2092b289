"""Cell 8: a sequence model over latents and actions. Its attention is recomputed here by hand, step by step."""

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from autoregressive_toys import (
    KINDS,
    all_codes,
    build,
    codes_spec,
    flat_hot,
    four_modes,
    gen,
    make_specs,
    mode_weights,
    resets,
    scan,
    sequence,
    specs_of,
)
from torch import Tensor
from worldlab_autoregressive.configs import AutoregressiveDynamicsConfig
from worldlab_autoregressive.dynamics import AutoregressiveDynamics
from worldlab_autoregressive.lstm import LSTMMemory
from worldlab_autoregressive.rotary import rotate
from worldlab_autoregressive.transformer import TransformerMemory

from worldlab import tree
from worldlab.distributions import tempered
from worldlab.interfaces import ParallelDynamics
from worldlab.specs import LatentSpec
from worldlab.testing import run_checks


def by_hand(net: TransformerMemory, x: Tensor, begin: list[int]) -> Tensor:
    """The transformer on one row of raw tokens x [T, I], query by query, head by head; step t starts reading at
    begin[t].

    Positions are absolute and far from 0: only their differences may count.
    """
    h = net.embed(x)
    for block in net.blocks:
        q, k, v = (part.view(len(x), block.heads, -1) for part in block.qkv(block.attention_norm(h)).chunk(3, -1))
        read = torch.zeros_like(v)
        for t, head in itertools.product(range(len(x)), range(block.heads)):
            first = max(begin[t], t - net.window + 1)
            score = torch.stack([turn(q[t, head], 1000 + t) @ turn(k[s, head], 1000 + s) for s in range(first, t + 1)])
            weight = (score / math.sqrt(q.shape[-1])).softmax(0)
            read[t, head] = weight @ v[first : t + 1, head]
        h = h + block.out(read.flatten(1))
        h = h + block.mlp(h)
    return net.norm(h)


def turn(x: Tensor, place: int) -> Tensor:
    """RoPE as a product of complex numbers: x [d], pairs (i, i + d / 2)."""
    half = len(x) // 2
    angle = place * 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    turned = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag])


# ---- the transformer ----


def test_memory_does_not_depend_on_the_future():
    """d memory_t / d (z_s, a_s) is exactly 0 for s > t; and not 0 for the steps within reach: 2 blocks x 3 steps."""
    dynamics = build()
    z, action = sequence(specs_of(dynamics), 1, 12)
    first = resets(1, 12)

    weight = torch.randn(12, 16, generator=gen(), dtype=torch.float64)

    def projected(x: Tensor) -> Tensor:
        run = dynamics.advance_sequence(dynamics.initial(1), x[None, :, :4], x[None, :, 4:], first)
        return (run.memory[0] * weight).sum(-1)

    jacobian: Any = torch.autograd.functional.jacobian(projected, torch.cat([z, action], -1)[0])
    size = jacobian.abs().sum(-1)  # [t, s]
    t, s = torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")
    reach = 2 * (4 - 1)
    assert (size[(s > t) | (t - s > reach)] == 0).all()
    assert (size[(s <= t) & (t - s <= reach)] > 0).all()


def test_attention_equals_a_recomputation_by_hand():
    """Sliding window, a reset inside, absolute against relative positions."""
    dynamics = build()
    z, action = sequence(specs_of(dynamics), 2, 14)
    first = resets(2, 14, (0, 0), (1, 0), (1, 5))
    keep = (~first)[..., None]
    found = dynamics.advance_sequence(dynamics.initial(2), z * keep, action * keep, first).memory
    tokens = torch.cat([z * keep, action * keep], -1)
    for row, begin in ((0, [0] * 14), (1, [0] * 5 + [5] * 9)):
        torch.testing.assert_close(by_hand(dynamics.net, tokens[row], begin), found[row], rtol=0, atol=1e-10)


@pytest.mark.parametrize("layers", [1, 3])
def test_three_windows_later_the_cache_equals_a_recomputation_over_the_raw_tokens_within_reach(layers):
    """One block reads `window` raw tokens; L blocks reach L (window - 1) + 1 of them. The state keeps its size."""
    dynamics = build(layers=layers)
    z, action = sequence(specs_of(dynamics), 2, 12)
    state, size = dynamics.initial(2), None
    for t in range(12):
        state = dynamics.advance(state, z[:, t], action[:, t])
        sizes = [leaf.shape for leaf in tree.leaves(state)]
        assert size in (None, sizes)
        size = sizes
    reach = layers * (4 - 1) + 1
    tokens = torch.cat([z, action], -1)[:, -reach:]
    for row in range(2):
        expected = by_hand(dynamics.net, tokens[row], [0] * reach)[-1]
        torch.testing.assert_close(dynamics.memory(state)[row], expected, rtol=0, atol=1e-10)


def test_a_thousand_steps_do_not_wear_out_float32():
    """The cache knows no absolute time, so its error after 1000 steps is that after one window."""
    dynamics = build(dtype=torch.float32)
    z, action = sequence(specs_of(dynamics), 1, 1000, dtype=torch.float32)
    state = dynamics.initial(1)
    with torch.no_grad():
        for t in range(1000):
            state = dynamics.advance(state, z[:, t], action[:, t])
        exact = build()
        expected = by_hand(exact.net, torch.cat([z, action], -1)[0, -7:].double(), [0] * 7)[-1]
    assert (dynamics.memory(state)[0] - expected).abs().max() < 1e-5


def test_rotary_products_depend_on_the_distance_only():
    q, k = torch.randn(2, 1, 1, 1, 8, generator=gen(), dtype=torch.float64)

    def product(i: int, j: int) -> float:
        return (rotate(q, i) * rotate(k, j)).sum().item()

    assert product(7, 3) == pytest.approx(product(104, 100), abs=1e-10)
    assert product(7, 3) != pytest.approx(product(7, 4), abs=1e-3)
    torch.testing.assert_close(rotate(q, 5)[0, 0, 0], turn(q[0, 0, 0], 5))


def test_rows_of_different_age_do_as_they_do_alone():
    dynamics = build()
    z, action = sequence(specs_of(dynamics), 3, 13)
    ages = (1, 6, 13)
    alone = []
    for row, age in enumerate(ages):
        state = dynamics.initial(1)
        for t in range(13 - age, 12):
            state = dynamics.advance(state, z[row : row + 1, t], action[row : row + 1, t])
        alone.append(state)
    together = tree.tree_map(lambda *leaves: torch.cat(leaves), *alone)
    after = dynamics.advance(together, z[:, 12], action[:, 12])
    for row in range(3):
        single = dynamics.advance(alone[row], z[row : row + 1, 12], action[row : row + 1, 12])
        torch.testing.assert_close(tree.select(after, slice(row, row + 1)), single, rtol=0, atol=1e-12)
    assert after["filled"].tolist() == [1, 4, 4]


# ---- both memories: one pass is the scan ----


@pytest.mark.parametrize("kind", KINDS)
def test_one_pass_equals_the_scan_in_every_leaf_of_the_state(kind):
    """From a warm state with rows of different age, resets inside, window shorter than the sequence."""
    dynamics = build(memory_kind=kind)
    specs = specs_of(dynamics)
    z0, a0 = sequence(specs, 3, 5, seed=5)
    warm = scan(dynamics, dynamics.initial(3), z0, a0, resets(3, 5, (1, 3)))[-1]
    z, action = sequence(specs, 3, 11)
    first = resets(3, 11, (0, 4), (0, 6), (2, 0), (1, 10))
    keep = (~first)[..., None]
    z, action = z * keep, action * keep
    states = scan(dynamics, warm, z, action, first)
    run = dynamics.advance_sequence(warm, z, action, first)
    expected = torch.stack([dynamics.memory(state) for state in states], 1)
    torch.testing.assert_close(run.memory, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(run.final, states[-1], rtol=0, atol=1e-10)
    row, time = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([3, 7, 9, 0, 8])
    chosen = tree.select(tree.stack(states), (row, time))
    torch.testing.assert_close(run.at(row, time), chosen, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_cached_and_full_agree_in_float32_and_choose_the_same_codes(kind):
    dynamics = build(codes_spec(4, 5), torch.float32, memory_kind=kind, window=8)
    with torch.no_grad():
        dynamics.head.net.out.normal_(generator=gen(1))
    z, action = sequence(specs_of(dynamics), 4, 24, dtype=torch.float32)
    first = resets(4, 24)
    states = scan(dynamics, dynamics.initial(4), z, action, first)
    stepped = torch.stack([dynamics.memory(state) for state in states], 1).flatten(0, 1)
    full = dynamics.advance_sequence(dynamics.initial(4), z, action, first).memory.flatten(0, 1)
    assert (stepped - full).abs().max() <= 1e-4
    one, other = dynamics.predict(stepped), dynamics.predict(full)
    assert torch.equal(one.mode, other.mode)
    target = z.flatten(0, 1)
    assert (one.log_prob(target) - other.log_prob(target)).abs().max() <= 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_one_pass_are_those_of_the_scan(kind):
    dynamics = build(memory_kind=kind)
    z, action = sequence(specs_of(dynamics), 2, 9)
    first = resets(2, 9, (0, 0), (1, 0), (1, 4))
    weight = torch.randn(2, 9, 16, generator=gen(1), dtype=torch.float64)
    states = scan(dynamics, dynamics.initial(2), z, action, first)
    stepped = torch.stack([dynamics.memory(state) for state in states], 1)
    full = dynamics.advance_sequence(dynamics.initial(2), z, action, first).memory
    parameters = list(dynamics.net.parameters())
    for a, b in zip(*(torch.autograd.grad((m * weight).sum(), parameters) for m in (stepped, full)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_both_run_in_parallel_so_encoders_need_not_read_the_memory(kind):
    assert isinstance(build(memory_kind=kind), ParallelDynamics)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_under_bfloat16_keep_the_state_in_float32(kind):
    dynamics = build(memory_kind=kind, dtype=torch.float32)
    z, action = sequence(specs_of(dynamics), 2, 6, dtype=torch.float32)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        stepped = scan(dynamics, dynamics.initial(2), z, action, resets(2, 6))[-1]
        run = dynamics.advance_sequence(dynamics.initial(2), z, action, resets(2, 6)).final
        sample = dynamics.predict(dynamics.memory(stepped)).sample(gen())
    for state in (stepped, run):
        assert all(leaf.dtype in (torch.float32, torch.long) for leaf in tree.leaves(state))
    assert (stepped["h"] - run["h"]).abs().max() < 0.05 and torch.isfinite(sample).all()


# ---- World Models' memory ----


def test_lstm_is_torchs_lstm():
    torch.manual_seed(0)
    net = LSTMMemory(5, 7).double()
    oracle = torch.nn.LSTM(5, 7, batch_first=True).double()
    with torch.no_grad():
        oracle.weight_ih_l0.copy_(net.inputs.weight)
        oracle.weight_hh_l0.copy_(net.recurrent.weight)
        oracle.bias_ih_l0.copy_(net.inputs.bias)
        oracle.bias_hh_l0.zero_()
    x = torch.randn(3, 6, 5, generator=gen(), dtype=torch.float64)
    expected, (h, c) = oracle(x)
    run = net.sequence(net.initial(3), x, resets(3, 6))
    torch.testing.assert_close(run.memory, expected)
    torch.testing.assert_close(run.final, {"h": h[0], "c": c[0]})


def test_mdn_rnn_has_the_parameters_of_world_models():
    """Ha & Schmidhuber 2018, appendix: 422,368 for z of 32, 3 actions, an LSTM of 256, 5 components an entry."""
    config = AutoregressiveDynamicsConfig(memory_kind="lstm", memory=256, mixture="factorised", head_layers=0)
    dynamics = AutoregressiveDynamics(config, make_specs(latent=LatentSpec(32), action=3))
    assert sum(p.numel() for p in dynamics.parameters()) == 422_368


def test_a_dropped_cell_is_caught(monkeypatch):
    """The conformance check D6 finds an LSTM that carries h and forgets c."""
    config = AutoregressiveDynamicsConfig(memory_kind="lstm", memory=16, units=16)
    (sound,) = run_checks("dynamics", AutoregressiveDynamics, config, only={"D6"})
    assert sound.passed
    right = LSTMMemory._cell
    monkeypatch.setattr(
        LSTMMemory, "_cell", lambda self, state, x: right(self, {"h": state["h"], "c": 0 * state["c"].detach()}, x)
    )
    (broken,) = run_checks("dynamics", AutoregressiveDynamics, config, only={"D6"})
    assert not broken.passed and "['c']" in broken.cause


# ---- the heads ----


def test_the_density_of_codes_sums_to_one_and_reads_the_memory():
    dynamics = build(codes_spec(4, 3))
    with torch.no_grad():
        dynamics.head.net.out.normal_(generator=gen(1))
    codes = flat_hot(all_codes(4, 3), 3)
    memory = torch.randn(1, 16, generator=gen(), dtype=torch.float64).expand(len(codes), -1).clone().requires_grad_()
    log_prob = dynamics.predict(memory).log_prob(codes)
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert torch.autograd.grad(log_prob.sum(), memory)[0].abs().sum() > 0


def test_codes_are_sampled_as_often_as_their_density_says_and_temperature_sharpens_them():
    for temperature in (1.0, 0.5):
        dynamics = build(codes_spec(2, 3))
        with torch.no_grad():
            dynamics.head.net.out.normal_(generator=gen(1))
        memory, n = torch.randn(1, 16, generator=gen(), dtype=torch.float64), 40_000
        prior = tempered(dynamics.predict(memory.expand(n, -1)), temperature)
        drawn = prior.sample(gen(2)).detach().unflatten(-1, (2, 3)).argmax(-1)
        codes = all_codes(2, 3)
        conditionals = dynamics.head.net.conditionals(memory.expand(9, -1), F.one_hot(codes, 3).double())
        sharp = (conditionals / temperature).log_softmax(-1)
        expected = sharp.gather(-1, codes[..., None])[..., 0].sum(-1).exp()
        scored = tempered(dynamics.predict(memory.expand(9, -1)), temperature).log_prob(flat_hot(codes, 3)).exp()
        torch.testing.assert_close(scored, expected)
        found = torch.bincount(drawn[:, 0] * 3 + drawn[:, 1], minlength=9) / n
        assert ((found - expected).abs() < 4 * (expected * (1 - expected) / n).sqrt()).all()


@pytest.mark.parametrize("mixture", ["joint", "factorised"])
def test_mixtures_of_both_kinds_start_near_the_standard_normal(mixture):
    dynamics = build(LatentSpec(8), mixture=mixture)
    memory = torch.randn(500, 16, generator=gen(), dtype=torch.float64)
    prior = dynamics.predict(memory)
    assert prior.mean.shape[1:] == ((1, 5, 8) if mixture == "joint" else (8, 5, 1))
    z = prior.sample(gen())
    assert z.mean().abs().item() < 0.5 and 0.7 < z.std().item() < 2
    assert prior.std.min().item() >= 0.05


def test_heads_must_fit():
    with pytest.raises(ValueError, match="no multiple of twice"):
        AutoregressiveDynamicsConfig(memory=18, heads=4)
    assert AutoregressiveDynamicsConfig(memory=18, heads=4, memory_kind="lstm").memory == 18


def fit_four_modes(dynamics: AutoregressiveDynamics, steps: int) -> None:
    optimizer = torch.optim.Adam(dynamics.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        z, prior, _ = four_mode_predictions(dynamics, 32, step + 1)
        loss = -prior.log_prob(z).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def four_mode_predictions(dynamics: AutoregressiveDynamics, rows: int, seed: int):
    z, action, centre = four_modes(rows, 8, seed)
    before = torch.cat([torch.zeros(rows, 1, 2), z[:, :-1]], 1)
    first = resets(rows, 8, *((row, 0) for row in range(rows)))
    memory = dynamics.advance_sequence(dynamics.initial(rows), before, action, first).memory
    return z.flatten(0, 1), dynamics.predict(memory.flatten(0, 1)), centre.flatten(0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_four_modes_of_the_future_are_found_with_their_weights(kind):
    """True weights .4, .3, .2, .1, found within .05; true entropy -0.487 nats; at most 2 % of samples off all modes."""
    dynamics = build(LatentSpec(2), torch.float32, memory_kind=kind, memory=32, layers=1, window=8, units=32)
    fit_four_modes(dynamics, 500)
    with torch.no_grad():
        z, prior, centre = four_mode_predictions(dynamics, 1024, 10_000)
        weights, off = mode_weights(prior.sample(gen()), centre)
        nll = -prior.log_prob(z).mean().item()
    print(f"{kind}: weights {[round(w, 3) for w in weights.tolist()]}, off {off:.4f}, {nll:.3f} nats (truth -0.487)")
    assert (weights - torch.tensor([0.4, 0.3, 0.2, 0.1])).abs().max() < 0.05
    assert off < 0.02
    assert -0.487 - 0.05 < nll < -0.487 + 0.15


@pytest.mark.slow
def test_codes_that_depend_on_each_other_are_predicted_as_such():
    """Next codes are a fair coin and its copy, flipped if the action says so: log 2 nats jointly, 2 log 2 apart."""
    dynamics = build(codes_spec(2, 2), torch.float32, memory_kind="lstm", unimix=0.001)
    optimizer = torch.optim.Adam(dynamics.parameters(), 1e-2)
    nll = torch.zeros(())
    for step in range(250):
        g = gen(step)
        action = torch.rand(64, 2, generator=g) * 2 - 1
        coin = torch.randint(2, (64,), generator=g)
        codes = torch.stack([coin, coin ^ (action[:, 0] > 0).long()], 1)
        memory = dynamics.memory(dynamics.advance(dynamics.initial(64), torch.zeros(64, 4), action))
        nll = -dynamics.predict(memory).log_prob(flat_hot(codes, 2, torch.float32)).mean()
        optimizer.zero_grad()
        nll.backward()
        optimizer.step()
    assert nll.item() < math.log(2) + 0.15
