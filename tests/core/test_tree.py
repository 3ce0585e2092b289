from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from worldlab import tree


@dataclass(frozen=True)
class Pair:
    x: Tensor
    name: str
    rest: dict


def make(n: int = 3) -> Pair:
    base = torch.arange(n * 2.0).reshape(n, 2)
    return Pair(base, "kept", {"a": (base + 10, None), "b": [base.long()]})


def test_map_keeps_structure_types_and_other_leaves():
    out = tree.tree_map(lambda a, b: a + b, make(), make())
    assert isinstance(out, Pair) and out.name == "kept"
    assert isinstance(out.rest["a"], tuple) and out.rest["a"][1] is None and isinstance(out.rest["b"], list)
    torch.testing.assert_close(out.x, make().x * 2)
    torch.testing.assert_close(out.rest["a"][0], make().rest["a"][0] * 2)


def test_trees_of_different_structure_are_an_error():
    with pytest.raises(ValueError):
        tree.tree_map(lambda a, b: a, [torch.zeros(1)], [torch.zeros(1), torch.zeros(1)])
    with pytest.raises(KeyError):
        tree.tree_map(lambda a, b: a, {"x": torch.zeros(1)}, {"y": torch.zeros(1)})


def test_leaves_come_in_the_order_of_the_structure():
    leaves = tree.leaves(make())
    assert [leaf.dtype for leaf in leaves] == [torch.float32, torch.float32, torch.int64]
    assert leaves[1][0, 0] == 10


def test_stack_then_select_returns_each_tree():
    stacked = tree.stack([make(), tree.tree_map(lambda leaf: leaf + 1, make())])
    assert stacked.x.shape == (3, 2, 2)
    row, time = torch.tensor([2, 0]), torch.tensor([1, 0])
    torch.testing.assert_close(tree.select(stacked, (row, time)).x, torch.stack([make().x[2] + 1, make().x[0]]))


def test_repeat_puts_the_copies_of_a_row_together():
    assert tree.repeat({"x": torch.tensor([1, 2])}, 3)["x"].tolist() == [1, 1, 1, 2, 2, 2]


def test_where_picks_whole_rows_of_any_rank():
    ones, zeros = {"a": torch.ones(3), "b": torch.ones(3, 2, 2)}, {"a": torch.zeros(3), "b": torch.zeros(3, 2, 2)}
    out = tree.where(torch.tensor([True, False, True]), ones, zeros)
    assert out["a"].tolist() == [1, 0, 1]
    assert out["b"].sum((1, 2)).tolist() == [4, 0, 4]


def test_where_ignores_the_row_that_is_not_selected():
    broken = torch.full((2, 1), torch.nan)
    good = torch.ones(2, 1, requires_grad=True)
    tree.where(torch.tensor([True, True]), good, broken).sum().backward()
    assert good.grad is not None and good.grad.tolist() == [[1], [1]]


def test_flatten_and_unflatten_time_are_inverse():
    x = {"x": torch.arange(12).reshape(2, 3, 2)}
    flat = tree.flatten_time(x)
    assert flat["x"][3].tolist() == [6, 7]
    torch.testing.assert_close(tree.unflatten_time(flat, 2)["x"], x["x"])


def test_detach_cuts_every_leaf():
    leaf = torch.ones(2, requires_grad=True)
    out = tree.detach(Pair(leaf * 2, "n", {"a": [leaf * 3]}))
    assert not any(value.requires_grad for value in tree.leaves(out))
