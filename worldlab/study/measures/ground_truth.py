"""Optional methods by which an environment exposes ground truth that agents never receive.

    truth()                           the simulator's state (HasTruth); an adapter may provide it for environments that
                                      are not its own (TruthAdapter)
    noise_factors()                   the factors behind the noise in an image, and nothing else (HasNoiseFactors)
    transition_probs(), state_of()    the transition probabilities of a finite environment (HasTransitionProbs)

An environment, a wrapper or an adapter needs no import from here: a method with that name and meaning is enough.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

Factors = dict[str, np.ndarray]
"""Values [k] by factor name; names and sizes never change."""


@runtime_checkable
class HasTruth(Protocol):
    """An environment (or a wrapper) that exposes the state behind its last observation."""

    def truth(self) -> Factors: ...


@runtime_checkable
class TruthAdapter(Protocol):
    """An adapter (worldlab.env.find.EnvAdapter) that reads the state of its environments, or returns None."""

    def truth(self, env: Any) -> Factors | None: ...


@runtime_checkable
class HasNoiseFactors(Protocol):
    """An environment (or a wrapper) that exposes the factors of its observation noise, independent of the state."""

    def noise_factors(self) -> Factors: ...


@runtime_checkable
class HasTransitionProbs(Protocol):
    """An environment with S states and discrete actions that exposes P(next state | state, action)."""

    def transition_probs(self) -> np.ndarray:
        """Return float64 [S, A, S]; rows sum to 1."""
        ...

    def state_of(self, obs: dict[str, np.ndarray]) -> np.ndarray:
        """Return the states int [N] shown by observations {key: [N, ...]} as the environment emits them; S for an
        observation that shows no state."""
        ...


ProtocolT = TypeVar("ProtocolT")


def find_layer(env: Any, protocol: type[ProtocolT]) -> ProtocolT | None:
    """Return the outermost layer of a wrapped environment that implements one of the protocols above, or None."""
    layer = env
    while layer is not None:
        if isinstance(layer, protocol):
            return layer
        layer = getattr(layer, "env", None)
    return None


def find_truth_reader(adapter: Any, env: Any) -> Callable[[], Factors] | None:
    """Return a function that reads the state of a running environment, or None. The environment takes precedence over
    its adapter."""
    layer = find_layer(env, HasTruth)
    if layer is not None:
        return layer.truth
    if not isinstance(adapter, TruthAdapter) or adapter.truth(env) is None:
        return None

    def read() -> Factors:
        factors = adapter.truth(env)
        assert factors is not None
        return factors

    return read
