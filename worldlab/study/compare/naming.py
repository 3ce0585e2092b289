"""Short names for what is compared: they name what varies and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from worldlab.config.resolve import PARTS
from worldlab.errors import ConfigError

Mixture = Mapping[str, str]
"""The parts of a model by role."""
_LONGEST = 60


def slug(text: str, limit: int = _LONGEST) -> str:
    """A text as part of a file name: letters, digits, "." and "-"."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text, flags=re.ASCII).strip("-.")[:limit].strip("-.") or "x"


def varying(models: Sequence[Mixture]) -> list[str]:
    """The roles in which the models differ."""
    return [role for role in PARTS if len({model[role] for model in models}) > 1]


def name_models(models: Sequence[Mixture], own: Sequence[str]) -> list[tuple[str, str]]:
    """A key, safe as a file name, and a label for each model. own: names given by the user, "" where there is none.

    Models of one family in all roles that vary are called by the family; if nothing varies, by encoder, dynamics and
    decoder. Raises: ConfigError if two would be called alike.
    """
    roles = varying(models) or [role for role in PARTS if role != "agent"]
    families = all(len({model[role] for role in roles}) == 1 for model in models)
    shown = roles[:1] if families else roles
    named = []
    for model, name in zip(models, own, strict=True):
        words = [model[role] for role in shown]
        label = words[0] if len(words) == 1 else ", ".join(f"{model[role]} {role}" for role in shown)
        named.append((slug(name or "-".join(words)), name or label))
    keys = [key.lower() for key, _ in named]
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigError(
                f"compare: two models would both be called '{key}'",
                cause="they have the same parts, or names that differ in signs only",
                fix='give each [[model]] a name of its own: name = "..."',
            )
    return named


def title_of(models: Sequence[Mixture], envs: Sequence[str], seeds: int) -> str:
    """A title: what is compared, where, how often."""
    roles = varying(models)
    what = f"{len(models)} models" if len(models) > 1 else "one model"
    if len(roles) == 1:
        what = f"{len({model[roles[0]] for model in models})} {roles[0]}{'' if roles[0].endswith('s') else 's'}"
    return f"{what} on {', '.join(envs)}; {seeds} seed{'s' if seeds > 1 else ''}"
