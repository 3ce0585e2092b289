"""worldlab.runs.metrics: lines that are equal byte for byte."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from worldlab.errors import StorageError
from worldlab.runs.metrics import MetricsBus, read_metrics


@pytest.fixture
def paths(tmp_path):
    return SimpleNamespace(metrics=tmp_path / "metrics.jsonl", perf=tmp_path / "perf.jsonl")


def test_lines_are_exact_and_sorted(paths):
    with MetricsBus(paths) as bus:
        bus.log(5, {"b": 0.1, "a": np.float32(0.1), "n": 3, "t": torch.tensor(2.5)}, {"fps": 10.0})
        bus.log(6, {"x": float("nan"), "y": float("-inf"), "z": 1e300 * 10})
    assert paths.metrics.read_text() == (
        '{"a": 0.10000000149011612, "b": 0.1, "n": 3, "step": 5, "t": 2.5}\n'
        '{"step": 6, "x": null, "x/nonfinite": "nan", "y": null, "y/nonfinite": "-inf", "z": 1e+301}\n'
    )
    perf = read_metrics(paths.perf)
    assert perf[0].keys() == {"fps", "rss_mb", "seconds", "step", "time"} and perf[0]["rss_mb"] > 1
    assert read_metrics(paths.metrics)[1]["x"] is None


def test_equal_runs_write_equal_bytes(tmp_path):
    written = []
    for run in "ab":
        (tmp_path / run).mkdir()
        paths = SimpleNamespace(metrics=tmp_path / run / "metrics.jsonl", perf=tmp_path / run / "perf.jsonl")
        with MetricsBus(paths) as bus:  # pyright: ignore
            values = {"a": 1 / 3, "b": 2.0}
            bus.log(1, values if run == "a" else dict(reversed(values.items())))
        written.append(paths.metrics.read_bytes())
    assert written[0] == written[1]


def test_floats_survive_bit_for_bit(paths):
    values = np.random.default_rng(0).normal(0, 1, 200) * 10.0 ** np.random.default_rng(1).integers(-300, 300, 200)
    with MetricsBus(paths) as bus:
        bus.log(0, {f"v{k}": v for k, v in enumerate(values)})
    line = read_metrics(paths.metrics)[0]
    assert [line[f"v{k}"] for k in range(200)] == values.tolist()


def test_a_torn_last_line_is_tolerated_and_other_damage_is_not(paths):
    paths.metrics.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_metrics(paths.metrics) == [{"step": 1}, {"step": 2}]
    with MetricsBus(paths) as bus:
        bus.log(3, {})
    assert [line["step"] for line in read_metrics(paths.metrics)] == [1, 2, 3]
    paths.metrics.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(StorageError, match=r"metrics\.jsonl line 2 is damaged"):
        read_metrics(paths.metrics)
    with pytest.raises(StorageError):
        read_metrics(paths.perf.with_name("missing"))


def test_truncate_then_repeat_equals_an_uninterrupted_run(paths):
    def log(bus, steps):
        for step in steps:
            bus.log(step, {"a": step / 7})

    with MetricsBus(paths) as bus:
        log(bus, range(0, 100, 10))
    whole = paths.metrics.read_bytes()
    with MetricsBus(paths) as bus:
        assert bus.truncate_after(45) == 2 * 5
        log(bus, range(50, 100, 10))
        assert bus.truncate_after(1000) == 0
    assert paths.metrics.read_bytes() == whole
    assert [line["step"] for line in read_metrics(paths.perf)] == list(range(0, 100, 10))


def test_logging_needs_no_torch(tmp_path):
    code = "import sys, types, pathlib; from worldlab.runs.metrics import MetricsBus; p = pathlib.Path(sys.argv[1])\n"
    code += "b = MetricsBus(types.SimpleNamespace(metrics=p / 'm', perf=p / 'p'))\n"
    code += "b.log(1, {'a': 1.0}); b.sync(); b.close(); b.close()\n"
    code += "assert not {'torch', 'tensorflow', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert json.loads((tmp_path / "m").read_text()) == {"a": 1.0, "step": 1}
