"""The command `worldlab play`, with a run that was trained for a moment."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import worldlab
from worldlab.cli import main
from worldlab.cli.web import server

TINY: dict[str, Any] = {
    "train.prefill": 40,
    "train.pretrain": 1,
    "train.ratio": 0.02,
    "train": {"batch_size": 2, "batch_length": 8, "starts": 8, "threads": 1},
    "agent.horizon": 3,
    "eval": {"every": 0, "final_episodes": 1},
    "env.time_limit": 30,
    "log": {"pictures": 0, "track": ["none"], "every": 40},
}


def digest(folder: Path) -> dict[str, str]:
    """Every file and folder of a run with its content and its times."""
    return {
        str(path.relative_to(folder)): f"{path.stat().st_mtime_ns} "
        + (hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "")
        for path in sorted([folder, *folder.rglob("*")])
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "branching"
    worldlab.train("branch", preset="debug", size="nano", steps=60, device="cpu", settings=TINY, run=path)
    return path


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["play", *argv])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.slow
def test_a_film_and_a_page_are_written_without_a_browser_and_the_run_stays_as_it_was(run, tmp_path, capsys):
    before = digest(run)
    film, page = tmp_path / "films" / "out.webp", tmp_path / "page"
    code, out, _ = said(capsys, str(run), "--record", str(film), "--export", str(page), "--steps", "12", "--json")
    result = json.loads(out)
    assert code == 0 and result["steps"] == 12 and result["files"] == [str(film), str(page / "index.html")]
    assert Image.open(film).n_frames == 13 and "step" in (page / "index.html").read_text("utf-8")
    assert digest(run) == before


@pytest.mark.slow
def test_two_runs_are_played_side_by_side_until_ctrl_c_and_stay_as_they_were(run, capsys, monkeypatch):
    for name in server.PACKAGES:
        pytest.importorskip(name, reason='pip install "worldlab[play]"')
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach the main thread only")
    from web_kit import Visitor

    before, seen, opened = digest(run), {}, []
    real = server.serve

    def play(address: str) -> None:
        with Visitor(address).websocket() as websocket:
            seen["hello"] = json.loads(websocket.recv(20))
            websocket.recv(20)
            for _ in range(3):
                websocket.send('{"do": "step"}')
                seen["frame"] = websocket.recv(20)
            os.kill(os.getpid(), signal.SIGINT)

    def serve(site, *, announce, **options):
        def both(address: str) -> None:
            announce(address)
            threading.Thread(target=play, args=(address,), daemon=True).start()

        real(site, announce=both, **options)

    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setattr(server, "_open", opened.append)
    code, out, _ = said(capsys, str(run), str(run), "--no-open")
    assert code == 0 and out.startswith("http://127.0.0.1:") and "Ctrl-C stops it" in out
    assert [model["name"] for model in seen["hello"]["models"]] == ["branching", "branching"]
    assert seen["hello"]["models"][0]["parts"]["encoder"] == "vae" and b'"at": 3' in seen["frame"]
    assert opened == [] and digest(run) == before


def test_wrong_arguments_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = said(capsys, "nowhere")
    assert code == 2 and "no run 'nowhere'" in err
    code, _, err = said(capsys, "a", "b", "c")
    assert code == 2 and "shows one or two runs, got 3" in err and "fix:" in err


def test_missing_packages_are_named_before_anything_is_loaded(tmp_path, capsys, monkeypatch):
    (tmp_path / "run.json").write_text("{}")
    monkeypatch.setattr(server, "PACKAGES", ("no_such_package",))
    code, _, err = said(capsys, str(tmp_path))
    assert code == 2 and 'fix: pip install "worldlab[play]"' in err
