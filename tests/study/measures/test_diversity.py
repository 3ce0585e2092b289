"""Diversity of dreams that match the real images, are all equal, or copy training images."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from measures_kit import TINY, GivenDecoder, GivenDynamics, GivenEncoder, build_given_model, make_subject
from model_kit import gen
from squares_kit import IMAGE, SIDE, recording

from worldlab.distributions import Normal
from worldlab.specs import ActionSpec
from worldlab.study.measures import diversity
from worldlab.study.measures.undefined import Undefined


def test_neighbourhoods_match_counting_by_hand():
    """Real images at 0, 1, ... 11, one per episode: the 5th neighbour of 0 is 5 away, that of 6 is 3."""
    real, episode = torch.arange(12.0)[:, None], torch.arange(12)
    radius = [sorted(abs(i - j) for j in range(12) if j != i)[4] for i in range(12)]
    drawn = torch.tensor([[0.0], [6.5], [40.0]])
    near, covered = diversity.compute_density_and_coverage(real, drawn, episode, torch.full((3,), -1))
    assert near.tolist() == [sum(abs(d - i) <= radius[i] for i in range(12)) / 5 for d in (0, 6.5, 40)]
    assert covered.tolist() == [float(any(abs(d - i) <= radius[i] for d in (0, 6.5, 40))) for i in range(12)]
    # Frames of the same episode are no neighbours: in two episodes of six, the neighbourhood of 0 extends to 10.
    near, _ = diversity.compute_density_and_coverage(real, torch.tensor([[10.0]]), episode // 6, torch.tensor([-1]))
    inside = [abs(10 - i) <= max(abs(i - j) for j in ((6, 10) if i < 6 else (1, 5))) for i in range(12)]
    assert near.item() * 5 == sum(inside)
    # A dream has no neighbours in the episode where it started.
    near, _ = diversity.compute_density_and_coverage(real, torch.tensor([[10.0]]), episode // 6, torch.tensor([1]))
    assert near.item() * 5 == sum(inside[:6])
    with pytest.raises(Undefined, match="fewer than 5"):
        diversity.compute_density_and_coverage(real[:5], drawn, episode[:5], torch.full((3,), -1))


def test_samples_of_the_same_distribution_have_density_one_and_full_coverage():
    x, y = (torch.randn(400, 4, generator=gen(seed)).double() for seed in (0, 1))
    near, covered = diversity.compute_density_and_coverage(x, y, torch.arange(400), none := torch.full((400,), -1))
    assert near.mean().item() == pytest.approx(1, abs=0.1)
    assert covered.mean().item() > 0.9  # 1 - 2^-k for large n
    near, covered = diversity.compute_density_and_coverage(x, y[:1].expand(400, -1), torch.arange(400), none)
    assert covered.mean().item() < 0.1
    near, covered = diversity.compute_density_and_coverage(x, 5 * y, torch.arange(400), none)
    assert near.mean().item() < 0.3


def test_one_image_per_episode_has_low_coverage():
    """Frames of an episode are correlated: a dream that repeats one frame must not cover its whole episode."""
    centre = 3 * torch.randn(8, 4, generator=gen(0)).double().repeat_interleave(6, 0)
    x, y = (centre + torch.randn(48, 4, generator=gen(seed)).double() for seed in (1, 2))
    episode = torch.arange(48) // 6
    near, covered = diversity.compute_density_and_coverage(x, y, episode, episode)
    assert near.mean().item() == pytest.approx(1, abs=0.25) and covered.mean().item() > 0.8
    one = y[::6].repeat_interleave(6, 0)
    _, fewer = diversity.compute_density_and_coverage(x, one, episode, episode)
    assert fewer.mean().item() < covered.mean().item() - 0.1


def dreaming(dream, trained, episodes=20):
    """Measure diversity of a model whose z is the image; a dream ends with dream(z)."""
    size = 3 * SIDE * SIDE
    dynamics = GivenDynamics(size, lambda z, a: z, lambda h: Normal(dream(h), torch.full_like(h, 1e-6)))

    def draw(features):
        picture = features[:, -size:].unflatten(1, (3, SIDE, SIDE))
        return {"image": Normal(picture, torch.ones_like(picture))}

    encoder = GivenEncoder(lambda obs: obs["image"].flatten(1))
    model = build_given_model(IMAGE, ActionSpec("continuous", 1), size, encoder, dynamics, GivenDecoder(draw))
    sizes = replace(TINY, images=96, training_images=2000)
    return diversity.measure(make_subject(model, recording(episodes=episodes), sizes, load_training_episodes=trained))


def test_copies_are_closer_to_training_images_than_to_unseen_ones():
    # The recording has equally many fit frames: eight episodes.
    data = {k: (v[:, :, :, ::-1].copy() if k == "image" else v) for k, v in recording(episodes=8).data.items()}
    known = replace(recording(episodes=8), data=data)
    repeats = torch.from_numpy(known.data["image"][0, 0]).movedim(-1, 0).float().flatten() / 255 - 0.5
    honest, copying = dreaming(lambda h: h, lambda: known), dreaming(lambda h: repeats.expand_as(h), lambda: known)
    noise = dreaming(lambda h: torch.randn(h.shape, generator=gen(3)).clamp(-0.5, 0.5), lambda: known)
    assert copying["diversity/copies"].value == pytest.approx(0, abs=0.02)
    # Unseen real frames, and unrealistic images.
    assert honest["diversity/copies"].value == pytest.approx(1, abs=0.1)
    assert noise["diversity/copies"].value == pytest.approx(1, abs=0.1)
    assert copying["diversity/coverage"].value < 0.9 < honest["diversity/coverage"].value


def test_only_copies_are_undefined_without_a_replay():
    def gone():
        raise Undefined("the run folder holds no replay")

    found = dreaming(lambda h: h, gone)
    assert (
        found["diversity/copies"].why == "the run folder holds no replay"
        and found["diversity/density"].value is not None
    )
    seen = torch.from_numpy(recording().data["image"][recording().frames("fit")][0]).movedim(-1, 0).float().flatten()
    same = dreaming(lambda h: (seen / 255 - 0.5).expand_as(h), recording)
    assert same["diversity/copies"].why == "every dreamt image equals a recorded one"
