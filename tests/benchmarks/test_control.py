"""benchmarks/control.py: what it reads from runs, its arithmetic, and that it can be stopped and started at any moment."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def control():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import control

        yield control
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture
def task(control):
    return replace(control.TASKS["cartpole"], steps=100)


RUN = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
kind = sys.argv[2]
if kind == "stop":  # as a killed run: begun, without a result
    (folder / "checkpoints" / "step-000000050").mkdir(parents=True)
    sys.exit("stopped at step 50")
(folder / "checkpoints").mkdir(parents=True, exist_ok=True)
rows = [(50, 60.0, 400.0), (100, 120.0, 220.0)]
lines = lambda *pairs: "".join(json.dumps(pair) + "\\n" for pair in pairs)
(folder / "metrics.jsonl").write_text(lines(*({"step": s, "eval/return": r} for s, _, r in rows), {"step": 75}))
(folder / "perf.jsonl").write_text(lines(*({"step": s, "seconds": t} for s, t, _ in rows)))
result = {"env_steps": 100, "updates": 7, "wall_seconds": 150.0, "alarms": [], "return_mean": 220.0, "returns": [210, 230]}
(folder / "result.json").write_text(json.dumps(result))
"""
RANDOM = {"env_steps": 0, "updates": 0, "wall_seconds": 1.0, "returns": [15, 25], "curve": [[0, 20.0]]}


@pytest.fixture
def cells(control, task, tmp_path, monkeypatch):
    """The cells of random play and two seeds of an agent, whose commands are instant; seed 1 is stopped once."""
    script = tmp_path / "run.py"
    script.write_text(RUN)
    made = []

    def command(cell, resume=False):
        made.append((cell.agent, cell.seed, resume))
        if not cell.trains:
            text = f"open({str(cell.folder / 'result.json')!r}, 'w').write({json.dumps(RANDOM)!r})"
            return [sys.executable, "-c", text]
        return [sys.executable, str(script), str(cell.folder), "stop" if cell.seed == 1 and not resume else "end"]

    monkeypatch.setattr(control.Cell, "command", command)
    found = control.cells_of({"cartpole": task}, ["dreamer"], 2, tmp_path / "runs", "--size nano")
    return found, made


def test_the_commands_are_those_of_the_installed_program(control, task, tmp_path):
    random, trained, baseline = control.cells_of(
        {"cartpole": task}, ["dreamer", "model-free:DQN@4"], 1, tmp_path, "--size nano"
    )
    assert random.command()[1:3] == [str(control.WORKER), "random"]
    words = " ".join(trained.command())
    assert "-m worldlab train --run" in words and words.endswith("--env CartPole-v1 --env.repeat 1 --size nano")
    assert "--agent dreamer --steps 100 --minutes none --seed 0 --eval.every 10" in words
    assert trained.command(resume=True)[1:] == ["-m", "worldlab", "train", "--run", str(trained.folder), "--resume"]
    assert baseline.command()[2] == "model-free:DQN" and "--steps 400" in " ".join(baseline.command())
    assert baseline.folder == tmp_path / "cartpole" / "model-free-DQN-x4" / "seed-0"


def test_every_task_is_a_configuration(control):
    from worldlab.cli.flags import read_flags
    from worldlab.config.resolve import resolve
    from worldlab.registry import load_registry

    registry, curves = load_registry(), control.read_published()
    for cell in control.cells_of(control.TASKS, ["dreamer"], 1, Path("runs"), ""):
        config = resolve(registry, presets=["laptop"], flags=read_flags(list(cell.flags)).settings).core
        task = cell.task
        assert (config.steps, config.minutes, config.env.repeat) == (task.steps, None, task.repeat)
        assert all(task.published in curves[source] for source in task.sources)
    usual = control.parse([]).tasks
    assert {name for name, task in control.TASKS.items() if task.held_out} == set(control.TASKS) - set(usual)


def test_every_variant_is_a_configuration_of_dreamer(control, task, tmp_path):
    from worldlab.cli.flags import read_flags
    from worldlab.config.resolve import resolve
    from worldlab.registry import load_registry

    registry = load_registry()
    whole = replace(task, steps=6_000)
    plain, *cells = control.cells_of({"cartpole": whole}, ["dreamer", *control.VARIANTS], 1, tmp_path, "")[1:]
    for cell in cells:
        assert cell.trains and cell.method == "dreamer" and cell.folder.parent.name == cell.agent
        flags = read_flags(list(cell.flags)).settings
        assert resolve(registry, presets=["laptop"], flags=flags).core.steps == 6_000
        assert cell.flags[: len(plain.flags)] == plain.flags and len(cell.flags) > len(plain.flags)


def test_a_variant_is_compared_by_final_return_and_by_the_mean_of_its_evaluations(control):
    import control_variants

    def runs(*each):
        return {"runs": {str(n): {"final": final, "curve": curve} for n, (final, curve) in enumerate(each)}}

    plain = runs((10.0, [[1, 1.0, 2.0], [2, 2.0, 10.0]]), (12.0, [[1, 1.5, 4.0], [2, 3.0, 12.0]]))
    other = runs((11.0, [[1, 4.0, 6.0], [2, 8.0, 11.0]]), (13.0, [[1, 4.0, 8.0], [2, 8.0, 13.0]]))
    task = {"agents": {"dreamer": plain, "imle": other}}
    assert control_variants.final_difference(task, "imle").estimate.estimate == 12 - 11
    assert control_variants.curve_difference(task, "imle").estimate.estimate == (8.5 + 10.5) / 2 - (6 + 8) / 2
    first = other["runs"]["0"]
    assert control_variants.return_at(first, 5.0) == 6.0 and control_variants.return_at(first, 3.0) is None


def test_a_stopped_cell_is_resumed_and_a_finished_one_is_read(control, task, cells, tmp_path):
    found, made = cells
    out = tmp_path / "out" / "control.json"
    failed = control.run(found, {"cartpole": task}, 1, out, {}, {})
    assert made == [("random", 0, False), ("dreamer", 0, False), ("dreamer", 1, False)]
    assert list(failed) == ["cartpole, dreamer, seed 1"] and "stopped at step 50" in failed["cartpole, dreamer, seed 1"]
    written = json.loads(out.read_text())
    assert written["cells"] == {"finished": 2, "planned": 3} and written["failed"] == failed
    assert list(written["tasks"]["cartpole"]["agents"]["dreamer"]["runs"]) == ["0"]

    made.clear()
    assert control.run(found, {"cartpole": task}, 1, out, {}, {}) == {}
    assert made == [("dreamer", 1, True)]
    result = json.loads(out.read_text())["tasks"]["cartpole"]
    assert result["random"]["final"] == 20 and out.with_suffix(".png").stat().st_size > 1000
    first = result["agents"]["dreamer"]["runs"]["0"]
    assert first["curve"] == [[50, 1.0, 400.0], [100, 2.0, 220.0]]
    assert (first["final"], first["best"], first["minutes"]) == (220, 400, 2.5)
    assert first["stability"] == pytest.approx(200 / 380, abs=1e-4) and first["stable"] is False
    assert result["agents"]["dreamer"]["iqm"]["estimate"] == 220 and result["agents"]["dreamer"]["solved"] == 0


def test_a_result_grows_by_agents_and_seeds_without_its_run_folders(control, task, cells, tmp_path):
    """On another machine the run folders are gone, and the committed result is all there is."""
    found, made = cells
    out, tasks = tmp_path / "control.json", {"cartpole": task}
    control.run(found[:2], tasks, 1, out, {}, {})
    first = json.loads(out.read_text())["tasks"]
    kept = first["cartpole"]["agents"]["dreamer"]["runs"]["0"]
    assert kept["command"].startswith("worldlab train --agent dreamer --steps 100") and kept["commit"] and kept["cpu"]
    shutil.rmtree(tmp_path / "runs")
    made.clear()
    other = control.cells_of(tasks, ["dreamer", "imle"], 1, tmp_path / "elsewhere", "--size nano")
    earlier = {**control.read_earlier(out, tasks, "--size nano"), "pendulum": first["cartpole"]}
    assert control.run(other, tasks, 1, out, {}, earlier) == {}
    assert made == [("imle", 0, False)]
    written = json.loads(out.read_text())
    agents = written["tasks"]["cartpole"]["agents"]
    assert list(agents) == ["dreamer", "imle"] and agents["dreamer"]["runs"]["0"] == kept
    assert written["tasks"]["pendulum"] == first["cartpole"], "a task that was not named stays as it is"
    assert written["cells"] == {"finished": 3, "planned": 3}
    with pytest.raises(SystemExit, match="with other flags"):
        control.read_earlier(out, tasks, "--size tiny")
    fresh = control.read_earlier(out, tasks, "--size nano", ["dreamer", "imle"])
    assert [cell.agent for cell in control.missing(other, fresh)] == ["dreamer", "imle"]
    assert fresh["cartpole"]["random"] == first["cartpole"]["random"] and fresh["pendulum"] == first["cartpole"]


def test_a_cell_without_a_checkpoint_starts_again(control, cells):
    found, made = cells
    cell = found[1]
    stop = threading.Event()
    assert control.make(cell, stop) == ""
    for path in (cell.folder / "result.json", cell.folder / "metrics.jsonl"):
        path.unlink()
    shutil.rmtree(cell.folder / "checkpoints")
    (cell.folder / "half").touch()
    assert control.state_of(cell) == "new" and control.make(cell, stop) == ""
    assert made == [("dreamer", 0, False)] * 2 and not (cell.folder / "half").exists()


def test_runs_of_other_flags_and_of_other_people_are_left_alone(control, cells, tmp_path):
    found, _ = cells
    control.make(found[1], threading.Event())
    with pytest.raises(SystemExit, match="other flags"):
        control.state_of(replace(found[1], flags=("--size", "tiny")))
    theirs = found[2].folder
    theirs.mkdir(parents=True)
    with pytest.raises(SystemExit, match="not ours"):
        control.run(found, {}, 1, tmp_path / "out.json", {}, {})
    assert theirs.is_dir()


def test_the_seconds_of_a_resumed_run_go_on(control):
    from control_summary import whole_seconds

    assert whole_seconds(np.array([5.0, 9.0, 2.0, 4.0, 1.0])).tolist() == [5.0, 9.0, 11.0, 13.0, 14.0]


def test_what_is_kept_of_the_best(control):
    from control_summary import assess, stability

    assert stability(final=95, best=110, random=10) == 0.85
    assert stability(final=-200, best=-150, random=-1200) == pytest.approx(1000 / 1050, abs=1e-4)
    assert stability(final=10, best=10, random=10) is None
    run = {"final": 100.0, "curve": [[10, 0.5, 90.0], [20, 1.0, 120.0], [30, 1.5, 100.0]]}
    assessed = assess(run, random=0, threshold=115)
    assert (assessed["steps_to"], assessed["minutes_to"], assessed["stable"]) == (20, 1.0, False)
    assert assess(run, random=0, threshold=None)["steps_to"] is None
    assert assess({**run, "final": 130.0}, random=0, threshold=None)["stability"] == 1


def test_published_scores_at_our_frames(control):
    """The numbers of FIELD.md: 839, 962, 519, 937 for TD-MPC2 at 100,000 frames."""
    from control_tasks import mean_curve, published_of, return_at

    curves = control.read_published()
    at = {}
    for name in ("cartpole-swingup", "walker-walk", "cheetah-run", "reacher-easy"):
        found = published_of(control.TASKS[name], curves, 100_000)
        at[name] = round(found["tdmpc2"]["at_our_frames"])
    assert list(at.values()) == [839, 962, 519, 937]
    half = published_of(control.TASKS["walker-walk"], curves, 50_000)["tdmpc2"]
    assert [frame for frame, _ in half["curve"]] == [0, 50_000]
    assert mean_curve({"0": [1, 3], "100": [5]}) == [(0, 2), (100, 5)]
    assert mean_curve([[[0, 0], [100, 10]], [[50, 1], [150, 3]]]) == [(50, 3), (100, 6)]
    assert return_at([(0, 2), (100, 4)], 25) == 2.5 and return_at([(0, 2), (100, 4)], 101) is None


def test_the_average_is_over_all_runs_of_the_tasks_on_one_scale(control):
    from control_summary import average

    def result(*finals):
        return {"agents": {"dreamer": {"runs": {str(i): {"final": final} for i, final in enumerate(finals)}}}}

    names = {"walker-walk": result(100, 900), "cheetah-run": result(300, 500), "cartpole": result(20, 20)}
    found = average(control.TASKS, names)["dreamer"]
    assert found["tasks"] == ["walker-walk", "cheetah-run"]
    assert found["iqm"]["estimate"] == pytest.approx((0.3 + 0.5) / 2)
