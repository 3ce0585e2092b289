"""Hashes the code that an experiment runs: the syntax trees of the modules it reaches, without prose.

A docstring, a comment or a blank line changes no number, so none of them changes a digest. A changed constant does.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from worldlab.runs import storage


@cache
def code_digest(target: str) -> str | None:
    """Return the SHA-256, in hex, of the code that "module" or "module:Attribute" reaches in its top-level package.

    An editable install (`pip install -e`) keeps its version when it is edited, so versions are not enough. Other
    top-level packages are covered by their versions. No module is imported. Returns None if no source is found. A file
    given by --plugin has none here; it is covered by the digest of its bytes.
    Raises: StorageError for a file that cannot be read.
    """
    module = target.partition(":")[0]
    package = _Package(module.partition(".")[0])
    if not package.files:
        return None
    reached = package.reached(module if module in package.files else package.name)
    digests = [[name, package.source(name).digest] for name in sorted(reached)]
    return storage.sha256_bytes(storage.dump_json(digests))


@dataclass(frozen=True)
class _Source:
    """What a module's file says. Its syntax tree is not kept: with a hundred trees in memory, parsing takes three times as long.

    digest: SHA-256 of the tree without docstrings. imports: (level, module, name) of each imported name; 0 and ""
    for `import name`. strings: its string literals.
    """

    digest: str
    imports: tuple[tuple[int, str, str], ...]
    strings: tuple[str, ...]


class _Package:
    """The source files of a top-level package. files: by dotted name of the module; empty if there is no source."""

    def __init__(self, name: str):
        self.name = name
        self.files = _source_files(name)
        self._sources: dict[str, _Source] = {}

    def source(self, name: str) -> _Source:
        if name not in self._sources:
            self._sources[name] = _read(self.files[name])
        return self._sources[name]

    def reached(self, start: str) -> set[str]:
        """Return the modules that importing `start` can reach, imports inside functions included."""
        reached: set[str] = set()
        lazy: set[str] = set()
        waiting = [start]
        while waiting:
            name = waiting.pop()
            if name in reached or name not in self.files:
                continue
            reached.add(name)
            waiting.append(name.rpartition(".")[0])  # importing a module imports its package
            for imported in self._imports(name):
                package = imported.rpartition(".")[0]
                if imported not in self.files and package in self.files and package not in lazy:
                    lazy.add(package)  # a package may import what it exports on first use, by name
                    waiting += self._named_in_strings(package)
                waiting += [imported, package]
            if not self._is_package(name):
                waiting += self._named_in_strings(name)
        return reached

    def _is_package(self, name: str) -> bool:
        return self.files[name].name == "__init__.py"

    def _imports(self, name: str) -> Iterator[str]:
        """Yield the dotted names that a module imports, attributes included ("package.module.Class")."""
        parents = name.split(".") if self._is_package(name) else name.split(".")[:-1]
        for level, module, imported in self.source(name).imports:
            base = parents[: len(parents) - level + 1] if level else []
            yield ".".join(filter(None, [*base, module, imported]))

    def _named_in_strings(self, name: str) -> Iterator[str]:
        """Yield the modules that a module names in string literals, for `import_module`: "a.b:Class", f"a.{name}"."""
        for literal in self.source(name).strings:
            text = literal.partition(":")[0]
            if text.endswith(".") and text[:-1] in self.files:
                yield from (module for module in self.files if module.startswith(text))
            elif text in self.files:
                yield text


def _source_files(top: str) -> dict[str, Path]:
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return {}
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return {}
    origin = Path(spec.origin)
    if spec.submodule_search_locations is None:
        return {top: origin}
    files = {}
    for path in origin.parent.rglob("*.py"):
        parts = path.relative_to(origin.parent).with_suffix("").parts
        files[".".join([top, *(parts[:-1] if parts[-1] == "__init__" else parts)])] = path
    return files


def _read(path: Path) -> _Source:
    with storage.storage_errors(path, "read"):
        source = path.read_bytes()
    try:
        tree = ast.parse(source, str(path))
    except (SyntaxError, ValueError):  # code for another version of Python: hash its bytes
        tree = ast.Module([ast.Expr(ast.Constant(source))], [])
    imports: list[tuple[int, str, str]] = []
    strings: list[str] = []
    texts: list[str] = []  # the tree in one order: names of nodes, lengths of lists, values
    waiting: list[Any] = [tree]
    while waiting:
        item = waiting.pop()
        if isinstance(item, ast.AST):
            texts.append(type(item).__name__)
            waiting += [getattr(item, field, None) for field in item._fields if field != "ctx"]
            if isinstance(item, ast.Import):
                imports += [(0, "", alias.name) for alias in item.names]
            elif isinstance(item, ast.ImportFrom):
                imports += [(item.level, item.module or "", alias.name) for alias in item.names]
            elif isinstance(item, ast.Constant) and isinstance(item.value, str):
                strings.append(item.value)
        elif isinstance(item, list):
            kept = [each for each in item if not _is_docstring(each)]
            texts.append(f"[{len(kept)}]")
            waiting += kept
        else:
            texts.append(repr(item))
    return _Source(storage.sha256_bytes("\n".join(texts).encode()), tuple(imports), tuple(strings))


def _is_docstring(node: object) -> bool:
    """Return whether a statement is a bare string: a docstring of a module, class, function or field."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
