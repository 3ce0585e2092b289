"""Which images a report shows, and how it lists those that it leaves out."""

from __future__ import annotations

import base64
import io
import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from report_kit import ENVS, METHODS, comparison, moving_disc, run_folders

from worldlab.runs.pictures import save_png, save_webp
from worldlab.study.report import clips
from worldlab.study.report.clips import KINDS

MODELS = METHODS[:3]


@pytest.fixture
def folder(tmp_path):
    run_folders(comparison(methods=MODELS), tmp_path)
    return tmp_path


def content(uri: str) -> bytes:
    head, _, data = uri.partition(";base64,")
    assert head in ("data:image/webp", "data:image/png")
    return base64.b64decode(data, validate=True)


def test_the_last_dream_of_the_first_seed(folder):
    given = comparison(methods=MODELS)
    shown, left = clips.collect_clips(given, folder)
    assert left == []
    assert [(f.kind, f.method, f.seed) for f in shown[ENVS[0]]] == [(k, m.key, 0) for k in KINDS for m in MODELS]
    assert [f.kind for f in shown[ENVS[1]]] == ["strip"] * len(MODELS)
    first = shown[ENVS[0]][0]
    path = folder / given.of("vae", ENVS[0])[0].folder / "videos" / "dream-000020000.webp"
    assert content(first.data) == path.read_bytes() and first.step == 20_000
    still = Image.open(io.BytesIO(content(first.still)))
    assert still.size == (first.width, first.height) and getattr(still, "n_frames", 1) == 1
    moving = Image.open(path)
    assert np.array_equal(np.asarray(still), np.asarray(moving.convert("RGB")))
    assert shown[ENVS[1]][0].still == ""


def test_of_several_rows_the_smallest(folder):
    given = comparison(methods=MODELS[:1])
    videos = folder / given.of("vae", ENVS[0])[0].folder / "videos"
    save_webp(moving_disc("vae", frames=9), videos / "dream-000030000-0.webp")
    save_webp(moving_disc("vae", frames=2), videos / "dream-000030000-1.webp")
    shown, _ = clips.collect_clips(given, folder)
    assert shown[ENVS[0]][0].name == "dream-000030000-1.webp"


def test_a_seed_that_failed_shows_nothing(folder):
    given = comparison(methods=MODELS[:1])
    failed = tuple(replace(trial, status="failed") if trial.seed == 0 else trial for trial in given.trials)
    shown, _ = clips.collect_clips(replace(given, trials=failed), folder)
    assert {one.seed for one in shown[ENVS[0]]} == {1}


def test_files_over_the_size_limit_are_listed(folder):
    given = comparison(methods=MODELS)
    everything, _ = clips.collect_clips(given, folder)
    sizes = {
        (f.kind, f.method): len(content(f.data)) + len(content(f.still) if f.still else b"")
        for f in everything[ENVS[0]]
    }
    room = sum(size for (kind, _), size in sizes.items() if kind == "dream") + 10
    shown, left = clips.collect_clips(given, folder, room)
    assert [f.kind for f in shown[ENVS[0]]] == ["dream"] * len(MODELS) and shown[ENVS[1]] == []
    assert len(left) == 3 * len(MODELS) and all(one.why.endswith("and the report is full") for one in left)
    assert left[-1].path.endswith("/videos/evaluation.webp")


def test_unreadable_files_are_listed(folder, monkeypatch):
    given = comparison(methods=MODELS[:1])
    videos = folder / given.of("vae", ENVS[0])[0].folder / "videos"
    (videos / "dream-000020000.webp").write_bytes(b"RIFF no picture")
    strip = (videos / "dream-000020000.png").read_bytes()
    (videos / "dream-000020000.png").write_bytes(strip[: len(strip) // 2])
    shown, left = clips.collect_clips(given, folder)
    assert [f.kind for f in shown[ENVS[0]]] == ["evaluation"]
    assert [one.path.rpartition("/")[2] for one in left] == ["dream-000020000.webp", "dream-000020000.png"]
    assert all(one.why.startswith("it cannot be read: ") for one in left)
    monkeypatch.setattr(clips, "MAX_CLIP_BYTES", 100)
    _, left = clips.collect_clips(given, folder)
    assert left[-1].why == "it is larger than 0.1 kB"


def test_nothing_outside_is_read(folder, tmp_path_factory):
    """Links, other file names and folders outside the comparison's are ignored."""
    given = comparison(methods=MODELS[:1])
    outside = tmp_path_factory.mktemp("outside") / "videos"
    outside.mkdir()
    save_png(moving_disc("x")[0], outside / "dream-1.png")
    up = os.path.relpath(outside.parent, folder)
    for where in (up, str(outside.parent), ""):
        moved = tuple(replace(trial, folder=where) for trial in given.trials)
        assert clips.collect_clips(replace(given, trials=moved), folder) == ({env: [] for env in ENVS}, [])
    videos = folder / given.of("vae", ENVS[1])[0].folder / "videos"
    (videos / "dream-000020000.png").unlink()
    os.symlink(outside / "dream-1.png", videos / "dream-2.png")
    (videos / "dream-9x.png").write_bytes(b"")
    shown, left = clips.collect_clips(replace(given, trials=given.of("vae", ENVS[1])[:1]), folder)
    assert shown[ENVS[1]] == [] and left == []
