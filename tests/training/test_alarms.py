"""An alarm is printed, and kept in run.json, where whoever watches the run finds it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from worldlab.interfaces import Alarm
from worldlab.runs.folder import RunFolder
from worldlab.runs.index import read_row
from worldlab.training.loop import Loop
from worldlab.training.train import _alarms_until


def report(folder: RunFolder, step: int, says: str, notes: list[str]) -> None:
    loop: Any = SimpleNamespace(
        folder=folder,
        session=SimpleNamespace(counters=SimpleNamespace(env_steps=step)),
        progress=SimpleNamespace(note=notes.append),
    )
    Loop._report_alarm(loop, Alarm(says, "Lower --model.beta."))


def test_alarms_are_printed_and_kept_in_order(tmp_path):
    notes: list[str] = []
    with RunFolder.create(tmp_path / "a") as folder:
        folder.write_run_json({"status": "running"})
        report(folder, 250, "the latent is constant", notes)
        report(folder, 500, "the decoder ignores it", notes)
        kept = folder.read_run_json()["alarms"]
    assert notes[0] == "step 250: the latent is constant. Lower --model.beta."
    assert [(alarm["step"], alarm["says"]) for alarm in kept] == [
        (250, "the latent is constant"),
        (500, "the decoder ignores it"),
    ]
    assert read_row(tmp_path / "a", tmp_path).alarms == tuple(notes)
    assert _alarms_until(250, kept) == kept[:1]  # a resumed run repeats the other
    assert _alarms_until(250, "no list") == []
