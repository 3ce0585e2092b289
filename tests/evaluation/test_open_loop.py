from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from model_kit import batch_for, build_model, gen

from worldlab import tree
from worldlab.env.spaces import record_schema
from worldlab.evaluation.open_loop import open_loop, picture, sample_unbroken, save, video
from worldlab.experience.replay import Replay
from worldlab.testing.toys import OBS


def unbroken(model, length: int = 8):
    batch = batch_for(model, rows=2, length=length)
    first = torch.zeros_like(batch.is_first)
    first[:, 0] = True
    return replace(batch, is_first=first)


@pytest.mark.parametrize("start", [1, 3, 7])
def test_open_loop_is_filter_until_start_then_the_dream_along_the_recorded_actions(start):
    """Compare with an independent loop: filter `start` observations, then step with the action before each next frame."""
    model = build_model()
    raw = unbroken(model)
    batch = replace(raw, obs=model.preprocess(raw.obs))
    shown = open_loop(model, batch, gen(4), start)
    noise, carry, drawn = gen(4), model.initial(2), []
    posterior = []
    for t in range(8):
        obs = {key: value[:, t] for key, value in raw.obs.items()}
        carry = posterior[-1][0] if posterior else carry
        posterior.append(model.filter(carry, obs, batch.prev_action[:, t], batch.is_first[:, t], noise))
    for t in range(start):
        drawn.append(model.render(posterior[t][1])["vector"])
    carry = posterior[start - 1][0]
    for t in range(start, 8):
        carry, features, _, _ = model.step(carry, batch.prev_action[:, t], noise)
        drawn.append(model.render(features)["vector"])
    np.testing.assert_allclose(shown.dreamt["vector"], torch.stack(drawn, 1).numpy(), atol=1e-5)
    seen = torch.stack([model.render(features)["vector"] for _, features in posterior], 1)
    np.testing.assert_allclose(shown.reconstructed["vector"], seen.numpy(), atol=1e-5)
    np.testing.assert_allclose(shown.real["vector"], raw.obs["vector"].numpy(), atol=1e-4)
    error = ((shown.real["vector"] - shown.dreamt["vector"]) ** 2).mean(-1) ** 0.5
    np.testing.assert_allclose(shown.errors["vector"], error, atol=1e-5)


def test_the_dream_depends_on_later_actions_but_not_on_later_observations():
    model = build_model()
    batch = unbroken(model)
    shown = open_loop(model, batch, gen(), 3)
    blinded = replace(batch, obs={key: torch.cat([v[:, :3], v[:, 3:] + 9], 1) for key, v in batch.obs.items()})
    np.testing.assert_array_equal(open_loop(model, blinded, gen(), 3).dreamt["vector"], shown.dreamt["vector"])
    moved = replace(batch, prev_action=torch.cat([batch.prev_action[:, :5], batch.prev_action[:, 5:] + 1], 1))
    other = open_loop(model, moved, gen(), 3).dreamt["vector"]
    assert (other[:, :5] == shown.dreamt["vector"][:, :5]).all() and (other[:, 5] != shown.dreamt["vector"][:, 5]).any()


def test_pictures_are_restored_in_levels_and_errors_are_in_levels():
    model = build_model(obs=OBS["image"])
    batch = unbroken(model)
    shown = open_loop(model, batch, gen(), 3)
    assert shown.real["image"].shape == (2, 8, 16, 16, 3) and shown.real["image"].dtype == np.uint8
    difference = shown.real["image"].astype(float) - shown.dreamt["image"].astype(float)
    np.testing.assert_allclose(shown.errors["image"], np.sqrt((difference**2).mean((2, 3, 4))), rtol=1e-4)
    assert shown.drawn_by == "decoder" and shown.start == 3


def test_sequences_without_a_reset_inside_are_preferred():
    space = spaces.Dict({"vector": spaces.Box(-np.inf, np.inf, (3,), np.float32)})
    model = build_model()
    replay = Replay(record_schema(space, model.specs.action), 1000, 1)
    for t in range(60):
        record = {
            "vector": np.full(3, t, np.float32),
            "prev_action": np.zeros(2, np.float32),
            "reward": np.float32(0),
            "cont": np.float32(1),
            "is_first": np.bool_(t % 12 == 0),
        }
        replay.append(0, record)
    batch = sample_unbroken(replay, model, count=4, length=8, seed=0)
    assert batch.is_first.shape == (4, 8) and not batch.is_first[:, 1:].any()


def test_files_are_written_for_pictures_and_for_vectors(tmp_path):
    for name, extra in (("vector", 0), ("image", 1)):
        model = build_model(obs=OBS[name])
        batch = tree.select(unbroken(model, length=4), slice(0, 1))
        shown = open_loop(model, batch, gen(), 3)
        paths = save(shown, tmp_path, name)
        assert len(paths) == 1 + extra and all(path.stat().st_size > 100 for path in paths)
        assert picture(shown).size[0] > 16
        frames = video(shown)
        assert (frames is None) == (name == "vector")
        if frames is not None:
            assert frames.dtype == np.uint8 and len(frames) == 4
