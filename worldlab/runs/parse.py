"""Parses JSON and TOML that a stranger may have written: the result of any bytes is a value or a ValueError.

Nesting is limited before the bytes reach a parser, so a parser's own limit, or its absence, does not matter.
"""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

DEPTH = 64
"""Deepest nesting of a value; our own files nest six levels."""
# Possessive, and a missing quote ends at the end of the data: the time stays proportional to the size.
_BRACKETS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)


def parse_json(data: bytes) -> Any:
    """Decode strict JSON in UTF-8.

    Raises: ValueError for invalid JSON, NaN or infinity, lone surrogates, or values nested too deep.
    """
    if data.count(b"[") + data.count(b"{") > DEPTH and _brackets_nest(data) > DEPTH:
        raise _too_deep()
    value = json.loads(data.decode(), parse_constant=_refuse_constant)
    if b"\\u" in data:
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate could not be written again
    return value


def parse_toml(data: bytes) -> dict[str, Any]:
    """Decode TOML in UTF-8. Raises: ValueError for invalid TOML or values nested too deep."""
    # tomllib takes quadratic time for a dotted key; no line of a configuration has as many dots.
    if any(line.count(b".") > DEPTH for line in data.splitlines()):
        raise ValueError(f"a line has more than {DEPTH} dots")
    try:
        value = tomllib.loads(data.decode())
    except RecursionError:
        raise _too_deep() from None
    if _nests_deeper(value, DEPTH):
        raise _too_deep()
    return value


def _brackets_nest(data: bytes) -> int:
    """Return how deep brackets outside of strings nest, counting up to DEPTH + 1."""
    depth = deepest = 0
    for match in _BRACKETS.finditer(data):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(match[0], 0)
        deepest = max(deepest, depth)
        if deepest > DEPTH:
            break
    return deepest


def _nests_deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            item
            for outer in level
            for item in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(item, dict | list)
        ]
        if not level:
            return False
    return True


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _too_deep() -> ValueError:
    return ValueError(f"nested more than {DEPTH} levels deep")
