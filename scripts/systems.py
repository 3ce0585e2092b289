"""Write docs/systems.md: the systems by name, from scripts/systems.toml and the registry.

    python scripts/systems.py

Every command must resolve to a configuration, so a row cannot name a part or a setting that is not there.
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worldlab.cli.flags import read_flags
from worldlab.config.resolve import resolve
from worldlab.registry import Registry, load_registry

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "systems.md"
HEAD = """# Systems by name

Made by `python scripts/systems.py` from `scripts/systems.toml` and the registry; a test compares them.
These are the systems of the lecture on generative models, and world models for control made of them: {built} of {total} are built.
Role: E encoder, D dynamics, X decoder, O objective. A part fits any other two parts, so a command names only what differs from the
defaults; `worldlab train` goes before it. `worldlab plugins --paper NAME` finds a part by the name of a system, an author or an
arXiv number. Each check is a test with an oracle in `tests`.
More deviations are in the docstrings and in the README of each family.
"""


def systems() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (kind, name, entry) of every system, in the order of the file."""
    kinds = tomllib.loads((ROOT / "scripts" / "systems.toml").read_text("utf-8"))
    for kind, entries in kinds.items():
        for name, entry in entries.items():
            yield kind, name, entry


def check_command(registry: Registry, command: str) -> None:
    """Resolve the command of a system. Raises: a WorldlabError if it names a part or setting that does not exist."""
    flags = read_flags(shlex.split(command))
    resolve(registry, presets=flags.presets or ("laptop",), flags=flags.settings)


def format_page(registry: Registry) -> str:
    """Return the text of docs/systems.md."""
    rows = list(systems())
    lines = [HEAD.format(built=sum("run" in entry for _, _, entry in rows), total=len(rows))]
    for kind in dict.fromkeys(kind for kind, _, _ in rows):
        lines += [
            f"## {kind}",
            "",
            "| system | role | command | paper | check | deviates |",
            "|---|---|---|---|---|---|",
        ]
        for name, entry in ((name, entry) for found, name, entry in rows if found == kind):
            if "run" in entry:
                check_command(registry, entry["run"])
            command = f"`{entry['run']}`" if "run" in entry else "not built"
            check = f"`{entry['check'].replace('::', '` `')}`" if "check" in entry else "-"
            cells = (name, entry["role"], command, entry["paper"], check, entry.get("deviates", "-"))
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(format_page(load_registry()), encoding="utf-8")
