"""A cell in its folder: what it keeps, when it resumes or starts over, and how it reports failures."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from worldlab.errors import CheckpointError, DivergedError, StorageError
from worldlab.registry import load_registry
from worldlab.runs import storage
from worldlab.runs.checkpoint import save_checkpoint
from worldlab.study.compare import cell as cells
from worldlab.study.compare.cell_file import LOCK, NAME, CellFile, CellSpec, read_cell, write_cell
from worldlab.study.compare.matrix import matrix_of
from worldlab.study.compare.plan import plan
from worldlab.study.results import Measurement
from worldlab.training import train

pytestmark = pytest.mark.usefixtures("blank_plots")
REGISTRY = load_registry()


@pytest.fixture(scope="module")
def spec() -> CellSpec:
    return spec_of({})


def spec_of(settings, kind="model") -> CellSpec:
    table = {"axes": {"env": "CartPole"}, "seeds": [3], "presets": "debug", "measures": "none", "settings": settings}
    found = next(cell for cell in plan(matrix_of(table), REGISTRY).cells if cell.kind == kind)
    return CellSpec("vae", found.env, found.seed, kind, found.hash, found.config.to_mapping())


class Trainer:
    """Replaces worldlab.training.train.train: writes the files of a finished run, or raises."""

    def __init__(self, monkeypatch):
        self.calls: list[tuple[bool, list[str]]] = []
        self.raises: BaseException | None = None
        self.approximate = False
        monkeypatch.setattr(train, "train", self)

    def __call__(self, config, registry, *, run: Path, resume: bool = False, exact: bool = False):
        self.calls.append((resume, sorted(path.name for path in run.iterdir())))
        assert exact == (resume and config.core.strict)
        if exact and self.approximate:
            raise CheckpointError("the run cannot continue exactly", cause="an environment does not repeat")
        if self.raises:
            raise self.raises
        save_checkpoint(run / "checkpoints", 600, {"model": {"w": torch.ones(2)}}, {})
        storage.atomic_write_json(run / "run.json", {"parameters": {"total": 42}})
        lines = [{"step": 100, "eval/return": 1.0}, {"step": 150, "loss/x": 2.0}, {"step": 600, "eval/return": 4.0}]
        storage.atomic_write_bytes(run / "metrics.jsonl", b"".join(storage.dump_json(line) + b"\n" for line in lines))
        result = {"env_steps": 600, "updates": 70, "wall_seconds": 9.5, "returns": [3.0, 5.0]}
        storage.atomic_write_json(run / "result.json", result)


@pytest.fixture
def trainer(monkeypatch) -> Trainer:
    return Trainer(monkeypatch)


def place(tmp_path: Path, spec: CellSpec, **file) -> Path:
    folder = storage.make_folder(tmp_path / "cells" / "one")
    write_cell(folder, CellFile(spec, **{"trial": spec.empty_trial, **file}))
    return folder


def found(folder: Path) -> CellFile:
    file = read_cell(folder)
    assert file is not None
    return file


def test_a_cell_file_is_read_back_as_it_was_written(tmp_path, spec):
    assert read_cell(tmp_path) is None
    measures = {"a/b": Measurement(1.5, 0.1), "c": Measurement(None, why="no"), "d": Measurement(float("inf"), 1.0)}
    trial = replace(
        spec.empty_trial, status="finished", returns=(1.0, 2.5), curve=((3, 4.0),), updates=7, measures=measures
    )
    file = CellFile(
        replace(spec, measures=("c",), plugins=("../../p.py",), sizes="quick"), trial, 12.5, "quick", "here"
    )
    write_cell(tmp_path, file)
    back = found(tmp_path)
    assert back.trial.measures["d"] == Measurement(None, why="the value was inf")
    assert replace(back, trial=replace(back.trial, measures=measures)) == file
    write_cell(tmp_path, CellFile(spec, spec.empty_trial))
    assert found(tmp_path) == CellFile(spec, spec.empty_trial)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "other", "format_version": 1}', "{}"])
def test_a_damaged_cell_file_is_an_error(tmp_path, content):
    (tmp_path / NAME).write_text(content)
    with pytest.raises(StorageError, match="is damaged"):
        read_cell(tmp_path)


def test_done_means_finished_and_measured_as_specified(spec):
    wants = replace(spec, measures=("a",), sizes="full")
    trial = replace(spec.empty_trial, status="finished", measures={"a": Measurement(1.0), "b": Measurement(2.0)})
    assert CellFile(spec, replace(spec.empty_trial, status="finished")).done
    assert CellFile(wants, trial, sizes="full").done
    assert not CellFile(wants, trial, sizes="quick").done
    assert not CellFile(replace(wants, measures=("c",)), trial, sizes="full").done
    assert not CellFile(spec, replace(trial, status="failed")).done and not CellFile(spec, spec.empty_trial).done


def test_a_run_becomes_a_trial(tmp_path, spec, trainer):
    folder = place(tmp_path, spec)
    assert cells.run_cell(folder) == 0
    file = found(folder)
    trial = file.trial
    assert (trial.method, trial.env, trial.seed, trial.status) == ("vae", "CartPole-v1", 3, "finished")
    assert (trial.env_steps, trial.updates, trial.wall_seconds, trial.parameters) == (600, 70, 9.5, 42)
    assert (trial.returns, trial.score, trial.curve) == ((3.0, 5.0), 4.0, ((100, 1.0), (600, 4.0)))
    assert file.host and file.done
    before = (folder / NAME).read_bytes()
    assert cells.run_cell(folder) == 0 and len(trainer.calls) == 1 and (folder / NAME).read_bytes() == before


@pytest.mark.parametrize("approximate", [False, True])
def test_an_interrupted_strict_run_resumes_or_starts_over_if_that_would_not_be_exact(
    approximate, tmp_path, spec, trainer, monkeypatch
):
    trainer.approximate = approximate
    folder = place(tmp_path, spec)
    (folder / "run.json").write_text("{}")
    monkeypatch.setattr(cells, "_has_checkpoint", lambda folder: True)
    assert cells.run_cell(folder) == 0
    assert trainer.calls == [(True, [NAME, LOCK, "run.json"]), *([(False, [NAME, LOCK])] if approximate else [])]


@pytest.mark.parametrize(("checkpoint", "status", "resumes"), [(1, "missing", 1), (0, "missing", 0), (1, "failed", 0)])
def test_other_runs_resume_from_a_checkpoint_unless_they_failed(
    tmp_path, trainer, checkpoint, status, resumes, monkeypatch
):
    loose = spec_of({"strict": False})
    folder = place(tmp_path, loose, trial=replace(loose.empty_trial, status=status))
    (folder / "run.json").write_text("{}")
    monkeypatch.setattr(cells, "_has_checkpoint", lambda folder: bool(checkpoint))
    assert cells.run_cell(folder) == 0
    assert trainer.calls == [(bool(resumes), [NAME, LOCK, "run.json"] if resumes else [NAME, LOCK])]


def test_a_failure_is_stored_and_run_again(tmp_path, spec, trainer):
    folder = place(tmp_path, spec)
    for error, cause in (
        (DivergedError("loss 'x' is not finite", cause="it grew"), "loss 'x' is not finite: it grew"),
        (ZeroDivisionError("by\nzero"), "ZeroDivisionError: by zero"),
        (SystemExit(3), "SystemExit: 3"),
    ):
        trainer.raises = error
        assert cells.run_cell(folder) == 1
        assert (found(folder).trial.status, found(folder).trial.cause) == ("failed", cause)
    trainer.raises = None
    assert cells.run_cell(folder) == 0 and found(folder).done and found(folder).trial.cause == ""


@pytest.mark.parametrize("stop", [SystemExit(143), SystemExit(130), KeyboardInterrupt()])
def test_a_signal_is_no_outcome(tmp_path, spec, trainer, stop):
    folder = place(tmp_path, spec)
    trainer.raises = stop
    with pytest.raises(type(stop)):
        cells.run_cell(folder)
    assert found(folder).trial.status == "missing"


def test_measures_are_kept_and_only_missing_ones_computed(tmp_path, spec, trainer, monkeypatch):
    import worldlab.study.measures

    calls = []

    def measure(run, registry, seed, names, *, sizes, cache, trusted):
        calls.append((run, seed, names, sizes is worldlab.study.measures.QUICK, cache))
        return {name: Measurement(float(len(calls))) for name in names}

    monkeypatch.setattr(worldlab.study.measures, "measure", measure)
    folder = place(tmp_path, replace(spec, measures=("a",), sizes="full"))
    assert cells.run_cell(folder) == 0
    write_cell(folder, replace(found(folder), spec=replace(spec, measures=("a", "b"), sizes="full")))
    assert cells.run_cell(folder) == 0
    assert {name: m.value for name, m in found(folder).trial.measures.items()} == {"a": 1.0, "b": 2.0}
    write_cell(folder, replace(found(folder), spec=replace(spec, measures=("a",), sizes="quick")))
    assert cells.run_cell(folder) == 0
    assert {name: m.value for name, m in found(folder).trial.measures.items()} == {"a": 3.0}
    kept = tmp_path / "recordings"
    assert spec.seed == 3  # but all models of a comparison are measured on the same episodes
    assert calls == [
        (folder, 0, ("a",), False, kept),
        (folder, 0, ("b",), False, kept),
        (folder, 0, ("a",), True, kept),
    ]
    assert len(trainer.calls) == 1


def test_a_measure_that_crashes_fails_the_cell_and_keeps_the_training(tmp_path, spec, trainer, monkeypatch):
    import worldlab.study.measures

    monkeypatch.setattr(worldlab.study.measures, "measure", lambda *_, **__: {})
    folder = place(tmp_path, replace(spec, measures=("a",), sizes="full"))
    for _ in range(2):
        assert cells.run_cell(folder) == 1
        assert found(folder).trial.cause == "the measures returned no value for a"
    assert len(trainer.calls) == 1


def test_an_older_model_is_not_measured_in_place_of_a_damaged_one(tmp_path, spec, trainer, monkeypatch):
    import worldlab.study.measures

    monkeypatch.setattr(worldlab.study.measures, "measure", lambda *_, **__: {"a": Measurement(1.0)})
    folder = place(tmp_path, replace(spec, measures=("a",), sizes="full"))
    save_checkpoint(folder / "checkpoints", 500, {"model": {"w": torch.zeros(2)}}, {})
    monkeypatch.setattr(cells, "_train", lambda *_, **__: trainer(None, None, run=folder, resume=False))
    assert cells.run_cell(folder) == 0
    write_cell(folder, CellFile(found(folder).spec, spec.empty_trial))
    for path in (folder / "checkpoints" / "step-000000600").glob("model*"):
        path.write_bytes(b"flipped")
    monkeypatch.setattr(cells, "_train", lambda *_, **__: None)
    assert cells.run_cell(folder) == 1
    cause = found(folder).trial.cause
    assert cause.startswith(
        "the run ended at step 600, but its newest intact checkpoint is of step 500: checkpoint step-600"
    )


def test_a_failed_cell_keeps_no_measures_of_other_sizes(tmp_path, spec, trainer, monkeypatch):
    """If the full measures crash, the quick ones must not be reported in their place."""
    import worldlab.study.measures

    monkeypatch.setattr(worldlab.study.measures, "measure", lambda *_, **__: {})
    quick = replace(spec.empty_trial, status="finished", measures={"a": Measurement(1.0)})
    folder = place(tmp_path, replace(spec, measures=("a",), sizes="full"), trial=quick, sizes="quick")
    assert cells.run_cell(folder) == 1
    assert found(folder).measured == {} == found(folder).trial.measures


def test_a_machine_with_other_versions_is_an_error(tmp_path, spec, trainer):
    folder = place(tmp_path, replace(spec, hash="0" * 64))
    assert cells.run_cell(folder) == 1
    assert "other versions" in found(folder).trial.cause and trainer.calls == []


def test_a_process_that_outlived_its_comparison_is_waited_for(tmp_path, spec, trainer, capsys):
    folder = place(tmp_path, spec)
    lock = FileLock(folder / LOCK, thread_local=False)
    lock.acquire()
    thread = threading.Thread(target=cells.run_cell, args=(folder,))
    thread.start()
    until = time.monotonic() + 60
    while "waiting for it to end" not in capsys.readouterr().err and time.monotonic() < until:
        time.sleep(0.01)
    write_cell(folder, CellFile(spec, replace(spec.empty_trial, status="finished")))  # the other one ends well
    lock.release()
    thread.join(60)
    assert not thread.is_alive() and trainer.calls == []


def test_all_output_of_a_process_goes_to_a_file(tmp_path):
    code = (
        "import os, sys, pathlib; from worldlab.study.compare.cell import _redirect_output\n"
        f"_redirect_output(pathlib.Path({str(tmp_path / 'output.txt')!r}))\n"
        "print('python'); sys.stdout.flush(); os.write(2, b'library')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "") and (tmp_path / "output.txt").read_text() == "python\nlibrary"


@pytest.mark.slow
def test_a_cell_is_a_command(tmp_path):
    spec = spec_of({"eval.final_episodes": 21, "env.time_limit": 20}, kind="random")
    folder = place(tmp_path, spec)
    command = [sys.executable, "-P", "-m", "worldlab.study.compare.cell", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    trial = found(folder).trial
    assert trial.status == "finished" and len(trial.returns) == 21 and all(1 <= value <= 20 for value in trial.returns)
