"""The JavaScript of the pages, tested with node's own test runner."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from worldlab.cli.web.site import ASSETS

TESTS = Path(__file__).with_name("js")


@pytest.mark.skipif(shutil.which("node") is None, reason="no node (fix: apt-get install nodejs)")
def test_the_modules_of_the_pages(tmp_path):
    """They run from a copy, in which a package.json says that they are modules; no other file of ours would read it."""
    shutil.copytree(ASSETS, tmp_path / "worldlab" / "cli" / "web" / "assets")
    shutil.copytree(TESTS, tmp_path / "tests" / "cli" / "web" / "js")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    files = sorted(map(str, tmp_path.glob("tests/**/*.test.mjs")))
    assert files
    done = subprocess.run(["node", "--test", *files], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_pages_load_nothing_from_elsewhere_and_evaluate_nothing():
    """The content policy would refuse it; here it is refused before anyone sees an empty page."""
    forbidden = re.compile(
        r"https?://(?!www\.w3\.org)|innerHTML|outerHTML|document\.write|\beval\(|new Function|\sstyle=|\son\w+=\""
    )
    for path in ASSETS.rglob("*.*"):
        if path.suffix in (".html", ".js", ".css") and path.parent.name != "export":
            assert not forbidden.findall(path.read_text("utf-8")), path
