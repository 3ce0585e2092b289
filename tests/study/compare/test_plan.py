"""From a matrix to its cells: hashes, equal budgets, baselines, and every mistake before anything runs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import gymnasium
import pytest
from data_kit import made
from worldlab_data.run_folder import RunFolderFormat

from worldlab.config.schema import Text
from worldlab.errors import ConfigError, PluginError, WorldlabError
from worldlab.registry import load_registry
from worldlab.study.compare import identity
from worldlab.study.compare.code import code_digest
from worldlab.study.compare.configs import can_resume
from worldlab.study.compare.identity import _task_source, env_source, fingerprint
from worldlab.study.compare.matrix import matrix_of
from worldlab.study.compare.plan import check_cells, find_launcher, plan
from worldlab.study.compare.shared_data import recording_cells

REGISTRY = load_registry()
BASE = {
    "axes": {"env": ["CartPole", "Pendulum"], "encoder": ["vae", "cpc"]},
    "presets": ["debug"],
    "measures": "none",
    "seeds": 2,
}


def planned(*layers, **more):
    return plan(matrix_of(BASE, *layers, more), REGISTRY)


def hashes(found):
    return {(cell.method.key, cell.env, cell.seed): cell.hash for cell in found.cells}


def test_every_method_runs_on_every_environment_with_every_seed():
    found = planned()
    keys = ["vae", "cpc", "random", "untrained", "model-free"]
    assert [method.key for method in found.methods] == keys
    assert sorted(hashes(found)) == sorted(
        (k, e, s) for k in keys for e in ("CartPole-v1", "Pendulum-v1") for s in (0, 1)
    )
    assert len({cell.hash for cell in found.cells}) == len(found.cells) == 20
    assert all(cell.config.core.seed == cell.seed and cell.config.core.env.id == cell.env for cell in found.cells)
    assert [cell.kind for cell in found.cells[:4]] == ["random"] * 4  # random play, which defines score 0, comes first
    assert [cell.seed for cell in found.cells[4:]] == [0] * 8 + [1] * 8  # half a matrix is a fair comparison


def test_random_play_is_included_even_if_it_is_no_baseline():
    found = planned(baselines="none")
    assert [method.key for method in found.methods] == ["vae", "cpc"]
    (extra,) = [c for c in found.cells if c.kind == "random" and c.env == "CartPole-v1"]
    assert (extra.method.key, extra.seed) == ("random", 0) and extra.method not in found.methods
    assert hashes(planned())["random", "CartPole-v1", 0] == extra.hash
    assert extra.config.core.eval.final_episodes == 20, "the models' two episodes are too few to define score 0"


def test_the_untrained_baseline_differs_from_the_first_model_in_its_frozen_dynamics_alone():
    cells = {(c.method.key, c.env): c for c in planned(seeds=1).cells}
    model, control = cells["vae", "CartPole-v1"].config, cells["untrained", "CartPole-v1"].config
    assert control.core.train.freeze == ("dynamics",) and model.core.train.freeze == ()
    train = control.core.train.model_copy(update={"freeze": ()})
    assert replace(control, core=control.core.model_copy(update={"train": train})) == model
    frozen = planned(settings={"train": {"freeze": ["encoder"]}}, seeds=1).cells
    (control,) = [c.config for c in frozen if (c.kind, c.env) == ("untrained", "CartPole-v1")]
    assert control.core.train.freeze == ("encoder", "dynamics"), "what the model freezes is frozen here too"


def test_runs_are_strict_on_one_thread_unless_a_time_limit_or_gpu_is_set():
    def core(**settings):
        return planned(seeds=1, settings=settings).cells[-1].config.core

    assert (core().strict, core().device, core().minutes, core().train.threads) == (True, "cpu", None, 1)
    assert core().log.checkpoint == core().steps // 10
    clock = core(minutes=0.5)
    assert (clock.strict, clock.minutes, clock.log.checkpoint) == (False, 0.5, clock.steps)
    loose = core(strict=False, log={"pictures": 7})
    assert (loose.strict, loose.log.checkpoint, loose.log.pictures, loose.log.track) == (False, 60, 7, ("none",))
    assert core(device="cuda").strict is False
    assert [can_resume(replace(planned().cells[0].config, core=c)) for c in (core(), clock, loose)] == [
        True,
        False,
        True,
    ]


def test_a_time_limit_of_a_preset_is_ignored():
    matrix = matrix_of({**BASE, "axes": {"env": "CarRacing"}, "presets": "laptop"})  # 18 minutes there
    core = plan(matrix, REGISTRY).cells[-1].config.core
    assert core.strict and core.minutes is None and core.env.size == 48


def test_a_device_in_a_for_table_is_respected():
    table = {"for": {"CartPole*": {"device": "cuda"}}}
    strict = {cell.env: cell.config.core.strict for cell in planned(settings=table).cells}
    assert strict == {"CartPole-v1": False, "Pendulum-v1": True}


def test_flags_override_files():
    """Within one table [for] wins; a flag is a separate table above that of the file."""
    file = {"settings": {"for": {"CartPole*": {"steps": 20_000}}, "decoder": {"vae": {"units": 8}}}}
    found = planned(file, {"settings": {"steps": "400", "decoder.units": "16"}})
    assert {cell.config.core.steps for cell in found.cells} == {400}
    assert {c.config.decoder.options.model_dump()["units"] for c in found.cells if c.method.key == "vae"} == {16}


def test_the_code_of_a_task_is_in_the_hash(tmp_path, monkeypatch):
    """A user's environment, registered with Gymnasium: a different reward makes a different task."""
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "task_of_mine.py"
    digests = []
    for reward in (1, -5):
        path.write_text(TASK.replace("REWARD", str(reward)))
        code_digest.cache_clear()
        _task_source.cache_clear()
        table = {**BASE, "axes": {"env": ["task_of_mine:Mine-v0", "CartPole"], "encoder": "vae"}}
        digests.append(hashes(plan(matrix_of(table), REGISTRY)))
    changed = {key[1] for key in digests[0] if digests[0][key] != digests[1][key]}
    assert changed == {"task_of_mine:Mine-v0"}
    source = env_source("task_of_mine:Mine-v0", REGISTRY)
    assert source["task"] == "task_of_mine of no version" and source["task_code"] == code_digest("task_of_mine")
    assert env_source("CartPole", REGISTRY)["task"] == f"gymnasium {gymnasium.__version__}"


@pytest.mark.parametrize(
    ("package", "expected"), [("mujoco", "3.17.0"), ("dm_control", "1.0"), ("cv2", "5.0"), ("gone", "of no version")]
)
def test_of_several_distributions_in_a_package_the_one_of_its_name_counts(monkeypatch, package, expected):
    found = {"mujoco": ["mujoco-core", "mujoco"], "dm_control": ["other", "dm-control"], "cv2": ["opencv-python"]}
    versions = {"mujoco-core": "4.0.0", "mujoco": "3.17.0", "other": "9", "dm-control": "1.0", "opencv-python": "5.0"}
    monkeypatch.setattr(metadata, "packages_distributions", lambda: found)
    monkeypatch.setattr(metadata, "version", versions.__getitem__)
    assert identity._version.__wrapped__(package) == expected


TASK = """
import gymnasium


class Mine(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 1, (1,), "float32")
    action_space = gymnasium.spaces.Discrete(2)
    reward = REWARD


if "Mine-v0" not in gymnasium.registry:
    gymnasium.register("Mine-v0", "task_of_mine:Mine", max_episode_steps=5)
"""


def test_the_hash_changes_only_with_what_can_change_the_numbers():
    base = hashes(planned())
    same = hashes(planned(settings={"log": {"every": 7}, "env": {"workers": 1, "num_envs": 1}}, jobs=2))
    assert same == base
    ratio = hashes(planned(settings={"train.ratio": 0.3}))
    models = {key for key in base if key[0] in ("vae", "cpc", "untrained")}
    assert {key for key in base if ratio[key] != base[key]} == models
    width = hashes(planned(settings={"encoder.cpc.width": 4}))
    assert {key[0] for key in base if width[key] != base[key]} == {"cpc"}
    steps = hashes(planned(settings={"steps": 700}))
    assert {key for key in base if steps[key] != base[key]} == {key for key in base if key[0] != "random"}
    more = hashes(planned(settings={"eval.final_episodes": 3}))
    assert {key for key in base if more[key] != base[key]} == {key for key in base if key[0] != "random"}
    most = hashes(planned(settings={"eval.final_episodes": 21}))
    assert all(most[key] != base[key] for key in base)


def test_a_cell_keeps_its_hash_when_the_matrix_grows_by_an_axis():
    grown = hashes(planned({"axes": {"dynamics": ["vae", "flow"]}}))
    assert grown["vae-vae", "CartPole-v1", 1] == hashes(planned())["vae", "CartPole-v1", 1]


def test_a_plugin_file_is_in_the_hash(tmp_path):
    cells = []
    for line in ("", "# another"):
        path = tmp_path / "mine.py"
        path.write_text(PLUGIN + line)
        registry = load_registry([path])
        table = {**BASE, "axes": {"env": "CartPole", "encoder": ["vae", "mine"]}, "plugins": [str(path)]}
        cells.append(hashes(plan(matrix_of(table), registry)))
    assert {key[0] for key in cells[0] if cells[0][key] != cells[1][key]} == {"mine"}


PLUGIN = """
from worldlab import hookimpl
from worldlab_vae.configs import VAEEncoderConfig


@hookimpl
def worldlab_register(register):
    register.encoder("mine", "worldlab_vae.encoder:VAEEncoder", config=VAEEncoderConfig, summary="A copy.")
"""


def test_recorded_data_is_hashed_by_its_records_not_by_its_path(tmp_path):
    config = planned(seeds=1).cells[-1].config
    env = env_source(config.core.env.id, REGISTRY)

    def digest(name, data):
        RunFolderFormat().write(made((3,), seed=data), tmp_path / name)
        changed = replace(config, core=config.core.model_copy(update={"data": str(tmp_path / name)}))
        return fingerprint("model", changed, env, REGISTRY), fingerprint("random", changed, env, REGISTRY)

    one, same, other = digest("a", 0), digest("b", 0), digest("c", 1)
    assert one == same and one[0] != other[0] and one[1] == other[1]


def test_the_resolved_matrix_gives_the_same_plan():
    found = planned(seeds=1)
    assert found.matrix.envs == ("CartPole-v1", "Pendulum-v1")
    assert found.matrix.axes == {
        "encoder": ("vae", "cpc"),
        "dynamics": ("vae",),
        "decoder": ("vae",),
        "agent": ("dreamer",),
    }
    assert plan(matrix_of(tomllib.loads(found.matrix.to_toml())), REGISTRY) == found


def test_listed_models_have_their_own_names_and_settings():
    rows = [{"name": "small", "settings": {"encoder.units": "16"}}, {"name": "large"}, {"encoder": "cpc"}]
    found = plan(
        matrix_of({"axes": {"env": "CartPole"}, "model": rows, "presets": "debug", "measures": "none"}), REGISTRY
    )
    assert [(m.key, m.encoder) for m in found.methods[:3]] == [("small", "vae"), ("large", "vae"), ("cpc", "cpc")]
    units = {c.method.key: c.config.encoder.options.model_dump()["units"] for c in found.cells if c.kind == "model"}
    assert units == {"small": 16, "large": 64, "cpc": 64}


@pytest.mark.parametrize(
    "common",
    [{"encoder": {"vae": {"units": 8}}}, {"for": {"CartPole*": {"encoder": {"units": 8}}}}, {"encoder": {"units": 8}}],
    ids=["by the component's name", "for the environment", "alike"],
)
def test_settings_of_a_model_override_common_settings(common):
    rows = [{"name": "own", "settings": {"encoder": {"units": 16}}}, {"name": "other"}, {"encoder": "cpc"}]
    table = {"axes": {"env": "CartPole"}, "model": rows, "presets": "debug", "measures": "none", "settings": common}
    found = plan(matrix_of(table), REGISTRY)
    units = {c.method.key: c.config.encoder.options.model_dump()["units"] for c in found.cells if c.kind == "model"}
    assert units == {"own": 16, "other": 8, "cpc": 64 if "vae" in common.get("encoder", {}) else 8}


def test_budgets_are_those_of_the_runs():
    budget = planned().budgets["CartPole-v1"]
    assert (budget["env_steps"], budget["prefill"], budget["updates_per_step"], budget["eval_episodes"]) == (
        600,
        300,
        0.2,
        2,
    )


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"steps": 700}, "steps is 600 for vae, 700 for b"),
        ({"train": {"batch_size": 9}}, "train.batch_size is 8 for vae, 9 for b"),
        ({"env": {"repeat": 2}}, "env.repeat is 1 for vae, 2 for b"),
        ({"eval": {"final_episodes": Text("5")}}, "eval.final_episodes is 2 for vae, 5 for b"),
    ],
)
def test_unequal_budgets_are_an_error_that_names_the_setting(settings, named):
    rows = [{"encoder": "vae"}, {"name": "b", "settings": settings}]
    with pytest.raises(ConfigError) as error:
        plan(matrix_of({"axes": {"env": "CartPole"}, "model": rows, "presets": "debug", "measures": "none"}), REGISTRY)
    assert error.value.message == f"compare: unequal budgets on CartPole-v1: {named}"


def test_runs_of_a_comparison_do_not_end_when_they_are_solved():
    rows = [{"encoder": "vae"}, {"name": "b", "settings": {"until": 475.0}}]
    with pytest.raises(ConfigError, match="until is set for b on CartPole-v1"):
        plan(matrix_of({"axes": {"env": "CartPole"}, "model": rows, "presets": "debug", "measures": "none"}), REGISTRY)


def test_presets_are_the_same_for_all_models():
    rows = [{"encoder": "vae"}, {"name": "b", "settings": {"presets": ["gpu"]}}]
    with pytest.raises(ConfigError, match=r"a \[\[model\]\] cannot set presets"):
        plan(matrix_of({"axes": {"env": "CartPole"}, "model": rows, "presets": "debug", "measures": "none"}), REGISTRY)


def test_a_baseline_with_the_name_of_a_model_is_renamed():
    found = planned({"axes": {"encoder": "vae", "agent": ["dreamer", "random"]}}, baselines=["random"])
    assert [method.key for method in found.methods] == ["dreamer", "random", "baseline-random"]


def test_one_error_reports_all_mistakes():
    with pytest.raises(PluginError) as error:
        planned({"axes": {"encoder": ["vea", "cpc"], "decoder": "gna", "env": ["CartPol", "Pendulum"]}})
    assert error.value.message.startswith("no encoder named 'vea'. Did you mean 'vae'?")
    for other in ("no decoder named 'gna'", "no environment 'CartPol'"):
        assert f"also: {other}" in (error.value.cause or "")


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            {"axes": {"env": ["CartPole", "CartPole-v1"]}},
            "compare: two names for the same environment: CartPole, CartPole-v1",
        ),
        ({"launcher": "locl"}, "no launcher named 'locl'. Did you mean 'local'?"),
        ({"launcher": {"name": "local", "adress": 1}}, "config: launcher.adress is not a setting."),
        ({"settings": {"seed": 3}}, "compare: seed and env.id cannot be set under [settings]"),
        ({"settings": {"env": {"id": "x"}}}, "compare: seed and env.id cannot be set under [settings]"),
        ({"settings": {"train.rato": 1}}, "config: train.rato is not a setting. Did you mean train.ratio?"),
        ({"settings": {"encoder.temperature": 1}}, "config: encoder.temperature is not a setting."),
        ({"presets": "debg"}, "no preset named 'debg'. Did you mean 'debug'?"),
        (
            {"settings": {"for": {"CartPole*": {"encoder": {"name": "cpc"}}}}, "axes": {"encoder": []}},
            "compare: the encoder would be 'cpc' on CartPole-v1 and 'vae' on Pendulum-v1",
        ),
        (
            {"axes": {"env": ["branch"]}, "settings": {"for": {"branch": {"steps": 700}}}},
            'compare: a [for] table matches "branch" and not its full id "worldlab/Branch-v0"',
        ),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_a_mistake_is_found_before_anything_runs(layer, message):
    with pytest.raises(WorldlabError) as error:
        planned(layer)
    assert error.value.message.startswith(message) and len(error.value.message) <= 100


def test_for_tables_apply_to_matching_environments():
    found = planned(settings={"for": {"CartPole*": {"steps": 900}}})
    assert (found.budgets["CartPole-v1"]["env_steps"], found.budgets["Pendulum-v1"]["env_steps"]) == (900, 600)


def test_a_time_limit_for_one_environment_keeps_the_others_strict():
    found = planned(settings={"for": {"CartPole*": {"minutes": 2}}})
    strict = {cell.env: cell.config.core.strict for cell in found.cells if cell.kind == "model"}
    assert strict == {"CartPole-v1": False, "Pendulum-v1": True}


def test_one_error_reports_all_invalid_cells(tmp_path):
    found = planned({"axes": {"encoder": "vae", "agent": ["sac", "dreamer"]}}, baselines=["model-free:TD3"], seeds=1)
    with pytest.raises(ConfigError) as error:
        check_cells(found.cells, REGISTRY, shared=False)
    texts = f"{error.value.message}\n{error.value.cause}"
    assert (
        "SAC does not support discrete actions" in texts
        and "model-free:TD3 does not support this action space" in texts
    )
    check_cells([cell for cell in found.cells if cell.env == "Pendulum-v1"], REGISTRY, shared=False)


def test_an_agent_that_needs_its_own_episodes_cannot_use_shared_data():
    found = planned(
        {"axes": {"env": "CartPole", "encoder": "vae", "agent": "cma"}},
        {"settings": {"agent.where": "real"}},
        baselines="none",
        seeds=1,
    )
    check_cells(found.cells, REGISTRY, shared=False)
    with pytest.raises(ConfigError, match="learns from the episodes it plays"):
        check_cells(found.cells, REGISTRY, shared=True)


def test_shared_data_and_data_exclude_each_other(tmp_path):
    with pytest.raises(ConfigError, match="--shared-data and --data exclude each other"):
        planned(settings={"data": str(tmp_path)}, shared_data=True)


def test_all_models_learn_from_the_same_data_by_construction(tmp_path, monkeypatch):
    """A data set that is named reaches every model, by its absolute path and by the hash of its records."""
    RunFolderFormat().write(made((3,)), tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    found = planned(settings={"data": "a", "offline": True})
    cells = [cell for cell in found.cells if cell.kind == "model"]
    assert len(cells) > 2 and {(c.config.core.data, c.config.core.offline) for c in cells} == {
        (str(tmp_path / "a"), True)
    }
    with pytest.raises(ConfigError, match="unequal budgets on CartPole-v1: data is"):
        planned(
            model=[{"encoder": "vae", "settings": {"data": "a"}}, {"encoder": "cpc"}],
            axes={"env": "CartPole", "encoder": []},
        )


@pytest.mark.parametrize("player", ["replay", "random"])
def test_shared_data_is_recorded_once_per_environment(player):
    found = planned(shared_data=player, seeds=[3, 4])
    cells = recording_cells(found, REGISTRY)
    assert [(cell.env, cell.seed, cell.kind) for cell in cells] == [
        ("CartPole-v1", 3, "data"),
        ("Pendulum-v1", 3, "data"),
    ]
    first = next(cell for cell in found.cells if cell.method == found.methods[0])
    ours, theirs = cells[0].config.core, first.config.core
    assert ours.steps == theirs.steps and ours.env == theirs.env and ours.replay == theirs.replay
    assert (ours.train == theirs.train) == (player == "replay")
    assert ours.train.prefill == (theirs.train.prefill if player == "replay" else theirs.steps - 1)
    assert len({cell.hash for cell in (*cells, *found.cells)}) == len(cells) + len(found.cells)


def test_the_launchers_settings_are_those_of_its_class():
    entry, options = find_launcher(matrix_of(BASE, {"launcher": {"name": "ray", "address": "auto"}}), REGISTRY)
    assert entry.name == "ray" and options.model_dump()["address"] == "auto"


def test_planning_needs_no_torch():
    code = (
        "import sys; from worldlab.study.compare.matrix import matrix_of; from worldlab.study.compare.plan import plan\n"
        "from worldlab.registry import load_registry\n"
        f"plan(matrix_of({BASE!r}), load_registry()); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.stdout == "False\n", done.stderr
