"""Draws open-loop predictions: real, reconstructed and dreamt frames from the same start and actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from worldlab.experience.collect import to_batch
from worldlab.experience.replay import Replay
from worldlab.interfaces import Batch
from worldlab.runs.pictures import save_png, save_webp, side_by_side, strip, vector_strip
from worldlab.world_model import WorldModel

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

CONTEXT_FRAMES = 5
"""Frames the model observes before it dreams, as in DreamerV3's open-loop videos."""


@dataclass(frozen=True)
class OpenLoop:
    """Real data and two reconstructions of it, {key: [B, T, ...]} in the environment's units.

    reconstructed: from posterior features throughout. dreamt: from posterior features before `start`, then from a dream
    along the recorded actions. errors: {key: [B, T]} root mean squared error of `dreamt`, in the units of the
    observation (levels 0 to 255 for images).
    """

    real: dict[str, np.ndarray]
    reconstructed: dict[str, np.ndarray]
    dreamt: dict[str, np.ndarray]
    errors: dict[str, np.ndarray]
    start: int
    drawn_by: str


@torch.no_grad()
def open_loop(model: WorldModel, batch: Batch, generator: torch.Generator, start: int = CONTEXT_FRAMES) -> OpenLoop:
    """Filter `start` steps of a batch [B, T], then dream the rest along the recorded actions."""
    ctx, seen = model.observe(batch, generator)
    rows, length = batch.is_first.shape
    index = torch.arange(rows, device=batch.is_first.device)
    carry = seen.at(index, torch.full_like(index, start - 1))
    dream = model.imagine(carry, batch.prev_action[:, start:], length - start, generator)
    features = torch.cat([ctx.features[:, :start], dream.features[:, 1:]], 1)
    real = {key: _numpy(model.preprocess.restore(key, value)) for key, value in batch.obs.items()}
    shown = {key: _numpy(value) for key, value in _render(model, ctx.features, generator).items()}
    dreamt = {key: _numpy(value) for key, value in _render(model, features, generator).items()}
    errors = {key: _rmse(real[key], dreamt[key]) for key in real}
    return OpenLoop(real, shown, dreamt, errors, start, model.drawn_by)


def sample_unbroken(replay: Replay, model: WorldModel, count: int, length: int, seed: int) -> Batch:
    """Sample `count` sequences, preferring those without a reset: a dream cannot predict where an episode was cut."""
    sampled = replay.sample(count * 8, length, np.random.default_rng(seed))
    order = np.argsort(sampled["is_first"][:, 1:].sum(1), kind="stable")[:count]
    return to_batch({key: value[order] for key, value in sampled.items()}, model.preprocess, model.device)


def _render(model: WorldModel, features: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    rows, length = features.shape[:2]
    drawn = model.render(features.flatten(0, 1), generator)
    return {key: value.unflatten(0, (rows, length)) for key, value in drawn.items()}


def _numpy(value: Tensor) -> np.ndarray:
    return value.cpu().numpy()


def _rmse(real: np.ndarray, dreamt: np.ndarray) -> np.ndarray:
    error = (real.astype(np.float32) - dreamt.astype(np.float32)) ** 2
    return np.sqrt(error.reshape(*error.shape[:2], -1).mean(-1))


def picture(shown: OpenLoop, row: int = 0) -> Image:
    """Draw one sequence: rows of frames if the observation has an image, else line plots of a vector."""
    key = _main_key(shown)
    real, dreamt = shown.real[key][row], shown.dreamt[key][row]
    if real.ndim == 2:
        return vector_strip(real, dreamt, dream_from=shown.start)
    label = "reconstruction" if shown.drawn_by == "decoder" else "probe"
    rows = {"real": real, label: shown.reconstructed[key][row], "dream": dreamt}
    return strip(rows, dream_from=shown.start, errors={"dream": shown.errors[key][row]})


def video(shown: OpenLoop, row: int = 0) -> np.ndarray | None:
    """Return one sequence as labelled frames side by side, uint8 [T, H, W, 3]; None for vectors."""
    key = _main_key(shown)
    if shown.real[key].ndim != 5:
        return None
    label = "reconstruction" if shown.drawn_by == "decoder" else "probe"
    videos = {"real": shown.real[key][row], label: shown.reconstructed[key][row], "dream": shown.dreamt[key][row]}
    return side_by_side(videos, dream_from=shown.start)


def _main_key(shown: OpenLoop) -> str:
    return max(shown.real, key=lambda key: shown.real[key].ndim)


def save(shown: OpenLoop, folder: Path, name: str, fps: float = 10) -> list[Path]:
    """Write NAME.png and, for images, an animated NAME.webp for every row. Returns: the paths."""
    paths = []
    count = len(next(iter(shown.real.values())))
    for row in range(count):
        stem = name if count == 1 else f"{name}-{row}"
        paths.append(save_png(picture(shown, row), folder / f"{stem}.png"))
        frames = video(shown, row)
        if frames is not None:
            paths.append(save_webp(frames, folder / f"{stem}.webp", fps))
    return paths


__all__ = ["CONTEXT_FRAMES", "OpenLoop", "open_loop", "picture", "sample_unbroken", "save", "video"]
