"""Collects the images of a report from the run folders, as data URIs: each model's dreams, and an episode of its agent.

A report shows one seed per method and environment. Files that exceed the size limits are listed instead.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from worldlab.runs.pictures import png_bytes
from worldlab.runs.storage import open_regular
from worldlab.study.report.formats import format_bytes
from worldlab.study.results import Comparison, Method, Trial

MAX_TOTAL_BYTES = 12_000_000
"""Most bytes of images in a report. Base64 adds a third to this in the page."""
MAX_CLIP_BYTES = 3_000_000
"""Most bytes of one image; larger files are left out."""
_DREAM = re.compile(r"dream-(\d{1,18})(?:-(\d{1,9}))?\.(webp|png)")
_EVALUATION = "evaluation.webp"
_TYPES = {"WEBP": "image/webp", "PNG": "image/png"}


@dataclass(frozen=True)
class Clip:
    """An image or an animation.

    step: training step of the dream, 0 for other kinds. data: data URI. still: data URI of the first frame of an
    animation, "" for an image. width, height: in pixels.
    """

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
    """A file that is not in the report. why: a clause such as "it is larger than 3.0 MB"."""

    path: str
    why: str


KINDS = {
    "dream": "Dreams",
    "strip": "Dreams, step by step",
    "evaluation": "The first episode of the final evaluation",
}
"""Kinds of clips with their titles, most informative first. If space runs out, the last kinds are left out first."""


def collect_clips(
    comparison: Comparison, folder: Path, budget: int = MAX_TOTAL_BYTES
) -> tuple[dict[str, list[Clip]], list[LeftOut]]:
    """Return the clips of each environment, ordered by KINDS and then by method, and the files left out.

    folder: the comparison's. budget: most bytes of all clips together.
    """
    shown: dict[str, list[Clip]] = {env: [] for env in comparison.envs}
    left: list[LeftOut] = []
    for kind in KINDS:
        for env in comparison.envs:
            for method in comparison.methods:
                chosen = _first_file(comparison, folder, method, env, kind)
                if chosen is None:
                    continue
                trial, path = chosen
                clip = _load_clip(path, trial, kind, budget)
                if isinstance(clip, Clip):
                    shown[env].append(clip)
                    budget -= _payload_bytes(clip.data) + _payload_bytes(clip.still)
                else:
                    left.append(LeftOut(f"{trial.folder}/videos/{path.name}", clip))
    return shown, left


def _first_file(comparison: Comparison, folder: Path, method: Method, env: str, kind: str) -> tuple[Trial, Path] | None:
    """Return the first seed with an image of this kind, and its file: of the last step, the smallest."""
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


def _load_clip(path: Path, trial: Trial, kind: str, budget: int) -> Clip | str:
    """Return the clip, or the reason why it is left out."""
    from PIL import Image

    size = path.stat().st_size
    if size > MAX_CLIP_BYTES:
        return f"it is larger than {format_bytes(MAX_CLIP_BYTES)}"
    if size > budget:
        return f"it has {format_bytes(size)}, and the report is full"
    try:
        with open_regular(path) as file:
            content = file.read(MAX_CLIP_BYTES + 1)
        with Image.open(io.BytesIO(content), formats=list(_TYPES)) as image:
            media, pixels, frames = _TYPES[str(image.format)], image.size, getattr(image, "n_frames", 1)
            image.load()  # raises for a truncated file
            still = _uri("image/png", png_bytes(image.convert("RGB"))) if frames > 1 else ""
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"it cannot be read: {error}"
    data = _uri(media, content)
    if _payload_bytes(data) + _payload_bytes(still) > budget:
        return f"it has {format_bytes(len(content))} plus its still image, and the report is full"
    return Clip(trial.method, trial.seed, path.name, kind, _step(path.name), data, still, *pixels)


def _payload_bytes(uri: str) -> int:
    """Return the number of bytes that a data URI encodes."""
    payload = uri.partition(",")[2]
    return 3 * len(payload) // 4 - payload.count("=")


def _uri(media: str, content: bytes) -> str:
    return f"data:{media};base64,{base64.b64encode(content).decode('ascii')}"
