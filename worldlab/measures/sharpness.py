"""How much fine detail drawn pictures have, and whether it is the right detail: judged as the model draws them.

A blurred picture lacks energy in the highest band, a noisy one has too much: the ratio says which, not whether the detail is true.
So it stands beside a distance between drawn and real pictures (worldlab.measures.kid), which noise does not please.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worldlab.compare.results import Measurement
from worldlab.measures.intervals import by_episode, jackknife, measurement
from worldlab.measures.kid import kid, random_features
from worldlab.measures.quantities import HORIZONS
from worldlab.measures.regress import finite
from worldlab.measures.specimen import SEEN, Specimen, plan, some
from worldlab.measures.undefined import Undefined

HORIZON = HORIZONS[-1]
"""Steps dreamt before a picture is drawn."""
CHUNK = 32
"""Pictures drawn at a time."""

Pictures = dict[str, Tensor]
"""By observation key, float [N, C, H, W] in [0, 1]."""


def measured(specimen: Specimen) -> dict[str, Measurement]:
    """sharpness/... Raises: Undefined where no pictures are observed, or the decoder draws none."""
    model = specimen.model
    if not model.specs.obs.images:
        raise Undefined("the observation holds no pictures")
    if not model.decoder.renders:
        raise Undefined("the decoder does not draw: its pictures come from a probe outside of the model")
    frames = _frames(specimen, HORIZON)
    dreams = frames is not None
    episode, time = frames or _frames(specimen, 0) or (None, None)
    if episode is None or time is None:
        raise Undefined(f"no recorded episode has {SEEN} observations")
    real = _real(specimen, episode, time)
    basis = _Basis.of(specimen)
    out = _compared("posterior", basis, real, _drawn(specimen, specimen.noisy.features[episode, time]), episode)
    if dreams:
        return out | _compared("dream", basis, real, _drawn(specimen, _dreamt(specimen, episode, time)), episode)
    missing = Measurement(None, why=f"no recorded episode goes on for {HORIZON} decisions after {SEEN} observations")
    return out | {f"sharpness/{name}_dream": missing for name in ("ratio", "kid")}


def laplacian_energy(picture: Tensor) -> Tensor:
    """Mean squared response [N] of the 4-neighbour Laplacian to pictures [N, C, H, W]: energy in the highest band."""
    kernel = picture.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    response = F.conv2d(picture.flatten(0, 1)[:, None], kernel[None, None])
    return response.square().flatten(1).mean(1).view(picture.shape[:2]).mean(1)


@dataclass(frozen=True)
class _Basis:
    """The space in which pictures are compared: random features, centred at the real frames that are learned from and divided by
    their overall spread. One number for all: features that hardly move would else outweigh those that do."""

    middle: dict[str, Tensor]
    spread: dict[str, float]

    @classmethod
    def of(cls, specimen: Specimen) -> _Basis:
        pictures = _real(specimen, *some(*specimen.frames("fit"), 2 * specimen.sizes.pictures, specimen.seed))
        features = {key: random_features(value) for key, value in pictures.items()}
        spread = {key: float(value.var(0).mean().sqrt()) for key, value in features.items()}
        if min(spread.values()) <= 0:
            raise Undefined("the recorded pictures never change")
        return cls({key: value.mean(0) for key, value in features.items()}, spread)

    def features(self, pictures: Pictures) -> Tensor:
        """[N, d], all keys beside each other."""
        found = [(random_features(value) - self.middle[key]) / self.spread[key] for key, value in pictures.items()]
        return torch.cat(found, 1)


def _compared(name: str, basis: _Basis, real: Pictures, drawn: Pictures, episode: Tensor) -> dict[str, Measurement]:
    energies = torch.stack([sum_energy(drawn), sum_energy(real)], 1)
    total = energies.sum(0)
    if float(total[1]) <= 0:
        ratio = Measurement(None, why="the real pictures have no detail at all")
    else:
        value, error = jackknife(by_episode(energies, episode), lambda sums: sums[:1] / sums[1:])
        ratio = measurement(value[0], error[0])
    distance = measurement(*kid(basis.features(drawn), episode, basis.features(real), episode))
    return {f"sharpness/ratio_{name}": ratio, f"sharpness/kid_{name}": distance}


def sum_energy(pictures: Pictures) -> Tensor:
    """Laplacian energy [N] of all pictures of a frame."""
    return torch.stack([laplacian_energy(value) for value in pictures.values()]).sum(0)


def _frames(specimen: Specimen, dreamt: int) -> tuple[Tensor, Tensor] | None:
    """Judged frames (episode, time) [N] that come at least SEEN - 1 + dreamt steps into an episode; None if there are none."""
    episode, time = specimen.frames("test")
    late = time >= SEEN - 1 + dreamt
    if not bool(late.any()):
        return None
    return some(episode[late], time[late], specimen.sizes.pictures, specimen.seed)


def _real(specimen: Specimen, episode: Tensor, time: Tensor) -> Pictures:
    data = specimen.recording.data
    return {key: _floats(torch.from_numpy(data[key])[episode, time]) for key in specimen.model.specs.obs.images}


@torch.no_grad()
def _dreamt(specimen: Specimen, episode: Tensor, time: Tensor) -> Tensor:
    """Features [N, F] where dreams stand that began HORIZON steps before frames (episode, time), along the actions taken."""
    model, before = specimen.model, time - HORIZON
    actions = plan(specimen.recording, episode, before, HORIZON).to(model.device)
    carry = specimen.noisy.at(episode.to(model.device), before.to(model.device))
    dream = model.imagine(carry, actions, HORIZON, specimen.generator("sharpness"))
    return finite(dream.features[:, -1].cpu(), "the dreams of this model")


def _drawn(specimen: Specimen, features: Tensor) -> Pictures:
    model = specimen.model
    parts = [model.render(some.to(model.device)) for some in features.split(CHUNK)]
    return {key: _floats(torch.cat([part[key] for part in parts]).cpu()) for key in model.specs.obs.images}


def _floats(pictures: Tensor) -> Tensor:
    """uint8 [N, H, W, C] -> float [N, C, H, W] in [0, 1]."""
    return pictures.movedim(-1, 1).float() / 255
