"""Diversity and novelty of dreamt images, by nearest neighbours in the features of a fixed random network.

Density and coverage: Naeem et al. 2020, arXiv:2002.09797, equations 3 and 4. Blurred images are far from all real ones
(low density); a model that repeats a few images leaves most real ones without a neighbour (low coverage); a model that
repeats its training images is closer to them than to an equal number of unseen images (copies below 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldlab.study.measures.measured_model import MeasuredModel, sample_frames
from worldlab.study.measures.rendered import TOO_SHORT, load_images, render_images
from worldlab.study.measures.standard_errors import average_frames, jackknife, make_measurement, sum_by_episode
from worldlab.study.measures.undefined import Undefined
from worldlab.study.results import Measurement

NEIGHBOURS = 5
"""k: the neighbourhood of a real image has the radius of its k-th nearest real image in another episode."""


def measure(subject: MeasuredModel) -> dict[str, Measurement]:
    """Measure diversity/... Raises: Undefined where the model draws no images, or episodes are too short to dream."""
    images = render_images(subject)
    if images.dream is None:
        raise Undefined(TOO_SHORT)
    real, dreamt = images.space.features(images.real), images.space.features(images.dream)
    density, covered = compute_density_and_coverage(real, dreamt, images.episode, images.episode)
    return {
        "diversity/density": average_frames(density, images.episode),
        "diversity/coverage": average_frames(covered, images.episode),
        "diversity/copies": _measure_copies(subject, dreamt, images.episode),
    }


def compute_density_and_coverage(
    real: Tensor, drawn: Tensor, episode: Tensor, start_episode: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute density and coverage of drawn features [M, d] with respect to real features [N, d].

    episode int [N]: the episodes of the real images. start_episode int [M]: the episodes in which the dreams started.
    Frames of one episode are correlated, so neighbours are searched in other episodes only.
    Returns: for each drawn image, the number of real neighbourhoods that contain it over NEIGHBOURS, [M]; for each real
    image, whether its neighbourhood contains a drawn one, [N] 0 or 1.
    Raises: Undefined with fewer than NEIGHBOURS images in other episodes.
    """
    distance = _distances(real, real).masked_fill(episode[:, None] == episode, torch.inf)
    if len(real) <= NEIGHBOURS or bool(distance.isfinite().sum(1).lt(NEIGHBOURS).any()):
        raise Undefined(f"fewer than {NEIGHBOURS} recorded images of other episodes")
    radius = distance.kthvalue(NEIGHBOURS, 1).values
    inside = (_distances(drawn, real) <= radius) & (start_episode[:, None] != episode)
    return inside.double().sum(1) / NEIGHBOURS, inside.any(0).double()


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Compute distances [N, M]: exactly 0 between equal rows, unlike with the faster matrix-product formula."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _measure_copies(subject: MeasuredModel, dreamt: Tensor, episode: Tensor) -> Measurement:
    """Divide the distance from dreams to the nearest training image by that to the nearest of as many unseen images.

    Unrealistic images are far from both sets and give a ratio near 1.
    """
    try:
        trained = subject.with_recording(subject.load_training_episodes())
    except Undefined as error:
        return Measurement(None, why=str(error))
    unseen, seen = subject.frames("fit"), trained.all_frames()
    count = min(subject.sizes.training_images, len(unseen[0]), len(seen[0]))
    space = render_images(subject).space
    pools = [
        space.features(load_images(source, *sample_frames(*frames, count, source.seed)))
        for source, frames in ((trained, seen), (subject, unseen))
    ]
    nearest = torch.stack([_distances(dreamt, pool).amin(1) for pool in pools], 1)
    if float(nearest[:, 1].sum()) <= 0:
        return Measurement(None, why="every dreamt image equals a recorded one")
    value, error = jackknife(sum_by_episode(nearest, episode), lambda sums: sums[:1] / sums[1:])
    return make_measurement(value[0], error[0])
