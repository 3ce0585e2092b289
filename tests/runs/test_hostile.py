"""A run folder of a stranger runs no code, writes nowhere else, waits for nothing, and is refused in words.

benchmarks/reliability_files.py runs more commands over the same folders.
"""

from __future__ import annotations

import shutil

import pytest
from audited_command import run_audited
from hostile_runs import HOSTILE, contents, prepare
from warm_process import run_worldlab

SMALL = (
    "--env CartPole --preset debug --size nano --steps 130 --train.prefill 60 --env.time-limit 20 --train.ratio 0.02"
)
SMALL += " --train.pretrain 1 --eval.final-episodes 1 --eval.every 0 --log.pictures 0 --log.checkpoint 60 --run run"
EVAL, VERIFY, RESUME = ["eval", "run", "--episodes", "1"], ["verify", "run"], ["train", "--run", "run", "--resume"]
DREAM = ["dream", "run", "--horizon", "3", "--count", "1"]
EXPECTED = {0, 2, 3, 4, 5, 6, 7, 8, 9}
"""Exit codes that a command may have; 70 is a bug, a negative one a crash."""
NOT_EVALUATED = (
    "result",
    "metrics",
    "perf",
    "monitor",
    "lock",
    "digests",
    "replay",
    "segment",
    "orphans",
    "tb ",
    "videos",
)
"""Words of folders whose change `eval` never reads, so that it succeeds, which takes longest."""
RESUMED = (
    "lead outside",
    "leads outside",
    "lock leads",
    "file outside",
    "state of",
    "perf.jsonl is",
    "monitor.csv leads",
)
"""Words of folders that a resume must refuse, early."""


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    place = tmp_path_factory.mktemp("good")
    code, _, err = run_worldlab(place, "train", *SMALL.split())
    assert code == 0, err
    return place / "run"


@pytest.fixture(scope="module")
def usual(good, tmp_path_factory):
    """The modules that the commands import for an intact run."""
    place = tmp_path_factory.mktemp("usual")
    shutil.copytree(good, place / "run")
    rows = run_audited(place, "run", EVAL, VERIFY, RESUME, DREAM)
    assert [row["code"] for row in rows] == [0, 0, 0, 0], rows
    assert [row["events"] for row in rows] == [[], [], [], []]
    return {module for row in rows for module in row["modules"]}


def place_of(good, tmp_path, monkeypatch, change):
    shutil.copytree(good, tmp_path / "run")
    prepare(tmp_path, change)
    monkeypatch.setenv("HOSTILE_PLACE", str(tmp_path))
    return contents(tmp_path / "outside")


@pytest.mark.parametrize("title", HOSTILE)
def test_a_hostile_run_does_nothing_but_fail(title, good, usual, tmp_path, monkeypatch):
    before = place_of(good, tmp_path, monkeypatch, HOSTILE[title])
    commands = [VERIFY] if any(word in title for word in NOT_EVALUATED) else [VERIFY, EVAL]
    commands += [RESUME] if any(word in title for word in RESUMED) else []
    rows = run_audited(tmp_path, "run", *commands)
    assert len(rows) == len(commands), f"{commands[len(rows)]} did not end"
    for command, row in zip(commands, rows, strict=True):
        assert row["events"] == [], (command, row["err"])
        assert row["code"] in EXPECTED, (command, row["code"], row["err"])
        assert {name for name in set(row["modules"]) - usual if name.partition(".")[0] in ("evil", "run")} == set()
        assert not any(not (c.isprintable() or c in "\n\t") for c in row["err"]), row["err"]
    assert contents(tmp_path / "outside") == before and not (tmp_path / "ran").exists()


def test_the_hook_sees_what_a_trusted_module_does(good, usual, tmp_path, monkeypatch):
    """The control: the same folder, with the user's word."""
    place_of(good, tmp_path, monkeypatch, HOSTILE["environment is a module"])
    code = "import os, pickle, socket, subprocess\nos.system('true')\nsubprocess.run(['true'])\n"
    code += "pickle.loads(b'cos\\ngetcwd\\n.')\nsocket.socket().connect_ex(('127.0.0.1', 9))\nopen('outside/x', 'w').close()\n"
    (tmp_path / "evil.py").write_text(code)
    (row,) = run_audited(tmp_path, "run", [*EVAL, "--trust-env", "evil"])
    kinds = {event.split()[0] for event in row["events"]}
    assert kinds == {"os.system", "subprocess.Popen", "pickle.find_class", "socket.connect", "open", "exec"} | (
        kinds & {"os.posix_spawn", "os.fork"}
    )
    assert "evil" in row["modules"]
