"""Maps functions over trees of tensors.

A tree is a tensor, a dict, tuple, list or dataclass of trees, or None. States, latents and distributions are trees.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast, overload

import torch
from torch import Tensor


@overload
def tree_map(fn: Callable[[Tensor], Tensor], tree: Any) -> Any: ...


@overload
def tree_map(fn: Callable[..., Tensor], tree: Any, *rest: Any) -> Any: ...


def tree_map(fn: Callable[..., Tensor], tree: Any, *rest: Any) -> Any:
    """Apply fn to the tensors of trees of the same structure. All other leaves are taken from the first tree."""
    if isinstance(tree, Tensor):
        return fn(tree, *rest)
    if isinstance(tree, dict):
        items = cast(dict[Any, Any], tree).items()
        return {key: tree_map(fn, value, *(other[key] for other in rest)) for key, value in items}
    if isinstance(tree, list | tuple):
        branches = cast(Sequence[Any], tree)
        rebuild = cast(Callable[[Iterable[Any]], Any], type(branches))
        return rebuild(tree_map(fn, *values) for values in zip(branches, *rest, strict=True))
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        values = {
            field.name: tree_map(fn, getattr(tree, field.name), *(getattr(other, field.name) for other in rest))
            for field in dataclasses.fields(tree)
        }
        return dataclasses.replace(tree, **values)
    return tree


def leaves(tree: Any) -> list[Tensor]:
    """Return the tensors of a tree, in a fixed order."""
    found: list[Tensor] = []
    tree_map(lambda leaf: found.append(leaf) or leaf, tree)
    return found


def named_leaves(tree: Any) -> dict[str, Tensor]:
    """Return the tensors of a tree by their path, such as "carry.state.memory"."""
    if isinstance(tree, Tensor):
        return {"": tree}
    return {
        f"{key}.{name}".rstrip("."): leaf
        for key, branch in _branches(tree).items()
        for name, leaf in named_leaves(branch).items()
    }


def with_leaves(tree: Any, named: Mapping[str, Tensor]) -> Any:
    """Return a tree whose tensors are those of `named_leaves` of a tree of the same structure.

    Raises: KeyError for a missing tensor, ValueError for another shape.
    """
    names = iter(named_leaves(tree))  # in the order in which tree_map visits the tensors

    def found(leaf: Tensor) -> Tensor:
        value = named[next(names)].to(leaf.device, leaf.dtype)
        if value.shape != leaf.shape:
            raise ValueError(f"a tensor has shape {tuple(value.shape)} instead of {tuple(leaf.shape)}")
        return value

    return tree_map(found, tree)


def _branches(tree: Any) -> dict[str, Any]:
    if isinstance(tree, dict):
        return {str(key): value for key, value in cast(dict[Any, Any], tree).items()}
    if isinstance(tree, list | tuple):
        return {str(index): value for index, value in enumerate(cast(Sequence[Any], tree))}
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}
    return {}


def stack(trees: Sequence[Any], dim: int = 1) -> Any:
    """Stack trees of [N, ...] leaves along a new dimension (time, by default)."""
    return tree_map(lambda *values: torch.stack(values, dim), *trees)


def select(tree: Any, index: Any) -> Any:
    """Index the leading dimension(s) of every leaf."""
    return tree_map(lambda leaf: leaf[index], tree)


def repeat(tree: Any, count: int) -> Any:
    """Repeat every row `count` times in place: row i becomes rows i * count ... i * count + count - 1."""
    return tree_map(lambda leaf: leaf.repeat_interleave(count, 0), tree)


def where(mask: Tensor, tree: Any, other: Any) -> Any:
    """Take rows of `tree` where mask [N] is true, and rows of `other` elsewhere."""

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(mask.reshape(-1, *[1] * (a.dim() - 1)), a, b)

    return tree_map(pick, tree, other)


def detach(tree: Any) -> Any:
    """Return the same tree, detached from the graph."""
    return tree_map(lambda leaf: leaf.detach(), tree)


def flatten_time(tree: Any) -> Any:
    """Reshape [B, T, ...] leaves to [B * T, ...]."""
    return tree_map(lambda leaf: leaf.flatten(0, 1), tree)


def unflatten_time(tree: Any, batch: int) -> Any:
    """Reshape [B * T, ...] leaves to [B, T, ...]."""
    return tree_map(lambda leaf: torch.unflatten(leaf, 0, (batch, -1)), tree)
