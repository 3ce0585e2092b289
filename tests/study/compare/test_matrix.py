"""The matrix: layers, axes, values, and the round trip through matrix.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from worldlab.config.schema import Text
from worldlab.errors import ConfigError
from worldlab.study.compare.matrix import ModelSpec, matrix_of, nest_settings, read_matrix

AXES = {"axes": {"env": ["A-v0", "B-v0"], "encoder": ["vae", "cpc"], "agent": "dreamer"}}


def test_models_are_the_product_of_the_axes():
    matrix = matrix_of({"axes": {"env": "A-v0", "encoder": ["a", "b"], "decoder": ["x", "y"]}})
    assert matrix.models == tuple(ModelSpec(encoder=e, decoder=d) for e in "ab" for d in "xy")
    assert matrix_of({"axes": {"env": "A-v0"}}).models == (ModelSpec(),)


def test_defaults():
    matrix = matrix_of(AXES)
    assert (matrix.seeds, matrix.launcher, matrix.jobs) == ((0, 1, 2, 3, 4), "local", 0)
    assert (matrix.baselines, matrix.measures) == (("random", "untrained", "model-free"), ("all",))


def test_later_layers_win_and_settings_are_layered(tmp_path):
    above = tmp_path / "b.toml"
    above.write_text('seed = 3\nsteps = 7\nenv = {id = "X", repeat = 2}\n', encoding="utf-8")
    first = {**AXES, "seeds": 2, "settings": {"train": {"ratio": 0.3}, "steps": 5}, "configs": ["a.toml"]}
    second = {"axes": {"encoder": "flow"}, "settings": {"train.ratio": "0.5"}, "configs": [str(above)], "jobs": 3}
    matrix = matrix_of(first, second)
    assert matrix.envs == ("A-v0", "B-v0") and matrix.axes == {"encoder": ("flow",), "agent": ("dreamer",)}
    below, file, flags = matrix.settings
    assert (below, flags) == ({"train": {"ratio": 0.3}, "steps": 5}, {"train": {"ratio": "0.5"}})
    assert file == {"steps": 7, "env": {"repeat": 2}}, (
        "above the settings of the earlier layer, without seed and environment"
    )
    assert isinstance(flags["train"]["ratio"], Text)  # parsed by the type of the setting, as a flag is
    assert matrix.configs == (Path("a.toml"),) and matrix.jobs == 3 and matrix.seeds == (0, 1)
    assert matrix_of(tomllib.loads(matrix.to_toml())).settings == matrix.settings


def test_another_launcher_does_not_inherit_settings():
    base = {**AXES, "launcher": {"name": "ray", "address": "x"}}
    assert matrix_of(base, {"launcher": {"address": "y"}}).launcher_settings == {"address": "y"}
    assert matrix_of(base, {"launcher": "local"}).launcher_settings == {}


def test_dotted_settings_are_nested():
    assert nest_settings({"a.b": 1, "a": {"c.d": "x"}}) == {"a": {"b": 1, "c": {"d": "x"}}}
    assert nest_settings({"for": {"pkg.mod:Env*": {"train.ratio": 1}}}) == {
        "for": {"pkg.mod:Env*": {"train": {"ratio": 1}}}
    }


@pytest.mark.parametrize(
    "table",
    [
        {
            **AXES,
            "presets": ["debug"],
            "baselines": "none",
            "measures": "none",
            "launcher": {"name": "ray", "address": "x"},
        },
        {
            "axes": {"env": "A-v0"},
            "model": [
                {"name": "wide one", "encoder": "vae", "settings": {"encoder": {"units": 7}}},
                {"encoder": "cpc"},
            ],
            "baselines": ["random", "model-free:DQN"],
            "measures": ["probe", "sizes/latent"],
            "settings": {"train.ratio": "0.3", "for": {"A*": {"steps": 9}}},
            "seeds": [3, 7],
            "shared_data": "random",
            "title": "mine",
        },
    ],
    ids=["axes", "models"],
)
def test_a_matrix_is_read_back_from_its_own_toml(table):
    matrix = matrix_of(table)
    assert matrix_of(tomllib.loads(matrix.to_toml())) == matrix


def test_paths_in_a_file_are_relative_to_its_folder(tmp_path):
    (tmp_path / "matrix.toml").write_text('configs = ["c/x.toml"]\nplugins = ["p.py"]\n[axes]\nenv = "A-v0"\n')
    matrix = matrix_of(read_matrix(tmp_path / "matrix.toml"))
    assert matrix.configs == (tmp_path / "c/x.toml",) and matrix.plugins == (tmp_path / "p.py",)


MISTAKES = [
    ({}, "compare: no environment is given"),
    ({**AXES, "sedes": 3}, "compare: 'sedes' is not a key of a matrix. Did you mean 'seeds'?"),
    ({"axes": {"env": "A", "encodr": "x"}}, "compare: 'encodr' is not an axis. Did you mean 'encoder'?"),
    ({"axes": {"env": ["A", "A"]}}, "compare: axes.env has 'A' twice"),
    ({"axes": {"env": 3}}, "compare: axes.env = 3 must be a list of names"),
    ({**AXES, "seeds": 0}, "compare: seeds = 0 must be a count"),
    ({**AXES, "seeds": [1, 1]}, "compare: seeds = [1, 1] must be a count"),
    ({**AXES, "seeds": [-1]}, "compare: seeds = [-1] must be a count"),
    ({**AXES, "seeds": True}, "compare: seeds = True must be a count"),
    ({**AXES, "shared_data": "nobody"}, "compare: shared_data = 'nobody' must be replay or random"),
    ({**AXES, "jobs": -1}, "compare: jobs = -1 must be a whole number"),
    ({**AXES, "baselines": ["randm"]}, "compare: no baseline named 'randm'. Did you mean 'random'?"),
    ({**AXES, "baselines": ["none", "random"]}, "compare: baselines = ['none', 'random']: all and none exclude other names"),
    ({**AXES, "settings": 3}, "compare: settings must be a table, got 3"),
    ({**AXES, "model": [{"encoder": "x"}]}, "compare: [[model]] tables and the axis 'encoder' exclude each other"),
    ({"axes": {"env": "A"}, "model": [{"encodr": "x"}]}, "compare: [[model]] 1 has no key 'encodr'. Did you mean 'encoder'?"),
    ({"axes": {"env": "A"}, "model": [{"encoder": 3}]}, "compare: [[model]] 1: parts and name must be strings"),
]  # fmt: skip


@pytest.mark.parametrize(("table", "message"), MISTAKES, ids=[message[9:40] for _, message in MISTAKES])
def test_a_mistake_is_named_in_one_line(table, message):
    with pytest.raises(ConfigError) as error:
        matrix_of(table)
    assert error.value.message.startswith(message) and len(error.value.message) <= 100


@pytest.mark.parametrize(("text", "message"), [("a = ", "is not valid TOML"), (None, "cannot read")])
def test_a_file_that_cannot_be_read_is_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / "matrix.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_matrix(tmp_path / "matrix.toml")
