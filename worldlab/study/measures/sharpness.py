"""How much fine detail drawn pictures have, and whether it is the right detail: judged as the model draws them.

A blurred picture lacks energy in the highest band, a noisy one has too much: the ratio says which, not whether the detail is true.
So it stands beside a distance between drawn and real pictures (worldlab.study.measures.kid), which noise does not please.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from worldlab.study.measures.drawings import NO_ROOM, Drawings, Pictures, drawings_of
from worldlab.study.measures.intervals import by_episode, difference, jackknife, measurement
from worldlab.study.measures.kid import kid
from worldlab.study.measures.specimen import Specimen
from worldlab.study.results import Measurement


def measured(specimen: Specimen) -> dict[str, Measurement]:
    """sharpness/... Raises: Undefined where no pictures are observed, or the decoder draws none."""
    found = drawings_of(specimen)
    seen = _distance(found, found.posterior, found.episode)
    between = Measurement(None, why="no two recorded episodes that are not judged are as long as those that are")
    if found.middle is not None:
        between = _distance(found, *found.middle)
    out = {
        "sharpness/ratio_posterior": _detail(found, found.posterior),
        "sharpness/kid_posterior": seen,
        "sharpness/kid_middle": between,
        "sharpness/kid_between": difference(between, seen),
    }
    if found.dream is None:
        return out | {f"sharpness/{name}_dream": Measurement(None, why=NO_ROOM) for name in ("ratio", "kid")}
    return out | {
        "sharpness/ratio_dream": _detail(found, found.dream),
        "sharpness/kid_dream": _distance(found, found.dream, found.episode),
    }


def _detail(found: Drawings, drawn: Pictures) -> Measurement:
    energies = torch.stack([sum_energy(drawn), sum_energy(found.real)], 1)
    if float(energies[:, 1].sum()) <= 0:
        return Measurement(None, why="the real pictures have no detail at all")
    value, error = jackknife(by_episode(energies, found.episode), lambda sums: sums[:1] / sums[1:])
    return measurement(value[0], error[0])


def _distance(found: Drawings, drawn: Pictures, episode: Tensor) -> Measurement:
    features = found.basis.features
    return measurement(*kid(features(drawn), episode, features(found.real), found.episode))


def sum_energy(pictures: Pictures) -> Tensor:
    """Laplacian energy [N] of all pictures of a frame."""
    return torch.stack([laplacian_energy(value) for value in pictures.values()]).sum(0)


def laplacian_energy(picture: Tensor) -> Tensor:
    """Mean squared response [N] of the 4-neighbour Laplacian to pictures [N, C, H, W]: energy in the highest band."""
    kernel = picture.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    response = F.conv2d(picture.flatten(0, 1)[:, None], kernel[None, None])
    return response.square().flatten(1).mean(1).view(picture.shape[:2]).mean(1)
