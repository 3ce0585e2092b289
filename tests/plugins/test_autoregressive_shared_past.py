"""Many futures of one past: the same as copies of it, for as long as a plan."""

import pytest
import torch
from autoregressive_toys import KINDS, build, resets, scan, sequence, specs_of
from worldlab_autoregressive.shared_past import SharedPast

from worldlab import tree
from worldlab.training.host_reads import watch_host_reads


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seen", [1, 3, 7])
def test_futures_that_share_a_past_are_those_that_copy_it(kind, seen):
    """Fewer steps than the window of 4 and more, a reset in one row, and a future longer than the window."""
    dynamics = build(memory_kind=kind)
    z, action = sequence(specs_of(dynamics), 2, seen)
    first = resets(2, seen)
    first[1, seen // 2] = True
    state = scan(dynamics, dynamics.initial(2), z, action, first)[-1]
    copied, shared = tree.repeat(state, 3), dynamics.fork(state, 3)
    torch.testing.assert_close(dynamics.memory(shared), dynamics.memory(copied))
    z, action = sequence(specs_of(dynamics), 6, 7)
    for t in range(7):
        copied = dynamics.advance(copied, z[:, t], action[:, t])
        shared = dynamics.advance(shared, z[:, t], action[:, t])
        torch.testing.assert_close(dynamics.memory(shared), dynamics.memory(copied))


def test_gradients_reach_the_actions_of_a_shared_past():
    dynamics = build()
    state = dynamics.fork(dynamics.initial(1), 2)
    z, action = sequence(specs_of(dynamics), 2, 2)
    action.requires_grad_()
    for t in range(2):
        state = dynamics.advance(state, z[:, t], action[:, t])
    (state["h"][0] * torch.arange(16)).sum().backward()  # a plain sum of normed entries never moves
    assert action.grad is not None and action.grad[0].abs().min() > 0 and (action.grad[1] == 0).all()


def test_futures_along_sequences_share_them_and_are_those_of_copied_states():
    """Unequal numbers of futures of three sequences, one without any; a reset; longer than the window of 4."""
    dynamics = build()
    z, action = sequence(specs_of(dynamics), 3, 6)
    first = resets(3, 6)
    first[1, 2] = True
    run = dynamics.advance_sequence(dynamics.initial(3), z, action, first)
    assert run.shared_at is not None
    row, time = torch.tensor([0, 0, 0, 1, 1, 1, 1]), torch.tensor([0, 3, 5, 1, 2, 3, 5])
    copied, shared = run.at(row, time), run.shared_at(row, time)
    assert shared["past"].layers[0].values.shape[0] == 3 and not shared["past"].even
    torch.testing.assert_close(dynamics.memory(shared), dynamics.memory(copied))
    z, action = sequence(specs_of(dynamics), 7, 7)
    assert dynamics.fork(shared, 1) is shared
    for t in range(7):
        copied = dynamics.advance(copied, z[:, t], action[:, t])
        shared = dynamics.advance(shared, z[:, t], action[:, t])
        torch.testing.assert_close(dynamics.memory(shared), dynamics.memory(copied))


def test_the_futures_of_a_fork_need_not_be_counted():
    """A fork has equally many futures of each row. Counting them would read values on the host."""
    dynamics = build()
    state = dynamics.advance(dynamics.initial(3), *(part[:, 0] for part in sequence(specs_of(dynamics), 3, 1)))
    with watch_host_reads(torch.device("cpu")) as places:
        forked = dynamics.fork(state, 2)
    past = forked["past"]
    counted = SharedPast(past.layers, torch.arange(3).repeat_interleave(2), past.first, past.last, past.window)
    assert places == [] and (past.most, past.even) == (counted.most, counted.even) == (2, True)
