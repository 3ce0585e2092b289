"""The base of every configuration: frozen, closed to unknown keys, its field docstrings are its help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:

    def field(default: Any = ..., **rules: Any) -> Any: ...
else:
    field = Field
"""Declare a setting: `latent_dim: int = field(32, gt=0)`; the docstring below it becomes its help."""


class Config(BaseModel):
    """A group of settings. Subclass it beside the component it configures.

    Frozen, so that nothing changes a run's configuration after it was resolved; `extra="forbid"`, so
    that a misspelt key is an error; NaN and infinity are refused. It must be importable without torch.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        validate_default=True,
    )
