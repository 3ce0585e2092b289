"""Layers resolve in the promised order, wrong configurations are refused in words, and config.toml repeats a run."""

from __future__ import annotations

import json
import logging
import os
import tomllib
from pathlib import Path
from typing import Literal

import pytest

from worldlab import Config, field
from worldlab.config import resolve as resolve_module
from worldlab.config.resolve import RunConfig, default_preset, preset_names, resolve
from worldlab.config.schema import Switch, Text
from worldlab.errors import ConfigError, PluginError, WorldlabError
from worldlab.registry import Registration, Registry, load_registry
from worldlab.settings import CoreSettings


class Layers(Config):
    units: tuple[int, ...] = (32, 32)
    """Widths."""
    act: Literal["silu", "elu"] = "silu"
    """Activation."""


class VaeConfig(Config):
    latent_dim: int = field(16, gt=0)
    """Width of z."""
    beta: float | None = field(None, ge=0)
    """Weight; none learns it."""
    label: str = "z"
    """A text."""
    sharp: bool = False
    """A switch."""
    layers: Layers = Layers()
    """Network."""


class CpcConfig(Config):
    temperature: float = field(0.2, gt=0)
    """Softness."""
    latent_dim: int = field(24, gt=0)
    """Width of z."""


DEFAULTS = """
[encoder]
name = "vae"
latent_dim = 20
[encoder.cpc]
temperature = 0.5
[encoder.not_installed]
whatever = 1
[dynamics]
name = "vae"
[decoder]
name = "none"
[agent]
name = "vae"
[for."CarRacing*"]
env.repeat = 4
encoder.latent_dim = 64
encoder.cpc.latent_dim = 65
"""


@pytest.fixture(autouse=True)
def presets(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "presets"
    folder.mkdir()
    (folder / "defaults.toml").write_text(DEFAULTS)
    (folder / "laptop.toml").write_text("[train]\nbatch_size = 4\nratio = 0.25\n")
    (folder / "gpu.toml").write_text("[train]\nbatch_size = 64\n")
    (folder / "big.toml").write_text("[train]\nratio = 2.0\n[encoder.vae]\nlatent_dim = 128\n")
    monkeypatch.setattr(resolve_module, "_preset_folder", lambda: folder)
    monkeypatch.setattr(resolve_module, "default_preset", lambda device="auto": "laptop")
    return folder


@pytest.fixture
def registry() -> Registry:
    def entry(role, name, config):
        return Registration(role, name, "m:X", config, "s", 1, "worldlab", "0.1.0", "test")

    parts = [
        entry(role, name, config)
        for role in ("encoder", "dynamics", "agent")
        for name, config in (("vae", VaeConfig), ("cpc", CpcConfig))
    ]
    return Registry([*parts, entry("decoder", "none", None)])


def file(tmp_path, text, name="mine.toml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_layers_apply_in_order(registry, tmp_path):
    assert CoreSettings().train.batch_size == 16
    base = resolve(registry)
    assert (base.core.train.batch_size, base.core.train.ratio, base.presets) == (4, 0.25, ("laptop",))
    assert base.encoder.options == VaeConfig(latent_dim=20) and base.dynamics.options == VaeConfig()
    both = resolve(registry, presets=["laptop", "big"])
    assert (both.core.train.batch_size, both.core.train.ratio) == (4, 2.0)
    assert both.encoder.options == VaeConfig(latent_dim=128)
    one = file(tmp_path, "[train]\nratio = 3.0\nlearning_rate = 1\n", "one.toml")
    two = file(tmp_path, "[train]\nratio = 4.0\n", "two.toml")
    top = resolve(registry, presets=["big"], files=[one, two], flags={"train": {"learning_rate": 9.0}})
    assert (top.core.train.ratio, top.core.train.learning_rate, top.core.train.batch_size) == (4.0, 9.0, 16)


def test_options_of_another_component_are_dropped_with_a_word(registry, tmp_path, caplog):
    mine = file(tmp_path, "[encoder]\nlatent_dim = 33\n")
    assert resolve(registry, files=[mine]).encoder.options == VaeConfig(latent_dim=33)
    with caplog.at_level(logging.WARNING, "worldlab"):
        config = resolve(registry, files=[mine], flags={"encoder": {"name": "cpc"}})
    assert config.encoder.options == CpcConfig(temperature=0.5)
    assert [r.getMessage() for r in caplog.records] == [
        f"encoder.latent_dim from {mine} ignored: it belongs to encoder 'vae', but 'cpc' is chosen"
    ]
    mine.write_text("[encoder]\nname = 'cpc'\nlatent_dim = 7\n[encoder.vae]\nlatent_dim = 8\n")
    assert resolve(registry, files=[mine]).encoder.options == CpcConfig(temperature=0.5, latent_dim=7)
    back = resolve(registry, files=[mine], flags={"encoder": "vae"})
    assert back.encoder.options == VaeConfig(latent_dim=8)


@pytest.mark.parametrize(
    ("env", "repeat", "latent"),
    [("CarRacing", 4, 64), ("CarRacing-v3", 4, 64), ("my.pkg:CarRacing-v9", 4, 64), ("CartPole", 1, 20)],
)
def test_tables_for_an_environment_apply_after_their_file(registry, env, repeat, latent):
    config = resolve(registry, flags={"env": {"id": env}})
    assert (config.core.env.repeat, config.encoder.options) == (repeat, VaeConfig(latent_dim=latent))


def test_a_higher_layer_wins_over_a_table_for_an_environment(registry, tmp_path):
    mine = file(tmp_path, "[env]\nid = 'CarRacing'\nrepeat = 2\n[for.'Cart*']\nenv.repeat = 9\n")
    assert resolve(registry, files=[mine]).core.env.repeat == 2
    cpc = resolve(registry, files=[mine], flags={"encoder": {"name": "cpc"}})
    assert cpc.encoder.options == CpcConfig(temperature=0.5, latent_dim=65)


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"env": {"id": "CarRacing", "size": 64}, "encoder": {"name": "cpc", "temperature": 1e-3}},
        {"minutes": 0.5, "encoder": {"beta": 0.0, "label": 'a "quoted" ö', "layers": {"units": [1, 2, 3]}}},
        {"strict": True, "seed": 2**32 - 1, "dynamics": {"sharp": True}, "train": {"prefill": 32}},
    ],
)
def test_config_toml_repeats_the_run(registry, tmp_path, presets, flags):
    config = resolve(registry, presets=["laptop", "big"], flags=flags)
    path = file(tmp_path, config.to_toml(), "config.toml")
    (presets / "defaults.toml").write_text(DEFAULTS + "\n[env]\nsize = 99\ntime_limit = 7\n")  # a later worldlab
    again = resolve(registry, files=[path])
    assert again == config and again.to_toml() == config.to_toml()
    parsed = tomllib.loads(config.to_toml())
    assert parsed["encoder"]["name"] == config.encoder.name and parsed["presets"] == ["laptop", "big"]
    assert json.loads(json.dumps(config.to_mapping()))["train"] == config.core.train.model_dump(mode="json")


FLAG_TEXTS = [
    ("train.learning_rate", "1e-3", 1e-3),
    ("steps", "2e4", 20_000),
    ("steps", "20_000", 20_000),
    ("env.size", "none", None),
    ("env.size", "64", 64),
    ("strict", "yes", True),
    ("eval.deterministic", "0", False),
    ("log.track", "none", ("none",)),
    ("log.track", "a,b", ("a", "b")),
    ("model.memory_in_encoder", "no", "no"),
    ("train.learning_rate", "5", 5.0),
    ("encoder.beta", "none", None),
    ("encoder.label", "none", "none"),
    ("encoder.label", "12", "12"),
    ("encoder.label", "true", "true"),
    ("encoder.layers.units", "8,16", (8, 16)),
    ("encoder.layers.units", "[8]", (8,)),
    ("encoder.layers.units", "8", (8,)),
]


def nested(path: str, value) -> dict:
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


@pytest.mark.parametrize(("path", "text", "value"), FLAG_TEXTS)
def test_a_flags_text_is_read_by_the_settings_type(registry, path, text, value):
    config = resolve(registry, flags=nested(path, Text(text)))
    found: object = config.encoder.options if path.startswith("encoder.") else config.core
    for key in path.removeprefix("encoder.").split("."):
        found = getattr(found, key)
    assert found == value and type(found) is type(value)


WRONG = [
    ({"train": {"lrr": 1e-3}}, "config: train.lrr is not a setting. Did you mean train.learning_rate?"),
    ({"train": {"lr": 1e-3}}, "config: train.lr is not a setting. Did you mean train.learning_rate?"),
    ({"train": {"steps": 5}}, "config: train.steps is not a setting. Did you mean steps?"),
    ({"trian": {"lr": 1}}, "config: trian is not a setting. Did you mean train?"),
    ({"encoder": {"latnt_dim": 4}}, "config: encoder.latnt_dim is not a setting. Did you mean encoder.latent_dim?"),
    (
        {"encoder": {"layers": {"unit": 4}}},
        "config: encoder.layers.unit is not a setting. Did you mean encoder.layers.units?",
    ),
    ({"encoder": {"cpcc": {"x": 4}}}, "config: encoder.cpcc is not a setting. Did you mean encoder.cpc?"),
    (
        {"encoder": {"cpc": {"temprature": 4}}},
        "config: encoder.temprature is not a setting. Did you mean encoder.temperature?",
    ),
    ({"decoder": {"x": 1}}, "config: decoder.x is not a setting."),
    ({"train": {"learning_rate": -1.0}}, "config: train.learning_rate = -1.0 must be > 0"),
    ({"train": {"learning_rate": "1e-3"}}, "config: train.learning_rate = '1e-3' must be a number"),
    (
        {"train": {"learning_rate": float("nan")}},
        "config: train.learning_rate = nan must be a finite number, a text, a boolean or a list",
    ),
    ({"train": {"batch_size": True}}, "config: train.batch_size = true must be a whole number"),
    ({"train": {"batch_size": 1.5}}, "config: train.batch_size = 1.5 must be a whole number"),
    ({"train": {"batch_size": Text("many")}}, "config: train.batch_size = 'many' must be a whole number"),
    ({"train": {"batch_size": Switch("true")}}, "config: train.batch_size needs a value (INT)"),
    ({"strict": 1}, "config: strict = 1 must be true or false"),
    ({"device": "gpu"}, "config: device = 'gpu' must be 'auto', 'cpu' or 'cuda'"),
    ({"env": {"num_envs": 300}}, "config: env.num_envs = 300 must be <= 256"),
    ({"env": {"id": ""}}, "config: env.id = '' must be a text of at least 1 characters"),
    ({"env": "CarRacing"}, "config: env is a group of settings, not a value: 'CarRacing'"),
    ({"env": {"size": {"w": 1}}}, """config: env.size = {"w": 1} must be INT|none"""),
    (
        {"encoder": {"layers": {"units": ["a"]}}},
        """config: encoder.layers.units = ["a"] must be valid: Input should be a valid integer""",
    ),
    ({"encoder": 4}, "config: encoder must name a component, got 4"),
    ({"for": {"Car*": {"env": {"id": "x"}}}}, "config: a [for] table cannot set env.id, presets or for"),
    (
        {"for": {"Nope*": {"train": {"lrr": 1}}}},
        "config: train.lrr is not a setting. Did you mean train.learning_rate?",
    ),
    ({"presets": "laptop"}, "config: presets = 'laptop' must be a list of names"),
    (
        {"train": {"batch_length": 64, "prefill": 50}},
        "config: train.batch_length 64 > train.prefill 50: no sequence to train on",
    ),
    (
        {"env": {"num_envs": 8}, "train": {"batch_length": 64, "prefill": 400}},
        "config: train.batch_length 64 > train.prefill 400 over env.num_envs 8: no sequence to train on",
    ),
    ({"steps": 500}, "config: train.prefill 1000 >= steps 500: the run would end before it trains"),
    (
        {"steps": 10**6, "train": {"prefill": 5000}, "replay": {"capacity": 1000}},
        "config: replay.capacity 1000 < 5000, the steps needed before training",
    ),
    ({"env": {"workers": 2}}, "config: env.workers 2 > env.num_envs 1: some workers would be idle"),
    (
        {"strict": True, "device": "cuda"},
        "config: strict = true needs device cpu: kernels on cuda are not bit-reproducible",
    ),
    (
        {"strict": True, "minutes": 1.0},
        "config: strict = true and minutes exclude each other: wall-clock time is not reproducible",
    ),
    *(
        (
            {"strict": True, "train": {"engine": engine}},
            f"config: strict = true and train.engine '{engine}' exclude each other: it rounds differently",
        )
        for engine in ("graph", "bfloat16")
    ),
]


@pytest.mark.parametrize(("table", "line"), WRONG)
def test_a_wrong_configuration_is_refused_in_words(registry, table, line):
    with pytest.raises(ConfigError) as error:
        resolve(registry, flags=table)
    assert str(error.value).splitlines()[0] == line and len(line) <= 100
    assert error.value.cause or error.value.fix


def test_the_message_names_the_file(registry, tmp_path):
    mine = file(tmp_path, "[train]\nlearning_rate = 0\n")
    with pytest.raises(ConfigError) as error:
        resolve(registry, files=[mine])
    assert str(error.value).splitlines()[:2] == ["config: train.learning_rate = 0 must be > 0", f"cause: set in {mine}"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("x = [", "is not valid TOML"),
        ("a = 2020-01-01\n", "config: a is not a setting"),
        ("steps = 2020-01-01", "finite number"),
        ("a = " + "[" * 20_000, "is not valid TOML"),
        ("a = " + "{b = " * 20_000, "is not valid TOML"),
        (".".join("a" * 20_000) + " = 1", "is not valid TOML"),
        ("steps = 1" + "0" * 5000, "is not valid TOML"),
        ("steps = 1" + "0" * 4000, r"steps = 1000.* must be a number of at most 64 bits"),
        ("# " + "x" * 2**20, "is not valid TOML"),
    ],
)
def test_a_damaged_file_is_named(registry, tmp_path, text, line):
    with pytest.raises(ConfigError, match=line):
        resolve(registry, files=[file(tmp_path, text)])


def test_a_configuration_that_is_no_file_is_refused_without_waiting(registry, tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    for path in (tmp_path / "pipe.toml", tmp_path, Path("/dev/zero")):
        with pytest.raises(ConfigError, match="cannot read") as error:
            resolve(registry, files=[path])
        assert error.value.exit_code == 2
    (tmp_path / "link.toml").symlink_to(file(tmp_path, "steps = 12345"))
    assert resolve(registry, files=[tmp_path / "link.toml"]).core.steps == 12345


def test_missing_files_presets_and_parts_get_suggestions(registry, tmp_path):
    file(tmp_path, "", "tuned.toml")
    with pytest.raises(ConfigError, match=r"Did you mean 'tuned\.toml'\?"):
        resolve(registry, files=[tmp_path / "tunde.toml"])
    with pytest.raises(ConfigError) as error:
        resolve(registry, presets=["labtop"])
    assert error.value.message == "no preset named 'labtop'. Did you mean 'laptop'? Presets: big, gpu, laptop"
    with pytest.raises(PluginError, match=r"no encoder named 'vea'\. Did you mean 'vae'"):
        resolve(registry, flags={"encoder": {"name": "vea"}})


def test_one_mutation_of_any_setting_is_refused(registry):
    """Every setting of a valid configuration, once misspelt and once given an object: 100% refused, typos hinted."""
    mapping = resolve(registry).to_mapping()
    paths = [(k,) for k, v in mapping.items() if not isinstance(v, dict) and k != "presets"]
    paths += [
        (k, n) for k, v in mapping.items() if isinstance(v, dict) for n, w in v.items() if not isinstance(w, dict)
    ]
    hinted = tried = 0
    for path in paths:
        *head, leaf = path
        typo = leaf[: len(leaf) // 2] + leaf[len(leaf) // 2 + 1 :]
        if leaf == "name" or len(leaf) < 4:
            continue
        with pytest.raises(WorldlabError) as error:
            resolve(registry, flags=nested(".".join([*head, typo]), 1))
        tried += 1
        hinted += f"Did you mean {'.'.join(path)}?" in error.value.message
        with pytest.raises(WorldlabError):
            resolve(registry, flags=nested(".".join(path), {"x": object()}))
    assert tried >= 50 and hinted >= 0.9 * tried


def test_default_preset_follows_the_device(monkeypatch):
    monkeypatch.setattr(resolve_module.shutil, "which", lambda name: "/bin/nvidia-smi")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert (default_preset(), default_preset("cpu")) == ("gpu", "laptop")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert (default_preset(), default_preset("cuda")) == ("laptop", "gpu")


def test_the_packaged_presets_are_valid(monkeypatch):
    monkeypatch.undo()
    registry = load_registry()
    assert {"debug", "laptop", "gpu"} <= set(preset_names(registry))
    for name in preset_names(registry):
        for part in ("vae", "cpc"):
            for env in ("CartPole", "CarRacing", "HalfCheetah"):
                flags = {"env": {"id": env}, **{role: {"name": part} for role in ("encoder", "dynamics", "decoder")}}
                assert isinstance(resolve(registry, presets=[name], flags=flags), RunConfig)


def test_a_strict_run_drops_the_wall_clock_budget_of_a_preset_but_not_one_that_was_asked_for(registry, presets):
    (presets / "laptop.toml").write_text("minutes = 18\n")
    assert resolve(registry, presets=["laptop"]).core.minutes == 18
    strict = resolve(registry, presets=["laptop"], flags={"strict": True})
    assert strict.core.minutes is None
    with pytest.raises(ConfigError, match="exclude each other"):
        resolve(registry, presets=["laptop"], flags={"strict": True, "minutes": 2.0})


@pytest.mark.parametrize(("old", "now"), [("graph", "auto"), ("bfloat16", "bfloat16"), ("float32", "float32")])
def test_an_older_run_folder_resolves_with_the_name_that_a_setting_has_now(registry, tmp_path, old, now):
    older = tmp_path / "config.toml"
    older.write_text(f'[train]\ngpu = "{old}"\n', encoding="utf-8")
    assert resolve(registry, files=[older]).core.train.engine == now
