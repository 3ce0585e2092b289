"""Makes short names and titles for models: they contain only the parts that differ between the models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from worldlab.config.resolve import PARTS
from worldlab.errors import ConfigError

Mix = Mapping[str, str]
"""Names of a model's components by role."""
_LONGEST = 60


def slug(text: str, limit: int = _LONGEST) -> str:
    """Return a text as part of a file name: letters, digits, "." and "-" only."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text, flags=re.ASCII).strip("-.")[:limit].strip("-.") or "x"


def varying_roles(models: Sequence[Mix]) -> list[str]:
    """Return the roles in which the models differ."""
    return [role for role in PARTS if len({model[role] for model in models}) > 1]


def name_models(models: Sequence[Mix], own: Sequence[str]) -> list[tuple[str, str]]:
    """Return a key, safe as a file name, and a label for each model.

    own: names given by the user, "" for models without one. A model is named by its components in the roles that vary.
    If every model has the same family in all these roles, it is named by the family. If no role varies, it is named by
    encoder, dynamics and decoder. Raises: ConfigError if two models would have the same key.
    """
    roles = varying_roles(models) or [role for role in PARTS if role != "agent"]
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
                f"compare: two models would have the same name '{key}'",
                cause="they have the same parts, or names that differ only in case or punctuation",
                fix='give each [[model]] a different name: name = "..."',
            )
    return named


def make_title(models: Sequence[Mix], envs: Sequence[str], seeds: int) -> str:
    """Return a title: the number of models, the environments and the number of seeds."""
    roles = varying_roles(models)
    what = f"{len(models)} models" if len(models) > 1 else "one model"
    if len(roles) == 1:
        what = f"{len({model[roles[0]] for model in models})} {roles[0]}{'' if roles[0].endswith('s') else 's'}"
    return f"{what} on {', '.join(envs)}; {seeds} seed{'s' if seeds > 1 else ''}"
