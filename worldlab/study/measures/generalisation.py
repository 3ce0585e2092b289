"""How much worse a model reconstructs held-out images than images it was trained on.

Both sets have the same number of frames: one from the run's own replay, one from the test episodes. Two errors are
compared: the error of images rendered from posteriors, for every decoder that draws, and the bits of frames given z,
for decoders with a density. The difference measures memorisation, provided that the run's early experience resembles
the test episodes: both are random play.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from worldlab.study.measures.bits import why_no_likelihood
from worldlab.study.measures.measured_model import MeasuredModel, sample_frames
from worldlab.study.measures.rendered import check_renders, load_images, render
from worldlab.study.measures.standard_errors import average_frames, subtract
from worldlab.study.results import Measurement


def measure(subject: MeasuredModel) -> dict[str, Measurement]:
    """Measure generalisation/... Raises: Undefined where the model draws no images, or the run has no replay."""
    check_renders(subject)
    trained = subject.with_recording(subject.load_training_episodes())
    frames = subject.frames("test"), trained.all_frames()
    held_out, seen = _measure_error(subject, *frames[0]), _measure_error(trained, *frames[1])
    return {
        "generalisation/error": held_out,
        "generalisation/error_gap": subtract(held_out, seen),
        "generalisation/bits_gap": _measure_bits_gap(subject, trained, *frames),
    }


def _measure_error(subject: MeasuredModel, episode: Tensor, time: Tensor) -> Measurement:
    """Measure the mean absolute error of images rendered from posteriors, in grey levels."""
    at = sample_frames(episode, time, subject.sizes.images, subject.seed)
    images, truth = render(subject, subject.sampled_trace.features[at]), load_images(subject, *at)
    error = torch.cat([(images[key] - truth[key]).abs().flatten(1) for key in truth], 1)
    return average_frames(255 * error.double().mean(1), at[0])


def _measure_bits_gap(held_out: MeasuredModel, trained: MeasuredModel, *frames: tuple[Tensor, ...]) -> Measurement:
    why = why_no_likelihood(held_out.model)
    if why:
        return Measurement(None, why=why)
    dimensions = sum(math.prod(spec.shape) for spec in held_out.model.specs.obs.images.values())
    bits = []
    for subject, (episode, time) in zip((held_out, trained), frames, strict=True):
        at = sample_frames(episode, time, subject.sizes.images, subject.seed)
        bits.append(average_frames(-_log_likelihood(subject, *at) / (dimensions * math.log(2)), at[0]))
    return subtract(*bits)


@torch.no_grad()
def _log_likelihood(subject: MeasuredModel, episode: Tensor, time: Tensor) -> Tensor:
    """Compute log P(o | h, z) of frames (episode, time) [M] at sampled latents, float64 in nats."""
    model, generator = subject.model, subject.generator("generalisation")
    features = subject.sampled_trace.features[episode, time].to(model.device)
    return model.log_mass(features, subject.obs(episode, time), generator).double().cpu()
