"""Ids "prefix:task": their spellings, hints, and what happens without the package; and environments' presets."""

from __future__ import annotations

import pytest
from worldlab_envs import atari, dmc, minatar
from worldlab_envs.package_adapter import PackageAdapter

from worldlab.config.resolve import resolve
from worldlab.env.find import open_adapter
from worldlab.errors import EnvError
from worldlab.registry import load_registry
from worldlab.settings import EnvSettings


def nothing(task, settings):
    raise AssertionError("nothing is built")


def two_tasks():
    return ["cart-pole", "ball_in_cup-catch"]


HERE = PackageAdapter("toys", "json", two_tasks, nothing)
AWAY = PackageAdapter("toys", "no_such_package", two_tasks, nothing)


@pytest.mark.parametrize(
    ("typed", "full"),
    [
        ("toys:cart-pole", "toys:cart-pole"),
        ("toys:Cart_Pole", "toys:cart-pole"),
        ("toys:ball-in-cup-catch", "toys:ball_in_cup-catch"),
        ("toys:cart", None),
        ("cart-pole", None),
        ("other:cart-pole", None),
    ],
)
def test_ids_are_found_in_any_spelling(typed, full):
    assert HERE.resolve(typed) == full


def test_the_prefix_alone_is_answered_with_the_tasks():
    with pytest.raises(EnvError, match="'toys' names no task") as error:
        HERE.resolve("toys")
    assert error.value.cause == "tasks: cart-pole, ball_in_cup-catch" and error.value.fix == "--env toys:cart-pole"


def test_a_missing_package_is_an_error_with_its_install_command():
    with pytest.raises(EnvError, match="needs the package no_such_package, which is not installed") as error:
        AWAY.resolve("toys:cart-pole")
    assert error.value.fix == 'pip install "worldlab[toys]"' and error.value.exit_code == 4
    assert AWAY.resolve("toys:cart") is None  # a wrong name is corrected first
    assert AWAY.resolve("CartPole") is None


def test_a_failure_to_build_says_why():
    def fail(task, settings):
        raise RuntimeError(f"no {task} today")

    with pytest.raises(EnvError, match="'toys:cart-pole' cannot be built: RuntimeError") as error:
        PackageAdapter("toys", "json", two_tasks, fail).make("toys:cart-pole", EnvSettings())
    assert error.value.cause == "no cart-pole today"


@pytest.mark.parametrize("adapter", [dmc.ADAPTER, atari.ADAPTER, minatar.ADAPTER], ids=lambda one: one.prefix)
def test_names_are_ids(adapter):
    from worldlab_envs.package_adapter import installed

    if installed(adapter.package):
        assert [adapter.resolve(name) for name in adapter.names()] == adapter.names()


def test_a_prefix_that_is_registered_is_asked_alone():
    """Gymnasium's adapter would import a module called "dmc"."""
    with pytest.raises(EnvError, match="Did you mean 'dmc:cartpole-swingup'") as error:
        open_adapter(load_registry(), "dmc:cartpole-swinup")
    assert error.value.cause == f"none of the {len(dmc.TASKS)} known ids matches"


@pytest.mark.parametrize(
    ("id", "repeat", "size"),
    [("dmc:walker-walk", 2, 64), ("atari:pong", 4, 64), ("minigrid:Empty-5x5", 1, None), ("CarRacing", 4, 64)],
)
@pytest.mark.parametrize("preset", ["gpu", "debug"])
def test_repeat_and_size_are_those_of_the_field(id, repeat, size, preset):
    env = resolve(load_registry(), presets=[preset], flags={"env": {"id": id}}).core.env
    assert (env.repeat, env.size) == (repeat, size)
