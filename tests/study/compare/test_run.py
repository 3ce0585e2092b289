"""A whole comparison: what runs, what is kept, what fails, and how it resumes."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from data_kit import made
from worldlab_data.run_folder import RunFolderFormat

import worldlab.study.report
from worldlab.errors import ConfigError, EnvError, RunLockedError
from worldlab.registry import Registration, load_registry
from worldlab.study.compare import run as comparing
from worldlab.study.compare.cell_file import read_cell, write_cell
from worldlab.study.compare.matrix import matrix_of, read_matrix
from worldlab.study.compare.run import Terminated, compare
from worldlab.study.compare.tasks import Event
from worldlab.study.results import Comparison

REGISTRY = load_registry()
BASE = {
    "axes": {"env": "CartPole", "encoder": ["vae", "cpc"]},
    "seeds": 2,
    "presets": "debug",
    "measures": "none",
    "baselines": "none",
}
SCORES = {"vae": 30.0, "cpc": 20.0, "random": 10.0, "shared": 5.0}


class FakeLauncher:
    """A launcher that runs nothing: it writes an outcome for each cell, by the name of its method."""

    def __init__(self) -> None:
        self.runs: list[tuple[list[str], int]] = []
        self.codes: dict[str, int] = {}
        self.recorded = 0
        self.stop: tuple[int, BaseException] | None = None

    def run(self, tasks, jobs, on_event):
        self.runs.append(([task.name for task in tasks], jobs))
        for count, task in enumerate(tasks):
            on_event(Event(task.name, "started", where="here"))
            if self.stop is not None and count == self.stop[0]:
                raise self.stop[1]
            code = next((code for start, code in self.codes.items() if task.name.startswith(start)), 0)
            if code in (0, 1):
                self.ends(task.folder, code)
            on_event(Event(task.name, "ended", code, "here"))

    def ends(self, folder: Path, code: int) -> None:
        file = read_cell(folder)
        assert file is not None and not file.done
        score = SCORES[file.spec.method.partition("-")[0]] + file.spec.seed
        returns = (score,) * file.spec.config["eval"]["final_episodes"]
        trial = replace(file.trial, status="finished", returns=returns, updates=5, cause="")
        if code:
            trial = replace(file.trial, status="failed", cause="it broke")
        if file.spec.kind == "data":
            shutil.rmtree(folder / "replay", ignore_errors=True)
            RunFolderFormat().write(made((3,), seed=self.recorded), folder)
        write_cell(folder, replace(file, trial=trial, seconds=3.0))


@pytest.fixture
def launcher(monkeypatch) -> FakeLauncher:
    """Replace all launchers by a fake one, skip building models, and only count reports."""
    fake = FakeLauncher()
    load = Registration.load
    monkeypatch.setattr(
        Registration, "load", lambda self: (lambda config: fake) if self.role == "launcher" else load(self)
    )
    monkeypatch.setattr(comparing, "check_cells", lambda cells, registry, shared: None)
    fake.reports = []  # type: ignore[attr-defined]
    monkeypatch.setattr(worldlab.study.report, "write", lambda comparison, folder: fake.reports.append(comparison))  # type: ignore[attr-defined]
    return fake


def run_compare(folder: Path, *layers, **more) -> Comparison:
    return compare(matrix_of(BASE, *layers, more), REGISTRY, folder)


def stems(names):
    """Return names without hashes."""
    return [name[:-9] for name in names]


CELLS = ["random-CartPole-v1-s0"] + [f"{key}-CartPole-v1-s{seed}" for seed in (0, 1) for key in ("vae", "cpc")]


def test_all_cells_run_and_are_collected(launcher, tmp_path):
    comparison = run_compare(tmp_path / "c", jobs=3)
    ((names, jobs),) = launcher.runs
    assert stems(names) == CELLS and jobs == 3
    assert {key: list(comparison.scores(key, "CartPole-v1")) for key in ("vae", "cpc")} == {
        "vae": [30, 31],
        "cpc": [20, 21],
    }
    assert comparison.references["CartPole-v1"].zero == 10 and comparison.budgets["CartPole-v1"]["updates"] == 5
    assert [trial.folder for trial in comparison.trials if trial.method == "vae"] == [
        f"cells/{n}" for n in names if "vae" in n
    ]
    assert launcher.reports == [comparison]
    assert matrix_of(read_matrix(tmp_path / "c" / "matrix.toml")).jobs == 3


def test_finished_cells_are_kept_and_only_the_others_run(launcher, tmp_path):
    first = run_compare(tmp_path)
    again = run_compare(tmp_path)
    assert len(launcher.runs) == 1 and again.trials == first.trials
    run_compare(tmp_path, seeds=3)
    assert stems(launcher.runs[-1][0]) == ["vae-CartPole-v1-s2", "cpc-CartPole-v1-s2"]
    run_compare(tmp_path, settings={"encoder.cpc.width": 4})
    assert stems(launcher.runs[-1][0]) == ["cpc-CartPole-v1-s0", "cpc-CartPole-v1-s1"]
    assert len(list((tmp_path / "cells").glob("cpc-*-s0-*"))) == 2


def test_cells_are_found_under_the_names_they_had_before_the_matrix_grew(launcher, tmp_path):
    first = run_compare(tmp_path)
    grown = run_compare(tmp_path, {"axes": {"dynamics": ["vae", "gan"]}})
    assert stems(launcher.runs[-1][0]) == [f"{e}-gan-CartPole-v1-s{s}" for s in (0, 1) for e in ("vae", "cpc")]
    assert list(grown.scores("vae-vae", "CartPole-v1")) == list(first.scores("vae", "CartPole-v1"))
    assert {trial.folder for trial in first.trials} < {trial.folder for trial in grown.trials}


def test_equal_models_with_different_names_are_different_models(launcher, tmp_path):
    rows = [{"name": "vae-a"}, {"name": "vae-b"}]
    run_compare(tmp_path, {"axes": {"encoder": []}, "model": rows})
    assert stems(launcher.runs[0][0])[1:3] == ["vae-a-CartPole-v1-s0", "vae-b-CartPole-v1-s0"]


def test_shared_data_is_recorded_before_anything_learns_and_is_kept(launcher, tmp_path):
    one = run_compare(tmp_path / "a", shared_data="random")
    (first, _), (names, _) = launcher.runs
    assert stems(first) == ["shared-data-CartPole-v1-s0"] and stems(names) == CELLS
    cells = {place.name: read_cell(place) for place in (tmp_path / "a/cells").iterdir()}
    assert {cells[name].spec.config["data"] for name in names[1:]} == {str(tmp_path / "a/cells" / first[0])}
    assert [method.key for method in one.methods] == ["vae", "cpc"] and one.about[
        "data_played_by"
    ] == "uniform actions, seed 0"
    assert run_compare(tmp_path / "a", shared_data="random").trials == one.trials and len(launcher.runs) == 2
    assert matrix_of(read_matrix(tmp_path / "a/matrix.toml")).shared_data == "random"
    # The same data elsewhere makes the same cells, other data others.
    run_compare(tmp_path / "b", shared_data="random")
    launcher.recorded = 1
    run_compare(tmp_path / "c", shared_data="random")
    assert launcher.runs[3][0] == names and not set(launcher.runs[5][0]) & set(names[1:])


def test_if_shared_data_cannot_be_recorded_nothing_runs(launcher, tmp_path):
    launcher.codes = {"shared": 1}
    with pytest.raises(EnvError, match="could not be recorded") as error:
        run_compare(tmp_path, shared_data=True)
    assert error.value.cause == "it broke" and len(launcher.runs) == 1
    launcher.codes = {}
    assert run_compare(tmp_path, shared_data=True).about["data_played_by"] == "vae during training, seed 0"


def test_missing_data_of_one_environment_fails_only_its_models(launcher, tmp_path):
    """Baselines need no data, models report the cause, and the next call records the data and runs them."""
    both = {"axes": {"env": ["CartPole", "Pendulum"]}, "shared_data": True}
    launcher.codes = {"shared-data-Pendulum": 1}
    comparison = run_compare(tmp_path, both)
    statuses = {(trial.env, trial.status) for trial in comparison.trials}
    assert statuses == {("CartPole-v1", "finished"), ("Pendulum-v1", "failed")}
    (cause,) = {trial.cause for trial in comparison.trials if trial.env == "Pendulum-v1"}
    assert cause == "the shared data could not be recorded: it broke"
    assert [name for name in stems(launcher.runs[1][0]) if "Pendulum" in name] == ["random-Pendulum-v1-s0"]
    launcher.codes = {}
    again = run_compare(tmp_path, both)
    assert {trial.status for trial in again.trials} == {"finished"}
    assert {name.partition("-")[0] for name in launcher.runs[3][0]} == {"vae", "cpc"}


def test_an_interrupt_while_data_is_recorded_still_writes_a_report(launcher, tmp_path):
    launcher.stop = (0, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run_compare(tmp_path, shared_data=True)
    (comparison,) = launcher.reports
    assert {trial.status for trial in comparison.trials} == {"missing"} and len(launcher.runs) == 1


def test_a_failed_cell_is_reported_and_run_again(launcher, tmp_path):
    launcher.codes = {"cpc": 1, "vae": 70}
    comparison = run_compare(tmp_path)
    causes = {(t.method, t.seed): (t.status, t.cause) for t in comparison.trials}
    assert causes["cpc", 0] == ("failed", "it broke")
    status, cause = causes["vae", 1]
    assert status == "failed" and cause.startswith("its process ended with code 70; cells/vae-CartPole-v1-s1-")
    launcher.codes = {"cpc": -9}
    comparison = run_compare(tmp_path)
    assert stems(launcher.runs[-1][0]) == CELLS[1:]
    assert [t.status for t in comparison.of("vae", "CartPole-v1")] == ["finished"] * 2
    assert comparison.of("cpc", "CartPole-v1")[0].cause.startswith("its process was repeatedly killed by signal 9")
    launcher.codes = {}
    assert all(trial.status == "finished" for trial in run_compare(tmp_path).trials)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Terminated()])
def test_an_interrupt_writes_a_report_of_finished_cells(launcher, tmp_path, stop):
    launcher.stop = (2, stop)
    with pytest.raises(type(stop)):
        run_compare(tmp_path)
    (comparison,) = launcher.reports
    assert [trial.status for trial in comparison.trials] == ["finished", "missing", "missing", "missing"]
    launcher.stop = None
    run_compare(tmp_path)
    assert stems(launcher.runs[-1][0]) == CELLS[2:]


def test_sigterm_is_an_interrupt(launcher, tmp_path):
    launcher.ends = lambda folder, code: os.kill(os.getpid(), signal.SIGTERM)  # type: ignore[method-assign]
    with pytest.raises(Terminated):
        run_compare(tmp_path)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_two_comparisons_do_not_share_a_folder(launcher, tmp_path):
    errors = []

    def refused():
        with pytest.raises(RunLockedError) as caught:
            run_compare(tmp_path)
        errors.append(caught)

    def second(folder, code):
        thread = threading.Thread(target=refused)
        thread.start()
        thread.join()
        FakeLauncher.ends(launcher, folder, code)

    launcher.ends = second  # type: ignore[method-assign]
    run_compare(tmp_path)
    assert len(errors) == 5 and f"PID {os.getpid()}" in errors[0].value.message
    run_compare(tmp_path)


def test_additional_measures_use_finished_trainings(launcher, tmp_path):
    from worldlab.study.measures import catalogue

    name = catalogue()[0].name
    run_compare(tmp_path)
    launcher.ends = lambda folder, code: None  # type: ignore[method-assign]
    run_compare(tmp_path, measures=[name])
    assert stems(launcher.runs[-1][0]) == CELLS[1:]  # the same folders: the hash is that of the training
    file = read_cell(tmp_path / "cells" / launcher.runs[-1][0][0])
    assert file is not None and file.spec.measures == (name,) and file.trial.status == "finished" and not file.done


def test_an_outcome_of_an_earlier_process_is_not_that_of_a_failed_one(launcher, tmp_path):
    from worldlab.study.measures import catalogue

    run_compare(tmp_path)
    launcher.ends = lambda folder, code: None  # type: ignore[method-assign]
    launcher.codes = {"vae": 1}  # the exit code of Python if an import fails
    run_compare(tmp_path, measures=[catalogue()[0].name])
    trials = [trial for trial in launcher.reports[-1].trials if trial.method == "vae"]  # type: ignore[attr-defined]
    assert [trial.status for trial in trials] == ["failed", "failed"]
    assert all("ended with code 1" in trial.cause for trial in trials)


def test_input_files_are_copied_into_the_folder(launcher, tmp_path):
    (tmp_path / "mine.toml").write_text("train.ratio = 0.3\n")
    run_compare(tmp_path / "c", configs=[str(tmp_path / "mine.toml")])
    (tmp_path / "mine.toml").unlink()
    matrix = matrix_of(read_matrix(tmp_path / "c" / "matrix.toml"))
    assert matrix.configs[0].read_text() == "train.ratio = 0.3\n"
    shutil.move(tmp_path / "c", tmp_path / "d")
    moved = matrix_of(read_matrix(tmp_path / "d" / "matrix.toml"))
    compare(moved, REGISTRY, tmp_path / "d")
    assert len(launcher.runs) == 1
    assert (tmp_path / "d" / "matrix.toml").read_text().count("configs/") == 1


def test_a_cell_gets_its_threads_and_forwarded_variables(launcher, tmp_path, monkeypatch):
    tasks = []
    monkeypatch.setattr(launcher, "run", lambda run_tasks, jobs, on_event: tasks.extend(run_tasks))
    monkeypatch.setenv("WORLDLAB_PLUGINS", "off")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    run_compare(tmp_path, {"axes": {"env": "CarRacing"}})
    assert {task.cpus for task in tasks} == {1}  # not the workers of the preset: cells run in parallel
    tasks.clear()
    run_compare(tmp_path, {"axes": {"env": "CarRacing"}, "settings": {"env.workers": 1}})
    run_compare(tmp_path, {"settings": {"strict": False, "train.threads": 0}}, jobs=2)
    strict, loose = tasks[0], tasks[-1]
    assert (dict(strict.env)["OMP_NUM_THREADS"], strict.cpus) == ("1", 2)  # and one that steps the environment
    assert (dict(loose.env)["OMP_NUM_THREADS"], loose.cpus) == ("4", 4)
    assert dict(strict.env)["WORLDLAB_PLUGINS"] == "off" and strict.argv[-1] == str(strict.folder)


def test_nothing_runs_if_a_cell_cannot_be_built(tmp_path, monkeypatch):
    monkeypatch.setattr(comparing, "_launch", lambda *_: pytest.fail("it was launched"))
    with pytest.raises(ConfigError, match="SAC does not support discrete actions"):
        run_compare(tmp_path, {"axes": {"encoder": "vae", "agent": "sac"}})
    assert list(tmp_path.glob("cells/*")) == []
