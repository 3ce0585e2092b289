"""What an environment may be able to tell beyond Gymnasium's answers. Found by asking, in its wrappers or its adapter.

    truth()             the simulator's state (TellsTruth); an adapter may read it off environments that are not its own (ReadsTruth)
    noise_factors()     what moves the noise in a picture, and nothing else (ShowsNoise)
    odds(), state_of()  the odds of the next state, where states can be counted (KnowsOdds)

Whoever offers one needs no import from here: a method of that name and meaning is enough.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

Factors = dict[str, np.ndarray]
"""Numbers by name, [k] each, always the same names and sizes."""


@runtime_checkable
class TellsTruth(Protocol):
    """An environment (or a wrapper) that knows the state its last observation shows."""

    def truth(self) -> Factors: ...


@runtime_checkable
class ReadsTruth(Protocol):
    """An adapter (worldlab.env.find.EnvAdapter) that can read the state of an environment it built; None where it cannot."""

    def truth(self, env: Any) -> Factors | None: ...


@runtime_checkable
class ShowsNoise(Protocol):
    """An environment (or a wrapper) that puts noise into observations and knows its factors: independent of the state."""

    def noise_factors(self) -> Factors: ...


@runtime_checkable
class KnowsOdds(Protocol):
    """An environment of S states and discrete actions that knows P(next state | state, action)."""

    def odds(self) -> np.ndarray:
        """float64 [S, A, S]; rows sum to 1."""
        ...

    def state_of(self, obs: dict[str, np.ndarray]) -> np.ndarray:
        """The states int [N] that observations {key: [N, ...]}, as the boundary gives them, show; S where one shows none."""
        ...


Ability = TypeVar("Ability")


def able(env: Any, ability: type[Ability]) -> Ability | None:
    """The outermost layer of a wrapped environment that has an ability (one of the protocols above), or None."""
    layer = env
    while layer is not None:
        if isinstance(layer, ability):
            return layer
        layer = getattr(layer, "env", None)
    return None


def truth_reader(adapter: Any, env: Any) -> Callable[[], Factors] | None:
    """What tells the state of a running environment, or None. Its own word counts before its adapter's."""
    own = able(env, TellsTruth)
    if own is not None:
        return own.truth
    if not isinstance(adapter, ReadsTruth) or adapter.truth(env) is None:
        return None

    def read() -> Factors:
        found = adapter.truth(env)
        assert found is not None
        return found

    return read
