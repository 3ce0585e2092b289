"""What a format writes, it reads again bit for bit, piece by piece, whatever the spaces and the ends of the episodes."""

from __future__ import annotations

import sys

import pytest
from data_kit import BOX, DISCRETE, assert_same, made

from worldlab.env.spaces import decode_action, encode_action
from worldlab.errors import PluginError
from worldlab.experience.dataset import Steps, open_dataset
from worldlab.registry import load_registry

NEEDS = {"hdf5": ["h5py"], "minari": ["minari", "h5py"], "lerobot": ["pyarrow"], "npz": [], "run": []}
PATHS = {"hdf5": "made.hdf5"}


@pytest.fixture(scope="module")
def registry():
    return load_registry()


@pytest.mark.parametrize("format", NEEDS)
@pytest.mark.parametrize(
    "case",
    [
        {"action": BOX},
        {"action": DISCRETE},
        {"action": BOX, "image": True},
        {"action": DISCRETE, "image": True, "vector": False},
    ],
    ids=["numbers", "discrete", "both", "images"],
)
def test_a_round_trip_is_equal_bit_for_bit(format, case, tmp_path, registry):
    for package in NEEDS[format]:
        pytest.importorskip(package)
    source = made(**case)
    path = tmp_path / PATHS.get(format, "made")
    registry.get("dataset", format).load()().write(source, path)
    got = open_dataset(str(path), registry)
    assert got.facts.format == format and got.facts.missing == ()
    if format == "run":
        assert got.facts.encoded  # its actions are those that a model saw, so they are compared as such
        source = reencoded(source)
    assert_same(got, source)
    got.close()


def reencoded(source):
    """The actions after a model's encoding, which float32 does not invert in every bit."""
    space = source.facts.action_space
    for index, steps in enumerate(source.all):
        source.all[index] = Steps(steps.obs, decode_action(space, encode_action(space, steps.action)), steps.reward)
    return source


@pytest.mark.parametrize(("format", "package"), [("hdf5", "h5py"), ("minari", "minari"), ("lerobot", "pyarrow")])
def test_a_format_says_what_is_not_installed(format, package, monkeypatch, tmp_path, registry):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PluginError, match=f"needs the package '{package}.*not installed") as error:
        registry.get("dataset", format).load()().write(made(), tmp_path / PATHS.get(format, "made"))
    assert f'pip install "worldlab[{format}]"' in str(error.value)
