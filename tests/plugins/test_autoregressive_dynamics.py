import pytest
import torch
from autoregressive_toys import CODES, GAUSSIAN, dynamics, gen, noisy
from pydantic import ValidationError
from worldlab_autoregressive.codes import CodeDistribution
from worldlab_autoregressive.configs import AutoregressiveDynamicsConfig
from worldlab_autoregressive.mixtures import GaussianMixture
from worldlab_autoregressive.transformer import TransformerMemory, rotate

from worldlab import rollout, tree
from worldlab.interfaces import Unrolled

KINDS = ["transformer", "mdn_rnn"]
LENGTH = 17
"""More than three contexts of 5."""


def inputs(rows: int = 3, length: int = LENGTH, dtype=torch.float64):
    z = torch.randn(rows, length, GAUSSIAN.dim, generator=gen(1), dtype=dtype)
    action = torch.randn(rows, length, 2, generator=gen(2), dtype=dtype)
    is_first = torch.zeros(rows, length, dtype=torch.bool)
    is_first[0, [2, 9]] = True
    is_first[1, 0] = True
    keep = (~is_first)[..., None]
    return z * keep, action * keep, is_first


def scan(part, state, z, action, is_first) -> list:
    states = []
    for t in range(z.shape[1]):
        carry, taken = rollout.reset_rows(part, {"state": state, "z": z[:, t]}, action[:, t], is_first[:, t])
        carry = tree.tree_map(lambda leaf: leaf.to(z.dtype) if leaf.is_floating_point() else leaf, carry)
        state = part.advance(carry["state"], carry["z"], taken)
        states.append(state)
    return states


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("warm", [0, 3, 12])
def test_a_whole_sequence_equals_the_scan_and_gives_each_steps_exact_state(kind: str, warm: int):
    part = dynamics(memory_kind=kind).double()
    start, g = part.initial(3), gen(5)
    for t in range(warm):  # rows of different age: row 2 starts later
        if t == warm // 2:
            start = tree.where(torch.tensor([False, False, True]), part.initial(3), start)
        noise = torch.randn(3, GAUSSIAN.dim + 2, generator=g, dtype=torch.float64)
        start = part.advance(start, noise[:, :-2], noise[:, -2:])
    z, action, is_first = inputs()
    with torch.no_grad():
        states = scan(part, start, z, action, is_first)
        run = part.advance_sequence(start, z, action, is_first)
        assert isinstance(run, Unrolled)
        torch.testing.assert_close(run.memory, torch.stack([part.memory(s) for s in states], 1), rtol=0, atol=1e-10)
        row, time = (grid.flatten() for grid in torch.meshgrid(torch.arange(3), torch.arange(LENGTH), indexing="ij"))
        found, expected = run.at(row, time), tree.select(tree.stack(states), (row, time))
        assert found.keys() == expected.keys()
        for name in expected:  # the ring itself, slot by slot, with its zeros and its order
            torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-10)
        for name in states[-1]:
            torch.testing.assert_close(run.final[name], states[-1][name], rtol=0, atol=1e-10)


def test_cached_predictions_are_the_full_ones_in_float32():
    part = dynamics(CODES)
    g = gen(3)
    z = torch.nn.functional.one_hot(torch.randint(3, (2, LENGTH, 4), generator=g), 3).float().flatten(-2)
    action = torch.randn(2, LENGTH, 2, generator=g)
    is_first = torch.zeros(2, LENGTH, dtype=torch.bool)
    with torch.no_grad():
        cached = torch.stack([part.memory(s) for s in scan(part, part.initial(2), z, action, is_first)], 1)
        full = part.advance_sequence(part.initial(2), z, action, is_first).memory
        network, after = part.head, z.flatten(0, 1)
        a, b = (network.log_probs(m.flatten(0, 1), after) for m in (cached, full))
        assert (a - b).abs().max().item() <= 1e-4
        one, other = (part.predict(m.flatten(0, 1)).mode for m in (cached, full))
    assert torch.equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_the_future_and_other_episodes_leave_no_trace(kind: str):
    """d memory[t] / d x[s] is exactly 0 for s > t and across a reset, and not 0 for the rest of the window."""
    part = dynamics(memory_kind=kind, context=4, layers=1).double()
    noisy(part)
    length, reset = 9, 6
    z, action, is_first = inputs(1, length)
    is_first = torch.zeros_like(is_first)
    is_first[0, reset] = True

    def memory(z: torch.Tensor) -> torch.Tensor:
        return part.advance_sequence(part.initial(1), z, action, is_first).memory[0].sum(-1)

    jacobian = torch.autograd.functional.jacobian(memory, z)
    assert isinstance(jacobian, torch.Tensor)
    reads = jacobian[:, 0].abs().amax(-1) > 0  # [t, s]
    lag = torch.arange(length)[:, None] - torch.arange(length)
    episode = (torch.arange(length) >= reset).long()
    allowed = (lag >= 0) & (episode[:, None] == episode)
    if kind == "transformer":
        allowed &= lag < 4
    assert torch.equal(reads, allowed)


def test_a_long_rollout_is_bounded_finite_and_does_not_know_how_old_it_is():
    part = dynamics(context=4, layers=1).double()
    state, g = part.initial(2), gen()
    size = sum(leaf.numel() for leaf in tree.leaves(state))
    x = torch.randn(2, 20, GAUSSIAN.dim + 2, generator=g, dtype=torch.float64)
    with torch.no_grad():
        for t in range(20):
            state = part.advance(state, x[:, t, :-2], x[:, t, -2:])
        assert torch.isfinite(part.memory(state)).all()
        assert sum(leaf.numel() for leaf in tree.leaves(state)) == size
        # One layer sees one window: the same last four steps, a million steps later.
        late = part.initial(2)
        late["position"] = late["position"] + 1_000_003
        for t in range(16, 20):
            late = part.advance(late, x[:, t, :-2], x[:, t, -2:])
    torch.testing.assert_close(part.memory(late), part.memory(state), rtol=0, atol=1e-8)


def test_attention_weighs_by_distance_only():
    q, k = (torch.randn(1, 1, 8, generator=gen(i), dtype=torch.float64) for i in range(2))

    def product(i: int, j: int) -> float:
        return float((rotate(q, torch.tensor([i])) * rotate(k, torch.tensor([j]))).sum())

    assert product(7, 4) == pytest.approx(product(1_000_003, 1_000_000), abs=1e-9)
    assert abs(product(7, 4) - product(7, 5)) > 1e-3
    assert product(0, 0) == pytest.approx(float((q * k).sum()))


def test_one_step_of_the_transformer_is_the_formula():
    """A single token attends to itself: its value, merged, and the feed-forward layer, written out."""
    torch.manual_seed(0)
    memory = TransformerMemory(3, 8, 1, 2, 4).double()
    x = torch.randn(2, 3, generator=gen(), dtype=torch.float64)
    block = memory.blocks[0]
    h = memory.embed(x)
    value = block.qkv(block.norm1(h))[:, 16:]
    h = h + block.merge(value)
    h = h + block.feed(block.norm2(h))
    torch.testing.assert_close(memory.advance(memory.initial(2), x)["h"], memory.norm(h))


def test_the_lstm_is_torchs():
    part = dynamics(memory_kind="mdn_rnn").double()
    theirs = torch.nn.LSTMCell(GAUSSIAN.dim + 2, 16).double()
    with torch.no_grad():
        order = [3, 1, 2, 0]  # ours: read (o), keep (f), candidate (g), write (i); torch's: i, f, g, o
        of_input, of_h = theirs.weight_ih.chunk(4), theirs.weight_hh.chunk(4)
        weight = torch.cat([torch.cat([of_input[k], of_h[k]], 1) for k in order])
        bias = (theirs.bias_ih + theirs.bias_hh).chunk(4)
        part.time.gates.weight.copy_(weight)
        part.time.gates.bias.copy_(torch.cat([bias[k] for k in order]))
        z, action, _ = inputs(2, 3)
        state, h, c = part.initial(2), *(torch.zeros(2, 16, dtype=torch.float64) for _ in range(2))
        for t in range(3):
            state = part.advance(state, z[:, t], action[:, t])
            h, c = theirs(torch.cat([z[:, t], action[:, t]], -1), (h, c))
            torch.testing.assert_close(state["h"], h)
            torch.testing.assert_close(state["c"], c)


def test_the_head_follows_the_latents_kind():
    assert isinstance(dynamics().predict(torch.zeros(1, 16)), GaussianMixture)
    prior = dynamics(CODES).predict(torch.zeros(1, 16))
    assert isinstance(prior, CodeDistribution) and prior.mode.shape == (1, 12)


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(ValidationError, match="no multiple of 2 x heads = 8"):
        AutoregressiveDynamicsConfig(memory=12, heads=4)
    assert AutoregressiveDynamicsConfig(memory=12, heads=4, memory_kind="mdn_rnn").memory == 12
