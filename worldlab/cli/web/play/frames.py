"""Turns moments, futures and codes into messages for the page: a header and pictures (worldlab.cli.web.pack)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from worldlab.cli.web.pack import pack
from worldlab.evaluation.open_loop import CONTEXT_FRAMES
from worldlab.evaluation.playing.futures import Futures, draw_futures, drawn_steps
from worldlab.evaluation.playing.session import Moment, PlaySession
from worldlab.evaluation.playing.views import Drawing, main_key
from worldlab.runs.pictures import as_frames, png_bytes

WIDEST = 360
"""Width in pixels to which larger pictures are reduced."""
CONTEXT_SECONDS = 0.02
"""How long a picture is expected to take before the first one has been drawn."""


def hello(session: PlaySession, names: list[dict[str, Any]], game: str) -> dict[str, Any]:
    """Return the description of a game. names: what to say of each run."""
    models = []
    for index, played in enumerate(session.models):
        models.append(
            {
                **names[index],
                "draws": played.draws,
                "by": played.model.drawn_by if played.draws else "",
                "temperature": played.has_temperature,
                "codes": session.codes(index).summary(),
                "predicts": sorted(session.now.views[index].seen),
            }
        )
    key = main_key(session.now.obs)
    return {
        "type": "hello",
        "game": game,
        "models": models,
        "controls": session.controls.summary(),
        "context": CONTEXT_FRAMES,
        "shows": "pictures" if session.now.obs[key].ndim == 3 else "numbers",
        "rendered": session.now.rendering is not None,
    }


def frame(session: PlaySession, moment: Moment, drawings: list[Drawing | None] | None, state: dict[str, Any]) -> bytes:
    """Return the message that shows a moment. drawings: None if the models have not drawn it (yet). state: of the game."""
    key = main_key(moment.obs)
    named: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    real = real_picture(moment)
    if real is not None:
        named.append({"what": "real"})
        blobs.append(png_bytes(real, quick=True))
    vectors: dict[str, Any] = {} if moment.obs[key].ndim == 3 else {"real": _numbers(moment.obs[key])}
    models: list[dict[str, Any]] = []
    for index, view in enumerate(moment.views):
        drawing = drawings[index] if drawings else None
        models.append({"seen": _finite(view.seen), "dreamt": _finite(view.dreamt)})
        if drawing is None:
            continue
        models[-1] |= {"error": drawing.error, "seconds": round(drawing.seconds, 4)}
        for what, drawn in (("reconstruction", drawing.reconstruction), ("dream", drawing.dream)):
            if vectors:
                models[-1][what] = _numbers(drawn[key])
            else:
                named.append({"what": what, "model": index})
                blobs.append(png_bytes(_shown(drawn[key]), quick=True))
    header = {
        "type": "frame",
        "at": moment.number,
        "first": session.moments[0].number,
        "last": session.now.number,
        "ended": "terminated" if moment.terminated else "truncated" if moment.truncated else "",
        "dreamt_for": moment.dreamt_for,
        "action": [round(float(value), 4) for value in moment.action],
        "reward": moment.reward,
        "return": round(moment.ret, 4),
        "drawn": drawings is not None,
        "models": models,
        "vectors": vectors,
        "pictures": named,
        **state,
    }
    return pack(header, blobs)


def fan(session: PlaySession, futures: Futures, number: int, model: int) -> bytes:
    """Return the message that shows futures: for each a strip of pictures from left to right, or the numbers drawn."""
    played, moment = session.models[model], session.at(number)
    drawing = moment.views[model].drawing
    seconds = drawing.seconds / 2 if drawing else CONTEXT_SECONDS
    count, columns = futures.features.shape[:2]
    header: dict[str, Any] = {
        "type": "futures",
        "at": number,
        "model": model,
        "labels": list(futures.labels),
        "returns": [round(float(value), 4) for value in futures.returns],
        "numbers": {name: np.round(value, 5).tolist() for name, value in futures.numbers.items()},
        "steps": [],
    }
    if not played.draws:
        return pack(header, [])
    header["steps"] = drawn_steps(columns - 1, count, seconds)
    key = main_key(moment.obs)
    drawn = draw_futures(played, futures, header["steps"])[key]
    if drawn.ndim == 3:
        return pack({**header, "entries": np.round(drawn, 4).tolist()}, [])
    strips = [np.concatenate(list(as_frames(future)), 1) for future in drawn]
    header["size"] = [strips[0].shape[1] // len(header["steps"]), strips[0].shape[0]]
    return pack(header, [png_bytes(strip, quick=True) for strip in strips])


@torch.no_grad()
def codes(session: PlaySession, number: int, model: int, changes: dict[int, float]) -> bytes:
    """Return the message that shows the latent of a moment, and what it looks like before and after the changes."""
    played, moment = session.models[model], session.at(number)
    carry = session.changed(number, model, changes)
    header: dict[str, Any] = {
        "type": "codes",
        "at": number,
        "model": model,
        "values": session.codes(model).read(moment.views[model].carry.z),
        "changed": {str(index): value for index, value in changes.items()},
    }
    if not played.draws:
        return pack(header, [])
    features = torch.cat([moment.views[model].features, played.model.features(carry)])
    drawn = played.draw(features)[main_key(moment.obs)]
    predicted = played.predict(features)
    header["numbers"] = {name: [round(float(value), 5) for value in pair] for name, pair in predicted.items()}
    if drawn.ndim == 2:
        return pack({**header, "entries": np.round(drawn, 4).tolist()}, [])
    return pack(header, [png_bytes(picture, quick=True) for picture in as_frames(drawn)])


def real_picture(moment: Moment) -> np.ndarray | None:
    """Return the real picture of a moment, uint8 [H, W, 3]: of the observation, else of the environment; None without any."""
    key = main_key(moment.obs)
    if moment.obs[key].ndim == 3:
        return _shown(moment.obs[key])
    return None if moment.rendering is None else _shown(moment.rendering)


def _shown(picture: np.ndarray) -> np.ndarray:
    """Return a picture as RGB, reduced if it is wide."""
    rgb = as_frames(picture[None])[0]
    if rgb.shape[1] <= WIDEST:
        return rgb
    from PIL import Image

    height = round(rgb.shape[0] * WIDEST / rgb.shape[1])
    return np.asarray(Image.fromarray(rgb).resize((WIDEST, height), Image.Resampling.BILINEAR, reducing_gap=2.0))


def _numbers(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]


def _finite(numbers: dict[str, float]) -> dict[str, float | None]:
    return {name: round(value, 5) if np.isfinite(value) else None for name, value in numbers.items()}
