"""Quotes the contract of a method in an error: an installed package has no documentation folder to point to."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator

from worldlab import agent, interfaces
from worldlab.errors import one_line

INTERFACES: dict[str, tuple[type, ...]] = {
    "encoder": (interfaces.Encoder,),
    "dynamics": (
        interfaces.Dynamics,
        interfaces.ParallelDynamics,
        interfaces.SharesPast,
        interfaces.ScoresLatent,
    ),
    "decoder": (interfaces.Decoder, interfaces.HasLogMass),
    "agent": (agent.Agent, agent.OwnLearner, agent.LearnsFromEpisodes),
}
"""The classes in which the contract of a role's methods is written."""


def contract(role: str, method: str) -> tuple[str, str]:
    """Return the full name of a role's method and its docstring on one line; ("", "") for what no interface has.

    If the method returns a dataclass of worldlab.interfaces, its fields follow: "Unrolled.memory: [B, T, H]."
    """
    for interface in INTERFACES.get(role, ()):
        member = getattr(interface, method, None)
        if callable(member) and getattr(member, "__module__", None) == interface.__module__ and member.__doc__:
            text = one_line(inspect.getdoc(member), 400)
            fields = _fields_of(str(member.__annotations__.get("return", "")))
            return f"{interface.__module__}.{interface.__name__}.{method}", " ".join([text, *fields])
    return "", ""


def _fields_of(annotation: str) -> Iterator[str]:
    """Yield "Class.field: its docstring" for the fields of a dataclass of worldlab.interfaces."""
    cls = getattr(interfaces, annotation, None)
    if not (inspect.isclass(cls) and dataclasses.is_dataclass(cls)):
        return
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    for before, after in zip(tree.body, tree.body[1:], strict=False):
        if not (isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name)):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            yield f"{annotation}.{before.target.id}: {' '.join(str(after.value.value).split())}"
