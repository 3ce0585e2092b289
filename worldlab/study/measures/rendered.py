"""Images that the model renders from posteriors, from dreams and half-way between two frames, and their feature space.

They are rendered once for all measures that use them, since an autoregressive decoder is slow.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldlab.study.measures.kid import MIN_SIDE, random_features
from worldlab.study.measures.measured_model import CONTEXT, MeasuredModel, gather_actions, sample_frames
from worldlab.study.measures.quantities import HORIZONS
from worldlab.study.measures.regression import check_finite
from worldlab.study.measures.undefined import Undefined

HORIZON = HORIZONS[-1]
"""Imagined steps before a dreamt image is rendered."""
CHUNK = 32
"""Images rendered per forward pass."""
TOO_SHORT = f"no recorded episode continues for {HORIZON} decisions after {CONTEXT} observations"

Images = dict[str, Tensor]
"""Images by observation key, float [N, C, H, W] in [0, 1]."""


@dataclass(frozen=True)
class RenderedImages:
    """Test frames as recorded and as the model renders them.

    space: the feature space of the comparison. episode int [N]: the episodes of the frames. real: the recorded frames.
    posterior: rendered from sampled latents. dream: rendered at the end of dreams that start HORIZON steps earlier and
    follow the recorded actions; None where no episode is long enough. midpoints: rendered half-way between the features
    of two frames, with the number [N] of the pair of episodes, which no test frame has; None where no two episodes
    outside of the test set are long enough.
    """

    space: FeatureSpace
    episode: Tensor
    real: Images
    posterior: Images
    dream: Images | None
    midpoints: tuple[Images, Tensor] | None


@dataclass(frozen=True)
class FeatureSpace:
    """The space in which images are compared: random features, centred at the mean of real frames and divided by their
    overall spread. One spread for all features: with one per feature, nearly constant features would dominate."""

    centre: dict[str, Tensor]
    spread: dict[str, float]

    @classmethod
    def fit(cls, images: Images) -> FeatureSpace:
        """Compute centre and spread. Raises: Undefined if all images are equal, or too small for the network."""
        side = min(min(value.shape[-2:]) for value in images.values())
        if side < MIN_SIDE:
            raise Undefined(f"images of {side} pixels: the network that compares them needs {MIN_SIDE} or more")
        features = {key: random_features(value) for key, value in images.items()}
        spread = {key: float(value.var(0).mean().sqrt()) for key, value in features.items()}
        if min(spread.values()) <= 0:
            raise Undefined("the recorded images never change")
        return cls({key: value.mean(0) for key, value in features.items()}, spread)

    def features(self, images: Images) -> Tensor:
        """Compute features [N, d], concatenated over observation keys."""
        scaled = [(random_features(value) - self.centre[key]) / self.spread[key] for key, value in images.items()]
        return torch.cat(scaled, 1)


def render_images(subject: MeasuredModel) -> RenderedImages:
    """Render all images, once per subject. Raises: Undefined where none are observed, or the decoder draws none."""
    if "rendered" not in subject.memo:
        subject.memo["rendered"] = _render_all(subject)
    return subject.memo["rendered"]


def check_renders(subject: MeasuredModel) -> None:
    """Raises: Undefined where no images are observed, or the decoder draws none."""
    if not subject.model.specs.obs.images:
        raise Undefined("the observation contains no images")
    if not subject.model.decoder.renders:
        raise Undefined("the decoder does not draw: its images come from a probe outside of the model")


def _render_all(subject: MeasuredModel) -> RenderedImages:
    check_renders(subject)
    dream_frames = _choose_frames(subject, HORIZON)
    frames = dream_frames or _choose_frames(subject, 0)
    if frames is None:
        raise Undefined(f"no recorded episode has {CONTEXT} observations")
    episode, time = frames
    midpoints = _compute_midpoints(subject, HORIZON if dream_frames else 0)
    fit_frames = sample_frames(*subject.frames("fit"), 2 * subject.sizes.images, subject.seed)
    return RenderedImages(
        FeatureSpace.fit(load_images(subject, *fit_frames)),
        episode,
        load_images(subject, episode, time),
        render(subject, subject.sampled_trace.features[episode, time]),
        render(subject, _dream_features(subject, episode, time)) if dream_frames else None,
        None if midpoints is None else (render(subject, midpoints[0]), midpoints[1]),
    )


def _choose_frames(subject: MeasuredModel, horizon: int) -> tuple[Tensor, Tensor] | None:
    """Choose test frames (episode, time) [N] at least CONTEXT - 1 + horizon steps into an episode, or return None."""
    episode, time = subject.frames("test")
    late = time >= CONTEXT - 1 + horizon
    if not bool(late.any()):
        return None
    return sample_frames(episode[late], time[late], subject.sizes.images, subject.seed)


def _compute_midpoints(subject: MeasuredModel, horizon: int) -> tuple[Tensor, Tensor] | None:
    """Compute features half-way between two frames [N, F], and the number of the pair of episodes [N].

    The frames come from pairs of episodes outside of the test set, so that no image is compared with its own source,
    and are as late in their episodes as the test frames. Returns None if no two episodes are long enough.
    """
    episode, time = subject.frames("fit")
    late = time >= CONTEXT - 1 + horizon
    episode, time = episode[late], time[late]
    numbers = episode.unique().tolist()
    pairs = list(zip(numbers[::2], numbers[1::2], strict=False))
    if not pairs:
        return None
    each = -(-subject.sizes.images // len(pairs))
    features, midpoints, groups = subject.sampled_trace.features, [], []
    for pair in pairs:
        ends = [sample_frames(episode[episode == e], time[episode == e], each, subject.seed + e) for e in pair]
        count = min(len(end[0]) for end in ends)
        first, second = (features[e[:count], t[:count]] for e, t in ends)
        midpoints.append((first + second) / 2)
        groups.append(torch.full((count,), pair[0]))
    return torch.cat(midpoints), torch.cat(groups)


def load_images(subject: MeasuredModel, episode: Tensor, time: Tensor) -> Images:
    """Return the recorded images of frames (episode, time) [N]."""
    data = subject.recording.data
    return {key: _to_float(torch.from_numpy(data[key])[episode, time]) for key in subject.model.specs.obs.images}


def render(subject: MeasuredModel, features: Tensor) -> Images:
    """Render features [N, F] as the model draws them: samples where `Decoder.draws` is "sample"."""
    model, generator = subject.model, subject.generator("drawings")
    parts = [model.render(rows.to(model.device), generator) for rows in features.split(CHUNK)]
    return {key: _to_float(torch.cat([part[key] for part in parts]).cpu()) for key in model.specs.obs.images}


@torch.no_grad()
def _dream_features(subject: MeasuredModel, episode: Tensor, time: Tensor) -> Tensor:
    """Imagine HORIZON steps along the recorded actions that lead to frames (episode, time); return the last features
    [N, F]."""
    model, before = subject.model, time - HORIZON
    actions = gather_actions(subject.recording, episode, before, HORIZON).to(model.device)
    carry = subject.sampled_trace.at(episode.to(model.device), before.to(model.device))
    dream = model.imagine(carry, actions, HORIZON, subject.generator("sharpness"))
    return check_finite(dream.features[:, -1].cpu(), "the dreams of this model")


def _to_float(images: Tensor) -> Tensor:
    """Convert uint8 [N, H, W, C] to float [N, C, H, W] in [0, 1]."""
    return images.movedim(-1, 1).float() / 255
