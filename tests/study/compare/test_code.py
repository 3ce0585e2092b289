"""The hash of the code that a cell reaches: edits of code change it, edits of prose do not."""

from __future__ import annotations

import importlib

import pytest

from worldlab.study.compare import code
from worldlab.study.compare.code import code_digest
from worldlab.study.compare.identity import CELL


def digest(target: str) -> str | None:
    code_digest.cache_clear()
    importlib.invalidate_caches()
    return code_digest(target)


PART = """
import math
from pack.inner import helper


class Part:
    scale = 1.0

    def double(self, x):
        return 2 * x
"""


@pytest.fixture
def pack(tmp_path, monkeypatch):
    """A package of four modules, of which `pack.inner.part` reaches all but `other`; importing it fails."""
    package = tmp_path / "pack"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('it was imported')")
    (package / "inner" / "__init__.py").write_text("")
    (package / "inner" / "part.py").write_text(PART)
    (package / "inner" / "helper.py").write_text("x = 1")
    (package / "late.py").write_text("x = 1")
    (package / "other.py").write_text("x = 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield package
    code_digest.cache_clear()


PROSE = {
    "docstring": PART.replace("class Part:", 'class Part:\n    """A part."""\n'),
    "docstring of a function": PART.replace("x):", 'x):\n        """Double."""'),
    "docstring of a field": PART.replace("scale = 1.0", 'scale = 1.0\n    """The scale."""'),
    "docstring of the module": '"""About."""\n' + PART,
    "comment": PART.replace("return", "# twice\n        return"),
    "blank line": PART.replace("\n\n\nclass", "\n\n\n\n\nclass"),
    "line break": PART.replace("2 * x", "(2 *\n            x)"),
}


@pytest.mark.parametrize("edit", PROSE)
def test_prose_keeps_the_hash_of_code(pack, edit):
    before = digest("pack.inner.part:Part")
    assert PROSE[edit] != PART
    (pack / "inner" / "part.py").write_text(PROSE[edit])
    assert digest("pack.inner.part:Part") == before


@pytest.mark.parametrize("old, new", [("scale = 1.0", "scale = 1.5"), ("2 * x", "2 + x"), ("Part:", "Other:")])
def test_an_edit_of_the_code_changes_its_hash(pack, old, new):
    before = digest("pack.inner.part:Part")
    (pack / "inner" / "part.py").write_text(PART.replace(old, new))
    assert digest("pack.inner.part:Part") != before


ALIKE = [
    ("[[1], 2]", "[1, [2]]"), ("1", "1.0"), ("1", "'1'"), ("x", "'x'"), ("None", "'None'"), ("f(a, b)", "f((a, b))"),
    ("f(a)", "f(*a)"), ("a - b - c", "a - (b - c)"), ("{**a}", "{*a}"), ("b'x'", "'x'"), ("'a' 'b'", "'a', 'b'"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_code_that_reads_alike_has_different_hashes(pack, one, other):
    found = []
    for text in (one, other):
        (pack / "inner" / "part.py").write_text(f"value = {text}")
        found.append(digest("pack.inner.part"))
    assert found[0] != found[1]


@pytest.mark.parametrize(
    "line",
    [
        "import pack.late",
        "from pack import late",
        "from pack.late import x",
        "from .. import late",
        "def f():\n    from pack import late",
        "import importlib\nlate = importlib.import_module('pack.late')",
        "import importlib\ndef load(name):\n    return importlib.import_module(f'pack.{name}')",
    ],
)
def test_all_reached_modules_are_hashed(pack, line):
    (pack / "inner" / "part.py").write_text(PART + line)
    before = digest("pack.inner.part:Part")
    (pack / "late.py").write_text("x = 2")
    assert digest("pack.inner.part:Part") != before


def test_unreached_modules_are_not_hashed(pack):
    before = digest("pack.inner.part:Part")
    (pack / "other.py").write_text("x = 2")
    (pack / "notes.txt").write_text("no code")
    assert digest("pack.inner.part:Part") == before
    (pack / "inner" / "helper.py").write_text("x = 2")
    assert digest("pack.inner.part:Part") != before


def test_lazy_exports_of_a_package_are_hashed(pack):
    (pack / "__init__.py").write_text("EXPORTS = {'x': 'pack.late:x'}\ndef __getattr__(name): ...")
    (pack / "inner" / "part.py").write_text(PART + "from pack import x")
    before = digest("pack.inner.part:Part")
    (pack / "late.py").write_text("x = 2")
    assert digest("pack.inner.part:Part") != before


def test_code_that_cannot_be_parsed_is_hashed_by_its_bytes(pack):
    (pack / "inner" / "part.py").write_text("print 'Python 2'")
    before = digest("pack.inner.part:Part")
    (pack / "inner" / "part.py").write_text("print 'Python 2.7'")
    assert digest("pack.inner.part:Part") != before


def test_code_without_source_has_no_hash():
    assert digest("worldlab_file_plugin_nobody_has:Part") is None
    assert digest("math:sin") is None
    assert digest("worldlab_vae.encoder:VAEEncoder") != digest("worldlab_gan.encoder:GANEncoder")


def test_of_worldlab_only_code_that_can_change_numbers_is_hashed():
    package = code._Package("worldlab")
    reached = package.reached(CELL)
    names = {name.removeprefix("worldlab.") for name in reached}
    assert names >= {"rollout", "training.loop", "training.trainer", "study.compare.cell", "study.measures.bits"}
    assert not [
        name for name in names if name.split(".")[0] == "cli" or name.startswith(("study.report", "study.roundup"))
    ]
