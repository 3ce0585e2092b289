"""Calls the methods of one component in the dry run, and names the component in every error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from worldlab import tree
from worldlab.errors import PluginError, WorldlabError, one_line
from worldlab.registry import Registration
from worldlab.registry.faults import where
from worldlab.training.contract import contract

Shape = tuple[int | None, ...]
"""The shape of a tensor; None matches any size."""


@dataclass(frozen=True)
class PartProbe:
    """Calls the methods of one component and reports what violates the contract."""

    registration: Registration
    part: nn.Module

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the component; an exception becomes a PluginError."""
        return self.guard(method, lambda: getattr(self.part, method)(*args))

    def guard(self, method: str, call: Callable[[], Any]) -> Any:
        """Run a call; an exception becomes a PluginError about `method`."""
        try:
            return call()
        except WorldlabError:
            raise
        except (Exception, SystemExit) as exc:
            raise self.exception_error(method, exc) from exc

    def exception_error(self, method: str, exc: BaseException) -> PluginError:
        """Return the error for an exception that a method raised."""
        return self.error(method, f"raised {type(exc).__name__}: {one_line(exc, 200)}", f"at {where(exc)}")

    def error(self, method: str, what: str, more: str = "") -> PluginError:
        """Return the error for a method that violates the contract. what: a clause that follows the method's name."""
        entry = self.registration
        cause = f"{type(self.part).__name__}.{method} {what}" + (f"; {more}" if more else "")
        name, text = contract(entry.role, method)
        cause = one_line(cause, 600) + (f"\ncontract: {method}: {text}" if text else "")
        target = entry.file or f"{entry.role}:{entry.name}"
        reference = f"; python -m pydoc {name}   prints the contract" if name else ""
        fix = f"worldlab check-plugin {target}   runs all checks{reference}"
        return PluginError(one_line(f"{entry.who} {method} {what}"), cause=cause, fix=fix)

    def check_tensor(self, method: str, value: Any, shape: Shape, letters: str, name: str = "") -> Tensor:
        """Check that a value is a finite float tensor of this shape on the component's device. letters: "[N, D]"."""
        subject = f"{name} is " if name else "gives "
        wanted = f"{letters} = [{', '.join('*' if size is None else str(size) for size in shape)}]"
        if not isinstance(value, Tensor):
            raise self.error(method, f"{subject}a {type(value).__name__}, expected a float tensor {wanted}")
        fits = len(shape) == value.dim() and all(a in (None, b) for a, b in zip(shape, value.shape, strict=True))
        if not fits:
            raise self.error(method, f"{subject}{list(value.shape)}, expected {wanted}")
        if value.dtype != torch.float32:
            raise self.error(method, f"{subject}{value.dtype}, expected torch.float32 {wanted}")
        device = next(self.part.parameters(), value).device
        if value.device != device:
            raise self.error(method, f"{subject}on {value.device}, expected {device}")
        if not bool(torch.isfinite(value).all()):
            bad = int((~torch.isfinite(value)).sum())
            raise self.error(method, f"{subject}not finite: {bad} of {value.numel()} values of {wanted} are NaN or inf")
        return value

    def check_rows(self, method: str, value: Any, rows: int, like: Any = None, name: str = "") -> Any:
        """Check that all leaves of a tree are [rows, ...], and match the other dimensions of the tree `like`."""
        leaves = tree.leaves(value)
        wanted = tree.leaves(like) if like is not None else leaves
        if not leaves:
            subject, kind = f"{name} is" if name else "gives", type(value).__name__
            raise self.error(method, f"{subject} a {kind} without tensors, expected a dict or dataclass of [N, ...]")
        if len(leaves) != len(wanted):
            raise self.error(method, f"gives {len(leaves)} leaves, expected the {len(wanted)} of initial(n)")
        for leaf, other in zip(leaves, wanted, strict=True):
            shape = [rows, *other.shape[1:]]
            if list(leaf.shape) != shape:
                leaf_of = f"{name} has" if name else "gives"
                raise self.error(method, f"{leaf_of} a leaf {list(leaf.shape)}, expected [N, ...] = {shape}")
        return value
