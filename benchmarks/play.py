"""Measure frames a second, the time from a key to its picture and the idle CPU of `worldlab play`.

    python benchmarks/play.py --out benchmarks/results/play.json

A run with the sizes of the preset "laptop" is trained for a few steps, because weights do not change the speed. The command
serves it in a process of its own, and this script is its page: it talks to the real websocket and decodes nothing. Frames are
counted with their pictures: real, reconstruction and dream. The time from a key to its picture goes from sending an action
to receiving the first frame that was made with it; keys come at random moments of a game at 15 steps a second. CPU is that
of the server. PixelCNN, the slowest decoder, shows whether the dream goes on without pictures. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil
from interleave import header, say, source_path, write_json
from websockets.sync.client import ClientConnection, connect

WORLDLAB = [sys.executable, "-m", "worldlab"]
TRAIN = (
    *("--preset", "laptop", "--env", "CarRacing", "--steps", "60", "--train.prefill", "48", "--train.pretrain", "1"),
    *("--train.ratio", "0.02", "--eval.every", "0", "--eval.final-episodes", "1", "--log.pictures", "0"),
)
DECODERS = ("vae", "autoregressive")
KEYS = 60
SECONDS = 10.0
GOAL = {"frames_per_s": 15.0, "key_ms": 100.0}


class Page:
    """The websocket of a game."""

    def __init__(self, websocket: ClientConnection):
        self._websocket = websocket
        self.frame: dict[str, Any] = {}

    def send(self, do: str, **arguments: Any) -> None:
        self._websocket.send(json.dumps({"do": do, **arguments}))

    def next(self, timeout: float = 60.0) -> dict[str, Any]:
        """Return the header of the next frame; a finished episode is followed by a new one."""
        while True:
            data = self._websocket.recv(timeout)
            if isinstance(data, str):
                continue
            frame = json.loads(data[4 : 4 + int.from_bytes(data[:4], "big")])
            if frame["type"] != "frame":
                continue
            if frame["ended"]:
                self.send("reset")
                self.send("play")
            self.frame = frame
            return frame


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": source_path()}


def train(folder: Path, decoder: str) -> Path:
    """Return the folder of a run with laptop sizes."""
    run = folder / decoder
    command = [*WORLDLAB, "train", *TRAIN, "--decoder", decoder, "--run", str(run)]
    subprocess.run(command, check=True, env=environment(), stdout=subprocess.DEVNULL)
    return run


@contextmanager
def opened(run: Path) -> Iterator[tuple[Page, psutil.Process]]:
    """Serve a run and open its page. Yields the page and the server's process."""
    command = [*WORLDLAB, "play", str(run), "--no-open", "--json"]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = urlsplit(json.loads(process.stdout.readline())["address"])
        cookie = f"worldlab-{address.port}={parse_qs(address.query)['token'][0]}"
        with connect(
            f"ws://{address.netloc}/live",
            origin=f"http://{address.netloc}",  # pyright: ignore[reportArgumentType]
            additional_headers={"Cookie": cookie},
            compression=None,
            max_size=None,
            proxy=None,
        ) as websocket:
            page = Page(websocket)
            page.next()
            yield page, psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def cpu_seconds(process: psutil.Process) -> float:
    spent = process.cpu_times()
    return spent.user + spent.system


def measure_idle(process: psutil.Process) -> float:
    """Return the share of one core that a paused game takes."""
    time.sleep(1)
    before = cpu_seconds(process)
    time.sleep(SECONDS)
    return round((cpu_seconds(process) - before) / SECONDS, 4)


def measure_rate(page: Page, process: psutil.Process, speed: int) -> dict[str, float]:
    """Return how many steps and how many steps with all pictures a second the page gets, and the CPU of the server."""
    page.send("change", speed=speed, driver="agent")
    page.send("play")
    for _ in range(5):
        page.next()
    before, begin, steps, drawn, seconds = cpu_seconds(process), time.perf_counter(), 0, 0, 0.0
    last = page.frame["at"]
    while (passed := time.perf_counter() - begin) < SECONDS:
        frame = page.next()
        drawn += frame["drawn"]
        seconds = frame["models"][0].get("seconds", seconds)
        steps += frame["at"] > last
        last = frame["at"] if frame["at"] == 0 else max(last, frame["at"])  # pictures of earlier steps may come late
    page.send("pause")
    while page.next()["playing"]:
        pass
    return {
        "wanted_per_s": speed,
        "steps_per_s": round(steps / passed, 2),
        "drawn_per_s": round(drawn / passed, 2),
        "cpu_cores": round((cpu_seconds(process) - before) / passed, 3),
        "draw_ms": round(1000 * seconds, 2),
    }


def measure_keys(page: Page) -> dict[str, float]:
    """Return the milliseconds from a key to the first frame made with it."""
    page.send("change", speed=15, driver="person")
    page.send("play")
    generator, times = random.Random(0), []
    for number in range(KEYS):
        until = time.perf_counter() + generator.uniform(0.05, 0.15)
        while time.perf_counter() < until:
            page.next()
        steer = 1.0 if number % 2 else -1.0
        begin = time.perf_counter()
        page.send("act", action=[steer, 0.2, 0.0])
        while page.next()["action"][0] != steer:
            pass
        times.append(1000 * (time.perf_counter() - begin))
    page.send("pause")
    while page.next()["playing"]:
        pass
    ordered = sorted(times)
    return {
        "keys": KEYS,
        "median_ms": round(statistics.median(ordered), 1),
        "p90_ms": round(ordered[int(0.9 * KEYS)], 1),
        "largest_ms": round(ordered[-1], 1),
    }


def measure(run: Path) -> dict[str, Any]:
    with opened(run) as (page, process):
        row: dict[str, Any] = {"idle_cpu_cores": measure_idle(process)}
        row["at_15"] = measure_rate(page, process, 15)
        row["fastest"] = measure_rate(page, process, 60)
        row["key_to_picture"] = measure_keys(page)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {**header("play.py", "uvicorn", "websockets"), "goal": GOAL, "rows": {}}
    with tempfile.TemporaryDirectory() as folder:
        for decoder in DECODERS:
            result["rows"][decoder] = measure(train(Path(folder), decoder))
            say(f"{decoder}: {json.dumps(result['rows'][decoder])}")
    if options.out:
        write_json(options.out, result)


if __name__ == "__main__":
    main()
