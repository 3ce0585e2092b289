"""How much fine detail rendered images have, and whether it is realistic. Images are rendered as the model draws them.

A blurred image lacks energy in the highest frequency band, a noisy one has too much. The ratio measures the amount of
detail but not its realism, so it is reported beside a distance between rendered and real images
(worldlab.study.measures.kid), which noise increases.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from worldlab.study.measures.kid import kid
from worldlab.study.measures.measured_model import MeasuredModel
from worldlab.study.measures.rendered import TOO_SHORT, Images, RenderedImages, render_images
from worldlab.study.measures.standard_errors import jackknife, make_measurement, subtract, sum_by_episode
from worldlab.study.results import Measurement


def measure(subject: MeasuredModel) -> dict[str, Measurement]:
    """Measure sharpness/... Raises: Undefined where no images are observed, or the decoder draws none."""
    images = render_images(subject)
    posterior = _measure_kid(images, images.posterior, images.episode)
    middle = Measurement(None, why="no two recorded episodes outside of the test set are as long as the test episodes")
    if images.midpoints is not None:
        middle = _measure_kid(images, *images.midpoints)
    out = {
        "sharpness/ratio_posterior": _measure_ratio(images, images.posterior),
        "sharpness/kid_posterior": posterior,
        "sharpness/kid_middle": middle,
        "sharpness/kid_between": subtract(middle, posterior),
    }
    if images.dream is None:
        return out | {f"sharpness/{name}_dream": Measurement(None, why=TOO_SHORT) for name in ("ratio", "kid")}
    return out | {
        "sharpness/ratio_dream": _measure_ratio(images, images.dream),
        "sharpness/kid_dream": _measure_kid(images, images.dream, images.episode),
    }


def _measure_ratio(images: RenderedImages, rendered: Images) -> Measurement:
    energies = torch.stack([_sum_energy(rendered), _sum_energy(images.real)], 1)
    if float(energies[:, 1].sum()) <= 0:
        return Measurement(None, why="the real images have no detail at all")
    value, error = jackknife(sum_by_episode(energies, images.episode), lambda sums: sums[:1] / sums[1:])
    return make_measurement(value[0], error[0])


def _measure_kid(images: RenderedImages, rendered: Images, episode: Tensor) -> Measurement:
    features = images.space.features
    return make_measurement(*kid(features(rendered), episode, features(images.real), images.episode))


def _sum_energy(images: Images) -> Tensor:
    """Sum the Laplacian energy [N] over the images of each frame."""
    return torch.stack([laplacian_energy(value) for value in images.values()]).sum(0)


def laplacian_energy(image: Tensor) -> Tensor:
    """Compute the mean squared response [N] of the 4-neighbour Laplacian to images [N, C, H, W]."""
    kernel = image.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    response = F.conv2d(image.flatten(0, 1)[:, None], kernel[None, None])
    return response.square().flatten(1).mean(1).view(image.shape[:2]).mean(1)
