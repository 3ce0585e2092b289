"""Plays the episodes of environments in the process that calls it, and names the environment in every error."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from worldlab.env.arrivals import Obs, Step
from worldlab.env.watch import Limit, TimeIsUp, stop_timer
from worldlab.errors import EnvCrashedError, EnvError, MemoryLimitError, WorldlabError, is_from_user

Reply = Step | WorldlabError
"""What one environment answers to a request."""
Description = tuple[str, gymnasium.Space, gymnasium.Space]
"""The id, the observation space and the action space of an environment."""
CLOSING = 2.0
"""Seconds that environments have to close."""


def building_time(timeout: float) -> float:
    """Return the seconds in which an environment must be built: at least a minute, for a worker imports much before."""
    return max(timeout, 60.0)


class Episodes:
    """One environment, its stream of episode seeds, and the return so far.

    timeout: seconds that one call of the environment may take.
    Raises: EnvError if the environment cannot be built.
    """

    def __init__(self, make: Callable[[], gymnasium.Env], number: int, seed: np.random.SeedSequence, timeout: float):
        self.number = number
        self.id = "?"
        self._make, self._seed, self._timeout = make, seed, timeout
        self._rng = np.random.default_rng(seed)
        self._return, self._length = 0.0, 0
        self._last: Obs = {}
        self.env = self._call("build", make)
        self.id = self.env.spec.id if self.env.spec is not None else type(self.env.unwrapped).__name__

    @property
    def description(self) -> Description:
        """What the environment is."""
        return self.id, self.env.observation_space, self.env.action_space

    def answer(self, request: str, argument: Any) -> Reply:
        """Carry out a request: "step" with an action, "reset" with (round, number), "rebuild" for both anew."""
        try:
            if request == "step":
                return self._step(argument)
            if request == "rebuild":
                self.close()
                self.env = self._call("build", self._make)
            return self._begin(*argument)
        except WorldlabError as error:
            return error

    def close(self, seconds: float = CLOSING) -> None:
        """Close the environment, whatever it raises; a close that hangs is given up after `seconds`."""
        try:
            with Limit(seconds):
                self.env.close()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and is_from_user(error):
                raise

    def _begin(self, round: int, number: int) -> Step:
        """Start an episode by its numbers (`EnvPool`); environments with the same seed then play the same."""
        key = (*self._seed.spawn_key, round)
        seed = np.random.SeedSequence(self._seed.entropy, spawn_key=key) if round > 0 else self._seed
        self._rng = np.random.default_rng(seed)
        for _ in range(number):
            self._episode_seed()
        return self._reset()

    def _reset(self) -> Step:
        self._return, self._length = 0.0, 0
        seed = self._episode_seed()
        obs, _ = self._call("reset", lambda: self.env.reset(seed=seed))
        self._last = obs
        return Step(obs, first=True)

    def _step(self, action: Any) -> Step:
        """Take one step; with action None, return the last observation and step nothing."""
        if action is None:
            return Step(self._last, skipped=True)
        obs, reward, terminated, truncated, _ = self._call("step", lambda: self.env.step(action))
        self._return += float(reward)
        self._length += 1
        self._last = obs
        if not (terminated or truncated):
            return Step(obs, float(reward))
        finished = (self._return, self._length)
        return Step(
            obs, float(reward), bool(terminated), bool(truncated), reset_obs=self._reset().obs, finished=finished
        )

    def _episode_seed(self) -> int:
        return int(self._rng.integers(2**31))

    # ---- errors ----

    def _call(self, doing: str, work: Callable[[], Any]) -> Any:
        """Run code of the environment. Raises: a WorldlabError, whatever the code raises; what `is_from_user` names."""
        try:
            with Limit(building_time(self._timeout) if doing == "build" else self._timeout):
                return work()
        except BaseException as error:
            if is_from_user(error):
                raise
            raise self._named(error, doing) from error

    def _named(self, error: BaseException, doing: str) -> WorldlabError:
        """Return the error with the environment's number, its id and the step."""
        if isinstance(error, WorldlabError):
            return type(error)(f"env {self.number}: {error.message}", cause=error.cause, fix=error.fix)
        where = f"step {self._length + 1} of its episode" if doing == "step" else doing
        kind = MemoryLimitError if isinstance(error, MemoryError) else EnvCrashedError
        what = f"took over {self._timeout:g} s" if isinstance(error, TimeIsUp) else type(error).__name__
        return kind(
            f"env {self.number} ({self.id[:30]}) failed in {where}: {what}",
            cause="".join(traceback.format_exception(error)).strip(),
            fix="worldlab check-env ID runs it alone",
        )


def first_failure(replies: Sequence[Reply | None]) -> WorldlabError | None:
    """Return the first reply that is an error."""
    return next((reply for reply in replies if isinstance(reply, WorldlabError)), None)


def check_spaces(first: Description, other: Description, number: int) -> None:
    """Check that environment `number` has the spaces of the first one. Raises: EnvError."""
    for name, one, another in zip(("observation_space", "action_space"), first[1:], other[1:], strict=True):
        if one != another:
            raise EnvError(
                f"env {number} ({other[0][:30]}) has another {name} than env 0",
                cause=f"expected {one}, got {another}"[:400],
                fix="build every environment with the same spaces",
            )


class Local:
    """Environments stepped in this process. Arguments: as of `Episodes`, one seed for each of `envs`."""

    def __init__(
        self,
        make: Callable[[], gymnasium.Env],
        envs: Sequence[int],
        seeds: Sequence[np.random.SeedSequence],
        timeout: float,
    ):
        self.envs = list(envs)
        self.replies: list[Reply | None] = [None] * len(envs)
        self.alive = True
        self._episodes: list[Episodes] = []
        try:
            for number, seed in zip(envs, seeds, strict=True):
                self._episodes.append(Episodes(make, number, seed, timeout))
                check_spaces(self._episodes[0].description, self._episodes[-1].description, number)
        except BaseException:
            self.close()
            raise
        self.description = self._episodes[0].description

    @property
    def failure(self) -> WorldlabError | None:
        """The first failure among the replies."""
        return first_failure(self.replies)

    def send(self, request: str, arguments: Mapping[int, Any]) -> None:
        """Put the replies to a request into `replies`. arguments: {position in `envs`: argument}."""
        for position, reply in zip(arguments, self.answers(request, arguments), strict=True):
            self.replies[position] = reply

    def answers(self, request: str, arguments: Mapping[int, Any]) -> Iterator[Reply]:
        """Yield the reply of each environment in `arguments` as soon as it is there."""
        for position, argument in arguments.items():
            yield self._episodes[position].answer(request, argument)

    def close(self, seconds: float = CLOSING) -> None:
        """Close the environments within `seconds` each; a second call does nothing."""
        episodes, self._episodes = self._episodes, []
        for one in episodes:
            one.close(seconds)
        if episodes:
            stop_timer()
