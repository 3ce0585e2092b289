"""Maps keys and sliders to the actions of an environment, by its action space and the names it gives its actions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldlab.env.spaces import encode_action
from worldlab.errors import ConfigError

WORDS = ("left", "right", "up", "down", "fire")
"""What a person can press. The page maps arrows, WASD, a key and touch buttons to these words."""
_SPELLED = {"forward": "up", "toggle": "fire", "shoot": "fire", "pickup": "pickup"}
"""Names of actions that mean a word, or that contain one and mean none."""
_BY_COUNT = {2: (("left",), ("right",)), 3: (("left",), (), ("right",))}
"""What unnamed actions need by their number: a push to either side, with rest between them where there are three."""
_UNNAMED = ((), ("left",), ("up",), ("right",), ("down",))
"""What the first of four or more unnamed actions need: by custom the first does nothing."""


_PAIRS = (("left", "right"), ("down", "up"))
_SINGLE = (("", "up"), ("", "down"), ("", "fire"))


@dataclass(frozen=True)
class ActionChoice:
    """One action of a Discrete space. needs: the words that must be pressed together; () is taken when none is."""

    name: str
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Axis:
    """One number of a Box, in the environment's unit. less, more: the words that push it to its bounds; "" is none.

    rest: its value while nothing is pressed.
    """

    name: str
    low: float
    high: float
    rest: float
    less: str = ""
    more: str = ""


@dataclass(frozen=True)
class Controls:
    """How a person acts: with one of several choices, or with a number on each of several axes."""

    space: spaces.Space
    choices: tuple[ActionChoice, ...] = ()
    axes: tuple[Axis, ...] = ()

    @property
    def rest(self) -> int | list[float]:
        """The action before anything is pressed, as `encode` takes it."""
        if self.axes:
            return [axis.rest for axis in self.axes]
        return next((index for index, choice in enumerate(self.choices) if not choice.needs), 0)

    def encode(self, pressed: int | list[float]) -> np.ndarray:
        """Return the encoded action [A] of the index of a choice, or of one number for each axis.

        Raises: ConfigError if there is no such action.
        """
        if isinstance(pressed, int) and 0 <= pressed < len(self.choices):
            assert isinstance(self.space, spaces.Discrete)
            return encode_action(self.space, pressed + int(self.space.start))
        if isinstance(pressed, list) and self.axes and len(pressed) == len(self.axes) and np.isfinite(pressed).all():
            return encode_action(self.space, np.reshape(pressed, self.space.shape or ()))
        raise ConfigError(
            "this environment has no such action",
            cause=f"{len(self.choices)} choices, {len(self.axes)} axes",
            fix="reload the page",
        )

    def every(self) -> list[tuple[str, np.ndarray]]:
        """Return the name and the encoded action of each choice, or of both ends of each axis."""
        if self.choices:
            return [(choice.name, self.encode(index)) for index, choice in enumerate(self.choices)]
        rest, ends = [axis.rest for axis in self.axes], []
        for at, axis in enumerate(self.axes):
            for value in {axis.low, axis.high} - {axis.rest}:
                ends.append((f"{axis.name} {value:g}", self.encode([*rest[:at], value, *rest[at + 1 :]])))
        return sorted(ends, key=lambda end: end[0])

    def summary(self) -> dict[str, Any]:
        """Return the controls as the page reads them."""
        return {
            "choices": [{"name": choice.name, "needs": list(choice.needs)} for choice in self.choices],
            "axes": [axis.__dict__ for axis in self.axes],
            "rest": self.rest,
        }


def controls_of(env: gymnasium.Env) -> Controls:
    """Return the controls of an environment in the form of `worldlab.env.find`."""
    space = env.action_space
    if isinstance(space, spaces.Box):
        return Controls(space, axes=tuple(_axes(space)))
    assert isinstance(space, spaces.Discrete), "action_spec accepted this space"
    count = int(space.n)
    names = _action_names(env)
    if len(names) == count:
        return Controls(space, tuple(ActionChoice(name.lower(), _needs(name)) for name in names))
    needs = _BY_COUNT.get(count, _UNNAMED)
    return Controls(
        space,
        tuple(ActionChoice(_name(i, needs), needs[i] if i < len(needs) else (f"action {i}",)) for i in range(count)),
    )


def _name(index: int, needs: tuple[tuple[str, ...], ...]) -> str:
    words = needs[index] if index < len(needs) else ()
    return f"action {index}" if not words else f"action {index} ({words[0]})"


def _action_names(env: gymnasium.Env) -> list[str]:
    """Return the names that an environment gives its actions, as ALE (`get_action_meanings`) and MiniGrid (`actions`) do."""
    inner = env.unwrapped
    meanings = getattr(inner, "get_action_meanings", None)
    if callable(meanings):
        return [str(name) for name in meanings()]  # pyright: ignore[reportGeneralTypeIssues]
    named = getattr(inner, "actions", None)
    return [str(action.name) for action in named] if isinstance(named, type) and hasattr(named, "__members__") else []  # pyright: ignore[reportGeneralTypeIssues]


def _needs(name: str) -> tuple[str, ...]:
    """Return the words in the name of an action: "UPRIGHTFIRE" needs three; a name without any is never pressed."""
    lower = name.lower()
    if lower in _SPELLED:
        return (_SPELLED[lower],)
    found = [word for word in WORDS if word in lower]
    if not found and not re.fullmatch(r"noop|nothing|idle|stay|none", lower):
        return (lower,)
    return tuple(found)


def _axes(space: spaces.Box) -> list[Axis]:
    """Return the axes of a Box. Those that push both ways get left and right, then down and up; the others one word each."""
    low, high = space.low.ravel().tolist(), space.high.ravel().tolist()
    free, axes = set(WORDS), []
    for index, (least, most) in enumerate(zip(low, high, strict=True)):
        both_ways = least < 0 < most
        offers = _PAIRS if both_ways else _SINGLE
        less, more = next((offer for offer in offers if set(offer) - {""} <= free), ("", ""))
        free -= {less, more}
        name = f"action {index + 1}" if len(low) > 1 else "action"
        axes.append(Axis(name, least, most, 0.0 if both_ways else least, less, more))
    return axes
