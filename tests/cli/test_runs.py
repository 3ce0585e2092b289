"""worldlab runs: the table, its order and filters, JSON, and what is wrong with a folder in words."""

from __future__ import annotations

import json
import os

import pytest
from many_runs import write_cell, write_run

from worldlab.cli import main


@pytest.fixture
def folder(tmp_path):
    write_run(tmp_path / "old", "finished", step=4000, age=0)
    write_run(tmp_path / "new", "running", step=2000, age=500, env="Pendulum-v1", seed=10)
    write_run(tmp_path / "bad", "failed", step=500, age=100, error="the disk is full", encoder="cpc")
    write_cell(tmp_path / "waits")
    return tmp_path


def names(capsys, *arguments):
    assert main(["runs", *map(str, arguments), "--json"]) == 0
    return [row["run"] for row in json.loads(capsys.readouterr().out)["runs"]]


def test_the_table_says_what_each_run_is(folder, capsys):
    assert main(["runs", str(folder)]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "state", "env", "parts", "agent", "seed", "step", "return", "size", "age"]
    rows = {line.split()[0]: line for line in lines}
    assert rows["old"].split()[1:8] == ["finished", "CartPole-v1", "vae", "dreamer", "0", "4,000", "100"]
    assert "2,000 of 4,000" in rows["new"] and "training" in rows["new"]
    assert "~5 " in rows["bad"] and "cpc/vae/vae" in rows["bad"] and "    the disk is full" in lines
    assert "waiting" in rows["waits"]
    assert lines[-1] == "4 runs: 1 waiting, 1 training, 1 failed, 1 finished (~: return of training episodes)"


def test_order(folder, capsys):
    assert names(capsys, folder)[-3:] == ["new", "bad", "old"]  # of the waiting cell the file is new
    assert names(capsys, folder, "--sort", "run") == ["bad", "new", "old", "waits"]
    assert names(capsys, folder, "--sort", "run", "--reverse") == ["waits", "old", "new", "bad"]
    assert names(capsys, folder, "--sort", "return") == ["old", "new", "bad", "waits"]
    assert names(capsys, folder, "--sort", "return", "--reverse") == ["bad", "new", "old", "waits"]
    assert names(capsys, folder, "--sort", "step")[:3] == ["old", "new", "bad"]


def test_filters(folder, capsys):
    assert names(capsys, folder, "--filter", "env=cartpole", "--sort", "run") == ["bad", "old", "waits"]
    assert names(capsys, folder, "--filter", "env=CartPole", "--filter", "state=fin") == ["old"]
    assert names(capsys, folder, "--filter", "seed=0", "--sort", "run") == ["bad", "old", "waits"]
    assert names(capsys, folder, "--filter", "parts=cpc") == ["bad"]
    assert names(capsys, folder, "--filter", "step=many") == []


def test_json_has_the_facts(folder, capsys):
    main(["runs", str(folder), "--filter", "run=new", "--json"])
    (row,) = json.loads(capsys.readouterr().out)["runs"]
    assert row["path"] == str(folder / "new") and row["steps"] == 4000 and row["return_from"] == "evaluation"
    assert row["size"] == sum(path.stat().st_size for path in (folder / "new").iterdir())
    assert {"state", "started", "changed", "error", "problem", "encoder", "dynamics", "decoder"} <= set(row)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "no folder 'none'"),
        ([], "no folder 'runs'"),
        ([".", "--sort", "retrun"], "no column named 'retrun'. Did you mean 'return'?"),
        ([".", "--filter", "cartpole"], "--filter 'cartpole' is not COLUMN=TEXT"),
        ([".", "--filter", "environment=x"], "no column named 'environment'"),
    ],
)
def test_what_is_wrong_with_the_command(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["runs", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and "fix: worldlab" in error


def test_an_empty_folder_has_no_runs(tmp_path, capsys):
    assert main(["runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 runs"


def test_names_print_no_control_characters(tmp_path, capsys):
    write_run(tmp_path / "a\x1b[31m\nb", env="\x1b]0;title\x07x")
    os.mkdir(os.fsencode(tmp_path) + b"/\xff\xfe")
    (tmp_path / os.fsdecode(b"\xff\xfe") / "run.json").write_text("{")
    assert main(["runs", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert all(character.isprintable() or character == "\n" for character in text)
    assert len(text.splitlines()) == 5 and "run.json cannot be read" in text
    assert main(["runs", str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["runs"]
    assert {row["run"] for row in rows} == {"a\x1b[31m\nb", os.fsdecode(b"\xff\xfe")}
