"""The page "Which checks exist and why", made of the checks' own docstrings.

python -m worldlab.testing.page > docs/checks.md
"""

from __future__ import annotations

import re
import sys
import textwrap

from worldlab.testing.checks import Check, all_checks

INTRO = """\
# Which checks exist and why

Shape tests do not protect a library of parts: a transformer that attends across the batch, a dynamics without memory and a reset that
leaks all have the right shapes. So each check here asks for meaning, and for each there is a small component with just this bug
(`tests/contract/zoo/`) that it must catch.

```bash
worldlab check-plugin encoder:vae -k E2
```

runs one check of a component, with a line of cause and one of cure if it fails. Without `-k` all are run; `--level 0.1` leaves
out those that worldlab 0.1 had not, `--fast` those that train for seconds (marked *trains*). In pytest:

```python
from worldlab.testing import parametrize_with_checks


@parametrize_with_checks(["encoder:vae"], expected_failures={})
def test_encoder(subject, check):
    check(subject)
```

A component is checked in small sizes (`Config.small()`, or shrunk by the names of its settings) among reference partners, and
once more for each other choice of its `Literal` settings. What it does not promise (`posterior`, `prior`, `renders`, ...) is
skipped.

This page is written by `python -m worldlab.testing.page > docs/checks.md` from the checks' docstrings; a test fails while they differ.
"""

GROUPS = {
    "component": ("Every component", "Hold for encoders, dynamics and decoders alike."),
    "encoder": ("Encoders", "q(z given o, h)."),
    "dynamics": ("Dynamics", "h' = f(h, z, a) and p(z given h). The T checks are about whole sequences."),
    "decoder": ("Decoders", "p(o given h, z)."),
    "world_model": (
        "World models",
        "Three parts together; run over mixes of the installed families, not by `check-plugin`.",
    ),
}


_PARTS = re.compile(r"(?P<what>.+?) Catches (?P<catches>.+?) Fix: (?P<fix>.+)")


def page() -> str:
    """The page's Markdown text."""
    parts = [INTRO]
    for role, (title, what) in GROUPS.items():
        parts.append(f"## {title}\n\n{what}\n")
        parts += [_entry(check) for check in all_checks() if check.role == role]
    return "\n".join(parts)


def _entry(check: Check) -> str:
    """One check: its title, what it asks, what it catches and the usual fix, as its docstring says them."""
    found = _PARTS.fullmatch(" ".join(check.doc.split()))
    assert found, f"the docstring of {check.id} must say what it Catches, then the Fix:"
    marks = f"since {check.since}" + (", trains" if check.slow else "")
    items = [_wrapped("- Catches " + found["catches"]), _wrapped("- Fix: " + found["fix"])]
    return f"### {check.id} {check.title}\n\n{_wrapped(found['what'])} *({marks})*\n\n" + "\n".join(items) + "\n"


def _wrapped(text: str) -> str:
    return textwrap.fill(
        text, 120, subsequent_indent="  " * text.startswith("- "), break_long_words=False, break_on_hyphens=False
    )


if __name__ == "__main__":
    sys.stdout.write(page())
