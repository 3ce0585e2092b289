"""Following files: every whole line once, whatever happens to the file meanwhile, and never the file from its start again."""

from __future__ import annotations

import json
import os

import pytest

from worldlab.runs.follow import LINE, NAMES, POINTS, Curve, LineTail, MetricsTail


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def append(path, text):
    with path.open("ab") as file:
        file.write(text if isinstance(text, bytes) else text.encode())


def test_whole_lines_are_read_once(path):
    tail = LineTail(path)
    assert tail.read(100) == []  # not there yet
    append(path, "a\nb\nto")
    assert tail.read(100) == [b"a", b"b"] and tail.read(100) == []
    append(path, "rn\n")
    assert tail.read(100) == [b"torn"] and tail.restarts == 0


def test_only_new_bytes_are_read(path, monkeypatch):
    """A long file is not read again when a line is added to it."""
    tail = LineTail(path)
    append(path, b"x" * 999 + b"\n")
    while tail.read(2**20):
        pass
    read = []
    whole = LineTail._read

    class Counting:
        def __init__(self, file):
            self._file, self.fileno, self.seek = file, file.fileno, file.seek

        def read(self, size):
            data = self._file.read(size)
            read.append(len(data))
            return data

    monkeypatch.setattr(LineTail, "_read", lambda self, file, budget: whole(self, Counting(file), budget))
    append(path, "new\n")
    assert tail.read(2**20) == [b"new"] and tail.read(2**20) == [] and read == [4]


def test_a_budget_splits_the_reading(path):
    append(path, "".join(f"line {number:03d}\n" for number in range(100)))
    tail, lines = LineTail(path), []
    lines += tail.read(50)
    assert len(lines) == 5 and tail.behind
    while more := tail.read(50):
        lines += more
    assert lines == [f"line {number:03d}".encode() for number in range(100)] and not tail.behind


def test_a_file_that_is_cut_or_replaced_begins_anew(path):
    tail = LineTail(path)
    append(path, "1\n2\n3\n")
    assert len(tail.read(100)) == 3
    os.truncate(path, 2)
    assert tail.read(100) == [b"1"] and tail.restarts == 1
    other = path.with_name("other")
    other.write_text("1\n4\n5\n6\n7\n")  # longer than what was read
    os.replace(other, path)
    assert tail.read(100) == [b"1", b"4", b"5", b"6", b"7"] and tail.restarts == 2


def test_a_file_that_vanishes_and_comes_back(path):
    tail = LineTail(path)
    append(path, "1\n")
    tail.read(100)
    path.unlink()
    assert tail.read(100) == []
    path.mkdir()
    assert tail.read(100) == []
    path.rmdir()
    path.symlink_to("/etc/passwd")
    assert tail.read(100) == []
    path.unlink()
    (path.parent / "kept").write_text("")  # so that the number of the file is another one
    append(path, "2\n")
    assert tail.read(100) in ([b"2"], [])  # a file system may give the same number again: then nothing is new


def test_a_line_without_an_end_is_skipped(path):
    tail = LineTail(path)
    append(path, b"1\n" + b"x" * (3 * LINE))
    assert tail.read(LINE) == [b"1"]
    for _ in range(4):
        assert tail.read(LINE) == []
    append(path, "rest\n2\n")
    found = []
    for _ in range(3):
        found += tail.read(LINE)
    assert found == [b"2"]


def test_curves_have_the_points_of_the_file(path):
    tail = MetricsTail(path)
    append(path, '{"step": 1, "a": 0.5, "b": 2}\n{"step": 2, "a": null, "a/nonfinite": "nan"}\n{"step": 3, "a": 1.5}\n')
    assert tail.read(2**16)
    assert (list(tail.curves["a"].steps), list(tail.curves["a"].values)) == ([1, 3], [0.5, 1.5])
    assert set(tail.curves) == {"a", "b"} and tail.last == {"a": 1.5, "b": 2}
    assert not tail.read(2**16)
    path.write_text('{"step": 1, "c": 1}\n')  # a resumed run cut it
    assert tail.read(2**16) and set(tail.curves) == {"c"} and tail.version == 1


@pytest.mark.parametrize(
    "line",
    ["", "x", "[1]", '{"a": 1}', '{"step": -1, "a": 1}', '{"step": true, "a": 1}', '{"step": 1, "a": NaN}', "\xff"],
)
def test_damaged_lines_are_left_out(path, line):
    append(path, f'{line}\n{{"step": 5, "a": 1, "b\\n": 2, "big": 1e308, "flag": true}}\n'.encode("latin-1"))
    tail = MetricsTail(path)
    tail.read(2**16)
    assert list(tail.curves) == ["a"] and list(tail.curves["a"].steps) == [5]


def test_a_long_curve_is_thinned_and_keeps_its_ends_in_order():
    curve = Curve()
    for step in range(10 * POINTS + 7):
        curve.add(step, -float(step))
        assert curve.steps[-1] == step and len(curve.steps) < 2 * POINTS
    steps = list(curve.steps)
    assert steps == sorted(steps) and steps[0] == 0 and list(curve.values) == [-step for step in steps]
    assert curve.version >= 4


def test_names_are_limited(path):
    append(path, json.dumps({"step": 1, **{f"n{number}": 1 for number in range(2 * NAMES)}}) + "\n")
    tail = MetricsTail(path)
    tail.read(2**20)
    assert len(tail.curves) == NAMES
