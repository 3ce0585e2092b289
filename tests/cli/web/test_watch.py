"""worldlab watch: what a page is sent follows from the files, each part of it once, and nothing else can be read."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys

import pytest
from many_runs import lines, write_cell, write_run

from worldlab.cli import main
from worldlab.cli.web import server as server_module
from worldlab.cli.web.site import ASSETS
from worldlab.cli.web.watch import page as page_module
from worldlab.cli.web.watch.page import FILES, Cursor, WatchPages, watch_site
from worldlab.cli.web.watch.runs import ALIVE_SECONDS, LIST_SECONDS, WatchedRuns
from worldlab.runs import follow
from worldlab.runs.follow import POINTS

NOW = 1_800_000_000.0


@pytest.fixture
def watched(tmp_path):
    runs = WatchedRuns(tmp_path)
    clock = iter(range(10**6))

    def look(shown=(), seconds=0.0):
        runs.refresh(NOW + seconds + next(clock) * LIST_SECONDS, shown)
        return runs

    return look


def run_of(runs, name):
    return next(run for run in runs.runs.values() if run.row.name == name)


def append(path, *rows):
    with path.open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


# ---- reading ----


def test_a_row_says_how_far_a_run_is_and_how_long_it_takes(tmp_path, watched):
    write_run(tmp_path / "a", step=3000, steps=4000)
    row = run_of(watched(), "a").summary()
    assert (row["state"], row["step"], row["steps"], row["speed"], row["left"]) == ("training", 3000, 4000, 20.0, 50.0)
    assert row["spark"] == [[1000, 20.0], [2000, 40.0], [3000, 60.0]] and row["score"] == 60.0
    write_run(tmp_path / "b", "finished", step=4000)
    row = run_of(watched(), "b").summary()
    assert (row["speed"], row["left"], row["score"]) == (None, None, 100.0)


def test_runs_appear_end_and_vanish(tmp_path, watched):
    run = write_run(tmp_path / "a")
    assert run_of(watched(), "a").row.state == "training"
    write_run(tmp_path / "late", "failed", error="disk full")
    assert run_of(watched(), "late").row.error == "disk full"
    facts = json.loads((run / "run.json").read_text()) | {"status": "finished", "step": 4000}
    (run / "run.json").write_text(json.dumps(facts))
    (run / "result.json").write_text(json.dumps({"return_mean": 77.0}))
    assert run_of(watched(), "a").row.score == 77.0
    number = run_of(watched(), "a").number
    shutil.rmtree(run)
    runs = watched()
    assert number in runs.gone and [run.row.name for run in runs.runs.values()] == ["late"]
    write_run(tmp_path / "a")
    assert run_of(watched(), "a").number != number
    shutil.rmtree(tmp_path)
    runs = watched()
    assert not runs.runs and "cannot be listed" in runs.problem


def test_the_death_of_a_process_is_seen_although_no_file_changes(tmp_path, watched, monkeypatch):
    write_run(tmp_path / "a")
    run = run_of(watched(), "a")
    monkeypatch.setattr("worldlab.runs.lock._alive", lambda pid: False)
    watched(seconds=ALIVE_SECONDS)
    assert run.row.state == "killed" and run.version == watched().look - 1


def test_a_look_without_news_opens_no_file(tmp_path, watched):
    for number in range(30):
        write_run(tmp_path / f"run-{number}", ("finished", "stopped", "killed")[number % 3])
    runs = watched()
    while runs.behind:
        runs = watched()
    opened = []
    sys.addaudithook(lambda event, arguments: opened.append(arguments[0]) if event == "open" and on else None)
    on, before = True, [run.version for run in runs.runs.values()]
    runs = watched()
    on = False
    mine = [path for path in opened if str(path).startswith(str(tmp_path)) and not str(path).endswith(".jsonl")]
    assert mine == [] and [run.version for run in runs.runs.values()] == before


def test_long_metrics_are_read_in_pieces_over_several_looks(tmp_path, watched):
    run = write_run(tmp_path / "a")
    (run / "metrics.jsonl").write_text(lines(2_000_000, every=100, evaluate=1000))
    looks, runs = 1, watched()
    while runs.behind:
        looks, runs = looks + 1, watched()
    curve = run_of(runs, "a").metrics.curves["eval/return"]
    assert looks > 5 and curve.steps[-1] == 2_000_000 and len(curve.steps) < 2 * POINTS


# ---- what a page is sent ----


def test_a_page_is_sent_each_row_when_it_changed(tmp_path, watched):
    one, two = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    cursor = Cursor()
    (message,) = cursor.messages(watched())
    assert message["first"] and [row["name"] for row in message["rows"]] == ["a", "b"]
    assert cursor.messages(watched()) == []
    append(one / "metrics.jsonl", {"step": 3250, "episode/return": 1.0})
    (message,) = cursor.messages(watched())
    assert [(row["name"], row["step"]) for row in message["rows"]] == [("a", 3250)] and not message["first"]
    number = run_of(watched(), "b").number
    shutil.rmtree(two)
    (message,) = cursor.messages(watched())
    assert message["gone"] == [number] and message["rows"] == []


def test_a_page_is_sent_each_point_of_the_run_it_shows_once(tmp_path, watched):
    run = write_run(tmp_path / "a", step=500)
    cursor = Cursor()
    cursor.messages(watched())
    cursor.show(run_of(watched(), "a").number)
    (message,) = cursor.messages(watched())
    assert message["curves"]["loss/dyn"] == {"from": 0, "x": [250, 500], "y": [0.4, 0.2]}
    assert message["curves"]["perf/env_steps_per_s"]["y"] == [20.0] and "loss/dyn" in message["names"]
    append(run / "metrics.jsonl", {"step": 750, "loss/dyn": 0.123456789, "new": 1})
    _, message = cursor.messages(watched())
    assert message["curves"] == {
        "loss/dyn": {"from": 2, "x": [750], "y": [0.123457]},
        "new": {"from": 0, "x": [750], "y": [1.0]},
    }
    (run / "metrics.jsonl").write_text(lines(250))  # a resumed run cut the file
    _, message = cursor.messages(watched())
    assert message["curves"]["loss/dyn"] == {"from": 0, "x": [250], "y": [0.4]} and "new" not in message["names"]


def test_a_thinned_curve_is_sent_whole(tmp_path, watched, monkeypatch):
    monkeypatch.setattr(follow, "POINTS", 4)
    run = write_run(tmp_path / "a", step=250)
    cursor = Cursor()
    cursor.messages(watched())
    cursor.show(0)
    cursor.messages(watched())
    append(run / "metrics.jsonl", *({"step": 250 + k, "loss/dyn": k} for k in range(1, 10)))
    _, message = cursor.messages(watched())
    points = message["curves"]["loss/dyn"]
    assert points["from"] == 0 and (points["x"][0], points["x"][-1]) == (250, 259) and len(points["x"]) < 8


def test_cells_of_a_comparison_are_marked(tmp_path, watched):
    write_cell(write_run(tmp_path / "study" / "cells" / "vae-0", "finished", step=4000), "vae", "finished")
    write_cell(tmp_path / "study" / "cells" / "cpc-0", "cpc", seed=3)
    rows = [run.summary() for run in watched().runs.values()]
    assert [(row["comparison"], row["method"], row["state"], row["seed"]) for row in rows] == [
        ("study", "cpc", "waiting", 3),
        ("study", "vae", "finished", 0),
    ]


def test_alarms_and_the_end_of_the_output_are_text(tmp_path, watched):
    alarms = [{"step": 500, "says": "the latent dies \x1b[31m", "cure": "less beta"}, "odd"]
    run = write_run(tmp_path / "a", "failed", alarms=alarms)
    (run / "output.txt").write_text("x" * 10**5 + "\nTraceback:\x1b]0;title\x07\nValueError\n")
    details = run_of(watched(), "a").details()
    assert details["alarms"] == ["step 500: the latent dies [31m. less beta", "step None: ."]
    assert details["log"].endswith("\nTraceback: ]0;title \nValueError\n") and len(details["log"]) <= 4096


# ---- pictures ----


def test_only_pictures_of_known_names_are_read(tmp_path, watched):
    run = write_run(tmp_path / "a")
    videos = run / "videos"
    videos.mkdir()
    (videos / "dream-000000500.png").write_bytes(b"picture")
    (videos / "other.png").write_bytes(b"secret")
    (tmp_path / "dream-000000500.png").write_bytes(b"secret")
    (videos / "dream-000001000.png").symlink_to("/etc/passwd")
    one = run_of(watched(), "a")
    assert one.details()["pictures"] == ["dream-000000500.png", "dream-000001000.png"]
    assert one.picture("dream-000000500.png") == b"picture"
    for name in ("other.png", "dream-000001000.png", "../dream-000000500.png", "", "dream-000000500.png\n", "."):
        assert one.picture(name) is None
    shutil.move(videos, tmp_path / "elsewhere")
    videos.symlink_to(tmp_path / "elsewhere")
    assert one.picture("dream-000000500.png") is None and one.details()["pictures"] == []


# ---- pages ----


class Page:
    """A channel without a network: what it is sent, and what it says when."""

    def __init__(self):
        self.sent, self.waiting, self.said = [], 0, asyncio.Queue()

    def send(self, message, key=None):
        self.sent.append(message)

    async def receive(self):
        return await self.said.get()


def test_a_hidden_page_costs_nothing_and_pages_share_the_looks(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "INTERVAL", 0.02)
    write_run(tmp_path / "a")

    async def watch():
        pages, one, two = WatchPages(tmp_path), Page(), Page()
        tasks = [asyncio.ensure_future(pages.connect(page)) for page in (one, two)]
        await asyncio.sleep(0.2)
        looks = pages.watched.look
        for page in (one, two):
            page.said.put_nowait({"hidden": True, "odd": [1], "run": "x"})
        await asyncio.sleep(0.05)
        hidden = pages.watched.look
        await asyncio.sleep(0.2)
        still = pages.watched.look
        one.said.put_nowait({"hidden": False, "run": 0})
        await asyncio.sleep(0.1)
        for page in (one, two):
            page.said.put_nowait(None)
        await asyncio.gather(*tasks)
        return looks, hidden, still, one.sent, two.sent

    looks, hidden, still, one, two = asyncio.run(watch())
    assert 2 < looks <= 21 and hidden == still
    assert [message["type"] for message in one] == ["runs", "run"] and [message["type"] for message in two] == ["runs"]


def test_a_slow_page_is_sent_nothing_until_it_has_read_and_then_all(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "INTERVAL", 0.01)
    run = write_run(tmp_path / "a")

    async def watch():
        pages, page = WatchPages(tmp_path), Page()
        task = asyncio.ensure_future(pages.connect(page))
        await asyncio.sleep(0.1)
        page.waiting = 1
        for step in range(4000, 4300):
            append(run / "metrics.jsonl", {"step": step, "episode/return": 1})
        await asyncio.sleep(0.1)
        before = len(page.sent)
        page.waiting = 0
        await asyncio.sleep(0.1)
        page.said.put_nowait(None)
        await task
        return before, page.sent

    before, sent = asyncio.run(watch())
    assert before == 1 and [message["rows"][0]["step"] for message in sent] == [3000, 4299]


def test_the_page_is_made_of_the_listed_files():
    assert {path.name for path in (ASSETS / "watch").iterdir()} == set(FILES)


# ---- the command ----


def test_what_is_wrong_with_the_command(tmp_path, monkeypatch, capsys):
    assert main(["watch", str(tmp_path / "none")]) == 2
    assert "no folder" in capsys.readouterr().err
    monkeypatch.setattr(server_module, "PACKAGES", ("no_such_package",))
    assert main(["watch", str(tmp_path)]) == 2
    assert "worldlab watch needs no_such_package" in (error := capsys.readouterr().err) and "worldlab[play]" in error


def test_the_command_prints_the_address_and_writes_nothing(tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "a")
    before = sorted(os.walk(tmp_path))
    monkeypatch.setattr(
        server_module, "serve", lambda site, host, port, open_browser, announce: announce("http://127.0.0.1:1/?token=t")
    )
    assert main(["watch", str(tmp_path), "--no-open"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "http://127.0.0.1:1/?token=t"
    assert main(["watch", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == str(tmp_path)
    assert sorted(os.walk(tmp_path)) == before


@pytest.fixture
def visitor(tmp_path):
    pytest.importorskip("websockets", reason='pip install "worldlab[play]"')
    from web_kit import Visitor

    with server_module.served(watch_site(tmp_path)) as address:
        yield Visitor(address)


def test_a_real_page_follows_a_run(tmp_path, visitor, monkeypatch):
    monkeypatch.setattr(page_module, "INTERVAL", 0.05)
    run = write_run(tmp_path / "a", step=500)
    (run / "videos").mkdir()
    (run / "videos" / "dream-000000500.png").write_bytes(b"picture")
    with visitor.websocket() as line:
        assert json.loads(line.recv(10))["rows"][0]["name"] == "a"
        line.send(json.dumps({"run": 0, "hidden": False}))
        message = json.loads(line.recv(10))
        assert message["type"] == "run" and message["curves"]["loss/dyn"]["x"] == [250, 500]
        append(run / "metrics.jsonl", {"step": 750, "loss/dyn": 0.1})
        rows, shown = json.loads(line.recv(10)), json.loads(line.recv(10))
        assert rows["rows"][0]["step"] == 750 and shown["curves"]["loss/dyn"] == {"from": 2, "x": [750], "y": [0.1]}
        status, body, reply = visitor.get("/picture?run=0&name=dream-000000500.png")
        assert (status, body, reply.headers["Content-Type"]) == (200, b"picture", "image/png")
        for query in ("run=1&name=dream-000000500.png", "run=0&name=../run.json", "run=x", "run=-1&name=.", ""):
            assert visitor.get(f"/picture?{query}")[0] == 404


def test_a_hundred_runs_are_sent_at_once_and_then_only_changes(tmp_path, watched):
    for number in range(100):
        write_run(tmp_path / f"run-{number:03d}", step=2000)
    cursor = Cursor()
    first = cursor.messages(watched())
    assert len(first[0]["rows"]) == 100 and len(json.dumps(first)) < 100_000
    append(tmp_path / "run-050" / "metrics.jsonl", {"step": 2250, "episode/return": 1})
    (message,) = cursor.messages(watched())
    assert [row["name"] for row in message["rows"]] == ["run-050"]
