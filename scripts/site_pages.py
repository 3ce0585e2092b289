"""A hook of mkdocs (mkdocs.yml) that adds the repository's pages outside docs/, and their pictures, to the site.

Links between files of the repository become links between pages of the site. A link to anything else (a folder, a
script) becomes plain text.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {
    ROOT / "README.md": "readme.md",
    ROOT / "CONTRIBUTING.md": "contributing.md",
    ROOT / "SECURITY.md": "security.md",
}
OUTSIDE |= {path: f"families/{path.parent.name}.md" for path in sorted((ROOT / "plugins").glob("*/README.md"))}
OUTSIDE |= {ROOT / "benchmarks" / "results" / "roundup" / "verdicts.svg": "img/verdicts.svg"}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files, config):
    """Add the files of OUTSIDE to the site."""
    for path, uri in OUTSIDE.items():
        files.append(File.generated(config, uri, content=path.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turn links between files of the repository into links between pages of the site."""
    uri = page.file.src_uri
    sources = {made: path for path, made in OUTSIDE.items()}
    folder = sources.get(uri, Path(config.docs_dir, uri)).parent

    def link(match: re.Match[str]) -> str:
        picture, text, target, part = match.groups(default="")
        text = _LINK.sub(link, text)  # a picture that is a link
        if "://" in target:
            return match[0]
        place, docs = (folder / target).resolve(), Path(config.docs_dir)
        if not place.exists():  # code that looks like a link, or a broken link, which mkdocs reports
            return match[0]
        found = OUTSIDE.get(place) or (place.relative_to(docs).as_posix() if place.is_relative_to(docs) else "")
        if not found:
            return text
        return f"{picture}[{text}]({os.path.relpath(found, os.path.dirname(uri) or '.')}{part})"

    return _LINK.sub(link, markdown)
