"""The files of a report in its folder."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from report_kit import ENVS, METHODS, comparison, run_folders

from worldlab.errors import StorageError
from worldlab.runs.storage import read_json
from worldlab.study import report

NAMES = ["report.html", "results.csv", "tables.md", "tables.tex", "summary.json"]


def test_two_writes_are_equal(tmp_path):
    """Byte by byte, in another folder and over an older report."""
    contents = []
    for name in ("one", "two"):
        run_folders(comparison(), tmp_path / name)
        paths = report.write(comparison(), tmp_path / name)
        assert list(paths) == NAMES
        contents.append([path.read_bytes() for path in paths.values()])
    contents.append([path.read_bytes() for path in report.write(comparison(), tmp_path / "two").values()])
    assert contents[0] == contents[1] == contents[2]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(["cells", *NAMES])
    assert contents[0][0].count(b"data:image/webp") == 10


@pytest.mark.parametrize(
    "seeds, methods, envs, failed",
    [
        ((0,), METHODS[:1], ENVS[:1], False),
        ((0, 1), METHODS[:2], ENVS[:1], True),
        ((0,), METHODS[5:6], ENVS, False),
        ((), METHODS[:1], ENVS[:1], False),
        ((0, 1, 2), METHODS[:1] + METHODS[5:], ENVS, False),
    ],
    ids=["one", "all failed", "a baseline", "no trial", "a model and baselines"],
)
def test_the_least_comparisons(tmp_path, seeds, methods, envs, failed):
    given = comparison(seeds=seeds, methods=methods)
    trials = tuple(trial for trial in given.trials if trial.env in envs)
    if failed:
        trials = tuple(
            replace(t, status="failed", cause="DivergedError", returns=(), curve=(), measures={}) for t in trials
        )
    paths = report.write(replace(given, envs=envs, trials=trials), tmp_path / "new" / "folder")
    page = paths["report.html"].read_text().replace("\xa0", " ")
    found = read_json(paths["summary.json"])
    assert ("Only" in page and "fewer than 5" in page) or "No trial has a result" in page
    assert len(found["trials"]) == len(trials)
    assert found["verdict"]["lead"] in page
    assert ("DivergedError" in page) == failed
    if failed or not seeds:
        assert found["verdict"]["lead"].startswith("No trial has a result") and found["returns"] == []


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        report.write(comparison(methods=METHODS[:1]), tmp_path / "file" / "x")


def test_it_needs_no_torch():
    code = "import sys; import worldlab.study.report; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
