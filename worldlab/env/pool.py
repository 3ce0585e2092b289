"""Several environments stepped together, in this process or in workers, with the same data either way.

Episodes restart in the step that ends them: a caller gets the final observation and the first of the next episode
at once, so no invented transition ever reaches the replay.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any

import gymnasium
import numpy as np

from worldlab.errors import EnvError, WorldlabError

Obs = dict[str, np.ndarray]
BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""What numpy's libraries read when they are loaded."""


@dataclass(frozen=True)
class Arrivals:
    """What N environments returned; row i belongs to environment i.

    obs: {key: [N, ...]}; where an episode ended, its final observation. reward: float32 [N]. terminated, truncated:
    bool [N]. is_first: bool [N], true after `reset` only. reset_obs: {key: [N, ...]}, the first observation of the
    next episode, meaningful where `done`; None when nothing ended. finished: (env, return, length in steps) of the
    episodes that ended. skipped: bool [N], true where nothing was stepped: obs is the last one again, reward 0.
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


@dataclass(frozen=True)
class _Step:
    """One environment's answer; reset_obs and finished are set when the episode ended."""

    obs: Obs
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    reset_obs: Obs | None = None
    finished: tuple[float, int] | None = None
    skipped: bool = False


class EnvPool:
    """Steps `num_envs` environments.

    make: builds one environment, at the boundary of `worldlab.env.find` (its observation is a dict). workers: processes
    that share the environments; 0 steps them in this process. seed: an integer, or several (a resumed run adds its
    step, so that it meets new episodes). Each environment and each of its episodes gets its own seed, the same
    whatever the number of workers; with `same_episodes` the k-th episodes of all environments after a `reset` share one.
    timeout: seconds a worker may take for one answer.

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
        """Start a new episode everywhere, and new streams of seeds: how many episodes each has begun before is forgotten."""
        self._send("reset", [None] * self.num_envs)
        return self._receive(first=True)

    def step(self, actions: Sequence[Any] | np.ndarray) -> Arrivals:
        """Take one native action of the action space in each environment. actions: N of them."""
        self.send(actions)
        return self.receive()

    def send(self, actions: Sequence[Any] | np.ndarray, idle: np.ndarray | None = None) -> None:
        """Begin a step: workers compute while the caller does something else. `receive` must follow.

        idle: bool [N], environments that are left as they are.
        """
        if len(actions) != self.num_envs:
            raise WorldlabError(f"{self.num_envs} environments need as many actions, got {len(actions)}")
        rests = np.zeros(self.num_envs, bool) if idle is None else idle
        self._send("step", [None if rest else action for action, rest in zip(actions, rests, strict=True)])

    def receive(self) -> Arrivals:
        """End the step that `send` began."""
        return self._receive(first=False)

    def close(self) -> None:
        """Close the environments and end the workers; a second call does nothing."""
        for part in self._slices:
            part.close()
        self._slices = []

    def __enter__(self) -> EnvPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _send(self, what: str, actions: list[Any]) -> None:
        for part in self._slices:
            part.send(what, [actions[env] for env in part.envs])

    def _receive(self, first: bool) -> Arrivals:
        steps: list[_Step] = []
        failure: BaseException | None = None
        for part in self._slices:  # answers of the others are read too: none may be left for the next call
            try:
                steps += part.receive(self._timeout)
            except WorldlabError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return _stack(steps, first)


def _stack(steps: list[_Step], first: bool) -> Arrivals:
    count = len(steps)
    obs = {key: np.stack([step.obs[key] for step in steps]) for key in steps[0].obs}
    reset_obs = None
    if any(step.reset_obs is not None for step in steps):
        reset_obs = {key: np.zeros_like(value) for key, value in obs.items()}
        for env, step in enumerate(steps):
            for key, value in (step.reset_obs or {}).items():
                reset_obs[key][env] = value
    return Arrivals(
        obs=obs,
        reward=np.array([step.reward for step in steps], np.float32),
        terminated=np.array([step.terminated for step in steps], bool),
        truncated=np.array([step.truncated for step in steps], bool),
        is_first=np.full(count, first),
        reset_obs=reset_obs,
        finished=[(env, *step.finished) for env, step in enumerate(steps) if step.finished is not None],
        skipped=np.array([step.skipped for step in steps], bool),
    )


class _Episodes:
    """One environment, its stream of episode seeds, and the return so far."""

    def __init__(self, make: Callable[[], gymnasium.Env], number: int, seed: np.random.SeedSequence):
        self.number = number
        self.id = "?"
        self._seed, self._rounds = seed, 0
        self._rng = np.random.default_rng(seed)
        with self._blame("build"):
            self.env = make()
            self.id = self.env.spec.id if self.env.spec is not None else type(self.env.unwrapped).__name__
        self._return, self._length = 0.0, 0
        self._last: Obs = {}

    def begin(self) -> _Step:
        """A new episode, with all others of the pool. Those of one seed have the same ones from here on."""
        if self._rounds > 0:
            key = (*self._seed.spawn_key, self._rounds)
            self._rng = np.random.default_rng(np.random.SeedSequence(self._seed.entropy, spawn_key=key))
        self._rounds += 1
        return self.reset()

    def reset(self) -> _Step:
        self._return, self._length = 0.0, 0
        with self._blame("reset"):
            obs, _ = self.env.reset(seed=int(self._rng.integers(2**31)))
        self._last = obs
        return _Step(obs)

    def step(self, action: Any) -> _Step:
        """action None: nothing happens."""
        if action is None:
            return _Step(self._last, skipped=True)
        with self._blame("step"):
            obs, reward, terminated, truncated, _ = self.env.step(action)
        self._return += float(reward)
        self._length += 1
        self._last = obs
        if not (terminated or truncated):
            return _Step(obs, float(reward))
        finished = (self._return, self._length)
        return _Step(obs, float(reward), bool(terminated), bool(truncated), self.reset().obs, finished)

    def _blame(self, doing: str) -> _Blame:
        return _Blame(self, doing)


class _Blame:
    """Context: errors of an environment become an EnvError that names its number, its id and the step."""

    def __init__(self, episodes: _Episodes, doing: str):
        self.episodes, self.doing = episodes, doing

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        who = f"env {self.episodes.number}"
        if isinstance(error, WorldlabError):
            raise type(error)(f"{who}: {error.message}", cause=error.cause, fix=error.fix) from error
        if isinstance(error, Exception):
            where = f" {self.episodes._length + 1}" if self.doing == "step" else ""
            raise EnvError(
                f"{who} ({self.episodes.id[:40]}) failed in {self.doing}{where}: {type(error).__name__}",
                cause="".join(traceback.format_exception(error)).strip(),
                fix="worldlab check-env ID runs it alone",
            ) from error


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
        self._answer: Any = (first.id, first.env.observation_space, first.env.action_space)

    def send(self, what: str, actions: list[Any]) -> None:
        pairs = zip(self._episodes, actions, strict=True)
        self._answer = [one.begin() if what == "reset" else one.step(action) for one, action in pairs]

    def receive(self, timeout: float) -> Any:
        return self._answer

    def close(self) -> None:
        for one in self._episodes:
            with suppress(Exception):  # a broken environment must not keep the others open
                one.env.close()
        self._episodes = []


@contextmanager
def _signals_held() -> Iterator[None]:
    """Within: processes that start are born deaf to SIGINT and SIGTERM, and this one hears of them afterwards.

    A terminal and a cluster's scheduler signal the whole group. The parent decides; a worker that died of it, in the seconds
    before it can say so itself too, would look like a crash of the environment.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # started by the first worker, it would undo the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Within: processes that start compute in one thread, unless the user's environment says otherwise.

    numpy's BLAS would take a thread for each core to shrink a picture of 96 pixels; they spin, and everything beside them
    waits: of CarRacing two workers then give a third of the decisions a second (benchmarks/env_threads.py).
    """
    ours = {name: "1" for name in BLAS_THREADS if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


class _Remote:
    """Environments stepped by a process of their own, reached over a pipe."""

    def __init__(self, make: Callable[[], gymnasium.Env], envs: list[int], seeds: list[np.random.SeedSequence]):
        import cloudpickle  # lets `make` be a closure; Gymnasium depends on it too

        self.envs = envs
        self.env_id = "?"
        # spawn: a fork would copy torch's threads and locks in an unusable state
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        work = cloudpickle.dumps((make, envs, seeds))
        self._process = context.Process(target=_serve, args=(theirs, work), name=f"worldlab-env-{envs[0]}", daemon=True)
        with _one_thread(), _signals_held():
            self._process.start()
        theirs.close()  # so that the worker's death ends our receive
        self._answered = False

    def send(self, what: str, actions: list[Any]) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # receive tells why it died
            self._pipe.send((what, actions))

    def receive(self, timeout: float) -> Any:
        try:
            if not self._pipe.poll(timeout):
                self._kill()
                raise EnvError(
                    f"{self._who()} gave no answer in {timeout:g} s",
                    cause="its process hung and was killed",
                    fix="worldlab check-env ID runs it alone",
                )
            kind, answer = self._pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            self._process.join(2)
            code = self._process.exitcode
            if (
                not self._answered and code is not None and code > 0
            ):  # Python itself ended, before `_serve` could answer
                raise EnvError(
                    f"{self._who()}: its process ended before it began (exit code {code})",
                    cause="workers import the script that started them, and it fails, or trains, when it is imported",
                    fix='put what the script does under `if __name__ == "__main__":`, or set env.workers to 0',
                ) from error
            raise EnvError(
                f"{self._who()}: its process died ({_reason(code)})",
                cause="the worker ended without an error message: out of memory, or a crash in native code",
                fix="--env.workers 0 runs it in the main process, where its crash shows",
            ) from error
        self._answered = True
        if kind == "error":
            name, message, cause, fix = answer
            raise (EnvError if name == "EnvError" else WorldlabError)(message, cause=cause, fix=fix)
        return answer

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
    """Body of a worker: builds its environments, then answers until told to close or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # `_signals_held` says why
    # A handler, which is not inherited: what an environment starts can be ended.
    signal.signal(signal.SIGTERM, lambda *_: None)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
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
