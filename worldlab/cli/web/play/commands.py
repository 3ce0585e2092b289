"""What the page of a game may send, with its limits. Anything else is refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from worldlab.errors import ConfigError, one_line

Number = Annotated[float, Field(ge=-1e6, le=1e6)]
Model = Annotated[int, Field(ge=0, le=1)]
Changes = Annotated[dict[Annotated[int, Field(ge=0)], Number], Field(max_length=4096)]
"""New values of latent codes by their index."""
FASTEST = 60


class _Command(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Simple(_Command):
    """A command without an argument. "begin-dream": all dreams begin anew from the present moment."""

    do: Literal["play", "pause", "step", "reset", "begin-dream"]


class Act(_Command):
    """The person's action from now on: the index of a choice, or one number for each axis."""

    do: Literal["act"]
    action: int | Annotated[list[Number], Field(max_length=256)]


class Change(_Command):
    """New settings of a game; None leaves one as it is. speed: steps a second."""

    do: Literal["change"]
    speed: Annotated[float, Field(ge=1, le=FASTEST)] | None = None
    driver: Literal["person", "agent"] | None = None
    noise: Literal["fixed", "fresh", "none"] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0.1, le=5)] | None = None


class Look(_Command):
    """Show a moment of the timeline."""

    do: Literal["look"]
    at: int


class DreamFutures(_Command):
    """Dream several futures of a moment (worldlab.evaluation.playing.session.PlaySession.branch)."""

    do: Literal["futures"]
    at: int
    model: Model = 0
    count: Annotated[int, Field(ge=1, le=8)] = 4
    horizon: Annotated[int, Field(ge=1, le=60)] = 20
    actions: Literal["agent", "real", "hold", "each"] = "agent"
    codes: Changes = Field(default_factory=dict)


class ShowCodes(_Command):
    """Show the latent of a moment, and the picture of it with some codes changed."""

    do: Literal["codes"]
    at: int
    model: Model = 0
    codes: Changes = Field(default_factory=dict)


class DreamOn(_Command):
    """Let the dream begin anew from the present moment with some codes changed."""

    do: Literal["dream-on"]
    model: Model = 0
    codes: Changes = Field(default_factory=dict)


class Follow(_Command):
    """Drive with the actions of one of the futures that were dreamt last."""

    do: Literal["follow"]
    future: Annotated[int, Field(ge=0)]


PlayCommand = Simple | Act | Change | Look | DreamFutures | ShowCodes | DreamOn | Follow
_ADAPTER: TypeAdapter[PlayCommand] = TypeAdapter(Annotated[PlayCommand, Field(discriminator="do")])


def read_command(message: dict[str, Any]) -> PlayCommand:
    """Return the command in a message. Raises: ConfigError that names what is wrong."""
    try:
        return _ADAPTER.validate_python(message)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            "the page sent a command that does not exist", cause=one_line(f"{where}: {first['msg']}", 300)
        ) from None
