"""Every block of the documentation runs: commands in a shell, Python in Python, changes on the files they name.

What a reader does is done, page by page, each in an empty folder. Commands see this very environment with an empty one on
top, so that `pip install` leaves no trace. `worldlab` and Python are forks (tests/kits/warm_process.py). Comments in the
Markdown, invisible to readers, say what else is to be known of the block that follows:

    <!-- not run: REASON -->    it is only read; NOT_RUN counts these
    <!-- given: COMMANDS -->    what the reader has done elsewhere
    <!-- exits: N -->           its last command fails, with this exit code

A `text` block shows what the block before it prints: its lines, in order; a line "..." stands for any others. A `diff`
block is a change to the file its first line names.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest
from warm_process import warm_python

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = {
    "README.md": 3,
    "commands.md": 1,
    "environments.md": 1,
    "first-plugin.md": 1,
    "hub.md": 1,
    "publishing.md": 2,
    "roundup.md": 1,
    "watch.md": 1,
}
"""Blocks that are only read, by page: adding one is a decision, and its reason stands before the block."""
LANGUAGES = {"bash", "diff", "python", "text", "toml", "yaml"}
SECONDS = 600
_BLOCK = re.compile(r"(?P<notes>(?:^<!--(?:(?!-->).)*-->\n)*)^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
_NOTE = re.compile(r"<!-- (not run|given|exits): (.*?) -->", re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block. line: where it begins, from 1. notes: what the comments before it say."""

    language: str
    text: str
    line: int
    notes: dict[str, str]

    @property
    def runs(self) -> bool:
        return "not run" not in self.notes


def blocks(page: Path) -> list[Block]:
    source = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(source):
        line = source.count("\n", 0, match.start("text"))
        found.append(Block(match["language"], match["text"], line, dict(_NOTE.findall(match["notes"]))))
    assert source.count("\n```") == 2 * len(found), f"{page.name}: a block is not closed, or indented"
    return found


@dataclass(frozen=True)
class Reader:
    """Somebody who works through a page in one folder, in an environment of their own."""

    folder: Path
    environment: dict[str, str]
    python: Path

    def runs(self, command: list[str], exits: int, what: str) -> str:
        """Run a command; return what it prints. exits: the exit code it must have."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == exits, f"{what} ends with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def does(self, block: Block, what: str) -> str:
        """Do what a block says; return what it prints."""
        exits = int(block.notes.get("exits", "0"))
        if "given" in block.notes:
            self.runs(["bash", "-euo", "pipefail", "-c", block.notes["given"]], 0, f"{what}, what is given")
        if block.language == "bash":
            return self.runs(["bash", "-euo", "pipefail", "-c", block.text], exits, what)
        if block.language == "python":
            return self.runs([str(self.python), "-c", block.text], exits, what)
        if block.language == "diff":
            apply(block.text, self.folder)
        elif block.language == "toml":
            tomllib.loads(block.text)
        return ""


def apply(change: str, folder: Path) -> None:
    """Make a change: "+++ PATH", then lines that begin with " ", "-" or "+"; "@@" ends a place. Each place is there once."""
    first, *lines = change.splitlines()
    assert first.startswith("+++ "), first
    path = folder / first.removeprefix("+++ ")
    text = path.read_text(encoding="utf-8")
    for place in "\n".join(lines).split("\n@@\n"):
        old = "".join(f"{line[1:]}\n" for line in place.splitlines() if line[:1] != "+")
        new = "".join(f"{line[1:]}\n" for line in place.splitlines() if line[:1] != "-")
        assert text.count(old) == 1, f"{first}: there {text.count(old)} times:\n{old}"
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def shown(expected: str, printed: str) -> bool:
    """Whether the lines of `expected` are in `printed`, in order; between them anything only where it says "..."."""
    lines = [re.escape(line.rstrip()) for line in expected.strip("\n").splitlines()]
    pattern = "\n".join(r"(?:.*\n)*?.*" if line == r"\.\.\." else line for line in lines)
    tidy = "\n".join(line.rstrip() for line in printed.splitlines())
    return re.search(rf"^{pattern}$", tidy, re.M) is not None


@pytest.fixture
def reader(tmp_path) -> Reader:
    """This environment below, an empty one on top: what is installed in it vanishes with the test."""
    top, folder = tmp_path / "environment", tmp_path / "folder"
    folder.mkdir()
    venv.EnvBuilder(symlinks=os.name != "nt").create(top)
    python = top / "bin" / "python"
    below = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    own = Path(sysconfig.get_path("purelib", "venv", {"base": str(top), "platbase": str(top)}))
    lines = [f"import site; site.addsitedir({path!r})" for path in sorted(below)]  # reads the .pth files there, too
    (own / "below.pth").write_text("\n".join(lines) + "\n")
    warm = warm_python(python)
    command(top / "bin" / "worldlab", f'exec "{warm}" -m worldlab "$@"')
    for name in ("pytest", "ruff", "mkdocs"):
        command(top / "bin" / name, f'exec "{python}" -m {name} "$@"')
    # What a plugin requires is there already, below, as is what builds it.
    command(top / "bin" / "pip", f'exec "{python}" -m pip "$1" --no-deps --no-build-isolation "${{@:2}}"')
    environment = dict(os.environ) | {
        "PATH": f"{top / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(top),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
        "COLUMNS": "120",
    }
    return Reader(folder, environment, warm)


def command(path: Path, line: str) -> None:
    path.write_text(f"#!/usr/bin/env bash\n{line}\n")
    path.chmod(0o755)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="the commands of the documentation are bash's")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.runs for b in blocks(page))], ids=lambda page: page.name
)
def test_what_a_page_says_can_be_done(page, reader):
    printed = ""
    for block in blocks(page):
        what = f"{page.name}:{block.line}"
        if block.language == "text":
            assert shown(block.text, printed), f"{what} is not what was printed:\n{printed}"
        elif block.runs and not is_tested_elsewhere(page, block):
            printed = reader.does(block, what)


def is_tested_elsewhere(page: Path, block: Block) -> bool:
    """The README's plugin: tests/test_readme.py trains and checks it."""
    return page.name == "README.md" and block.language == "python" and "worldlab_register" in block.text


def test_what_is_not_run_is_counted_and_has_a_reason():
    skipped = {page.name: [b.notes["not run"] for b in blocks(page) if not b.runs] for page in PAGES}
    assert {name: len(reasons) for name, reasons in skipped.items() if reasons} == NOT_RUN
    assert all(len(reason.split()) >= 4 for reasons in skipped.values() for reason in reasons)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_are_of_a_known_language(page):
    assert {block.language for block in blocks(page)} <= LANGUAGES


def test_the_index_and_the_site_map_every_page():
    index, site = ((ROOT / name).read_text(encoding="utf-8") for name in ("docs/index.md", "mkdocs.yml"))
    pages = {page.name for page in PAGES[1:]} - {"index.md"}
    assert pages - set(re.findall(r"\]\(([\w-]+\.md)\)", index)) == set()
    assert pages - set(re.findall(r": ([\w-]+\.md)$", site, re.M)) == set()
    reference = {
        f"reference/{page.name}" for page in (ROOT / "docs" / "reference").glob("*.md")
    }  # tests/test_reference.py
    assert reference == set(re.findall(r": (reference/\w+\.md)$", site, re.M))


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    for module in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(module, reason='pip install -e ".[docs]" has it')
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    assert {page.stem for page in PAGES[1:]} <= {path.parent.name for path in (tmp_path / "site").rglob("*.html")} | {
        "index"
    }


# ---- the reader itself ----


def test_a_change_is_made_once_and_only_where_it_fits(tmp_path):
    (tmp_path / "a.py").write_text("one\ntwo\nthree\n")
    apply("+++ a.py\n one\n-two\n+2\n@@\n-three\n+3\n+4\n", tmp_path)
    assert (tmp_path / "a.py").read_text() == "one\n2\n3\n4\n"
    with pytest.raises(AssertionError, match="there 0 times"):
        apply("+++ a.py\n-two\n+2\n", tmp_path)


def test_what_is_shown_is_compared_line_by_line():
    printed = "a 1\nb 2  \nc 3\nd 4\n"
    assert shown("a 1\nb 2\n", printed) and shown("a 1\n...\nd 4\n", printed) and shown("...\nc 3", printed)
    assert not shown("a 1\nc 3\n", printed) and not shown("d 4\n...\na 1\n", printed) and not shown("a\n", printed)


def test_notes_belong_to_the_block_they_precede(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- given: a -->\n<!-- exits: 3 -->\n```bash\nx\n```\n\n<!-- exits: 4 -->\n\n```bash\ny\n```\n")
    first, second = blocks(page)
    assert first.notes == {"given": "a", "exits": "3"} and second.notes == {} and (first.line, second.line) == (3, 9)
