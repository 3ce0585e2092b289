"""`worldlab compare`: flags, mistakes, exit codes, and a real comparison that is interrupted, killed and resumed."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from data_kit import made
from warm_process import warm_cells, warm_worldlab
from worldlab_data.run_folder import RunFolderFormat

from worldlab import cli
from worldlab.study.compare import run as comparing
from worldlab.study.compare.cell_file import read_cell
from worldlab.study.compare.matrix import matrix_of
from worldlab.study.results import Comparison, Method, Trial


class FakeCompare:
    """Replaces worldlab.study.compare.run.compare: records its calls, and returns trials of these statuses or raises."""

    def __init__(self, monkeypatch):
        self.calls: list = []
        self.statuses = ["finished"]
        self.error: BaseException | None = None
        monkeypatch.setattr(comparing, "compare", self)

    def __call__(self, matrix, registry, folder, command):
        print("a library printed this")
        self.calls.append((matrix, folder, command))
        if self.error:
            raise self.error
        trials = tuple(Trial("m", "e", seed, status, cause="why") for seed, status in enumerate(self.statuses))
        return Comparison("title", (Method("m", "M", "model"),), ("e",), (0,), trials)


@pytest.fixture
def fake(monkeypatch, tmp_path) -> FakeCompare:
    monkeypatch.chdir(tmp_path)
    return FakeCompare(monkeypatch)


def worldlab(line: str) -> int:
    return cli.main(shlex.split(line))


def test_a_switch_does_not_swallow_the_matrix(fake, tmp_path):
    (tmp_path / "m.toml").write_text('seeds = 1\n[axes]\nenv = "CartPole"\n')
    assert worldlab("compare --no-strict m.toml") == 0
    ((matrix, _, _),) = fake.calls
    assert matrix.envs == ("CartPole",) and str(matrix.settings[0]["strict"]) == "false"


def test_the_environment_is_that_of_the_data_unless_one_is_named(fake, tmp_path, capsys):
    RunFolderFormat().write(made((3,), env_id="Pendulum-v1"), tmp_path / "named")
    RunFolderFormat().write(made((3,), env_id=""), tmp_path / "unnamed")
    assert worldlab("compare --data named --offline") == worldlab("compare --data unnamed --env CartPole") == 0
    assert [matrix.envs for matrix, _, _ in fake.calls] == [("Pendulum-v1",), ("CartPole",)]
    assert worldlab("compare --data unnamed") == 2
    assert "does not name its environment" in capsys.readouterr().err


def test_flags_can_express_a_file(fake, tmp_path, capsys):
    line = "compare --env CartPole Pendulum --encoder vae cpc --seeds 3 5 --preset debug --preset few-steps --config a.toml"
    line += " --shared-data random"
    line += " --baselines random model-free:A2C --measures none --sizes quick --jobs 2 --launcher ray --launcher.address auto"
    line += (
        " --train.ratio 0.3 --no-eval.deterministic --encoder.vae.width=4 --steps 1e3 --title mine --out there --json"
    )
    assert worldlab(line) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "title": "title", "finished": 1, "failed": 0, "report": "there/report.html", "folder": "there"
    }  # fmt: skip
    assert "a library printed this" in err
    (matrix, folder, command), *_ = fake.calls
    assert folder == Path("there") and command == "worldlab " + line
    expected = {
        "axes": {"env": ["CartPole", "Pendulum"], "encoder": ["vae", "cpc"]},
        "seeds": [3, 5],
        "presets": ["debug", "few-steps"],
        "configs": ["a.toml"],
        "baselines": ["random", "model-free:A2C"],
        "measures": "none",
        "sizes": "quick",
        "shared_data": "random",
        "jobs": 2,
        "launcher": {"name": "ray", "address": "auto"},
        "settings": {"train.ratio": "0.3", "eval.deterministic": "false", "encoder.vae.width": "4", "steps": "1e3"},
        "title": "mine",
    }
    assert matrix == matrix_of(expected)


def test_flags_override_a_file_and_its_own_folder_is_resumed(fake, tmp_path):
    (tmp_path / "m.toml").write_text('seeds = 4\njobs = 1\n[axes]\nenv = "CartPole"\nencoder = ["vae", "cpc"]\n')
    assert worldlab("compare m.toml --jobs 3 --seeds 2 --encoder flow") == 0
    assert worldlab("compare m.toml") == 0
    (tmp_path / "cells").mkdir()
    assert worldlab("compare m.toml") == 0
    (top, first, _), (plain, _, _), (_, own, _) = fake.calls
    assert (top.jobs, top.seeds, top.axes) == (3, (0, 1), {"encoder": ("flow",)})
    assert (plain.jobs, len(plain.seeds), plain.axes) == (1, 4, {"encoder": ("vae", "cpc")})
    assert (first, own) == (Path("comparison"), Path())


def test_exit_codes(fake, capsys):
    line = "compare --env CartPole --json"
    fake.statuses = ["finished", "failed", "missing"]
    assert worldlab(line) == 1
    assert json.loads(capsys.readouterr().out)["failures"] == {"m e seed 1": "why"}
    for error, code in ((KeyboardInterrupt(), 130), (comparing.Terminated(), 143)):
        fake.error = error
        assert worldlab(line) == code
        assert "Resume with: worldlab compare comparison/matrix.toml" in capsys.readouterr().err


MISTAKES = [
    ("compare", 2, "compare: no environment is given"),
    (
        "compare --env CartPole --encodr vae",
        2,
        "worldlab compare: '--encodr' is not an argument. Did you mean --encoder?",
    ),
    ("compare --env CartPole --seed 3", 2, "compare: --seed is not a flag here"),
    ("compare --env.id CartPole", 2, "compare: --env.id is not a flag here"),
    ("compare --env CartPole --seeds few", 2, "worldlab compare: argument --seeds: 'few' must be a whole number >= 0"),
    ("compare --env CartPole --seeds 0", 2, "compare: seeds = 0 must be a count of at least 1"),
    ("compare --env CartPole --launcher.address", 2, "compare: --launcher.address needs a value"),
    ("compare nowhere.toml", 2, "compare: cannot read nowhere.toml"),
    ("compare --env CartPole --plugin nope.py", 3, "plugin file:nope.py is not a file"),
]


@pytest.mark.parametrize(("line", "code", "first"), MISTAKES, ids=[line for line, _, _ in MISTAKES])
def test_mistakes(fake, capsys, line, code, first):
    assert worldlab(line) == code
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].startswith(first) and len(shown[0]) <= 100 and shown[-1].startswith("fix: ")
    assert fake.calls == []


@pytest.mark.parametrize(
    "line", ["compare --help", "compare", "compare nowhere.toml", "roundup --help", "roundup nowhere.toml"]
)
def test_commands_that_run_nothing_import_no_torch(line):
    code = (
        "import sys; from worldlab.cli import main; main(sys.argv[1:]); print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *shlex.split(line)], capture_output=True, text=True)
    assert done.stderr.endswith("False\n"), done.stderr


# ---- a real one ----

TINY = shlex.split("""
compare --env CartPole --encoder vae cpc --seeds 1 --jobs 1 --preset laptop --baselines none --measures none --steps 64
--train.prefill 32 --train.pretrain 1 --train.ratio 0.05 --train.batch-size 2 --train.batch-length 8 --train.starts 4
--agent.horizon 2 --agent.units 8 --encoder.units 8 --encoder.width 2 --dynamics.memory 8 --dynamics.units 8 --decoder.units 8
--decoder.width 2 --model.units 8 --eval.every 32 --eval.episodes 1 --eval.final-episodes 3 --eval.dream-horizon 0
--env.time-limit 60 --log.every 16
""")
"""Cells of a few seconds each, most of which is importing torch."""


class Typed:
    """The command in a separate process group."""

    def __init__(self, command: list[str], folder: Path):
        self.folder = folder
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        arguments = [*command, *TINY, "--out", str(folder), "--json"]
        self.process = subprocess.Popen(arguments, text=True, start_new_session=True, **pipes)

    def cells(self, finished: bool) -> list[Path]:
        """Return the folders of models' cells that have finished, or that are training."""
        found = []
        for path in self.folder.glob("cells/*/run.json"):
            cell = read_cell(path.parent)
            if cell is not None and cell.done == finished:
                found.append(path.parent)
        return found

    def until(self, finished: int) -> None:
        """Wait until this number of models' cells have finished and another one trains."""
        end = time.monotonic() + 300
        while len(self.cells(True)) < finished or not self.cells(False):
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                raise AssertionError(f"the command ended too early or took too long: {self.process.communicate()}")
            time.sleep(0.01)

    def ends(self, code: int) -> tuple[str, str]:
        try:
            out, err = self.process.communicate(timeout=500)
        finally:
            self.process.kill()
        assert self.process.returncode == code, f"exit code {self.process.returncode}\n{out}\n{err}"
        return out, err


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.slow
def test_an_interrupted_killed_and_resumed_comparison_has_the_same_numbers(worldlab_command, tmp_path, monkeypatch):
    """As one that nothing disturbs, whose cells run in forks."""
    first = Typed(worldlab_command, tmp_path / "a")
    first.until(finished=0)
    first.process.send_signal(signal.SIGINT)
    _, err = first.ends(130)
    assert "Resume with: worldlab compare" in err and group_is_gone(first.process.pid)

    second = Typed(worldlab_command, tmp_path / "a")
    second.until(finished=1)
    os.killpg(second.process.pid, signal.SIGKILL)
    second.process.communicate()
    (kept,) = second.cells(True)
    before = (kept / "cell.json").stat().st_mtime_ns

    third = Typed(warm_worldlab(), tmp_path / "a")
    out, err = third.ends(0)
    assert json.loads(out)["finished"] == 2 and "already finished" in err
    assert (kept / "cell.json").stat().st_mtime_ns == before

    warm_cells(monkeypatch)
    assert cli.main([*TINY, "--out", str(tmp_path / "b")]) == 0
    cells = sorted(path.name for path in tmp_path.glob("b/cells/*"))
    assert cells == sorted(path.name for path in tmp_path.glob("a/cells/*")) and len(cells) == 3
    for name in cells:
        one, other = read_cell(tmp_path / "a" / "cells" / name), read_cell(tmp_path / "b" / "cells" / name)
        assert one is not None and other is not None and one.done
        assert (one.trial.returns, one.trial.curve) == (other.trial.returns, other.trial.curve)
        if not name.startswith("random"):
            last = Path("checkpoints") / "step-000000064" / "model.safetensors"
            for file in ("metrics.jsonl", last):
                both = [(tmp_path / place / "cells" / name / file).read_bytes() for place in "ab"]
                assert both[0] == both[1], (name, file)
    assert len({read_cell(tmp_path / "a" / "cells" / name).trial.returns for name in cells}) > 1  # type: ignore[union-attr]
    assert {"report.html", "results.csv", "summary.json"} <= {path.name for path in (tmp_path / "a").iterdir()}
