"""Writes futures of an episode as a static page, which opens from a file and needs no server: for a paper's site."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldlab.cli.web.play.film import curve_frames, film_bytes
from worldlab.cli.web.play.frames import real_picture
from worldlab.cli.web.site import ASSETS
from worldlab.errors import ConfigError, one_line
from worldlab.evaluation.playing.futures import draw_futures, drawn_steps
from worldlab.evaluation.playing.session import PlaySession
from worldlab.evaluation.playing.views import main_key
from worldlab.runs.pictures import as_frames, png_bytes
from worldlab.runs.storage import atomic_write_bytes, make_folder

MOMENTS = 3
"""Moments of the episode whose futures are shown, evenly spaced."""
FUTURES, HORIZON = 6, 24


@dataclass(frozen=True)
class ExportedRow:
    """One strip of the page. file: its picture. frames: how many frames it has; 1 for curves."""

    label: str
    note: str
    file: str
    frames: int
    aspect: float


def export_page(session: PlaySession, names: list[dict[str, Any]], out: Path) -> Path:
    """Write the page of an episode that was played: a film, and futures of a few of its moments. Returns index.html.

    Raises: ConfigError if the folder holds files already; StorageError.
    """
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(
            one_line(f"the folder {str(out)[-60:]!r} is not empty"),
            cause="an exported page has a folder of its own",
            fix="choose another folder, or remove this one",
        )
    folder = make_folder(out)
    atomic_write_bytes(folder / "film.webp", film_bytes(session))
    chosen = np.linspace(0, len(session.moments) - 1, MOMENTS + 2).astype(int)[1:-1]
    numbers = sorted({session.moments[index].number for index in chosen})
    sections = [
        {"number": number, "model": index, "rows": _rows(session, number, index, folder)}
        for index, played in enumerate(session.models)
        if played.draws
        for number in numbers
    ]
    page = _render(names=names, sections=sections, horizon=HORIZON, step=session.now.number)
    path = folder / "index.html"
    atomic_write_bytes(path, page.encode())
    return path


def _rows(session: PlaySession, number: int, model: int, folder: Path) -> list[ExportedRow]:
    """Write the strips of one moment: what really followed, then the futures."""
    played, moment = session.models[model], session.at(number)
    futures = session.branch(number, model=model, count=FUTURES, horizon=HORIZON)
    drawing = session.draw(moment)[model]
    assert drawing is not None, "the caller leaves out models that draw nothing"
    steps = drawn_steps(HORIZON, FUTURES, drawing.seconds)
    drawn = draw_futures(played, futures, steps)[main_key(moment.obs)]
    later = [step for step in session.moments if number <= step.number <= number + HORIZON]
    rows = []
    pictures = [real_picture(step) for step in later]
    if all(picture is not None for picture in pictures):
        real = np.stack([picture for picture in pictures if picture is not None])
        shown = real[[step for step in steps if step < len(real)]]
        rows.append(_row(folder, f"m{model}-s{number}-real", "real", "what followed", shown))
    for index, future in enumerate(drawn):
        name = f"m{model}-s{number}-f{index + 1}"
        note = f"predicted return {futures.returns[index]:.3g}"
        frames = future if future.ndim == 4 else _curves(session, number, future)
        rows.append(_row(folder, name, futures.labels[index], note, frames))
    return rows


def _curves(session: PlaySession, number: int, future: np.ndarray) -> np.ndarray:
    """Draw the entries of a future [T, D] as one picture, beside what really followed as far as it is known."""
    key = main_key(session.at(number).obs)
    later = [step.obs[key] for step in session.moments if step.number >= number][: len(future)]
    real = np.stack(later + [later[-1]] * (len(future) - len(later)))
    return curve_frames(real, future, 0)[-1:]


def _row(folder: Path, name: str, label: str, note: str, frames: np.ndarray) -> ExportedRow:
    rgb = as_frames(frames)
    atomic_write_bytes(folder / f"{name}.png", png_bytes(np.concatenate(list(rgb), 1)))
    return ExportedRow(label, note, f"{name}.png", len(rgb), rgb.shape[2] / rgb.shape[1])


def _render(**values: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folder = ASSETS / "export"
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = Markup((ASSETS / "theme.css").read_text("utf-8") + (folder / "export.css").read_text("utf-8"))
    script = Markup((folder / "export.js").read_text("utf-8"))
    return environment.get_template("export.html").render(style=style, script=script, **values)
