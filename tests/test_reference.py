"""The reference: every example of its pages runs, and every module that the table calls public has a page."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "reference").glob("*.md"))
_PYTHON = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
_DIRECTIVE = re.compile(r"^::: ([\w.]+)(?:\n    options:\n      members:((?: \[.*\])|(?:\n        - \w+)+))?", re.M)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [page for page in PAGES if _PYTHON.search(text_of(page))], ids=lambda page: page.stem)
def test_every_example_runs(page, capsys):
    """The blocks of a page follow each other in one program; their asserts are the oracle."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    names = {"__name__": f"reference_{page.stem}"}
    try:
        for block in _PYTHON.findall(text_of(page)):
            assert "assert" in block or "class " in block, f"{page.name}: an example without an oracle\n{block}"
            exec(compile(block, f"{page.name}:example", "exec", dont_inherit=True), names)
    finally:
        torch.set_num_threads(before)


def test_every_public_module_has_a_page_with_its_names():
    table = text_of(ROOT / "docs" / "reference" / "index.md").partition("## What is stable")[0]
    documented: dict[str, set[str]] = {}
    for page in PAGES:
        for module, members in _DIRECTIVE.findall(text_of(page)):
            found = importlib.import_module(module)
            chosen = set(re.findall(r"\w+", members)) or set(public_names(found.__file__))
            assert [name for name in chosen if not hasattr(found, name)] == [], page.name
            documented[module] = chosen
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 3 or not cells[0].startswith("["):
            continue
        assert (ROOT / "docs" / "reference" / re.search(r"\((.*)\)", cells[0])[1]).is_file()
        modules = re.findall(r"`([\w.]+)`", cells[1])
        names = set(re.findall(r"`(\w+)`", cells[2])) - {"hookimpl"}
        owned = set().union(
            *(documented.get(m, set()) for m in documented if any(m.startswith(f"{own}") for own in modules))
        )
        assert names <= owned, f"{cells[1]}: {names - owned} is on no page"


def public_names(file: str | None) -> list[str]:
    assert file is not None
    body = ast.parse(Path(file).read_text(encoding="utf-8")).body
    defined = [node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    return [name for name in defined if not name.startswith("_")]
