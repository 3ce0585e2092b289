"""No flipped bit and no cut is silent, in any file of a run (T-ROT). benchmarks/reliability_files.py flips 1,000 of each."""

import pytest
from rot_kit import KINDS, rot
from run_folder_kit import make_cell, make_run


@pytest.mark.parametrize("kind", KINDS)
def test_no_damage_is_silent(kind, tmp_path):
    run = make_run(tmp_path / "run").path
    make_cell(run)
    counts = rot(run, kind, flips=60, cuts=20)
    assert counts["silent"] == counts["crashed"] == 0 and sum(counts.values()) == 80, counts
    assert counts["detected"] >= 60  # white space is harmless
