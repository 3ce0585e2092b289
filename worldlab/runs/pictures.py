"""Draws pictures and videos of real and dreamt observations. Frames are uint8 [T, H, W, C], channels last.

C = 1 is grey, 3 is RGB, 4 with an opaque last channel is RGBA. Any other C is a stack of grey frames, of which the last
(newest) is shown. Floats raise an error, because only the caller knows their scale. Needs no torch.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldlab.errors import WorldlabError
from worldlab.runs import storage

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

PAPER, INK, FAINT, GRID = (255, 255, 255), (32, 36, 44), (128, 134, 145), (222, 225, 230)
DREAM = (214, 64, 38)
"""Colour of everything dreamt: the line where the dream starts, its label, its border."""
SEEN, ERROR = (70, 76, 88), (250, 222, 214)

_FONT, _GAP, _PAD = 12, 2, 10
_CURVE = 34


def as_frames(frames: Any, name: str = "frames") -> np.ndarray:
    """Return uint8 RGB [T, H, W, 3] of uint8 [T, H, W] or [T, H, W, C]. Raises: WorldlabError for anything else."""
    array = np.asarray(frames)
    if array.dtype != np.uint8:
        raise _refused(name, f"dtype {array.dtype}", "uint8; scale to 0..255 and round first")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or 0 in array.shape:
        raise _refused(name, f"shape {array.shape}", "[T, H, W] or [T, H, W, C], all above 0")
    channels = array.shape[-1]
    if channels not in (1, 3, 4) and array.shape[1] in (1, 3, 4):
        raise _refused(name, f"shape {array.shape}", "channels last: [T, H, W, C]")
    if channels == 3 or (channels == 4 and bool((array[..., 3] == 255).all())):
        return np.ascontiguousarray(array[..., :3])
    return np.repeat(array[..., -1:], 3, axis=-1)


def _refused(name: str, came: str, accepted: str) -> WorldlabError:
    return WorldlabError(f"cannot draw '{name[:30]}': {came}"[:100], cause=f"{came}; accepted: {accepted}")


@lru_cache(maxsize=8)
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)  # it ships with Pillow, so no font file is needed


def _width(text: str, size: int = _FONT) -> int:
    return int(np.ceil(_font(size).getlength(text)))


def _canvas(width: int, height: int) -> tuple[Image, ImageDraw]:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (width, height), PAPER)
    return image, ImageDraw.Draw(image)


def _cell(frame: np.ndarray, height: int, width: int) -> Image:
    """Scale a frame [h, w, 3] to fit a cell, keeping its aspect ratio; enlarged pixels stay square and sharp."""
    from PIL import Image

    image = Image.fromarray(frame)
    scale = min(height / frame.shape[0], width / frame.shape[1])
    size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
    method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    scaled = image if size == image.size else image.resize(size, method)
    if size == (width, height):
        return scaled
    cell = Image.new("RGB", (width, height), INK)
    cell.paste(scaled, ((width - size[0]) // 2, (height - size[1]) // 2))
    return cell


def _checked(rows: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], int, int, int]:
    """Return (frames by label, T, H, W): the common length and the largest height and width."""
    videos = {label: as_frames(frames, label) for label, frames in rows.items()}
    lengths = {label: len(frames) for label, frames in videos.items()}
    if not videos or len(set(lengths.values())) > 1:
        raise WorldlabError(f"videos shown together must have the same length, got {lengths}"[:100])
    shapes = [frames.shape for frames in videos.values()]
    return videos, shapes[0][0], max(s[1] for s in shapes), max(s[2] for s in shapes)


def _upscale(chosen: int | None, height: int, width: int, target: int) -> int:
    return chosen if chosen is not None else max(1, round(target / max(height, width)))


@dataclass(frozen=True)
class _Grid:
    """Positions of the cells of a strip, in pixels."""

    left: int
    tops: tuple[int, ...]
    """Upper edge of each row, then the lower edge of the last."""
    cell_w: int
    cell_h: int
    columns: int
    split: int | None
    """Column of the first dreamt frame, if the dream starts inside the strip."""

    def x(self, column: int) -> int:
        extra = 3 * _GAP if self.split is not None and column >= self.split else 0
        return self.left + column * (self.cell_w + _GAP) + extra

    @property
    def right(self) -> int:
        return self.x(self.columns - 1) + self.cell_w


def strip(
    rows: Mapping[str, Any],
    *,
    dream_from: int | None = None,
    errors: Mapping[str, Any] | None = None,
    upscale: int | None = None,
    max_columns: int = 16,
) -> Image:
    """Draw labelled rows of frames over time: real, reconstruction, open-loop dream.

    rows: {label: uint8 [T, H, W, C]}, all with the same T. dream_from: index of the first dreamt frame, marked by a
    line and the words "seen" and "dreamt". errors: {label: [T]}, non-negative numbers or NaN, drawn as a curve below
    the row of that label; all curves share one scale, and each shows its largest value. upscale: pixels per pixel; by
    default cells have about 72 pixels. max_columns: with more frames, evenly spaced ones are shown, labelled by their
    time.
    Returns: an RGB picture. Raises: WorldlabError for frames that `as_frames` rejects or for unequal lengths.
    """
    videos, length, height, width = _checked(rows)
    curves = {label: _curve(label, errors[label], length) for label in videos if errors and label in errors}
    scale = _upscale(upscale, height, width, 72)
    times = _shown_times(length, dream_from, max_columns)
    dreamt = int((times < dream_from).sum()) if dream_from is not None else len(times)
    top = _PAD + (2 if dream_from is not None else 1) * (_FONT + 6)
    row_heights = [height * scale + (_CURVE + 8 if label in curves else 2 * _GAP) for label in videos]
    grid = _Grid(
        left=_PAD + max(_width(label) for label in videos) + 10,
        tops=tuple(np.cumsum([top, *row_heights]).tolist()),
        cell_w=width * scale,
        cell_h=height * scale,
        columns=len(times),
        split=dreamt if 0 < dreamt < len(times) else None,
    )
    image, draw = _canvas(grid.right + _PAD, grid.tops[-1] + _PAD - 4)
    _draw_header(draw, grid, times, dream_from)
    peak = max((float(np.nanmax(c)) for c in curves.values() if np.isfinite(c).any()), default=0.0)
    for row, (label, frames) in enumerate(videos.items()):
        y = grid.tops[row]
        draw.text((grid.left - 10, y + grid.cell_h / 2), label, INK, _font(_FONT), anchor="rm")
        for column, when in enumerate(times):
            image.paste(_cell(frames[when], grid.cell_h, grid.cell_w), (grid.x(column), y))
        if label in curves:
            _draw_curve(draw, grid, y + grid.cell_h + 4, curves[label], times, peak)
    if grid.split is not None:
        x = grid.x(grid.split) - 2 * _GAP - 1
        draw.line([(x, _PAD), (x, image.height - _PAD)], DREAM, 2)
    return image


def _shown_times(length: int, dream_from: int | None, most: int) -> np.ndarray:
    """Return at most `most` evenly spaced times, including the first dreamt one if there is one."""
    stride = max(1, -(-length // max(1, most)))
    first = dream_from % stride if dream_from is not None and 0 < dream_from < length else 0
    return np.arange(first, length, stride)


def _curve(label: str, values: Any, length: int) -> np.ndarray:
    curve = np.asarray(values, np.float64)
    if curve.shape != (length,) or np.isinf(curve).any():
        raise _refused(label, f"error curve of shape {curve.shape}", f"[{length}] numbers, NaN for none")
    return curve


def _draw_header(draw: ImageDraw, grid: _Grid, times: np.ndarray, dream_from: int | None) -> None:
    tick_y = grid.tops[0] - 4
    step = max(1, -(-(_width(str(times[-1]), 10) + 8) // (grid.cell_w + _GAP)))  # every column if the labels fit
    for column in range(0, len(times), step):
        x = grid.x(column) + grid.cell_w / 2
        draw.text((x, tick_y), f"{times[column]}", FAINT, _font(10), anchor="ms")
    draw.text((grid.left - 10, tick_y), "step", FAINT, _font(10), anchor="rs")
    if dream_from is None:
        return
    if dream_from > times[0]:
        draw.text((grid.left, _PAD), "seen", SEEN, _font(_FONT), anchor="lt")
    if grid.split is not None or dream_from <= times[0]:
        draw.text((grid.x(grid.split or 0), _PAD), "dreamt", DREAM, _font(_FONT), anchor="lt")


def _draw_curve(draw: ImageDraw, grid: _Grid, top: int, curve: np.ndarray, times: np.ndarray, peak: float) -> None:
    """Draw an error curve [T] under a row; the value of a shown time is under the middle of its frame."""
    centres = [grid.x(column) + grid.cell_w / 2 for column in range(grid.columns)]
    bottom = top + _CURVE - 4
    draw.line([(grid.left, bottom), (grid.right, bottom)], GRID, 1)
    draw.text((grid.left - 10, bottom), "error", FAINT, _font(10), anchor="rs")
    if not np.isfinite(curve).any():
        return
    # Times before the first and after the last shown frame get half a cell on each side.
    stride, pitch = (times[1] - times[0] if len(times) > 1 else 1), grid.cell_w + _GAP
    known_times = [times[0] - stride, *times, times[-1] + stride]
    xs = np.interp(np.arange(len(curve)), known_times, [centres[0] - pitch, *centres, centres[-1] + pitch])
    xs = xs.clip(grid.left, grid.right)
    ys = bottom - (_CURVE - 8) * np.nan_to_num(curve) / (peak or 1.0)
    known = np.isfinite(curve)
    for start, stop in zip(range(len(curve) - 1), range(1, len(curve))):
        if known[start] and known[stop]:
            ends = [(xs[start], ys[start]), (xs[stop], ys[stop])]
            draw.polygon([(xs[start], bottom - 1), *ends, (xs[stop], bottom - 1)], ERROR)
            draw.line(ends, DREAM, 2)
    highest = int(np.nanargmax(curve))
    draw.text((grid.left - 10, top + 10), f"{curve[highest]:.3g}", FAINT, _font(10), anchor="rs")


def side_by_side(videos: Mapping[str, Any], *, dream_from: int | None = None, upscale: int | None = None) -> np.ndarray:
    """Draw videos side by side under their labels, with a bar that shows the time.

    videos: {label: uint8 [T, H, W, C]}, all with the same T. dream_from: from this frame on, bar and step number have
    the dream's colour. Returns: uint8 [T, H', W', 3], H' and W' even (video encoders require it).
    """
    frames, length, height, width = _checked(videos)
    scale = _upscale(upscale, height, width, 160)
    cell_h, cell_w = height * scale, width * scale
    column = max(cell_w, max(_width(label) for label in frames) + 8, 64 // len(frames))
    head, foot = _FONT + 10, 22
    total_w = len(frames) * (column + 6) + 6
    total_w, total_h = total_w + total_w % 2, head + cell_h + foot + (head + cell_h + foot) % 2
    result = np.empty((length, total_h, total_w, 3), np.uint8)
    for when in range(length):
        image, draw = _canvas(total_w, total_h)
        for index, (label, video) in enumerate(frames.items()):
            x = 6 + index * (column + 6)
            draw.text((x + column / 2, head - 6), label, INK, _font(_FONT), anchor="ms")
            image.paste(_cell(video[when], cell_h, cell_w), (x + (column - cell_w) // 2, head))
        dreaming = dream_from is not None and when >= dream_from
        colour = DREAM if dreaming else SEEN
        _draw_time(draw, (6, head + cell_h, total_w - 6), (when, length), colour)
        result[when] = np.asarray(image)
    return result


def _draw_time(draw: ImageDraw, where: tuple[int, int, int], time: tuple[int, int], colour: tuple[int, ...]) -> None:
    left, top, right = where
    when, length = time
    word = ("dreamt " if colour == DREAM else "") + str(when)
    draw.text((left, top + 7), word, colour, _font(10), anchor="lm")
    start = left + _width(f"dreamt {length}", 10) + 6
    if start < right:
        draw.rectangle([start, top + 6, right, top + 8], GRID)
        draw.rectangle([start, top + 6, start + (right - start) * (when + 1) / length, top + 8], colour)


def vector_strip(
    real: Any,
    dream: Any = None,
    *,
    dream_from: int | None = None,
    band: tuple[Any, Any] | None = None,
    names: Sequence[str] = (),
    max_plots: int = 8,
) -> Image:
    """Plot a vector observation over time: real values and, if there is one, the dream.

    real, dream: numbers [T, D]. dream_from: as in `strip`. band: (low, high), each [T, D], drawn around the dream.
    names: names of the D entries. max_plots: with more entries, those that vary most in `real` are shown.
    Returns: an RGB picture. Raises: WorldlabError if shapes differ or numbers are not finite.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: it has global state and may open a display
    from PIL import Image

    truth = _series("real", real, None)
    guess = _series("dream", truth if dream is None else dream, truth.shape)
    low, high = (_series("band", part, truth.shape) for part in band) if band else (guess, guess)
    shown = np.sort(np.argsort(-truth.std(0), kind="stable")[:max_plots])
    columns = min(2, len(shown))
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(5.2 * columns, 0.6 + 1.35 * lines), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(lines, columns, sharex=True, squeeze=False)
    when, ink, red = np.arange(len(truth)), _unit(INK), _unit(DREAM)
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    for axis, entry in zip(axes.flat, shown):
        axis.fill_between(when, low[:, entry], high[:, entry], color=red, alpha=0.18, linewidth=0)
        axis.plot(when, truth[:, entry], color=ink, linewidth=1.5, label="real")
        if dream is not None:
            axis.plot(when, guess[:, entry], color=red, linewidth=1.3, label="dream")
        if dream_from is not None:
            axis.axvline(dream_from - 0.5, color=red, linewidth=1, linestyle="--")
        axis.set_title(str(names[entry]) if entry < len(names) else f"[{entry}]", fontsize=8, loc="left", pad=2)
        axis.tick_params(labelsize=7, colors=_unit(FAINT))
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.01)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, fontsize=8, frameon=False)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _series(name: str, values: Any, shape: tuple[int, ...] | None) -> np.ndarray:
    array = np.asarray(values, np.float64)
    wrong = array.ndim != 2 or 0 in array.shape or (shape is not None and array.shape != shape)
    if wrong or not np.isfinite(array).all():
        wanted = f"finite numbers of shape {shape or '[T, D]'}"
        raise _refused(name, f"shape {array.shape}" if wrong else "it contains NaN or infinity", wanted)
    return array


def _unit(colour: tuple[int, int, int]) -> tuple[float, ...]:
    return tuple(part / 255 for part in colour)


def png_bytes(picture: Any, *, quick: bool = False) -> bytes:
    """Encode a PIL picture, or uint8 [H, W] or [H, W, C], as PNG. quick: for a picture that is looked at once."""
    buffer = io.BytesIO()
    how: dict[str, Any] = {"compress_level": 1} if quick else {"optimize": True}
    _image(picture).save(buffer, "PNG", **how)
    return buffer.getvalue()


def save_png(picture: Any, path: str | Path) -> Path:
    """Write a picture (see `png_bytes`) and return the path. Raises: StorageError."""
    storage.atomic_write_bytes(path, png_bytes(picture))
    return Path(path)


def _image(picture: Any) -> Image:
    from PIL import Image

    if isinstance(picture, Image.Image):
        return picture
    return Image.fromarray(as_frames(np.asarray(picture)[None], "picture")[0])


def save_webp(frames: Any, path: str | Path, fps: float = 15) -> Path:
    """Write frames as `webp_bytes` encodes them and return the path. Raises: StorageError."""
    storage.atomic_write_bytes(path, webp_bytes(frames, fps))
    return Path(path)


def webp_bytes(frames: Any, fps: float = 15) -> bytes:
    """Encode frames (see `as_frames`) as a lossless animated WebP that loops."""
    images = [_image(frame) for frame in as_frames(frames)]
    buffer = io.BytesIO()
    duration = max(1, round(1000 / fps))
    # Lossless: lossy coding would hide or add the artefacts of interest. method 0: seven times as fast as 2, at 1.7
    # times the size (measured on CarRacing); training waits for this call.
    images[0].save(
        buffer, "WEBP", save_all=True, append_images=images[1:], duration=duration, loop=0, lossless=True, method=0
    )
    return buffer.getvalue()


def gif_bytes(frames: Any, fps: float = 15) -> bytes:
    """Encode frames (see `as_frames`) as a GIF that loops, with one palette for all frames, exact up to 256 colours.

    GIF measures time in hundredths of a second: fps is rounded accordingly and is at most 50.
    """
    from PIL import Image

    video = as_frames(frames)
    palette = _palette(video)
    none = Image.Dither.NONE  # dithering flickers from frame to frame
    images = [Image.fromarray(frame).quantize(palette=palette, dither=none) for frame in video]
    duration = max(2, round(100 / fps)) * 10
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=duration, loop=0, optimize=False)
    return buffer.getvalue()


def _palette(video: np.ndarray) -> Image:
    """Return a palette picture for all frames: their own colours if at most 256, else a median cut of a sample."""
    from PIL import Image

    red, green, blue = np.moveaxis(video.astype(np.uint32), -1, 0)
    packed = np.unique((red << 16 | green << 8 | blue).ravel())  # one number per pixel: much faster than unique rows
    colours = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], -1).astype(np.uint8)
    if len(colours) <= 256:
        image = Image.new("P", (1, 1))
        image.putpalette(np.vstack([colours, np.repeat(colours[:1], 256 - len(colours), 0)]).tobytes())
        return image
    chosen = video[np.linspace(0, len(video) - 1, min(len(video), 16)).astype(int)]
    sample = chosen.reshape(-1, chosen.shape[2], 3)
    return Image.fromarray(sample).quantize(256, method=Image.Quantize.MEDIANCUT)
