"""Presets of plugins: how they are laid over the core's, and whose fault a bad one is; what a component's name brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from plugin_kit import add_builtins, add_dist, registers

from worldlab.config import resolve as resolve_module
from worldlab.config.resolve import preset_names, resolve
from worldlab.errors import ConfigError
from worldlab.registry import Registry, load_registry

VARIANTS = """
    register.agent("search", "{target}", config=Options, summary="s")
    register.agent("fast", "{target}", config=Options, variant_of="search", preset={{"width": 8, "kind": "fast"}}, summary="s")
    register.agent("slow", "{target}", config=Options, variant_of="search", summary="s")
""".format(target="collections:OrderedDict")
"""One class under three names."""


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    add_builtins(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delenv("WORLDLAB_PLUGINS", raising=False)
    return folder


@pytest.fixture
def core(tmp_path, monkeypatch) -> Path:
    """A folder of the core's presets of our own."""
    folder = tmp_path / "core"
    folder.mkdir()
    (folder / "laptop.toml").write_text("steps = 5_000\ntrain.ratio = 0.25\n[for.'Car*']\nenv.repeat = 2\n")
    monkeypatch.setattr(resolve_module, "_preset_folder", lambda: folder)
    return folder


def plugin(site: Path, name: str, source: str = "", **presets: str) -> Path:
    """Install a plugin with an encoder of its name and presets; return the folder of these."""
    text = source or registers(("encoder", name), presets=True)
    path = add_dist(
        site, f"worldlab-{name}", text, presets={key.replace("_", "-"): value for key, value in presets.items()}
    )
    return path.with_suffix(".presets")


def made(registry: Registry, **flags: Any) -> Any:
    return resolve(registry, presets=["laptop"], flags=flags)


def test_a_plugins_preset_is_laid_over_the_cores_and_under_files_and_flags(site, core, tmp_path):
    plugin(site, "aa", laptop="train.ratio = 0.5\ntrain.starts = 7\nencoder.vae.width = 3\n")
    registry = load_registry()
    run = made(registry)
    assert (run.core.steps, run.core.train.ratio, run.core.train.starts) == (5_000, 0.5, 7)
    assert run.encoder.options.width == 3 and run.decoder.options.width == 32
    file = tmp_path / "mine.toml"
    file.write_text("train.ratio = 0.75\nencoder.vae.width = 4\n")
    over = resolve(registry, presets=["laptop"], files=[file], flags={"encoder": {"width": 5}})
    assert (over.core.train.ratio, over.core.train.starts) == (0.75, 7)
    assert over.encoder.options.model_dump() == {"width": 5, "kind": "plain"}


def test_of_two_plugins_the_later_in_the_order_of_loading_wins(site, core):
    plugin(site, "bb", laptop="train.ratio = 2.0\ntrain.starts = 8\n")
    plugin(site, "aa", laptop="train.ratio = 1.0\ntrain.batch_size = 3\n")
    train = made(load_registry()).core.train
    assert (train.ratio, train.starts, train.batch_size) == (2.0, 8, 3)


def test_tables_for_an_environment_come_after_the_plain_tables_of_all_contributors(site, core):
    """The core's [for] table wins over a plugin's plain one; among [for] tables the plugin's comes later."""
    plugin(site, "aa", laptop="env.repeat = 9\nenv.size = 9\n[for.'Car*']\nenv.size = 33\nencoder.vae.width = 6\n")
    plugin(site, "bb", laptop="env.size = 10\nencoder.vae.width = 7\n")
    registry = load_registry()
    car, other = made(registry, env={"id": "CarRacing"}), made(registry, env={"id": "Pendulum"})
    assert (car.core.env.repeat, car.core.env.size, car.encoder.options.width) == (2, 33, 6)
    assert (other.core.env.repeat, other.core.env.size, other.encoder.options.width) == (9, 10, 7)


def test_later_presets_win_over_tables_for_an_environment_in_earlier_ones(site, core):
    plugin(site, "aa", laptop="[for.'Car*']\ntrain.ratio = 3.0\n", mine="train.ratio = 4.0\n")
    registry = load_registry()
    flags = {"env": {"id": "CarRacing"}}
    assert resolve(registry, presets=["laptop", "mine"], flags=flags).core.train.ratio == 4.0
    assert resolve(registry, presets=["mine", "laptop"], flags=flags).core.train.ratio == 3.0


def test_a_plugin_may_bring_a_preset_of_its_own_and_choose_defaults(site, core):
    plugin(site, "aa", my_recipe="size = 'nano'\nencoder = { name = 'aa', width = 2 }\n", defaults="steps = 70_000\n")
    registry = load_registry()
    assert set(preset_names(registry)) == {"few-steps", "laptop", "my-recipe", "world-models"}
    run: Any = resolve(registry, presets=["my-recipe"])
    assert (run.core.size, run.core.steps, run.encoder.name, run.encoder.options.width) == ("nano", 70_000, "aa", 2)
    assert made(registry).core.steps == 5_000 and run.presets == ("my-recipe",)


def test_a_preset_disappears_with_its_plugin_and_is_suggested_while_it_is_there(site, core, monkeypatch):
    plugin(site, "aa", my_recipe="steps = 70_000\n")
    with pytest.raises(ConfigError, match=r"no preset named 'my-recpie'\. Did you mean 'my-recipe'\?"):
        resolve(load_registry(), presets=["my-recpie"])
    monkeypatch.setenv("WORLDLAB_PLUGINS", "off")
    with pytest.raises(ConfigError, match=r"no preset named 'my-recipe'\."):
        resolve(load_registry(), presets=["my-recipe"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = [", "cannot be read"),
        ("steps = 1\nsteps = 2\n", "cannot be read"),
        ("trian.ratio = 1\n", "is not a setting"),
    ],
)
def test_a_broken_preset_of_a_plugin_is_a_configerror_that_names_it(site, core, text, reason):
    folder = plugin(site, "aa", laptop=text)
    with pytest.raises(ConfigError, match=reason) as caught:
        made(load_registry())
    cause = caught.value.cause or ""
    if reason == "cannot be read":
        assert cause.startswith(f"{folder / 'laptop.toml'}: ") and "plugin" in (caught.value.fix or "")
    else:
        assert cause == f"set in preset laptop ({folder / 'laptop.toml'})"


def test_a_preset_that_is_no_text_is_a_configerror_too(site, core):
    folder = plugin(site, "aa", laptop="")
    (folder / "laptop.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        made(load_registry())


def test_settings_of_parts_that_are_not_installed_are_left_out_in_silence(site, core, caplog):
    plugin(site, "aa", laptop="[encoder.nowhere]\nx = 1\n[encoder.cpc]\nwidth = 5\n")
    run = made(load_registry())
    assert run.encoder.name == "vae" and caplog.records == []
    assert made(load_registry(), encoder={"name": "cpc"}).encoder.options.width == 5


@pytest.mark.parametrize("place", ["missing", "file"])
def test_a_folder_that_is_none_is_the_plugins_fault_and_nobody_elses(site, core, place):
    path = add_dist(site, "worldlab-aa", registers(("encoder", "aa"), presets=True))
    if place == "file":
        path.with_suffix(".presets").write_text("")
    registry = load_registry()
    (broken,) = registry.broken
    assert broken.distribution == "worldlab-aa" and "registers presets in" in broken.reason
    assert "which is no folder" in broken.reason
    line = next(number for number, text in enumerate(path.read_text().splitlines(), 1) if "register.presets" in text)
    assert broken.where == f"{path}:{line}"
    assert "aa" not in registry.names("encoder") and made(registry).encoder.name == "vae"


def test_a_broken_plugin_brings_no_presets(site, core):
    source = registers(("encoder", "aa"), presets=True) + "    raise ValueError\n"
    plugin(site, "aa", source, laptop="train.ratio = 9.0\n", mine="")
    registry = load_registry()
    assert len(registry.broken) == 1 and "mine" not in preset_names(registry)
    assert made(registry).core.train.ratio == 0.25


# ---- what a name brings ----


def variants(site: Path, **presets: str) -> Registry:
    plugin(site, "aa", registers(("encoder", "aa"), presets=True) + VARIANTS, **{"unused": "", **presets})
    return load_registry()


def test_a_names_preset_lies_over_the_defaults_and_under_every_file(site, core, tmp_path):
    registry = variants(site)
    assert made(registry, agent={"name": "search"}).agent.options.model_dump() == {"width": 32, "kind": "plain"}
    assert made(registry, agent={"name": "fast"}).agent.options.model_dump() == {"width": 8, "kind": "fast"}
    file = tmp_path / "mine.toml"
    file.write_text("[agent]\nname = 'fast'\nwidth = 4\n")
    assert resolve(registry, presets=["laptop"], files=[file]).agent.options.model_dump() == {
        "width": 4,
        "kind": "fast",
    }
    assert registry.get("agent", "fast").variant_of == "search" and registry.get("agent", "search").preset == {}


def test_a_packaged_preset_wins_over_what_a_name_brings(site, core):
    registry = variants(site, laptop="[agent.search]\nwidth = 16\n")
    widths = {name: made(registry, agent={"name": name}).agent.options.width for name in ("search", "fast", "slow")}
    assert widths == {"search": 16, "fast": 16, "slow": 16}
    assert made(registry, agent={"name": "fast"}).agent.options.kind == "fast"


def test_a_table_of_the_variants_own_name_wins_over_that_of_what_it_varies(site, core):
    registry = variants(site, laptop="[agent.search]\nwidth = 16\nkind = 'all'\n[agent.fast]\nwidth = 5\n")
    assert made(registry, agent={"name": "fast"}).agent.options.model_dump() == {"width": 5, "kind": "all"}
    assert made(registry, agent={"name": "slow"}).agent.options.model_dump() == {"width": 16, "kind": "all"}


def test_a_variants_table_is_for_no_other_name(site, core):
    registry = variants(site, laptop="[agent.fast]\nwidth = 5\n")
    assert made(registry, agent={"name": "search"}).agent.options.width == 32
    assert made(registry, agent={"name": "slow"}).agent.options.width == 32


def test_a_wrong_setting_in_what_a_name_brings_is_named(site, core):
    source = registers(("encoder", "aa"), presets=True) + VARIANTS.replace('"width": 8', '"widht": 8')
    plugin(site, "aa", source, unused="")
    with pytest.raises(ConfigError, match=r"agent\.widht is not a setting\. Did you mean agent\.width\?") as caught:
        made(load_registry(), agent={"name": "fast"})
    assert "agent fast" in (caught.value.cause or "")


def test_the_tables_of_our_planners_apply_to_each_of_them():
    registry = load_registry()
    for name, candidates, elites in (("cem", 512, 64), ("icem", 256, 32), ("mppi", 512, 64), ("planner", 512, 64)):
        options: Any = made(registry, agent={"name": name}).agent.options
        assert (options.candidates, options.elites) == (candidates, elites)
        few: Any = resolve(registry, presets=["laptop", "few-steps"], flags={"agent": {"name": name}}).agent.options
        assert (few.horizon, few.candidates, few.elites, few.guide) == (4, 64, 16 if name == "mppi" else 8, True)
        assert few.search == (name if name != "planner" else "cem") and few.guide_with.horizon == 12
    assert made(registry, agent={"name": "icem"}).agent.options.execute == "best"
    ppo, sac = (made(registry, agent={"name": name}).agent.options for name in ("ppo", "sac"))
    assert (ppo.algorithm, ppo.steps, sac.algorithm, sac.steps) == ("PPO", 1024, "SAC", 512)
