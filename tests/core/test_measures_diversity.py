"""Dreams that are like the real pictures, all alike, or copies: by hand where it can be counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from measures_kit import TINY, GivenDecoder, GivenDynamics, GivenEncoder, model_of, specimen_of
from model_kit import gen
from test_measures_sharpness import PICTURE, SIDE, recording

from worldlab.distributions import Normal
from worldlab.measures import diversity
from worldlab.measures.undefined import Undefined
from worldlab.specs import ActionSpec


def test_surroundings_are_counted_among_other_episodes_by_hand():
    """Real ones at 0, 1, 2, ... 11, each an episode. The 5th nearest of 0 is at 5, of 6 at a distance of 3."""
    real, episode = torch.arange(12.0)[:, None], torch.arange(12)
    radius = [sorted(abs(i - j) for j in range(12) if j != i)[4] for i in range(12)]
    drawn = torch.tensor([[0.0], [6.5], [40.0]])
    near, covered = diversity.neighbourhoods(real, drawn, episode)
    assert near.tolist() == [sum(abs(d - i) <= radius[i] for i in range(12)) / 5 for d in (0, 6.5, 40)]
    assert covered.tolist() == [float(any(abs(d - i) <= radius[i] for d in (0, 6.5, 40))) for i in range(12)]
    # Its own episode is no neighbour: in two episodes of six, 0 reaches to 10.
    near, _ = diversity.neighbourhoods(real, torch.tensor([[10.0]]), episode // 6)
    assert near.item() * 5 == sum(
        abs(10 - i) <= max(abs(i - j) for j in ((6, 10) if i < 6 else (1, 5))) for i in range(12)
    )
    with pytest.raises(Undefined, match="fewer than 5"):
        diversity.neighbourhoods(real[:5], drawn, episode[:5])


def test_the_same_distribution_has_density_one_and_is_covered():
    x, y = (torch.randn(400, 4, generator=gen(seed)).double() for seed in (0, 1))
    near, covered = diversity.neighbourhoods(x, y, torch.arange(400))
    assert near.mean().item() == pytest.approx(1, abs=0.1)
    assert covered.mean().item() > 0.9  # 1 - 2^-k for large n
    near, covered = diversity.neighbourhoods(x, y[:1].expand(400, -1), torch.arange(400))
    assert covered.mean().item() < 0.1
    near, covered = diversity.neighbourhoods(x, 5 * y, torch.arange(400))
    assert near.mean().item() < 0.3


def dreaming(dream, trained, episodes=20):
    """z is the picture; a dream ends with dream(z)."""
    size = 3 * SIDE * SIDE
    dynamics = GivenDynamics(size, lambda z, a: z, lambda h: Normal(dream(h), torch.full_like(h, 1e-6)))

    def draw(features):
        picture = features[:, -size:].unflatten(1, (3, SIDE, SIDE))
        return {"image": Normal(picture, torch.ones_like(picture))}

    encoder = GivenEncoder(lambda obs: obs["image"].flatten(1))
    model = model_of(PICTURE, ActionSpec("continuous", 1), size, encoder, dynamics, GivenDecoder(draw))
    sizes = replace(TINY, pictures=96, trained=2000)
    return diversity.measured(specimen_of(model, recording(episodes=episodes), sizes, experience=trained))


def test_copies_are_nearer_to_what_was_trained_on_than_real_pictures_are():
    known = replace(
        recording(), data={k: (np.roll(v, 7, 2) if k == "image" else v) for k, v in recording().data.items()}
    )
    repeats = torch.from_numpy(known.data["image"][0, 0]).movedim(-1, 0).float().flatten() / 255 - 0.5
    honest, copying = dreaming(lambda h: h, lambda: known), dreaming(lambda h: repeats.expand_as(h), lambda: known)
    assert copying["diversity/copies"].value == pytest.approx(0, abs=0.02)
    assert honest["diversity/copies"].value == pytest.approx(
        1, abs=1e-3
    )  # a real frame from 15 steps before, as far as any
    assert copying["diversity/coverage"].value < 0.9 < honest["diversity/coverage"].value


def test_without_a_replay_copies_are_undefined_and_the_rest_is_not():
    def gone():
        raise Undefined("the run folder holds no replay")

    found = dreaming(lambda h: h, gone)
    assert (
        found["diversity/copies"].why == "the run folder holds no replay"
        and found["diversity/density"].value is not None
    )
    same = dreaming(lambda h: h, recording)
    assert same["diversity/copies"].why == "every judged picture was trained on"
