"""One cell in its folder: what it keeps, what it begins anew, and how it says that it failed."""

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

from worldlab.errors import DivergedError, StorageError
from worldlab.registry import load_registry
from worldlab.runs import storage
from worldlab.runs.checkpoint import save_checkpoint
from worldlab.study.compare import cell as cells
from worldlab.study.compare.cell_file import LOCK, NAME, Asked, CellFile, read_cell, write_cell
from worldlab.study.compare.matrix import matrix_of
from worldlab.study.compare.plan import plan
from worldlab.study.results import Measurement
from worldlab.training import train

REGISTRY = load_registry()


@pytest.fixture(scope="module")
def asked() -> Asked:
    return asked_of({})


def asked_of(settings, kind="model") -> Asked:
    table = {"axes": {"env": "CartPole"}, "seeds": [3], "presets": "debug", "measures": "none", "settings": settings}
    found = next(cell for cell in plan(matrix_of(table), REGISTRY).cells if cell.kind == kind)
    return Asked("vae", found.env, found.seed, kind, found.hash, found.config.to_mapping())


class Trainer:
    """Stands in for worldlab.training.train.train: writes what a run leaves behind, or does as it is told."""

    def __init__(self, monkeypatch):
        self.calls: list[tuple[bool, list[str]]] = []
        self.raises: BaseException | None = None
        monkeypatch.setattr(train, "train", self)

    def __call__(self, config, registry, *, run: Path, resume: bool):
        self.calls.append((resume, sorted(path.name for path in run.iterdir())))
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


def place(tmp_path: Path, asked: Asked, **file) -> Path:
    folder = storage.make_folder(tmp_path / "cells" / "one")
    write_cell(folder, CellFile(asked, **{"trial": asked.blank, **file}))
    return folder


def found(folder: Path) -> CellFile:
    file = read_cell(folder)
    assert file is not None
    return file


def test_a_cell_file_is_read_back_as_it_was_written(tmp_path, asked):
    assert read_cell(tmp_path) is None
    measures = {"a/b": Measurement(1.5, 0.1), "c": Measurement(None, why="no"), "d": Measurement(float("inf"), 1.0)}
    trial = replace(asked.blank, status="finished", returns=(1.0, 2.5), curve=((3, 4.0),), updates=7, measures=measures)
    file = CellFile(
        replace(asked, measures=("c",), plugins=("../../p.py",), sizes="quick"), trial, 12.5, "quick", "here"
    )
    write_cell(tmp_path, file)
    back = found(tmp_path)
    assert back.trial.measures["d"] == Measurement(None, why="it came out as inf")
    assert replace(back, trial=replace(back.trial, measures=measures)) == file
    write_cell(tmp_path, CellFile(asked, asked.blank))
    assert found(tmp_path) == CellFile(asked, asked.blank)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "other", "format_version": 1}', "{}"])
def test_a_damaged_cell_file_is_an_error(tmp_path, content):
    (tmp_path / NAME).write_text(content)
    with pytest.raises(StorageError, match="is damaged"):
        read_cell(tmp_path)


def test_done_means_finished_and_measured_as_asked(asked):
    wants = replace(asked, measures=("a",), sizes="full")
    trial = replace(asked.blank, status="finished", measures={"a": Measurement(1.0), "b": Measurement(2.0)})
    assert CellFile(asked, replace(asked.blank, status="finished")).done
    assert CellFile(wants, trial, sizes="full").done
    assert not CellFile(wants, trial, sizes="quick").done
    assert not CellFile(replace(wants, measures=("c",)), trial, sizes="full").done
    assert not CellFile(asked, replace(trial, status="failed")).done and not CellFile(asked, asked.blank).done


def test_a_run_becomes_a_trial(tmp_path, asked, trainer):
    folder = place(tmp_path, asked)
    assert cells.run_cell(folder) == 0
    file = found(folder)
    trial = file.trial
    assert (trial.method, trial.env, trial.seed, trial.status) == ("vae", "CartPole-v1", 3, "finished")
    assert (trial.env_steps, trial.updates, trial.wall_seconds, trial.parameters) == (600, 70, 9.5, 42)
    assert (trial.returns, trial.score, trial.curve) == ((3.0, 5.0), 4.0, ((100, 1.0), (600, 4.0)))
    assert file.host and file.done
    before = (folder / NAME).read_bytes()
    assert cells.run_cell(folder) == 0 and len(trainer.calls) == 1 and (folder / NAME).read_bytes() == before


def test_a_strict_run_that_was_cut_off_is_begun_anew(tmp_path, asked, trainer):
    folder = place(tmp_path, asked)
    (folder / "checkpoints" / "step-000000300").mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    assert cells.run_cell(folder) == 0
    assert trainer.calls == [(False, [NAME, LOCK])]


@pytest.mark.parametrize(("checkpoint", "status", "resumes"), [(1, "missing", 1), (0, "missing", 0), (1, "failed", 0)])
def test_any_other_run_goes_on_from_a_checkpoint_unless_it_failed(
    tmp_path, trainer, checkpoint, status, resumes, monkeypatch
):
    loose = asked_of({"strict": False})
    folder = place(tmp_path, loose, trial=replace(loose.blank, status=status))
    (folder / "run.json").write_text("{}")
    monkeypatch.setattr(cells, "_has_checkpoint", lambda folder: bool(checkpoint))
    assert cells.run_cell(folder) == 0
    assert trainer.calls == [(bool(resumes), [NAME, LOCK, "run.json"] if resumes else [NAME, LOCK])]


def test_a_failure_is_an_outcome_and_is_tried_again(tmp_path, asked, trainer):
    folder = place(tmp_path, asked)
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
def test_a_signal_is_no_outcome(tmp_path, asked, trainer, stop):
    folder = place(tmp_path, asked)
    trainer.raises = stop
    with pytest.raises(type(stop)):
        cells.run_cell(folder)
    assert found(folder).trial.status == "missing"


def test_what_was_measured_is_kept_and_what_is_missing_is_measured(tmp_path, asked, trainer, monkeypatch):
    import worldlab.study.measures

    calls = []

    def measure(run, registry, seed, names, *, sizes, cache):
        calls.append((run, seed, names, sizes is worldlab.study.measures.QUICK, cache))
        return {name: Measurement(float(len(calls))) for name in names}

    monkeypatch.setattr(worldlab.study.measures, "measure", measure)
    folder = place(tmp_path, replace(asked, measures=("a",), sizes="full"))
    assert cells.run_cell(folder) == 0
    write_cell(folder, replace(found(folder), asked=replace(asked, measures=("a", "b"), sizes="full")))
    assert cells.run_cell(folder) == 0
    assert {name: m.value for name, m in found(folder).trial.measures.items()} == {"a": 1.0, "b": 2.0}
    write_cell(folder, replace(found(folder), asked=replace(asked, measures=("a",), sizes="quick")))
    assert cells.run_cell(folder) == 0
    assert {name: m.value for name, m in found(folder).trial.measures.items()} == {"a": 3.0}
    kept = tmp_path / "recordings"
    assert asked.seed == 3  # and yet all models of a comparison are measured on the same episodes
    assert calls == [
        (folder, 0, ("a",), False, kept),
        (folder, 0, ("b",), False, kept),
        (folder, 0, ("a",), True, kept),
    ]
    assert len(trainer.calls) == 1


def test_a_measure_that_crashes_fails_the_cell_and_keeps_the_training(tmp_path, asked, trainer, monkeypatch):
    import worldlab.study.measures

    monkeypatch.setattr(worldlab.study.measures, "measure", lambda *_, **__: {})
    folder = place(tmp_path, replace(asked, measures=("a",), sizes="full"))
    for _ in range(2):
        assert cells.run_cell(folder) == 1
        assert found(folder).trial.cause == "nothing came of measuring a"
    assert len(trainer.calls) == 1


def test_an_older_model_is_not_measured_in_place_of_a_damaged_one(tmp_path, asked, trainer, monkeypatch):
    import worldlab.study.measures

    monkeypatch.setattr(worldlab.study.measures, "measure", lambda *_, **__: {"a": Measurement(1.0)})
    folder = place(tmp_path, replace(asked, measures=("a",), sizes="full"))
    save_checkpoint(folder / "checkpoints", 500, {"model": {"w": torch.zeros(2)}}, {})
    monkeypatch.setattr(cells, "_train", lambda *_, **__: trainer(None, None, run=folder, resume=False))
    assert cells.run_cell(folder) == 0
    write_cell(folder, CellFile(found(folder).asked, asked.blank))
    for path in (folder / "checkpoints" / "step-000000600").glob("model*"):
        path.write_bytes(b"flipped")
    monkeypatch.setattr(cells, "_train", lambda *_, **__: None)
    assert cells.run_cell(folder) == 1
    cause = found(folder).trial.cause
    assert cause.startswith(
        "the run ended at step 600, and its newest sound checkpoint is of step 500: checkpoint step-600"
    )


def test_what_was_measured_in_other_sizes_is_not_taken_for_what_a_failed_cell_was_asked(
    tmp_path, asked, trainer, monkeypatch
):
    """Measured quickly, then asked for in full: a crash must not leave the quick numbers under the name of the full ones."""
    import worldlab.study.measures

    monkeypatch.setattr(worldlab.study.measures, "measure", lambda *_, **__: {})
    quick = replace(asked.blank, status="finished", measures={"a": Measurement(1.0)})
    folder = place(tmp_path, replace(asked, measures=("a",), sizes="full"), trial=quick, sizes="quick")
    assert cells.run_cell(folder) == 1
    assert found(folder).measured == {} == found(folder).trial.measures


def test_another_place_with_other_versions_is_refused(tmp_path, asked, trainer):
    folder = place(tmp_path, replace(asked, hash="0" * 64))
    assert cells.run_cell(folder) == 1
    assert "other versions" in found(folder).trial.cause and trainer.calls == []


def test_a_process_that_outlived_its_comparison_is_waited_for(tmp_path, asked, trainer, capsys):
    folder = place(tmp_path, asked)
    lock = FileLock(folder / LOCK, thread_local=False)
    lock.acquire()
    thread = threading.Thread(target=cells.run_cell, args=(folder,))
    thread.start()
    until = time.monotonic() + 60
    while "waiting for it to end" not in capsys.readouterr().err and time.monotonic() < until:
        time.sleep(0.01)
    write_cell(folder, CellFile(asked, replace(asked.blank, status="finished")))  # the other one ends well
    lock.release()
    thread.join(60)
    assert not thread.is_alive() and trainer.calls == []


def test_what_a_process_prints_goes_to_a_file_whoever_prints(tmp_path):
    code = (
        "import os, sys, pathlib; from worldlab.study.compare.cell import _print_into\n"
        f"_print_into(pathlib.Path({str(tmp_path / 'output.txt')!r}))\n"
        "print('python'); sys.stdout.flush(); os.write(2, b'library')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "") and (tmp_path / "output.txt").read_text() == "python\nlibrary"


@pytest.mark.slow
def test_a_cell_is_a_command(tmp_path):
    asked = asked_of({"eval.final_episodes": 21, "env.time_limit": 20}, kind="random")
    folder = place(tmp_path, asked)
    command = [sys.executable, "-P", "-m", "worldlab.study.compare.cell", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    trial = found(folder).trial
    assert trial.status == "finished" and len(trial.returns) == 21 and all(1 <= value <= 20 for value in trial.returns)
