"""The generalisation gap of a model that memorised frames, and loading the training episodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from measures_kit import TINY, GivenDecoder, GivenDynamics, GivenEncoder, build_given_model, make_subject
from squares_kit import IMAGE, SIDE, recording

from worldlab.distributions import Normal
from worldlab.experience.replay import Replay
from worldlab.specs import ActionSpec
from worldlab.study.measures import generalisation
from worldlab.study.measures.recording import pad_episodes
from worldlab.study.measures.training_episodes import load_training_episodes, raise_no_replay
from worldlab.study.measures.undefined import Undefined

SIZE = 3 * SIDE * SIDE


class Levels(GivenDecoder):
    """Draws z; P(o | z) is e^-8 for a training image and e^-24 otherwise."""

    likelihood = "exact"

    def __init__(self, draw, known):
        super().__init__(draw)
        self.known = known

    def log_mass(self, features, obs, generator):
        seen = torch.tensor([bool((row == self.known).all(1).any()) for row in obs["image"].flatten(1)])
        return torch.where(seen, -8.0, -24.0)


def measured(change, trained, decoder=GivenDecoder):
    dynamics = GivenDynamics(1, lambda z, a: z[:, :1], lambda h: Normal(h, h))

    def draw(features):
        picture = change(features[:, -SIZE:]).unflatten(1, (3, SIDE, SIDE))
        return {"image": Normal(picture, torch.ones_like(picture))}

    encoder = GivenEncoder(lambda obs: obs["image"].flatten(1))
    model = build_given_model(IMAGE, ActionSpec("continuous", 1), SIZE, encoder, dynamics, decoder(draw))
    return generalisation.measure(
        make_subject(model, recording(), replace(TINY, images=64), load_training_episodes=lambda: trained)
    )


def shifted():
    """Return a recording without any grey level of the test episodes."""
    other = recording(episodes=6)
    return replace(other, data={k: (v // 2 + 1 if k == "image" else v) for k, v in other.data.items()})


def as_floats(one):
    return torch.from_numpy(one.data["image"]).movedim(-1, 2).flatten(0, 1).flatten(1).float() / 255 - 0.5


def test_gap_of_memorised_frames_matches_the_formula():
    trained = shifted()
    known = as_floats(trained)

    def forgetful(picture):
        """Add an error of 10 grey levels, except to training images."""
        seen = torch.tensor([bool((row == known).all(1).any()) for row in picture])
        return picture + torch.where(seen, 0.0, 10 / 255)[:, None] * torch.where(picture > 0, -1, 1)

    found = measured(forgetful, trained, lambda draw: Levels(draw, known))
    assert found["generalisation/error"].value == pytest.approx(10, abs=0.01)
    assert found["generalisation/error_gap"].value == pytest.approx(10, abs=0.01)
    assert found["generalisation/bits_gap"].value == pytest.approx(16 / np.log(2) / SIZE)


def test_a_model_without_memorisation_has_no_gap():
    found = measured(lambda picture: picture, recording(episodes=4))
    assert found["generalisation/error_gap"].value == pytest.approx(0, abs=1e-6)
    assert found["generalisation/bits_gap"].value is None and found["generalisation/bits_gap"].why


def test_is_undefined_without_a_replay(tmp_path):
    with pytest.raises(Undefined, match="holds no replay"):
        raise_no_replay()
    run = SimpleNamespace(folder=SimpleNamespace(path=tmp_path), schema={})
    with pytest.raises(Undefined, match="holds no replay"):
        load_training_episodes(run, 3, 10)  # type: ignore[arg-type]


def test_loads_the_earliest_episodes_in_order(tmp_path: Path):
    schema = {"vector": ((1,), np.float32), "prev_action": ((1,), np.float32), "reward": ((), np.float32),
              "cont": ((), np.float32), "is_first": ((), np.bool_)}  # fmt: skip
    replay = Replay(schema, 1000, 2, tmp_path / "replay", "ram")
    lengths = {0: [4, 7, 2], 1: [5, 3]}
    for stream, episodes in lengths.items():
        for number, length in enumerate(episodes):
            for time in range(length):
                value = np.float32([100 * stream + 10 * number + time])
                step = {"vector": value, "prev_action": value, "reward": value[0], "cont": np.float32(1)}
                replay.append(stream, {**step, "is_first": np.bool_(time == 0)})
    replay.flush(sync=True)
    run = SimpleNamespace(folder=SimpleNamespace(path=tmp_path), schema=schema)
    found = load_training_episodes(run, 4, 6)  # type: ignore[arg-type]
    assert found.length.tolist() == [4, 6, 2, 5]
    assert found.data["vector"][1, :, 0].tolist() == [10, 11, 12, 13, 14, 15] and found.data["reward"][3, 4] == 104
    assert found.data["vector"][2, 2:].sum() == 0 and found.truth is None


def test_pads_with_zeros():
    one = pad_episodes([{"reward": np.ones(2, np.float32)}, {"reward": np.ones(3, np.float32)}], 4)
    assert one.data["reward"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 0]] and one.length.tolist() == [2, 3]
