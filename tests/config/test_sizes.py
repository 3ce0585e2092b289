"""The dial `--size`: what a size sets, what sets a part's size instead, and how a size is declared."""

from __future__ import annotations

import logging
from functools import reduce
from typing import Any, Literal, get_args

import pytest
from pydantic import ValidationError
from worldlab_agents.configs import PlannerConfig, SB3Config
from worldlab_vae.configs import VAEEncoderConfig

from worldlab import Config, field, sized
from worldlab.config.resolve import RunConfig, resolve
from worldlab.config.schema import settings_of
from worldlab.errors import ConfigError
from worldlab.registry import Registry, load_registry
from worldlab.settings import DIAL, SIZES, CoreSettings, ModelSettings, Size
from worldlab.testing import small_config


class Inner(Config):
    units: int = sized("units", ge=1)
    """Follows the dial."""
    rate: float = field(0.1, gt=0)
    """No size."""


class Outer(Config):
    memory: int = sized("memory", ge=1)
    """Follows the dial."""
    depth: int = sized(nano=1, tiny=2, small=3, medium=4, large=5, ge=1, le=5)
    """Has values of its own."""
    inner: Inner = Inner()
    """A group."""
    kind: Literal["a", "b"] = "a"
    """No size."""


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry()


def made(registry: Registry, presets: tuple[str, ...] = ("laptop",), **flags: Any) -> RunConfig:
    return resolve(registry, presets=presets, flags=flags)


# ---- declarations ----


@pytest.mark.parametrize("flag", ["model.units", "model.memory", "encoder.units", "dynamics.units", "decoder.width"])
def test_an_absurd_size_is_refused_before_anything_is_built(registry, flag):
    group, _, name = flag.partition(".")
    for value, bound in ((10**8, "must be <= 65536"), (2**16 + 1, "must be <= 65536"), (0, "must be >")):
        with pytest.raises(ConfigError, match=bound):
            made(registry, **{group: {name: value}})


def test_sizes_are_those_of_the_dial():
    assert SIZES == get_args(Size) == ("nano", "tiny", "small", "medium", "large")
    assert set(DIAL) == {"units", "memory", "width"}
    for values in DIAL.values():
        assert tuple(values) == SIZES and list(values.values()) == sorted(values.values())


@pytest.mark.parametrize("size", SIZES)
def test_at_size_gives_every_sized_setting_by_path_and_nothing_else(size):
    expected = {"memory": DIAL["memory"][size], "depth": SIZES.index(size) + 1, "inner.units": DIAL["units"][size]}
    assert Outer.at_size(size) == expected
    built = Outer.sized(size)
    assert (built.memory, built.depth, built.inner.units) == tuple(expected.values())
    assert (built.inner.rate, built.kind) == (0.1, "a")


def test_a_dial_turned_by_hand_replaces_only_what_follows_it():
    assert Outer.at_size("tiny", {"units": 7}) == {"memory": 64, "depth": 2, "inner.units": 7}
    assert Outer.at_size("tiny", {"memory": 5, "units": 6, "width": 4}) == {"memory": 5, "depth": 2, "inner.units": 6}


def test_a_config_built_by_hand_is_medium():
    assert Outer() == Outer.sized("medium") and ModelSettings() == ModelSettings.sized("medium")
    assert CoreSettings().size == "medium"


def test_values_given_besides_a_size_win_and_are_checked():
    assert Outer.sized("large", depth=1, kind="b").depth == 1
    assert Outer.sized("large", inner=Inner(units=3)).inner.units == 3
    for wrong in ({"depth": 6}, {"kind": "c"}, {"dpeth": 1}):
        with pytest.raises(ValidationError):
            Outer.sized("large", **wrong)


def test_small_config_is_the_smallest_size():
    assert small_config(Outer) == Outer.sized("nano") and small_config(Outer, depth=2).depth == 2


@pytest.mark.parametrize(
    "declare",
    [
        lambda: sized(),
        lambda: sized(nano=1, tiny=2, small=3, medium=4),
        lambda: sized(nano=1, ge=1),
        lambda: sized("heads"),
        lambda: sized("unit", ge=1),
        lambda: sized("units", nano=3),
    ],
)
def test_a_size_that_is_no_dial_and_has_not_every_size_is_refused(declare):
    with pytest.raises(
        AssertionError, match=r"names a dial \(units, memory, width\) or gives all of nano, tiny, small"
    ):
        declare()


@pytest.mark.parametrize("size", SIZES)
def test_every_size_of_every_component_is_valid(registry, size):
    """Bounds and validators hold: heads divide the memory, codes are enough."""
    for entry in registry.registrations():
        config = entry.config
        if config is not None:
            built = config.sized(size)
            for setting in settings_of(config):
                value: Any = built
                for name in setting.path:
                    value = getattr(value, name)
                if ".".join(setting.path) in config.at_size(size):
                    assert value == config.at_size(size)[".".join(setting.path)], f"{entry.who}: {setting.path}"


@pytest.mark.parametrize("role", ["encoder", "dynamics", "decoder", "agent"])
def test_no_size_grows_smaller_on_the_dial(registry, role):
    for entry in registry.registrations(role):
        sizes = [entry.config.at_size(size) for size in SIZES] if entry.config is not None else []
        for name in sizes[0] if sizes else ():
            if name in ("components", "levels"):  # nano has more of these where few are tested
                continue
            default = entry.config.sized("medium")  # a setting with a value for nano alone has its default elsewhere
            values = [at.get(name, reduce(getattr, name.split("."), default)) for at in sizes]
            assert values[-1] == max(values) and values[0] == min(values), f"{entry.who}: {name} {values}"


# ---- runs ----


@pytest.mark.parametrize("size", SIZES)
def test_the_flag_sizes_every_part(registry, size):
    run = made(registry, size=size)
    units, memory, width = (DIAL[name][size] for name in ("units", "memory", "width"))
    assert run.core.size == size
    assert (run.core.model.units, run.core.model.memory, run.core.model.width) == (units, memory, width)
    parts: Any = run
    assert (parts.encoder.options.units, parts.encoder.options.width) == (units, width)
    assert (parts.dynamics.options.units, parts.dynamics.options.memory) == (units, memory)
    assert (parts.decoder.options.units, parts.decoder.options.width) == (units, width)
    assert parts.agent.options.units == units
    assert parts.encoder.options == VAEEncoderConfig.sized(size)


def test_one_dial_is_turned_for_all_parts(registry):
    parts: Any = made(registry, model={"units": 40, "memory": 48, "width": 6})
    assert parts.encoder.options.units == parts.dynamics.options.units == parts.decoder.options.units == 40
    assert parts.dynamics.options.memory == 48 and parts.encoder.options.width == parts.decoder.options.width == 6
    assert parts.agent.options.units == 40
    one: Any = made(registry, model={"units": 40})
    assert one.dynamics.options.memory == DIAL["memory"]["small"]


def test_a_parts_own_setting_wins_over_the_dial(registry):
    parts: Any = made(registry, model={"units": 40}, encoder={"units": 24}, dynamics={"memory": 32})
    assert (parts.encoder.options.units, parts.decoder.options.units) == (24, 40)
    assert (parts.dynamics.options.units, parts.dynamics.options.memory) == (40, 32)
    assert parts.core.model.memory == DIAL["memory"]["small"]
    named: Any = made(registry, size="large", encoder={"vae": {"width": 5}})
    assert named.encoder.options.width == 5


def test_sizes_with_values_of_their_own_ignore_the_dials(registry):
    parts: Any = made(registry, model={"units": 40}, agent={"name": "ppo"}, encoder={"name": "flow"})
    assert parts.agent.options.units == SB3Config.at_size("small")["units"] == 128
    assert (parts.encoder.options.units, parts.encoder.options.flow_units) == (40, 64)


@pytest.mark.parametrize(("preset", "size"), [("laptop", "small"), ("debug", "tiny"), ("gpu", "large")])
def test_a_preset_has_a_size_which_the_flag_and_later_presets_replace(registry, preset, size):
    assert made(registry, (preset,)).core.size == size
    assert made(registry, (preset,)).core.model == made(registry, (preset,), size=size).core.model
    flagged = made(registry, (preset,), size="nano")
    assert flagged.core.size == "nano" and flagged.core.model.units == 16
    assert made(registry, ("gpu", preset)).core.size == size


def test_a_size_in_a_file_lies_between_preset_and_flag(registry, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('size = "tiny"\n[model]\nwidth = 5\n')
    run = resolve(registry, presets=["gpu"], files=[file])
    assert (run.core.size, run.core.model.units, run.core.model.width) == ("tiny", 64, 5)
    assert resolve(registry, files=[file], flags={"size": "nano"}).core.model.units == 16


def test_the_settings_of_a_guide_have_the_size_too(registry):
    for name in ("cem", "icem", "mppi"):
        parts: Any = made(registry, size="tiny", agent={"name": name, "guide": True})
        assert isinstance(parts.agent.options, PlannerConfig) and parts.agent.options.guide_with.units == 64
    turned: Any = made(registry, model={"units": 40}, agent={"name": "cem"})
    assert turned.agent.options.guide_with.units == 40
    own: Any = made(registry, agent={"name": "cem", "guide_with": {"units": 12}})
    assert own.agent.options.guide_with.units == 12


@pytest.mark.parametrize(
    "flags",
    [
        {"size": "nano"},
        {"model": {"units": 40, "memory": 48}},
        {"size": "large", "encoder": {"name": "flow", "units": 24}, "dynamics": {"name": "autoregressive"}},
        {"agent": {"name": "icem", "guide": True, "guide_with": {"horizon": 3}}},
        {"agent": {"name": "sac", "units": 9}, "env": {"id": "Pendulum"}},
    ],
)
def test_config_toml_repeats_the_sizes(registry, tmp_path, flags):
    run = made(registry, **flags)
    file = tmp_path / "config.toml"
    file.write_text(run.to_toml())
    again = resolve(registry, files=[file])
    assert again == run and again.to_toml() == run.to_toml()
    smaller = resolve(registry, files=[file], flags={"size": "nano"})  # all sizes stand in the file: the dial sets none
    assert smaller.core.size == "nano" and smaller.encoder == run.encoder


@pytest.mark.parametrize("wrong", ["huge", "", "Small", 3])
def test_a_size_that_does_not_exist_is_refused_in_words(registry, wrong):
    with pytest.raises(ConfigError) as caught:
        made(registry, size=wrong)
    assert "size = " in caught.value.message and "'nano', 'tiny', 'small', 'medium' or 'large'" in caught.value.message


def test_a_dial_that_a_part_refuses_is_refused_in_words(registry, caplog):
    with caplog.at_level(logging.WARNING, "worldlab"), pytest.raises(ConfigError, match="no multiple of twice"):
        made(registry, model={"memory": 50}, dynamics={"name": "autoregressive"})
    assert caplog.records == []
