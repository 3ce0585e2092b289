"""Makes an animated WebP of a game: the real frames, the reconstruction and the dream side by side."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldlab.cli.web.play.frames import real_picture
from worldlab.evaluation.playing.session import Moment, PlaySession
from worldlab.evaluation.playing.views import main_key
from worldlab.runs.pictures import side_by_side, webp_bytes

FPS = 15
CURVE_SIZE = (150, 225)
"""Height and width of the curves that stand for the pictures of a model of vectors."""
ENTRIES = 4
"""Entries of a vector that are drawn: those that vary most."""


def film_bytes(session: PlaySession, fps: float = FPS) -> bytes:
    """Return the timeline of a session as an animated WebP; what has not been drawn is drawn now."""
    return webp_bytes(film_frames(session), fps)


def film_frames(session: PlaySession) -> np.ndarray:
    """Return the timeline of a session as frames, uint8 [T, H, W, 3]."""
    moments = list(session.moments)
    drawings = [session.draw(moment) for moment in moments]
    videos: dict[str, Any] = {}
    real = [real_picture(moment) for moment in moments]
    if all(picture is not None for picture in real):
        videos["real"] = np.stack([picture for picture in real if picture is not None])
    key = main_key(moments[0].obs)
    for index, played in enumerate(session.models):
        suffix = f" {'AB'[index]}" if len(session.models) > 1 else ""
        drawn = [drawing[index] for drawing in drawings]
        shown = [drawing for drawing in drawn if drawing is not None]
        if len(shown) < len(moments):
            continue
        reconstruction = np.stack([drawing.reconstruction[key] for drawing in shown])
        dream = np.stack([drawing.dream[key] for drawing in shown])
        if reconstruction.ndim == 2:
            truth = np.stack([moment.obs[key] for moment in moments])
            videos[f"real and dream{suffix}"] = curve_frames(truth, dream, _dream_start(moments))
            continue
        label = "reconstruction" if played.model.drawn_by == "decoder" else "probe"
        videos |= {f"{label}{suffix}": reconstruction, f"dream{suffix}": dream}
    return side_by_side(videos, dream_from=_dream_start(moments))


def curve_frames(real: np.ndarray, dream: np.ndarray, start: int) -> np.ndarray:
    """Draw the entries of vectors [T, D] as curves that grow: black real, red dreamt. Returns uint8 [T, H, W, 3]."""
    from PIL import Image, ImageDraw

    from worldlab.runs.pictures import DREAM, GRID, INK, PAPER

    height, width = CURVE_SIZE
    shown = np.sort(np.argsort(-real.std(0), kind="stable")[:ENTRIES])
    low = np.minimum(real, dream).min(0)
    span = np.maximum(np.maximum(real, dream).max(0) - low, 1e-6)
    lane = height / len(shown)
    xs = np.linspace(4, width - 4, max(2, len(real)))
    frames = np.empty((len(real), height, width, 3), np.uint8)
    for when in range(len(real)):
        image = Image.new("RGB", (width, height), PAPER)
        draw = ImageDraw.Draw(image)
        for row, entry in enumerate(shown):
            draw.line([(0, (row + 1) * lane - 1), (width, (row + 1) * lane - 1)], GRID)
            for values, colour, first in ((real, INK, 0), (dream, DREAM, start)):
                ys = (row + 1) * lane - 5 - (lane - 10) * (values[:, entry] - low[entry]) / span[entry]
                points = list(zip(xs[first : when + 1].tolist(), ys[first : when + 1].tolist()))
                if len(points) > 1:
                    draw.line(points, colour, 2)
        frames[when] = np.asarray(image)
    return frames


def _dream_start(moments: list[Moment]) -> int:
    """Return the index of the first moment that is dreamt; dreams that began anew count from the last beginning."""
    follows = [index for index, moment in enumerate(moments) if moment.dreamt_for == 0]
    return min((follows[-1] if follows else -1) + 1, len(moments) - 1)
