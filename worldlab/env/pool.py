"""Steps several environments together, in this process or in worker processes; both give the same data.

An episode that ends restarts in the same step: the caller gets the final observation and the first observation of the
next episode together, so no invented transition reaches the replay.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from typing import Any

import gymnasium
import numpy as np

from worldlab.errors import EnvError, WorldlabError

Obs = dict[str, np.ndarray]
BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables that numpy's BLAS libraries read when they are loaded."""


@dataclass(frozen=True)
class Arrivals:
    """The results of one step of N environments; row i belongs to environment i.

    obs: {key: [N, ...]}; where an episode ended, its final observation. reward: float32 [N]. terminated, truncated:
    bool [N]. is_first: bool [N], true after `reset` only. reset_obs: {key: [N, ...]}, the first observation of the
    next episode, meaningful where `done`; None when nothing ended. finished: (env, return, length in steps) of the
    episodes that ended. skipped: bool [N], true where the environment was not stepped: obs is the last
    one again, reward is 0.
    """

    obs: Obs
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    is_first: np.ndarray
    reset_obs: Obs | None
    finished: list[tuple[int, float, int]]
    skipped: np.ndarray

    @property
    def done(self) -> np.ndarray:
        """bool [N]: the episode ended with this step."""
        return self.terminated | self.truncated


@dataclass(slots=True)
class _Step:
    """The result of one environment; reset_obs and finished are set when the episode ended."""

    obs: Obs
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    reset_obs: Obs | None = None
    finished: tuple[float, int] | None = None
    skipped: bool = False


@dataclass
class Episode:
    """An episode in progress, as what it takes to play it again.

    round: how often the whole pool had been reset before, from 0. number: of the episode in its round, from 0. actions:
    native actions since its reset.
    """

    round: int = -1
    number: int = 0
    actions: list[Any] = field(default_factory=list)


class EnvPool:
    """Steps `num_envs` environments.

    make: builds one environment, in the form of `worldlab.env.find` (its observation is a dict). workers: processes
    that share the environments; 0 steps them in this process. seed: an integer, or several (a run whose episodes cannot
    go on adds its step count, so that it plays new ones). Every environment and every episode has its own seed, which
    does not depend on the number of workers; with `same_episodes` the k-th episodes of all environments after a `reset`
    share a seed. timeout: seconds a worker may take for one reply. episodes: the episode in progress of each environment.

    Raises: EnvError naming the environment's number and id when one fails, hangs or its process dies.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env],
        num_envs: int,
        workers: int = 0,
        seed: int | Sequence[int] = 0,
        *,
        same_episodes: bool = False,
        timeout: float = 300.0,
    ):
        self.num_envs = num_envs
        self.seed = seed
        self.episodes = [Episode() for _ in range(num_envs)]
        self._sent: list[Any] = []
        self._timeout = timeout
        self._slices: list[_Local | _Remote] = []
        seeds = np.random.SeedSequence(seed).spawn(num_envs)
        if same_episodes:
            seeds = seeds[:1] * num_envs
        groups = [group.tolist() for group in np.array_split(np.arange(num_envs), min(workers, num_envs) or 1)]
        try:
            for group in groups:
                own = [seeds[env] for env in group]
                self._slices.append(_Remote(make, group, own) if workers else _Local(make, group, own))
            described = [part.receive(timeout) for part in self._slices]
        except BaseException:
            self.close()
            raise
        self.env_id, self.observation_space, self.action_space = described[0]
        for part in self._slices:
            part.env_id = self.env_id

    def reset(self) -> Arrivals:
        """Start a new episode in every environment. Seeds from here on do not depend on earlier episodes."""
        return self._begin([Episode(episode.round + 1) for episode in self.episodes])

    def play_again(self, episodes: Sequence[Episode]) -> Iterator[Arrivals]:
        """Play episodes of a pool of the same seed again, up to their last action. Yields the arrivals of each step.

        An environment whose episode is shorter than the others' is skipped at the end.
        """
        yield self._begin([Episode(episode.round, episode.number) for episode in episodes])
        for step in range(max(len(episode.actions) for episode in episodes)):
            actions = [episode.actions[step] if step < len(episode.actions) else 0 for episode in episodes]
            self.send(actions, np.array([step >= len(episode.actions) for episode in episodes]))
            yield self.receive()

    def step(self, actions: Sequence[Any] | np.ndarray) -> Arrivals:
        """Take one action in each environment. actions: N native actions of the action space."""
        self.send(actions)
        return self.receive()

    def send(self, actions: Sequence[Any] | np.ndarray, idle: np.ndarray | None = None) -> None:
        """Begin a step; workers compute while the caller does other work. `receive` must follow.

        idle: bool [N], environments that are not stepped.
        """
        if len(actions) != self.num_envs:
            raise WorldlabError(f"{self.num_envs} environments need {self.num_envs} actions, got {len(actions)}")
        skipped = np.zeros(self.num_envs, bool) if idle is None else idle
        chosen = [None if skip else action for action, skip in zip(actions, skipped, strict=True)]
        self._sent = [None if action is None else np.array(action) for action in chosen]  # copies, which nobody changes
        self._send("step", chosen)

    def receive(self) -> Arrivals:
        """Wait for the step that `send` began and return its results."""
        arrivals = self._receive(first=False)
        for episode, action, done in zip(self.episodes, self._sent, arrivals.done.tolist(), strict=True):
            if action is not None:
                episode.actions.append(action)
            if done:
                episode.number, episode.actions = episode.number + 1, []
        return arrivals

    def close(self) -> None:
        """Close the environments and end the workers; a second call does nothing."""
        for part in self._slices:
            part.close()
        self._slices = []

    def __enter__(self) -> EnvPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _begin(self, episodes: list[Episode]) -> Arrivals:
        """Reset every environment to the start of an episode."""
        self.episodes = episodes
        self._send("reset", [(episode.round, episode.number) for episode in episodes])
        return self._receive(first=True)

    def _send(self, what: str, actions: list[Any]) -> None:
        for part in self._slices:
            part.send(what, [actions[env] for env in part.envs])

    def _receive(self, first: bool) -> Arrivals:
        steps: list[_Step] = []
        failure: BaseException | None = None
        for part in self._slices:  # read every reply, even after a failure: none may be left for the next call
            try:
                steps += part.receive(self._timeout)
            except WorldlabError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return _stack(steps, first)


def _stack(steps: list[_Step], first: bool) -> Arrivals:
    obs = {key: _stack_arrays([step.obs[key] for step in steps]) for key in steps[0].obs}
    finished = [(env, *step.finished) for env, step in enumerate(steps) if step.finished is not None]
    reset_obs = None
    if finished:
        reset_obs = {key: np.zeros_like(value) for key, value in obs.items()}
        for env, step in enumerate(steps):
            for key, value in (step.reset_obs or {}).items():
                reset_obs[key][env] = value
    flags = np.array([(step.terminated, step.truncated, first, step.skipped) for step in steps], bool)
    return Arrivals(
        obs=obs,
        reward=np.array([step.reward for step in steps], np.float32),
        terminated=flags[:, 0],
        truncated=flags[:, 1],
        is_first=flags[:, 2],
        reset_obs=reset_obs,
        finished=finished,
        skipped=flags[:, 3],
    )


def _stack_arrays(values: list[Any]) -> np.ndarray:
    """Stack copies of the values along a new first axis: an environment may reuse its buffers."""
    return np.array(values[0])[None] if len(values) == 1 else np.stack(values)  # np.stack of one value is slow


class _Episodes:
    """One environment, its stream of episode seeds, and the return so far."""

    def __init__(self, make: Callable[[], gymnasium.Env], number: int, seed: np.random.SeedSequence):
        self.number = number
        self.id = "?"
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        try:
            self.env = make()
            self.id = self.env.spec.id if self.env.spec is not None else type(self.env.unwrapped).__name__
        except Exception as error:
            raise self._named(error, "build") from error
        self._return, self._length = 0.0, 0
        self._last: Obs = {}

    def begin(self, round: int, number: int) -> _Step:
        """Start an episode by its numbers (`Episode`); environments with the same seed then play the same."""
        key = (*self._seed.spawn_key, round)
        again = np.random.SeedSequence(self._seed.entropy, spawn_key=key) if round > 0 else self._seed
        self._rng = np.random.default_rng(again)
        for _ in range(number):
            self._episode_seed()
        return self.reset()

    def reset(self) -> _Step:
        self._return, self._length = 0.0, 0
        try:
            obs, _ = self.env.reset(seed=self._episode_seed())
        except Exception as error:
            raise self._named(error, "reset") from error
        self._last = obs
        return _Step(obs)

    def step(self, action: Any) -> _Step:
        """Take one step; with action None, return the last observation and step nothing."""
        if action is None:
            return _Step(self._last, skipped=True)
        try:
            obs, reward, terminated, truncated, _ = self.env.step(action)
        except Exception as error:
            raise self._named(error, "step") from error
        self._return += float(reward)
        self._length += 1
        self._last = obs
        if not (terminated or truncated):
            return _Step(obs, float(reward))
        finished = (self._return, self._length)
        return _Step(obs, float(reward), bool(terminated), bool(truncated), self.reset().obs, finished)

    def _episode_seed(self) -> int:
        return int(self._rng.integers(2**31))

    def _named(self, error: Exception, doing: str) -> WorldlabError:
        """Return the error with the environment's number, its id and the step."""
        who = f"env {self.number}"
        if isinstance(error, WorldlabError):
            return type(error)(f"{who}: {error.message}", cause=error.cause, fix=error.fix)
        where = f" {self._length + 1}" if doing == "step" else ""
        return EnvError(
            f"{who} ({self.id[:40]}) failed in {doing}{where}: {type(error).__name__}",
            cause="".join(traceback.format_exception(error)).strip(),
            fix="worldlab check-env ID runs it alone",
        )


class _Local:
    """Environments stepped in this process."""

    def __init__(self, make: Callable[[], gymnasium.Env], envs: list[int], seeds: list[np.random.SeedSequence]):
        self.envs = envs
        self.env_id = "?"
        self._episodes: list[_Episodes] = []
        try:
            for number, seed in zip(envs, seeds, strict=True):
                self._episodes.append(_Episodes(make, number, seed))
        except BaseException:
            self.close()
            raise
        first = self._episodes[0]
        self._reply: Any = (first.id, first.env.observation_space, first.env.action_space)

    def send(self, what: str, actions: list[Any]) -> None:
        pairs = zip(self._episodes, actions, strict=True)
        self._reply = [one.begin(*action) if what == "reset" else one.step(action) for one, action in pairs]

    def receive(self, timeout: float) -> Any:
        return self._reply

    def close(self) -> None:
        for one in self._episodes:
            with suppress(Exception):  # a broken environment must not keep the others open
                one.env.close()
        self._episodes = []


_GROUP_SIGNALS = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}
"""Signals that a terminal or a scheduler sends to the whole process group."""


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Block SIGINT, SIGTERM and SIGHUP: processes started inside inherit the mask; this one gets pending ones later.

    A terminal or a cluster scheduler signals the whole process group, but only the parent should react. A worker killed
    in the seconds before it installs its own handlers would look like a crash of the environment.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # if the first worker started it, it would undo the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit processes started inside to one BLAS thread, unless the user's environment variables say otherwise.

    numpy's BLAS would start a thread per core to shrink an image of 96 pixels. These threads spin and slow everything
    else down: on CarRacing, two workers then deliver a third of the decisions per second (benchmarks/env_threads.py).
    """
    ours = {name: "1" for name in BLAS_THREADS if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


class _Remote:
    """Environments stepped in a worker process, over a pipe."""

    def __init__(self, make: Callable[[], gymnasium.Env], envs: list[int], seeds: list[np.random.SeedSequence]):
        import cloudpickle  # lets `make` be a closure; Gymnasium depends on it too

        self.envs = envs
        self.env_id = "?"
        # spawn: a fork would copy torch's threads and locks in an unusable state
        context = multiprocessing.get_context("spawn")
        self._pipe, worker_pipe = context.Pipe()
        work = cloudpickle.dumps((make, envs, seeds))
        self._process = context.Process(
            target=_serve, args=(worker_pipe, work), name=f"worldlab-env-{envs[0]}", daemon=True
        )
        with _one_thread(), _blocked_signals():
            self._process.start()
        worker_pipe.close()  # so that the death of the worker ends our receive
        self._replied = False

    def send(self, what: str, actions: list[Any]) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # receive reports why it died
            self._pipe.send((what, actions))

    def receive(self, timeout: float) -> Any:
        try:
            if not self._pipe.poll(timeout):
                self._kill()
                raise EnvError(
                    f"{self._who()} gave no answer in {timeout:g} s",
                    cause="its process did not reply and was killed",
                    fix="worldlab check-env ID runs it alone",
                )
            kind, reply = self._pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            self._process.join(2)
            code = self._process.exitcode
            # A positive code before the first reply: Python exited before `_serve` could run.
            if not self._replied and code is not None and code > 0:
                raise EnvError(
                    f"{self._who()}: its process ended before it began (exit code {code})",
                    cause="workers import the script that started them; on import, it fails or starts to train",
                    fix='guard the script with `if __name__ == "__main__":`, or set env.workers to 0',
                ) from error
            raise EnvError(
                f"{self._who()}: its process died ({_reason(code)})",
                cause="the worker ended without an error message: out of memory, or a crash in native code",
                fix="--env.workers 0 runs it in the main process, which shows the crash",
            ) from error
        self._replied = True
        if kind == "error":
            name, message, cause, fix = reply
            raise (EnvError if name == "EnvError" else WorldlabError)(message, cause=cause, fix=fix)
        return reply

    def close(self) -> None:
        with suppress(OSError):
            self._pipe.send(("close", []))
        self._process.join(2)
        self._kill()
        self._pipe.close()

    def _who(self) -> str:
        numbers = str(self.envs[0]) if len(self.envs) == 1 else f"{self.envs[0]}-{self.envs[-1]}"
        return f"env {numbers} ({self.env_id[:40]})"

    def _kill(self) -> None:
        if self._process.is_alive():
            self._process.kill()
            self._process.join(2)


def _reason(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"exit code {exitcode}"
    return f"killed by {signal.Signals(-exitcode).name}" + (", out of memory?" if exitcode == -signal.SIGKILL else "")


def _serve(pipe: Any, work: bytes) -> None:
    """Run a worker: build its environments, then serve requests until "close" arrives or the parent exits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # see `_blocked_signals`
    # A handler, not SIG_IGN: handlers are not inherited, so processes that an environment starts can be terminated.
    for number in _GROUP_SIGNALS - {signal.SIGINT}:
        signal.signal(number, lambda *_: None)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _GROUP_SIGNALS)
    local: _Local | None = None
    try:
        make, envs, seeds = pickle.loads(work)
        local = _Local(make, envs, seeds)
        pipe.send(("ok", local.receive(0)))
        while True:
            what, actions = pipe.recv()
            if what == "close":
                return
            local.send(what, actions)
            pipe.send(("ok", local.receive(0)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone
    except WorldlabError as error:
        pipe.send(("error", (type(error).__name__, error.message, error.cause, error.fix)))
    except Exception as error:
        trace = "".join(traceback.format_exception(error)).strip()
        pipe.send(("error", ("EnvError", f"an environment worker failed: {type(error).__name__}", trace, None)))
    finally:
        if local is not None:
            local.close()
