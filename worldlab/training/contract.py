"""Quotes the contract of a method in an error: its signature and docstring, and the fields of what it returns.

An installed package has no documentation folder, so an error that names a page would name nothing.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator

from worldlab import agent, interfaces

_MODULES = (interfaces, agent)


def contract(part: object, method: str) -> str:
    """Return the contract of a method of a component on one line; "" if its role has no such method.

    Example: "memory(state: State) -> Tensor: Return the memory h [N, H] of a state: ..."
    """
    for interface in _interfaces(type(part)):
        declared = vars(interface).get(method)
        if inspect.isfunction(declared) and declared.__doc__:
            text = f"{method}{_signature(declared)}: {_words(declared.__doc__)}"
            return " ".join([text, *_fields_of(declared.__annotations__.get("return", ""))])
    return ""


def _interfaces(cls: type) -> Iterator[type]:
    """Yield the interfaces that declare methods of a class: its bases, then the protocols of optional methods."""
    names = {module.__name__ for module in _MODULES}
    yield from (base for base in cls.__mro__ if base.__module__ in names)
    for module in _MODULES:
        for value in vars(module).values():
            if inspect.isclass(value) and getattr(value, "_is_protocol", False) and value.__module__ == module.__name__:
                yield value


def _signature(method: object) -> str:
    signature = inspect.signature(method)  # type: ignore[arg-type]
    own = [parameter for name, parameter in signature.parameters.items() if name not in ("self", "cls")]
    return str(signature.replace(parameters=own)).replace("'", "")


def _words(doc: str) -> str:
    return " ".join(doc.split())


def _fields_of(annotation: str) -> Iterator[str]:
    """Yield "Name has field: its docstring." for a dataclass of the interfaces that a method returns."""
    cls = getattr(interfaces, annotation, None)
    if not (inspect.isclass(cls) and dataclasses.is_dataclass(cls)):
        return
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    for before, after in zip(tree.body, tree.body[1:], strict=False):
        described = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and described:
            yield f"{annotation}.{before.target.id}: {_words(after.value.value)}"  # type: ignore[union-attr]
