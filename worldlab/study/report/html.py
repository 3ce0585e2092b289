"""Renders a self-contained HTML page that makes no network request.

Its content security policy allows only the embedded style and script, by their hashes. So an untrusted text could do no
harm even if it were not escaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from worldlab.study.report.figures import legend_key
from worldlab.training.panel import plain_text

_STYLE, _SCRIPT = "report.css", "report.js"


def render(template: str, **context: Any) -> str:
    """Render a template of this package with the given context and the shared style and script."""
    folder = resources.files("worldlab.study.report") / "templates"
    texts = {item.name: item.read_text(encoding="utf-8") for item in folder.iterdir() if item.is_file()}
    environment = Environment(
        loader=DictLoader(texts), autoescape=True, undefined=StrictUndefined, finalize=_finalize, trim_blocks=True
    )
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(texts[_STYLE])}; script-src {_hash(texts[_SCRIPT])}; "
        "base-uri 'none'; form-action 'none'"
    )
    shared = {"policy": policy, "css": texts[_STYLE], "js": texts[_SCRIPT]}
    environment.globals |= {"legend_key": legend_key, **{name: Markup(text) for name, text in shared.items()}}
    return environment.get_template(template).render(**context)


def _finalize(value: Any) -> Any:
    """Clean a value before Jinja escapes it: remove terminal control and text-direction characters.

    Non-breaking spaces keep an arrow beside its word, and "n = 5" on one line.
    """
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    text = plain_text(value).replace(" ↑", "\N{NO-BREAK SPACE}↑").replace(" ↓", "\N{NO-BREAK SPACE}↓")
    return re.sub(r"\b([np]) ([=<]) (?=\d)", "\\1\N{NO-BREAK SPACE}\\2\N{NO-BREAK SPACE}", text)


def _hash(text: str) -> str:
    """Return the content-security-policy source that allows exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
