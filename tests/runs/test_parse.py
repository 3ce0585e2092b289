"""worldlab.runs.parse: any bytes give a value or a ValueError, in a time that grows with their number only."""

import json
import random
import sys
import time
import tomllib

import pytest

from worldlab.runs.parse import DEPTH, parse_json, parse_toml


@pytest.fixture(autouse=True)
def deep_stack():
    """A library may raise the limit, after which a parser's own recursion would overflow the C stack."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(200_000)
    yield
    sys.setrecursionlimit(before)


HOSTILE_JSON = {
    "arrays": b"[" * 100_000,
    "objects": b'{"a":' * 100_000,
    "closed": b"[" * 100_000 + b"]" * 100_000,
    "one too many": b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1),
    "behind strings": b'{"a": "' + b"]" * 200_000 + b'", "b": ' + b"[" * 100_000,
    "unclosed strings": b'["' + b'\\"' * 300_000 + b"[" * 100,
    "long number": b"[" + b"9" * 5000 + b"]",
    "NaN": b"[NaN]",
    "lone surrogate": b'["\\ud800"]',
    "no UTF-8": b'["\xff"]',
    "empty": b"",
}


@pytest.mark.parametrize("data", HOSTILE_JSON.values(), ids=HOSTILE_JSON.keys())
def test_hostile_json_is_a_value_error_at_once(data):
    start = time.perf_counter()
    with pytest.raises(ValueError):
        parse_json(data)
    assert time.perf_counter() - start < 5


def test_json_of_every_shape_is_read_as_the_standard_library_reads_it():
    rng = random.Random(0)

    def value(depth):
        kind = rng.randrange(7 if depth else 5)
        plain = [None, True, rng.random(), rng.randrange(10**20), "[{\"\\]}' \u00e9\U0001f600" * rng.randrange(3)]
        if kind < 5:
            return plain[kind]
        inner = [value(depth - 1) for _ in range(rng.randrange(4))]
        return inner if kind == 5 else {f"{{[{n}": item for n, item in enumerate(inner)}

    for _ in range(300):
        wanted = value(8)
        for ascii in (True, False):
            assert parse_json(json.dumps([[[wanted]]] * 30, ensure_ascii=ascii).encode()) == [[[wanted]]] * 30
    flat = [[n] for n in range(10_000)]
    assert parse_json(json.dumps(flat).encode()) == flat
    edge = b"[" * DEPTH + b"]" * DEPTH
    assert parse_json(edge) == json.loads(edge)


HOSTILE_TOML = {
    "arrays": b"a = " + b"[" * 20_000,
    "closed arrays": b"a = " + b"[" * 200 + b"]" * 200,
    "tables": b"a = " + b"{b = " * 20_000,
    "dotted key": b".".join([b"a"] * 20_000) + b" = 1",
    "dotted table": b"[" + b".".join([b"'a b'"] * 20_000) + b"]",
    "long number": b"a = " + b"9" * 5000,
    "no UTF-8": b"a = '\xff'",
    "broken": b"a = [",
}


@pytest.mark.parametrize("data", HOSTILE_TOML.values(), ids=HOSTILE_TOML.keys())
def test_hostile_toml_is_a_value_error_at_once(data):
    start = time.perf_counter()
    with pytest.raises(ValueError):
        parse_toml(data)
    assert time.perf_counter() - start < 5


def test_toml_is_read_as_the_standard_library_reads_it():
    text = "presets = ['a.b.c']\r\n[env]\nid = 'x'\nsizes = [[1, 2], [3.5, 4.5]]\n[for.'Car*']\ntrain.ratio = 0.5\n"
    assert parse_toml(text.encode()) == tomllib.loads(text)
