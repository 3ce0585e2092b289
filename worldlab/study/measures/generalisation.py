"""Does a model know held-out pictures as well as those it was trained on?

The same numbers of frames from the run's own replay and of judged ones: the error of pictures drawn from posteriors, which every
decoder that draws has, and the bits of frames given z, which only densities have. The difference is what was learned by heart,
as far as the run's early experience is like the judged episodes: both are random play.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from worldlab.study.measures.bits import no_likelihood
from worldlab.study.measures.drawings import check_draws, drawn, real
from worldlab.study.measures.intervals import difference, mean
from worldlab.study.measures.specimen import Specimen, some
from worldlab.study.results import Measurement


def measured(specimen: Specimen) -> dict[str, Measurement]:
    """generalisation/... Raises: Undefined where the model draws nothing, or the run kept no replay."""
    check_draws(specimen)
    trained = specimen.with_recording(specimen.experience())
    frames = specimen.frames("test"), trained.every_frame()
    held_out, known = _errors(specimen, *frames[0]), _errors(trained, *frames[1])
    return {
        "generalisation/error": held_out,
        "generalisation/error_gap": difference(held_out, known),
        "generalisation/bits_gap": _bits_gap(specimen, trained, *frames),
    }


def _errors(specimen: Specimen, episode: Tensor, time: Tensor) -> Measurement:
    """Mean absolute error of pictures drawn from posteriors, in grey levels."""
    at = some(episode, time, specimen.sizes.pictures, specimen.seed)
    pictures, truth = drawn(specimen, specimen.noisy.features[at]), real(specimen, *at)
    apart = torch.cat([(pictures[key] - truth[key]).abs().flatten(1) for key in truth], 1)
    return mean(255 * apart.double().mean(1), at[0])


def _bits_gap(judged: Specimen, trained: Specimen, *frames: tuple[Tensor, ...]) -> Measurement:
    why = no_likelihood(judged.model)
    if why:
        return Measurement(None, why=why)
    dimensions = sum(math.prod(spec.shape) for spec in judged.model.specs.obs.images.values())
    found = []
    for one, (episode, time) in zip((judged, trained), frames, strict=True):
        at = some(episode, time, one.sizes.pictures, one.seed)
        found.append(mean(-_log_mass(one, *at) / (dimensions * math.log(2)), at[0]))
    return difference(*found)


@torch.no_grad()
def _log_mass(specimen: Specimen, episode: Tensor, time: Tensor) -> Tensor:
    """log P(o | h, z) of frames (episode, time) [M] at sampled latents, float64 in nats."""
    model, generator = specimen.model, specimen.generator("generalisation")
    features = specimen.noisy.features[episode, time].to(model.device)
    return model.log_mass(features, specimen.obs(episode, time), generator).double().cpu()
