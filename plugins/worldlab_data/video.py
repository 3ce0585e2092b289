"""A folder of videos, one an episode, with actions.csv: for recordings of one's own.

actions.csv has a row for each decision, in order: `video` (the file's name), `action` (a whole number) or `action_0`,
`action_1`, ... and, if they are known, `reward` and `terminated` (0 or 1). The action of row k of a video was taken at frame
k and led to frame k + 1, with which the reward came.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO, final

import numpy as np
from gymnasium import spaces

from worldlab.errors import ConfigError, one_line
from worldlab.experience.dataset import Dataset, DatasetFacts, EpisodeFacts, Steps, check_facts
from worldlab.runs.storage import open_regular
from worldlab_data.clips import VideoFile, VideoPieces
from worldlab_data.files import described, guessed_actions, inside, read_description, refuse

TABLE = "actions.csv"
SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov")
LINE = 2**16
"""Longest line of actions.csv in characters."""
MOST_ROWS = 2**22
"""Most rows of the table, which is kept in memory."""


@final
class VideoFormat:
    """Reads a folder of videos. Videos lose detail, so none are written: use npz or lerobot."""

    def recognises(self, name: str) -> bool:
        return (Path(name) / TABLE).is_file()

    def open(self, name: str) -> VideoEpisodes:
        return VideoEpisodes(Path(name))


@dataclass
class _Video:
    """The rows of one video in the table."""

    path: Path
    actions: list[list[float]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminated: bool = False


@final
class VideoEpisodes(Dataset):
    """The episodes of a folder of videos. The table is kept in memory, the videos are not."""

    def __init__(self, folder: Path):
        missing: list[str] = []
        videos = _read_table(inside(folder, TABLE), folder, missing)
        if not videos:
            raise refuse(folder / TABLE, "it has no row", fix="one row a decision")
        shapes = {}
        for video in videos:
            clip = VideoFile(video.path, "video")
            shapes[video.path.name] = clip.shape
            clip.close()
        first = next(iter(shapes.values()))
        if odd := next((name for name, shape in shapes.items() if shape != first), None):
            raise ConfigError(
                one_line(f"video {odd!r} has frames of {shapes[odd]}, the first one of {first}"),
                fix="give all videos the same size",
            )
        self._videos = [(video.path, np.array(video.actions), np.array(video.rewards, np.float32)) for video in videos]
        self.episodes = [
            EpisodeFacts(video.path.name, len(video.actions), video.terminated, not video.terminated)
            for video in videos
        ]
        env_id, action, _ = described(read_description(folder))
        values = np.concatenate([actions for _, actions, _ in self._videos])
        whole = values.shape[1] == 1 and bool((values == np.round(values)).all())
        if action is None:
            dtype = np.dtype(np.int64 if whole else np.float32)
            action, _ = guessed_actions(values.min(0), values.max(0), False, dtype)
            missing.append("the action space: it is taken from the actions")
        if not env_id:
            missing.append("the environment")
        self._whole = isinstance(action, spaces.Discrete)
        space = spaces.Dict({"image": spaces.Box(0, 255, first, np.uint8)})
        self.facts = DatasetFacts("video", space, action, env_id, tuple(missing))
        self._reader = VideoPieces("video")
        check_facts(self.facts, self.episodes)

    def read(self, episode: int, start: int, stop: int) -> Steps:
        path, actions, rewards = self._videos[episode]
        taken = actions[start:stop, 0].astype(np.int64) if self._whole else actions[start:stop].astype(np.float32)
        return Steps({"image": self._reader.frames(path, 0.0, start, stop + 1)}, taken, rewards[start:stop])

    def close(self) -> None:
        self._reader.close()


def _read_table(path: Path, folder: Path, missing: list[str]) -> list[_Video]:
    """Return the videos that a table lists, in order. Raises: ConfigError naming the line that is wrong."""
    import io

    videos: dict[str, _Video] = {}
    with open_regular(path) as data:
        rows = csv.reader(_lines(io.TextIOWrapper(data, "utf-8", newline=""), path))
        header = [name.strip() for name in next(rows, [])]
        columns = [name for name in header if name == "action" or name.startswith("action_")]
        if "video" not in header or not columns:
            raise refuse(path, f"its first line is {header!r}"[:60], fix="video,action,reward,terminated")
        missing += ["rewards: they are taken as 0"] if "reward" not in header else []
        missing += ["terminations: all episodes count as cut off"] if "terminated" not in header else []
        for number, row in enumerate(rows, 2):
            if number > MOST_ROWS:
                raise refuse(path, f"it has more than {MOST_ROWS:,} rows")
            if not row:
                continue
            try:
                entry = dict(zip(header, row, strict=True))
                action = [float(entry[name]) for name in columns]
                reward, ended = float(entry.get("reward") or 0), float(entry.get("terminated") or 0) > 0
            except ValueError as error:
                raise refuse(path, f"line {number} has no {len(header)} numbers", fix="correct the line") from error
            name = entry["video"].strip()
            if name not in videos:
                videos[name] = _Video(_video(folder, name))
            if videos[name].terminated:
                raise refuse(path, f"line {number} goes on after the end of {name[:30]!r}", fix="correct the table")
            videos[name].actions.append(action)
            videos[name].rewards.append(reward)
            videos[name].terminated = ended
    return list(videos.values())


def _video(folder: Path, name: str) -> Path:
    path = inside(folder, name)
    if path.suffix.lower() not in SUFFIXES:
        raise refuse(path, f"it is none of {', '.join(SUFFIXES)}")
    return path


def _lines(file: TextIO, path: Path):
    """Yield the lines of a text file, none of which may be endless."""
    try:
        while line := file.readline(LINE + 1):
            if len(line) > LINE:
                raise refuse(path, f"a line is longer than {LINE:,} characters")
            yield line
    except UnicodeDecodeError as error:
        raise refuse(path, "it is no text in UTF-8") from error


__all__ = ["VideoFormat"]
