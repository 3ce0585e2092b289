"""A real headless chromium, driven with the DevTools protocol over a pipe."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
from pathlib import Path
from typing import Any


def starts(path: str) -> bool:
    """Whether a browser can be started. Ubuntu's `chromium-browser` only says where to get one."""
    return subprocess.run([path, "--version"], capture_output=True).returncode == 0


FOUND = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
CHROMIUM = next(filter(starts, FOUND), None)
NO_CHROMIUM = "no chromium, so no page is tested in a browser (fix: apt-get install chromium)"
SECONDS = 120
"""How long the browser may take to answer."""
QUIET = ("quic", "background-networking", "component-update", "sync", "gpu", "dev-shm-usage")
"""What is disabled: nothing but the page may use the network; a container has no GPU and little shared memory."""

CUT_OFF = """
(() => {
  const bad = [];
  for (const node of document.querySelectorAll("body *:not(svg *)")) {
    if (node.closest(".scroll") && !node.matches(".scroll")) continue;
    const box = node.getBoundingClientRect();
    if (box.width && (box.right > innerWidth + 0.5 || box.left < -0.5)) bad.push("cut off: " + node.outerHTML.slice(0, 120));
    if (!node.matches(".scroll") && getComputedStyle(node).overflowX !== "visible" && node.scrollWidth > node.clientWidth + 1)
      bad.push("cut off: " + node.outerHTML.slice(0, 120));
  }
  for (const text of document.querySelectorAll("svg text")) {
    const box = text.getBoundingClientRect(), frame = text.ownerSVGElement.getBoundingClientRect();
    const out = box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 2 || box.bottom > frame.bottom + 2;
    if (out) bad.push("figure: " + text.textContent);
  }
  return bad;
})()
"""


class Chromium:
    """A headless browser with one page."""

    def __init__(self, folder: Path):
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        script = 'exec "$0" "$@" 3<&"$DEVTOOLS_IN" 4>&"$DEVTOOLS_OUT"'
        flags = ["--headless", "--no-sandbox", "--hide-scrollbars", "--no-first-run"]  # root has no sandbox
        flags += [f"--disable-{name}" for name in QUIET]
        flags += ["--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank"]
        environment = {**os.environ, "DEVTOOLS_IN": str(to_read), "DEVTOOLS_OUT": str(to_write)}
        self._process = subprocess.Popen(
            ["bash", "-c", script, str(CHROMIUM), *flags],
            env=environment,
            pass_fds=(to_read, to_write),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read), os.close(to_write)
        self._calls, self._rest, self._session = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._calls:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, page: Path | str, width: int, scheme: str = "light", **media: str) -> None:
        """Show a file or an address and wait until it has loaded; events are those of this page."""
        phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        wanted = {"prefers-color-scheme": scheme, **{key.replace("_", "-"): value for key, value in media.items()}}
        self.call(
            "Emulation.setEmulatedMedia", features=[{"name": key, "value": value} for key, value in wanted.items()]
        )
        self.events.clear()
        self.call("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def evaluate(self, expression: str) -> Any:
        """Evaluate a JavaScript expression and return its awaited value."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def of(self, *methods: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event.get("method") in methods]

    def close(self) -> None:
        self._session = ""
        try:
            self.call("Browser.close")
            self._process.wait(SECONDS)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._read), os.close(self._write)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], SECONDS)
            assert ready, f"the browser has said nothing for {SECONDS} seconds"
            piece = os.read(self._read, 2**20)
            assert piece, "the browser went away"
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)
