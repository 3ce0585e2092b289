"""Coverage for the true dynamics of the branching world, for its mode only, and for dreams of no cell."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from measures_kit import TINY, FullyObserved, GivenDecoder, GivenDynamics, GivenEncoder, build_given_model, make_subject
from torch import Tensor
from worldlab_envs.branch import ADAPTER, BRANCH_CELLS, branch_probabilities, picture_of

from worldlab.distributions import Normal, OneHot
from worldlab.settings import EnvSettings
from worldlab.specs import ActionSpec, ArraySpec, ObsSpec
from worldlab.study.measures import coverage
from worldlab.study.measures.recording import record
from worldlab.study.measures.undefined import Undefined

CELLS, ACTIONS = 16, 4
IMAGES = torch.stack([torch.from_numpy(picture_of(cell)) for cell in range(CELLS)]).float() / 255 - 0.5
PROBS = torch.zeros(CELLS, ACTIONS, CELLS)
for _cell, _action in itertools.product(range(CELLS), range(ACTIONS)):
    for _next, _odds in branch_probabilities(_cell, _action).items():
        PROBS[_cell, _action, _next] = _odds


def make():
    return ADAPTER.make(ADAPTER.id, EnvSettings(id=ADAPTER.id))


@dataclass(frozen=True)
class ModeOnly:
    """Samples the mode of a distribution."""

    dist: OneHot

    @property
    def mode(self) -> Tensor:
        return self.dist.mode

    def sample(self, generator: torch.Generator) -> Tensor:
        return self.dist.mode


@pytest.fixture(scope="module")
def recording():
    return record(make, ADAPTER, episodes=30, length=60, seed=0)


def build_subject(recording, forecast=lambda dist: dist, draw=lambda cell: cell @ IMAGES.flatten(1)):
    """z is the cell as a one-hot, h the probabilities of the next cell; `draw` renders the image."""

    def read(obs):
        distance = torch.cdist(obs["image"].movedim(1, -1).flatten(1), IMAGES.flatten(1))
        return F.one_hot(distance.argmin(1), CELLS).float()

    def decode(features):
        mean = draw(features[:, -CELLS:]).unflatten(1, (16, 16, 3)).movedim(-1, 1)
        return {"image": Normal(mean, torch.ones_like(mean))}

    dynamics = GivenDynamics(
        CELLS,
        lambda z, a: torch.einsum("ns,na,sat->nt", z, a, PROBS),
        lambda h: forecast(OneHot(h[:, None].clamp(min=1e-12).log())),
    )
    obs = ObsSpec((("image", ArraySpec("image", (3, 16, 16))),))
    model = build_given_model(
        obs, ActionSpec("discrete", ACTIONS), CELLS, GivenEncoder(read), dynamics, GivenDecoder(decode)
    )
    return make_subject(model, recording, replace(TINY, contexts=4, outcomes=100), make_env=make)


def test_true_dynamics_has_the_variation_expected_by_chance(recording):
    found = coverage.measure(build_subject(recording))
    assert found["coverage/distinct"].value == 1 and found["coverage/nowhere"].value == 0
    distance, chance = found["coverage/total_variation"], found["coverage/by_chance"]
    assert abs(distance.value - chance.value) < 4 * distance.error and distance.value < 0.06


def test_the_mode_alone_reaches_one_of_four_states(recording):
    found = coverage.measure(build_subject(recording, forecast=ModeOnly))
    assert found["coverage/distinct"].value == pytest.approx(0.25)
    assert found["coverage/total_variation"].value == pytest.approx(0.6)  # 0.3 + 0.2 + 0.1


def test_an_image_between_two_cells_shows_no_state(recording):
    grey = IMAGES.flatten(1).mean(0)
    found = coverage.measure(build_subject(recording, draw=lambda cell: grey.expand(len(cell), -1)))
    assert found["coverage/nowhere"].value == 1 and found["coverage/distinct"].value == 0
    assert found["coverage/total_variation"].value == pytest.approx(1)


def test_every_recorded_crossing_provides_contexts(recording):
    pasts = coverage._find_contexts(build_subject(recording), PROBS.numpy(), make().unwrapped.state_of)
    assert set(pasts) <= BRANCH_CELLS and len(pasts) >= 3
    truth = recording.truth
    for cell, (episode, time) in pasts.items():
        assert ((4 * truth[episode, time, 0] + truth[episode, time, 1]) == cell).all() and 1 <= len(episode) <= 4


def test_expected_variation_matches_enumeration():
    odds, draws = np.array([0.4, 0.3, 0.2, 0.1, 0.0]), 4
    expected = 0.0
    for counts in itertools.product(range(draws + 1), repeat=5):
        if sum(counts) == draws:
            ways = math.factorial(draws) / math.prod(map(math.factorial, counts))
            chance = ways * math.prod(p**c for p, c in zip(odds, counts, strict=True))
            expected += chance * 0.5 * np.abs(np.array(counts) / draws - odds).sum()
    assert coverage.expected_variation(odds, draws) == pytest.approx(expected)
    assert coverage.expected_variation(np.array([1.0, 0.0]), 7) == 0


def test_is_undefined_without_transition_probs_images_or_context(recording):
    with pytest.raises(Undefined, match="not known"):
        coverage.measure(replace(build_subject(recording), make_env=FullyObserved))
    blind = build_subject(recording)
    blind.model.decoder.renders, blind.model.probe = False, None
    with pytest.raises(Undefined, match="neither the decoder nor a probe"):
        coverage.measure(blind)
    unseen = replace(recording, length=np.full(30, 3))
    with pytest.raises(Undefined, match="5 observations"):
        coverage.measure(build_subject(unseen))
