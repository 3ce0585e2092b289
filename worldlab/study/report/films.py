"""The pictures of a report: what each method's model dreams, and what its agent does, taken from the run folders as
data URIs. One seed a method and environment; what a report has no room for is named in it."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from worldlab.runs.pictures import png_bytes
from worldlab.runs.storage import open_regular
from worldlab.study.report.formats import bytes_text
from worldlab.study.results import Comparison, Method, Trial

ROOM = 12_000_000
"""Bytes of pictures in a report; in the page they take a third more."""
LARGEST = 3_000_000
"""Bytes above which one picture is left out."""
_DREAM = re.compile(r"dream-(\d{1,18})(?:-(\d{1,9}))?\.(webp|png)")
_EVALUATION = "evaluation.webp"
_TYPES = {"WEBP": "image/webp", "PNG": "image/png"}


@dataclass(frozen=True)
class Clip:
    """A picture or an animation. step: of the dream, 0 for none; data, still: data URIs, still of the first frame, "" if there
    is one only; width, height: pixels."""

    method: str
    seed: int
    name: str
    kind: str
    step: int
    data: str
    still: str
    width: int
    height: int


@dataclass(frozen=True)
class LeftOut:
    """A file that is not in the report. why: one sentence's end, such as "it is larger than 3.0 MB"."""

    path: str
    why: str


KINDS = {
    "dream": "Dreams",
    "strip": "Dreams, step by step",
    "evaluation": "The first episode of the final evaluation",
}
"""What is shown of each method on each environment, most telling first: of what has no room the last goes first."""


def films(comparison: Comparison, folder: Path, room: int = ROOM) -> tuple[dict[str, list[Clip]], list[LeftOut]]:
    """The films of each environment, ordered by KINDS and then by method, and what was left out."""
    shown: dict[str, list[Clip]] = {env: [] for env in comparison.envs}
    left: list[LeftOut] = []
    for kind in KINDS:
        for env in comparison.envs:
            for method in comparison.methods:
                chosen = _chosen(comparison, folder, method, env, kind)
                if chosen is None:
                    continue
                trial, path = chosen
                film = _read(path, trial, kind, room)
                if isinstance(film, Clip):
                    shown[env].append(film)
                    room -= _bytes(film.data) + _bytes(film.still)
                else:
                    left.append(LeftOut(f"{trial.folder}/videos/{path.name}", film))
    return shown, left


def _chosen(comparison: Comparison, folder: Path, method: Method, env: str, kind: str) -> tuple[Trial, Path] | None:
    """The first seed that has such a picture, and its file: of the last step the smallest."""
    for trial in comparison.of(method.key, env):
        if trial.status == "finished" and (paths := list(_files(folder, trial, kind))):
            return trial, min(paths, key=lambda found: (-_step(found.name), found.stat().st_size, found.name))
    return None


def _files(folder: Path, trial: Trial, kind: str) -> Iterator[Path]:
    relative = PurePosixPath(trial.folder)
    if not trial.folder or relative.is_absolute() or ".." in relative.parts:
        return
    videos = folder / relative / "videos"
    for path in sorted(videos.iterdir()) if videos.is_dir() else []:
        match = _DREAM.fullmatch(path.name)
        found = (
            "evaluation" if path.name == _EVALUATION else {"webp": "dream", "png": "strip"}[match[3]] if match else ""
        )
        if found == kind and path.is_file() and not path.is_symlink():
            yield path


def _step(name: str) -> int:
    match = _DREAM.fullmatch(name)
    return int(match[1]) if match else 0


def _read(path: Path, trial: Trial, kind: str, room: int) -> Clip | str:
    """The film, or why it is left out."""
    from PIL import Image

    size = path.stat().st_size
    if size > LARGEST:
        return f"it is larger than {bytes_text(LARGEST)}"
    if size > room:
        return f"it has {bytes_text(size)}, and the report is full"
    try:
        with open_regular(path) as file:
            content = file.read(LARGEST + 1)
        with Image.open(io.BytesIO(content), formats=list(_TYPES)) as image:
            media, pixels, frames = _TYPES[str(image.format)], image.size, getattr(image, "n_frames", 1)
            image.load()  # a file that ends too soon shows itself here
            still = _uri("image/png", png_bytes(image.convert("RGB"))) if frames > 1 else ""
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"it cannot be read: {error}"
    data = _uri(media, content)
    if _bytes(data) + _bytes(still) > room:
        return f"it has {bytes_text(len(content))} and a still picture beside it, and the report is full"
    return Clip(trial.method, trial.seed, path.name, kind, _step(path.name), data, still, *pixels)


def _bytes(uri: str) -> int:
    """What a data URI holds."""
    payload = uri.partition(",")[2]
    return 3 * len(payload) // 4 - payload.count("=")


def _uri(media: str, content: bytes) -> str:
    return f"data:{media};base64,{base64.b64encode(content).decode('ascii')}"
