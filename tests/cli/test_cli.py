"""Tests of the command line as scripts use it: exit codes, first lines, clean stdout, no torch until it is needed."""

from __future__ import annotations

import json
import logging
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest
from plugin_kit import add_builtins, add_dist, registers

from worldlab import cli
from worldlab.cli.flags import read_flags
from worldlab.config.schema import Switch
from worldlab.errors import DivergedError, EnvError
from worldlab.runs.find import checked_run_path, find_run, is_safe_name, list_runs, new_run_path

ROOT = Path(__file__).parents[2]


class FakeTraining:
    """Replaces the functions that train and load runs: records calls, returns results or raises."""

    def __init__(self):
        self.calls: list[tuple] = []
        self.error: BaseException | None = None

    def _record(self, *call):
        self.calls.append(call)
        print("a library printed this")
        if self.error:
            raise self.error
        return {"env": "CartPole-v1", "return_mean": 12.5, "returns": [12.0, float("nan")], "path": Path("x")}

    def train(self, config, registry, *, run, resume, explain):
        return self._record("train", config, run, resume, explain)

    def load_run(self, run, registry, device="auto", trusted=(), *, best=False):
        return run, device

    def evaluate_run(self, loaded, *, episodes, seed, video):
        return self._record("evaluate", *loaded, episodes, seed, video)

    def draw_dreams(self, loaded, *, out, horizon, count, seed):
        return self._record("dream", *loaded, out, horizon, count, seed)

    def check_env(self, id, registry):
        self._record("check_env", id)
        findings = [{"check": "spaces", "status": "fail" if id == "bad" else "ok", "detail": "Box\n2"}]
        return {"env": f"{id}-v1", "ok": id != "bad", "findings": findings}


def worldlab(line: str) -> int:
    return cli.main(shlex.split(line))


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    add_builtins(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    return folder


@pytest.fixture
def training(site, monkeypatch) -> FakeTraining:
    fake = FakeTraining()
    for name in ("training.train", "training.loaded", "env.find"):
        module = types.ModuleType(f"worldlab.{name}")
        vars(module).update({call: getattr(fake, call) for call in dir(fake) if not call.startswith("_")})
        monkeypatch.setitem(sys.modules, f"worldlab.{name}", module)
    return fake


def add_run(name: str, started: object = None, config: str = "") -> Path:
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({} if started is None else {"created": started}))
    if config:
        (folder / "config.toml").write_text(config)
    return folder


MISTAKES = [
    ("trian", 2, "no command named 'trian'. Did you mean 'train'?"),
    ("train --env CartPole --encoder vea", 3, "no encoder named 'vea'. Did you mean 'vae'?"),
    (
        "train --env CartPole --train.lrr 1e-3",
        2,
        "config: train.lrr is not a setting. Did you mean train.learning_rate?",
    ),
    ("train --env CartPole --train.learning-rate -1.0", 2, "config: train.learning_rate = '-1.0' must be > 0"),
    ("train --env CartPole --train.learning-rate=-1e-3", 2, "config: train.learning_rate = '-1e-3' must be > 0"),
    ("train --env CartPole --train.batch_size", 2, "config: train.batch_size needs a value (INT)"),
    ("train --env CartPole --steps few", 2, "config: steps = 'few' must be a whole number"),
    ("train --env CartPole --encoder.width 0", 2, "config: encoder.width = '0' must be > 0"),
    ("train --env CartPole --encoder.wdth 4", 2, "config: encoder.wdth is not a setting. Did you mean encoder.width?"),
    (
        "train --env CartPole --preset labtop",
        2,
        "no preset named 'labtop'. Did you mean 'laptop'? Presets: debug, few-steps, gpu, laptop, world-mo...",
    ),
    ("train --env CartPole --config nope.toml", 2, "config: no file nope.toml."),
    ("train --env CartPole --plugin nope.py", 3, "plugin file:nope.py is not a file"),
    ("train --env CartPole --device tpu", 2, "config: device = 'tpu' must be 'auto', 'cpu' or 'cuda'"),
    ("train --env CartPole --stepz 5", 2, "train: --stepz is not a flag. Did you mean --steps?"),
    (
        "train --env CartPole --trian.batch-size 5",
        2,
        "train: --trian.batch-size is not a flag. Did you mean --train.batch-size?",
    ),
    ("train --env", 2, "train: --env needs a value"),
    ("train CartPole", 2, "train: unexpected argument 'CartPole'"),
    ("train --env CartPole --run ../..", 2, "run name '..' is not allowed"),
    ("train --resume", 2, "no run 'latest'."),
    ("eval", 2, "worldlab eval: the following arguments are required: RUN"),
    ("eval nope", 2, "no run 'nope'."),
    ("eval latest --episodes 0", 2, "worldlab eval: argument --episodes: '0' must be a whole number >= 1"),
    ("dream latest --horizn 5", 2, "worldlab dream: '--horizn' is not an argument. Did you mean --horizon?"),
    ("plugins show encoder vea", 3, "no encoder named 'vea'. Did you mean 'vae'?"),
    (
        "plugins show encodr vae",
        3,
        "no role named 'encodr'. Did you mean 'encoder'?",
    ),
    ("plugins --role encodr", 2, "worldlab plugins: argument --role: invalid choice: 'encodr' (choose from"),
]


@pytest.mark.parametrize(("line", "code", "first"), MISTAKES)
def test_the_commonest_mistakes(training, capsys, line, code, first):
    assert worldlab(line) == code
    out, err = capsys.readouterr()
    got = err.splitlines()[0]
    assert got == first or (first.endswith("(choose from") and got.startswith(first))
    assert len(got) <= len("") + 100
    assert "fix: " in err and "Traceback" not in err and out == "" and not training.calls


def test_train_gets_the_resolved_configuration(training, capsys):
    line = (
        "train --encoder cpc --env CarRacing --preset laptop --seed 3 --steps 2e4 --strict --encoder.width=48 "
        "--train.learning_rate 1e-3 --no-eval.deterministic --track csv,tensorboard --env.pixels false --run out/mine --explain --json"
    )
    assert worldlab(line) == 0
    ((_, config, run, resume, explain),) = training.calls
    core = config.core
    assert (core.env.id, core.seed, core.steps, core.strict) == ("CarRacing", 3, 20_000, True)
    assert (core.train.learning_rate, core.eval.deterministic, core.env.pixels) == (1e-3, False, False)
    assert core.log.track == ("csv", "tensorboard")
    assert (config.encoder.name, config.encoder.options.width, config.presets) == ("cpc", 48, ("laptop",))
    assert (run, resume, explain) == (Path("out/mine"), False, True)
    out, err = capsys.readouterr()
    assert json.loads(out) == {"env": "CartPole-v1", "return_mean": 12.5, "returns": [12.0, None], "path": "x"}
    assert "a library printed this" in err


def test_resume_starts_from_the_runs_own_configuration(training):
    assert worldlab("train --env CartPole --encoder cpc --encoder.width 5 --preset gpu --seed 9") == 0
    config = training.calls[-1][1]
    add_run("older", "2026-01-01T00:00:00+00:00")
    folder = add_run("newer", "2026-01-02T00:00:00+00:00", config.to_toml())
    assert worldlab("train --resume --steps 77777") == 0
    _, resumed, run, resume, _ = training.calls[-1]
    assert (run, resume) == (folder, True)
    assert resumed.core == config.core.model_copy(update={"steps": 77777})
    assert (resumed.encoder, resumed.presets) == (config.encoder, ("gpu",))
    assert worldlab("train --resume --run older") == 2


def test_commands_on_a_run(training, capsys):
    folder = add_run("one", 5)
    assert worldlab("eval latest --episodes 3 --seed 1 --video a.webp --device cpu --json") == 0
    assert training.calls[-1] == ("evaluate", folder, "cpu", 3, 1, Path("a.webp"))
    assert json.loads(capsys.readouterr().out)["return_mean"] == 12.5
    assert cli.main(["dream", "one"]) == 0
    assert training.calls[-1] == ("dream", folder, "auto", None, 45, 4, 0)
    assert "return_mean  12.5" in capsys.readouterr().out
    assert (worldlab("check_env CarRacing"), worldlab("check-env bad")) == (0, 4)
    assert training.calls[-1] == ("check_env", "bad")
    good = "CarRacing-v1: can be trained on\n  ok    spaces: Box 2\n"
    bad = "bad-v1: cannot be trained on\n  fail  spaces: Box 2\n"
    assert capsys.readouterr().out == good + bad


def interrupted_class() -> RuntimeError:
    """Return what Python raises if Ctrl-C comes while a class is made."""
    error = RuntimeError("Error calling __set_name__")
    error.__cause__ = KeyboardInterrupt()
    return error


@pytest.mark.parametrize(
    ("error", "code", "first"),
    [
        (DivergedError("lost", cause="c", fix="f"), 5, "lost"),
        (EnvError("env 'x' not found"), 4, "env 'x' not found"),
        (MemoryError(), 9, "not enough memory (MemoryError)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 9, "not enough memory (RuntimeError)"),
        (KeyboardInterrupt(), 130, None),
        (interrupted_class(), 130, None),
        (SystemExit(143), 143, None),
        (ValueError("oops\n\x1b[31m"), 70, "this is a bug in worldlab: ValueError: oops [31m"),
    ],
)
def test_every_error_has_its_exit_code(training, capsys, monkeypatch, tmp_path, error, code, first):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    training.error = error
    assert worldlab("train --env CartPole") == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line != "a library printed this"]
    assert (lines[0] if lines else None) == first
    assert not any("Traceback" in line for line in lines)
    if code == 70:
        (kept,) = tmp_path.glob("worldlab-traceback-*.txt")
        assert "ValueError: oops" in kept.read_text() and str(kept) in "\n".join(lines)
        assert worldlab("train --env CartPole --debug") == 70
        assert "Traceback" in capsys.readouterr().err and len(list(tmp_path.glob("worldlab-traceback-*"))) == 1


def test_an_error_in_a_plugins_own_code_names_the_plugin(training, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    source = "class Mine:\n    def act(self):\n        return {}['x']\n"
    names = {"__name__": "worldlab_file_mine", "__worldlab_source__": ("/some/where/mine.py", "0" * 64)}
    exec(compile(source, "/some/where/mine.py", "exec"), names)
    try:
        names["Mine"]().act()
    except KeyError as error:
        training.error = error
    assert worldlab("train --env CartPole") == 3
    lines = [line for line in capsys.readouterr().err.splitlines() if line != "a library printed this"]
    assert lines[0] == "plugin file mine.py failed in Mine.act: KeyError: 'x'"
    assert lines[1].startswith("cause: KeyError: 'x', at /some/where/mine.py:3; the traceback is in ")
    assert lines[2].startswith("fix: correct it there, or report it to the authors of file mine.py, with that file")
    (kept,) = tmp_path.glob("worldlab-traceback-*.txt")
    assert "KeyError" in kept.read_text()


def test_help_shows_only_the_chosen_parts(site, capsys):
    source = registers(("encoder", "other")).replace("width", "only_mine")
    add_dist(site, "worldlab-other", source)
    assert worldlab("train --encoder other --encoder.only-mine 7 --help") == 0
    out = capsys.readouterr().out
    assert "encoder other (other as encoder):\n  --encoder.only-mine INT" in out and "[7]" in out
    assert "--encoder.width" not in out and "--decoder.width" in out
    assert "--train.learning-rate FLOAT" in out
    assert "Learning rate of the world model, except adversarial critics." in " ".join(
        out.split()
    )  # however wide the columns are
    assert max(map(len, out.splitlines())) <= 110
    assert worldlab("train --encoder nope --help") == 3
    out, err = capsys.readouterr()
    assert out.startswith("usage: worldlab train") and err.startswith("no encoder named 'nope'.")


def test_plugins_lists_and_shows(site, capsys):
    add_dist(site, "worldlab-bad", "import no_such_thing")
    assert cli.main(["plugins"]) == 0
    assert "encoder   vae" in capsys.readouterr().out
    assert cli.main(["plugins", "--verbose"]) == 0
    out = capsys.readouterr().out
    assert (
        "encoder 'vae' does not implement Encoder" in out
        and "cannot be imported: No module named 'no_such_thing'" in out
    )
    assert "fix: correct the import of 'no_such_thing' there" in out
    assert worldlab("plugins --role encoder --json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in listed["components"]] == ["cpc", "vae"]
    assert [row["distribution"] for row in listed["broken"]] == ["worldlab-bad"]
    assert worldlab("plugins show encoder vae") == 0
    assert '  width = 32  (INT > 0)  Width of the layers.\n  kind = "plain"  (TEXT)' in capsys.readouterr().out
    assert worldlab("plugins show encoder vae --schema") == 0
    assert json.loads(capsys.readouterr().out)["properties"]["width"]["exclusiveMinimum"] == 0


def test_doctor_reports_even_without_torch(site, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["torch"]["version"] is None
    assert any(problem.startswith("torch cannot be used") for problem in report["problems"])
    assert report["plugins"]["broken"] == 0 and report["cwd_writable"] is True
    assert cli.main(["doctor"]) == 0


@pytest.mark.parametrize(
    "line", ["", "--help", "--version", "runs .", "train --help", "plugins", "train --env X --encoder vea"]
)
def test_nothing_imports_torch_before_training(site, line):
    code = (
        "import sys; from worldlab.cli import main; code = main(sys.argv[1:])\n"
        "heavy = {'torch', 'gymnasium', 'stable_baselines3', 'matplotlib'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy), 'CODE', code, 'PYDANTIC', 'pydantic' in sys.modules)"
    )
    env = {"PYTHONPATH": f"{site}:{ROOT}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code, *line.split()], capture_output=True, text=True, env=env, check=True
    )
    light = line in ("", "--help", "--version", "runs .")
    last = done.stdout.splitlines()[-1]
    assert last == f"HEAVY [] CODE {3 if 'vea' in line else 0} PYDANTIC {not light}", done.stderr


def test_the_public_names_are_light():
    code = "import worldlab, sys; from worldlab import Config, field, hookimpl, errors; print('torch' in sys.modules)"
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout == "False\n"


def test_a_closed_pipe_is_no_error(site):
    env = f"PYTHONPATH={site}:{ROOT}"
    line = f"set -o pipefail; {env} {sys.executable} -m worldlab --help | true"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.stderr == "" and done.returncode in (0, 141)


def test_flags_are_read_as_texts():
    flags = read_flags(
        shlex.split("--env A --env.repeat -4 --strict --no-eval.deterministic --env.no-pixels --track a --resume")
    )
    assert flags.resume and flags.settings["env"] == {"id": "A", "repeat": "-4", "pixels": "false"}
    assert isinstance(flags.settings["strict"], Switch) and flags.settings["eval"] == {"deterministic": "false"}
    assert flags.settings["log"] == {"track": "a"}
    assert read_flags(shlex.split("--resume false")).resume is False
    assert read_flags(shlex.split("--preset a --preset=b")).presets == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a", True),
        ("CarRacing-v3-001", True),
        ("a.b_c", True),
        ("", False),
        ("..", False),
        ("a/b", False),
        (".a", False),
        ("a.", False),
        ("-a", False),
        ("CON", False),
        ("nul.txt", False),
        ("com1", False),
        ("a\n", False),
        ("ä", False),
        ("a" * 128, True),
        ("a" * 129, False),
    ],
)
def test_safe_names(name, safe):
    assert is_safe_name(name) is safe


def test_new_run_paths_count_up(tmp_path):
    root = tmp_path / "runs"
    assert new_run_path("CarRacing-v3", root) == root / "CarRacing-v3-001"
    (root / "CarRacing-v3-009").mkdir(parents=True)
    (root / "CarRacing-v3-mine").mkdir()
    assert new_run_path("CarRacing-v3", root) == root / "CarRacing-v3-010"
    for env in ("my.pkg:ALE/Pong-v5", "../../etc", "::", "con", "ä" * 200):
        assert is_safe_name(new_run_path(env, root).name) and new_run_path(env, root).parent == root


def test_latest_is_the_newest_start_not_the_newest_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    add_run("b", "2026-03-01T00:00:00+00:00")
    add_run("a", "2026-02-01T00:00:00+00:00")
    (Path("runs") / "not-a-run").mkdir()
    assert [run.name for run in list_runs()] == ["a", "b"]
    assert find_run("latest") == find_run("b") == Path("runs/b")
    assert find_run("runs/a") == Path("runs/a") and checked_run_path("x/ok") == Path("x/ok")
    with pytest.raises(Exception, match="no run 'bb'") as error:
        find_run("bb")
    assert "runs/ holds: b, a" in str(error.value)
