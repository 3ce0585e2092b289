"""Write the page "Which checks exist and why" from the docstrings of the checks.

python -m worldlab.testing.page > docs/checks.md
"""

from __future__ import annotations

import re
import sys
import textwrap

from worldlab.testing.checks import Check, all_checks

INTRO = """\
# Which checks exist and why

Shape tests are not enough for interchangeable components: a transformer that attends across the batch, a dynamics
without memory and a reset that leaks state all return tensors of the right shape. Each check on this page tests
behaviour. For each check, `tests/contract/zoo/` has a small component with exactly the bug that the check must catch.

```bash
worldlab check-plugin encoder:vae -k E2
```

runs one check of a component and prints the cause and a fix if it fails. Without `-k`, all checks of the component run.
`--level 0.1` runs only the checks that worldlab 0.1 had. `--fast` leaves out the checks that train for seconds (marked
*trains*). In pytest:

```python
from worldlab.testing import parametrize_with_checks


@parametrize_with_checks(["encoder:vae"], expected_failures={})
def test_encoder(subject, check):
    check(subject)
```

A component is checked at the smallest size of `--size`, `Config.sized("nano")`, in a world model with simple reference
components in the other roles. Only settings that are declared with `sized(...)`, or with `field(..., nano=...)`, are small
there; all others have their defaults, whatever they are called. The checks run again for each other choice of its `Literal`
settings. Checks of properties that it does not declare (`posterior_kind`, `prior_kind`, `renders`, ...) are skipped.

`--verbose` says what each check saw: the observation, the partners with their settings, and the updates:

```bash
worldlab check-plugin encoder:vae -k E2 --verbose
```

In pytest, `--log-level=DEBUG` adds this to the report of a failure. `worldlab.testing.build("encoder:vae")` builds the same
for a test of your own: [the reference](reference/testing.md) has examples.

`python -m worldlab.testing.page > docs/checks.md` writes this page from the docstrings of the checks; a test fails if
they differ.
"""

GROUPS = {
    "component": ("Every component", "These checks apply to encoders, dynamics and decoders."),
    "encoder": ("Encoders", "An encoder infers the latent: q(z given o, h)."),
    "dynamics": (
        "Dynamics",
        "A dynamics predicts the next latent: h' = f(h, z, a) and p(z given h). The T checks test whole sequences.",
    ),
    "decoder": ("Decoders", "A decoder explains the observation: p(o given h, z)."),
    "agent": (
        "Agents",
        "An agent acts in features and may learn in the world model. The checks use a world model without training whose\n"
        "rewards are known (`worldlab.testing.known_world`).",
    ),
    "env": (
        "Environment adapters",
        "An adapter builds environments. The checks use the first of its `names()`, built as in a run; `worldlab check-env ID`\n"
        "examines one environment.",
    ),
    "launcher": (
        "Launchers",
        "A launcher runs the tasks of a comparison. The checks run a few tasks that take milliseconds.",
    ),
    "tracker": (
        "Trackers",
        "A tracker shows the metrics of a run somewhere else. The checks hold short sessions with it, in an empty folder;\n"
        "what its own variables choose stays chosen, so set its offline mode first.",
    ),
    "world_model": (
        "World models",
        "These checks test an encoder, a dynamics and a decoder together. `check-plugin` does not run them;\n"
        "`check_mix` of `worldlab.testing` does, and worldlab's own tests run it over mixes of the installed families.",
    ),
}


_PARTS = re.compile(r"(?P<what>.+?) Catches (?P<catches>.+?) Fix: (?P<fix>.+)")


def page() -> str:
    """Return the Markdown text of the page."""
    parts = [INTRO]
    for role, (title, what) in GROUPS.items():
        parts.append(f"## {title}\n\n{what}\n")
        parts += [_entry(check) for check in all_checks() if check.role == role]
    return "\n".join(parts)


def _entry(check: Check) -> str:
    """Return the entry of one check: its title, what it tests, what it catches and the usual fix."""
    match = _PARTS.fullmatch(" ".join(check.doc.split()))
    assert match, f"the docstring of {check.id} must have a part 'Catches ...' and then a part 'Fix: ...'"
    marks = f"since {check.since}" + (", trains" if check.slow else "")
    items = [_wrap("- Catches " + match["catches"]), _wrap("- Fix: " + match["fix"])]
    return f"### {check.id} {check.title}\n\n{_wrap(match['what'])} *({marks})*\n\n" + "\n".join(items) + "\n"


def _wrap(text: str) -> str:
    return textwrap.fill(
        text, 120, subsequent_indent="  " * text.startswith("- "), break_long_words=False, break_on_hyphens=False
    )


if __name__ == "__main__":
    sys.stdout.write(page())
