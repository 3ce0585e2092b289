"""The pictures that a model draws of what it sees, dreams, and finds half-way between two frames, and the space they are compared in.

Drawn once for all measures that look at them: an autoregressive decoder takes long.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldlab.study.measures.kid import SMALLEST, random_features
from worldlab.study.measures.quantities import HORIZONS
from worldlab.study.measures.regress import finite
from worldlab.study.measures.specimen import SEEN, Specimen, plan, some
from worldlab.study.measures.undefined import Undefined

HORIZON = HORIZONS[-1]
"""Steps dreamt before a picture is drawn."""
CHUNK = 32
"""Pictures drawn at a time."""
NO_ROOM = f"no recorded episode goes on for {HORIZON} decisions after {SEEN} observations"

Pictures = dict[str, Tensor]
"""By observation key, float [N, C, H, W] in [0, 1]."""


@dataclass(frozen=True)
class Drawings:
    """Judged frames as they were and as the model draws them. episode int [N]: of the frames.

    posterior: of sampled latents there; dream: of dreams that began HORIZON steps before, along the actions taken, None where no
    episode is long enough; middle: half-way between the features of two frames, and of which pair of episodes each is, a number
    [N] that nothing else here has; None where no two episodes that are not judged are as long as those that are.
    """

    basis: Basis
    episode: Tensor
    real: Pictures
    posterior: Pictures
    dream: Pictures | None
    middle: tuple[Pictures, Tensor] | None


@dataclass(frozen=True)
class Basis:
    """The space in which pictures are compared: random features, centred at the real frames that are learned from and divided by
    their overall spread. One number for all: features that hardly move would else outweigh those that do."""

    middle: dict[str, Tensor]
    spread: dict[str, float]

    @classmethod
    def of(cls, pictures: Pictures) -> Basis:
        """Raises: Undefined if the pictures are all the same, or too small for the network."""
        side = min(min(value.shape[-2:]) for value in pictures.values())
        if side < SMALLEST:
            raise Undefined(f"pictures of {side} pixels: the network that compares them takes {SMALLEST} or more")
        features = {key: random_features(value) for key, value in pictures.items()}
        spread = {key: float(value.var(0).mean().sqrt()) for key, value in features.items()}
        if min(spread.values()) <= 0:
            raise Undefined("the recorded pictures never change")
        return cls({key: value.mean(0) for key, value in features.items()}, spread)

    def features(self, pictures: Pictures) -> Tensor:
        """[N, d], all keys beside each other."""
        found = [(random_features(value) - self.middle[key]) / self.spread[key] for key, value in pictures.items()]
        return torch.cat(found, 1)


def drawings_of(specimen: Specimen) -> Drawings:
    """What a model draws; drawn once. Raises: Undefined where no pictures are observed, or the decoder draws none."""
    if "drawings" not in specimen.memo:
        specimen.memo["drawings"] = _draw(specimen)
    return specimen.memo["drawings"]


def check_draws(specimen: Specimen) -> None:
    """Raises: Undefined where no pictures are observed, or the decoder draws none."""
    if not specimen.model.specs.obs.images:
        raise Undefined("the observation holds no pictures")
    if not specimen.model.decoder.renders:
        raise Undefined("the decoder does not draw: its pictures come from a probe outside of the model")


def _draw(specimen: Specimen) -> Drawings:
    check_draws(specimen)
    late = _late(specimen, HORIZON)
    frames = late or _late(specimen, 0)
    if frames is None:
        raise Undefined(f"no recorded episode has {SEEN} observations")
    episode, time = frames
    between = _between(specimen, HORIZON if late else 0)
    return Drawings(
        Basis.of(real(specimen, *some(*specimen.frames("fit"), 2 * specimen.sizes.pictures, specimen.seed))),
        episode,
        real(specimen, episode, time),
        drawn(specimen, specimen.noisy.features[episode, time]),
        drawn(specimen, _dreamt(specimen, episode, time)) if late else None,
        None if between is None else (drawn(specimen, between[0]), between[1]),
    )


def _late(specimen: Specimen, dreamt: int) -> tuple[Tensor, Tensor] | None:
    """Judged frames (episode, time) [N] that come at least SEEN - 1 + dreamt steps into an episode; None if there are none."""
    episode, time = specimen.frames("test")
    late = time >= SEEN - 1 + dreamt
    if not bool(late.any()):
        return None
    return some(episode[late], time[late], specimen.sizes.pictures, specimen.seed)


def _between(specimen: Specimen, dreamt: int) -> tuple[Tensor, Tensor] | None:
    """Features half-way between two frames [N, F], and what tells pairs of episodes apart [N]: of episodes that are not judged,
    two by two, so that no picture is compared with one it was made of; as late in them as those that are judged. None if no two
    are so long."""
    episode, time = specimen.frames("fit")
    there = time >= SEEN - 1 + dreamt
    episode, time = episode[there], time[there]
    numbers = episode.unique().tolist()
    pairs = list(zip(numbers[::2], numbers[1::2], strict=False))
    if not pairs:
        return None
    each = -(-specimen.sizes.pictures // len(pairs))
    features, found, groups = specimen.noisy.features, [], []
    for one, other in pairs:
        ends = [some(episode[episode == e], time[episode == e], each, specimen.seed + e) for e in (one, other)]
        count = min(len(end[0]) for end in ends)
        first, second = (features[e[:count], t[:count]] for e, t in ends)
        found.append((first + second) / 2)
        groups.append(torch.full((count,), one))
    return torch.cat(found), torch.cat(groups)


def real(specimen: Specimen, episode: Tensor, time: Tensor) -> Pictures:
    """The recorded frames (episode, time) [N]."""
    data = specimen.recording.data
    return {key: _floats(torch.from_numpy(data[key])[episode, time]) for key in specimen.model.specs.obs.images}


def drawn(specimen: Specimen, features: Tensor) -> Pictures:
    """Features [N, F] as the model draws them: samples where the decoder draws by sampling."""
    model, generator = specimen.model, specimen.generator("drawings")
    parts = [model.render(rows.to(model.device), generator) for rows in features.split(CHUNK)]
    return {key: _floats(torch.cat([part[key] for part in parts]).cpu()) for key in model.specs.obs.images}


@torch.no_grad()
def _dreamt(specimen: Specimen, episode: Tensor, time: Tensor) -> Tensor:
    """Features [N, F] where dreams stand that began HORIZON steps before frames (episode, time), along the actions taken."""
    model, before = specimen.model, time - HORIZON
    actions = plan(specimen.recording, episode, before, HORIZON).to(model.device)
    carry = specimen.noisy.at(episode.to(model.device), before.to(model.device))
    dream = model.imagine(carry, actions, HORIZON, specimen.generator("sharpness"))
    return finite(dream.features[:, -1].cpu(), "the dreams of this model")


def _floats(pictures: Tensor) -> Tensor:
    """uint8 [N, H, W, C] -> float [N, C, H, W] in [0, 1]."""
    return pictures.movedim(-1, 1).float() / 255
