"""worldlab.training.saved_state: a state.json of another shape, under valid hashes, is named before anything is built from it."""

import copy
import random

import pytest
import torch

from worldlab.errors import CheckpointError
from worldlab.runs.checkpoint import open_checkpoint, save_checkpoint
from worldlab.training.saved_state import read_state

COUNTERS = ("env_steps", "updates", "episodes", "credit", "pretrained", "recent", "evaluation", "seconds", "lines")
GOOD = {
    "counters": {
        "env_steps": 3,
        "updates": 1,
        "credit": 0.5,
        "pretrained": True,
        "recent": [1, 2.5],
        "evaluation": None,
    },
    "health": {"seen": {"latent_collapsed": 1}, "raised": ["exploited"]},
    "replay": {"format": 1, "schema": "x", "kept": 50, "totals": [3, 4], "first": [0, 1]},
    "random": {"seed": 0, "numpy": {"replay": {"bit_generator": "PCG64"}}},
    "optimizers": {"model/main": {"kind": "Adam"}},
    "trainer": {"updates": 1, "skips": 0},
    "later": {"anything": [1]},
}
WRONG = {
    "a list": [],
    "counters.env_steps": "3",
    "counters.updates": -1,
    "counters.credit": None,
    "counters.pretrained": 1,
    "counters.recent": {"a": 1},
    "counters.evaluation": "high",
    "counters.lines": 1.5,
    "counters.unheard_of": 1,
    "counters": [],
    "health.seen": {"x": "y"},
    "health.raised": [1],
    "health": None,
    "replay.kept": -5,
    "replay.first": [-100, 0],
    "replay.totals": "many",
    "replay": [1],
    "random.numpy": [],
    "random": 7,
    "optimizers": [],
    "trainer.updates": True,
    "trainer.skips": {},
    "trainer": "x",
}


def checkpoint_of(state, folder):
    return open_checkpoint(save_checkpoint(folder, 3, {"model": {"w": torch.ones(1)}}, state))


def test_the_state_of_a_run_is_read_as_it_is(tmp_path):
    assert read_state(checkpoint_of(GOOD, tmp_path), COUNTERS) == GOOD


@pytest.mark.parametrize("path", WRONG)
def test_another_shape_is_an_error_that_names_the_entry(path, tmp_path):
    state = copy.deepcopy(GOOD)
    if path == "a list":
        state = []
    else:
        *groups, leaf = path.split(".")
        node = state
        for group in groups:
            node = node[group]
        node[leaf] = WRONG[path]
    with pytest.raises(CheckpointError, match=r"state.json has another shape than a run writes") as caught:
        read_state(checkpoint_of(state, tmp_path), COUNTERS)
    assert caught.value.exit_code == 7 and (path == "a list" or path in (caught.value.cause or ""))


@pytest.mark.parametrize(
    "path", ["health", "replay", "random", "optimizers", "trainer", "health.seen", "replay.kept", "trainer.skips"]
)
def test_a_missing_entry_is_named(path, tmp_path):
    state = copy.deepcopy(GOOD)
    group, _, leaf = path.partition(".")
    if leaf:
        del state[group][leaf]
    else:
        del state[group]
    with pytest.raises(CheckpointError) as caught:
        read_state(checkpoint_of(state, tmp_path), COUNTERS)
    assert path in (caught.value.cause or "")


def test_a_stream_that_begins_after_its_end_is_named(tmp_path):
    state = copy.deepcopy(GOOD)
    state["replay"]["first"] = [0, 5]
    with pytest.raises(CheckpointError):
        read_state(checkpoint_of(state, tmp_path), COUNTERS)


def test_nothing_else_is_raised_whatever_the_state_is(tmp_path):
    rng = random.Random(0)
    things = [None, 0, -1, 1.5, "x", [], {}, [[]], {"a": {}}, True, 10**40, [10**40]]

    def change(node, depth=0):
        key = rng.choice(list(node))
        if isinstance(node[key], dict) and node[key] and rng.random() < 0.7:
            change(node[key], depth + 1)
        elif rng.random() < 0.2:
            del node[key]
        else:
            node[key] = rng.choice(things)

    checkpoint = checkpoint_of(GOOD, tmp_path)
    for _ in range(2000):
        state = copy.deepcopy(GOOD)
        change(state)
        stand_in = type("Stand", (), {"state": state, "step": 3, "path": checkpoint.path})()
        try:
            read_state(stand_in, COUNTERS)
        except CheckpointError:
            continue
