"""Steps several environments together, in this process or in worker processes; both give the same data.

An episode that ends restarts in the same step: the caller gets the final observation and the first observation of the
next episode together, so no invented transition reaches the replay.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any

import gymnasium
import numpy as np

from worldlab import errors
from worldlab.env import process
from worldlab.env.arrivals import Arrivals, Step, stack
from worldlab.env.episodes import CLOSING, Description, Local, Reply, building_time, check_spaces, first_failure
from worldlab.env.watch import check_stop
from worldlab.errors import EnvCrashedError, EnvError, WorldlabError

log = logging.getLogger("worldlab")

TIMEOUT = 300.0
"""Seconds that an environment has for a reply, unless `env.timeout` sets another number."""
_POLL = 0.5
"""Seconds between two looks at the time and at signals, while no reply comes."""
_LATE = 0.5
"""Seconds beyond the limit before a worker is killed: it reports a hang in Python code itself, with the place."""


@dataclass
class Episode:
    """An episode in progress, as what it takes to play it again.

    round: earlier resets of the whole pool. number: earlier episodes since then. actions: native actions since its reset.
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
    share a seed. timeout: seconds an environment may take to reset and to step (to be built: at least a minute).
    restarts: how many times in all environments that crash or hang are replaced (see `receive`). taken: steps that the
    run took before, for messages. episodes: the episode in progress of each environment.

    Raises: EnvError naming the environment's number and id when one fails, hangs or its process dies. StopRequested if
    a signal came and the environments do not finish their step soon after.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env],
        num_envs: int,
        workers: int = 0,
        seed: int | Sequence[int] = 0,
        *,
        same_episodes: bool = False,
        timeout: float = TIMEOUT,
        restarts: int = 0,
        taken: int = 0,
    ):
        self.num_envs = num_envs
        self.seed = seed
        self.restarts = restarts
        self._make, self._timeout, self._taken = make, timeout, taken
        self._parts: list[Local | _Remote] = []
        self.episodes = [Episode() for _ in range(num_envs)]
        self._sent: list[Any] = [None] * num_envs
        self._reported: set[str] = set()
        seeds = np.random.SeedSequence(seed).spawn(num_envs)
        self._seeds = seeds[:1] * num_envs if same_episodes else seeds
        groups = [group.tolist() for group in np.array_split(np.arange(num_envs), min(workers, num_envs) or 1)]
        try:
            for group in groups:
                self._parts.append(self._open(group, bool(workers)))
            self._wait(building=True)
            self.env_id, self.observation_space, self.action_space = self._describe()
        except BaseException:
            self.close()
            raise

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
        """Wait for the step that `send` began and return its results.

        An environment that crashes or hangs is replaced while `restarts` allows: one that raised by a new one in the
        same process, a worker that died or hangs by a new process with new environments. Their steps are lost, their
        rows are those of a new episode (`is_first`), and the returns of their broken episodes are in no `finished`.
        """
        self._wait()
        for number in range(len(self._parts)):
            while (error := self._parts[number].failure) is not None:
                self._restart(number, error)
        steps = [_step_of(reply) for part in self._parts for reply in part.replies]
        for episode, step, action in zip(self.episodes, steps, self._sent, strict=True):
            if action is not None and not step.first:
                episode.actions.append(action)
            if step.finished is not None:
                episode.number, episode.actions = episode.number + 1, []
        arrivals = stack(steps)
        self._taken += arrivals.taken
        return arrivals

    def close(self, seconds: float = CLOSING) -> None:
        """Close the environments and end the workers within `seconds`; a second call does nothing."""
        parts, self._parts = self._parts, []
        remotes = [part for part in parts if isinstance(part, _Remote)]
        for part in remotes:
            part.ask_to_end()
        until = time.monotonic() + seconds
        for part in parts:
            part.close(max(0.0, until - time.monotonic()) if isinstance(part, _Remote) else seconds)

    def __enter__(self) -> EnvPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _describe(self) -> Description:
        """Return what all environments are. Raises: EnvError if one could not be built or has other spaces."""
        found: list[Description] = []
        for part in self._parts:
            if part.failure is not None:
                raise part.failure
            assert part.description is not None, "every part has replied"
            found.append(part.description)
            check_spaces(found[0], part.description, part.envs[0])
        return found[0]

    def _begin(self, episodes: list[Episode]) -> Arrivals:
        """Reset every environment to the start of an episode."""
        self.episodes, self._sent = episodes, [None] * self.num_envs
        self._send("reset", [(episode.round, episode.number) for episode in episodes])
        return self.receive()

    def _open(self, envs: list[int], in_worker: bool) -> Local | _Remote:
        part = _Remote if in_worker else Local
        return part(self._make, envs, [self._seeds[env] for env in envs], self._timeout)

    def _send(self, request: str, arguments: list[Any]) -> None:
        for part in self._parts:
            part.send(request, {position: arguments[env] for position, env in enumerate(part.envs)})

    def _wait(self, *, building: bool = False) -> None:
        timeout = building_time(self._timeout) if building else self._timeout
        _wait_for_replies([part for part in self._parts if isinstance(part, _Remote)], timeout)

    def _restart(self, number: int, error: WorldlabError) -> None:
        """Replace what failed in part `number` and begin new episodes there. Raises: the error, if nothing may restart."""
        part = self._parts[number]
        where = f"in worker {number}" if isinstance(part, _Remote) else "in the main process"
        error.cause = f"{where}, after step {self._taken} of the run: {error.cause or error.message}"
        if not isinstance(error, EnvCrashedError) or self.restarts <= 0:
            raise error
        self.restarts -= 1
        self._report(error)
        request, broken = "rebuild", [part.replies.index(error)]
        if not part.alive:
            part.close()
            part = self._parts[number] = self._open(part.envs, in_worker=True)
            self._wait(building=True)
            request, broken = "reset", list(range(len(part.envs)))
        episodes = {position: self.episodes[part.envs[position]] for position in broken}
        for episode in episodes.values():
            episode.number, episode.actions = episode.number + 1, []
        if part.alive:
            part.send(request, {position: (e.round, e.number) for position, e in episodes.items()})
            self._wait()

    def _report(self, error: WorldlabError) -> None:
        """Log a crash; the cause only if no earlier crash had the same."""
        last = (error.cause or "").splitlines()[-1]
        cause = "" if last in self._reported else f"\ncause: {error.cause}"
        self._reported.add(last)
        log.warning("%s; restarted, %d more allowed (env.restarts)%s", error.message, self.restarts, cause)


def _wait_for_replies(parts: Iterable[_Remote], timeout: float) -> None:
    """Take the replies of all workers as they come. Gives up a worker that is silent for `timeout` seconds.

    Raises: StopRequested.
    """
    silent = {part.pipe: (part, 0.0) for part in parts if part.waiting}
    while silent:
        before = time.monotonic()
        ready = connection.wait(list(silent), _POLL)
        passed = min(time.monotonic() - before, 2 * _POLL)  # it is longer if this process was suspended (Ctrl-Z)
        for pipe, (part, seconds) in list(silent.items()):
            if pipe in ready:
                part.read()
            elif seconds + passed > timeout + _LATE:
                part.give_up(timeout)
            silent[pipe] = (part, 0.0 if pipe in ready else seconds + passed)
            if not part.waiting:
                del silent[pipe]
        check_stop()


def _step_of(reply: Reply | None) -> Step:
    assert isinstance(reply, Step), "failures are replaced before, and every environment has replied"
    return reply


class _Remote:
    """Environments stepped in a worker process, over a pipe. Arguments: as of `Local`."""

    def __init__(
        self,
        make: Callable[[], gymnasium.Env],
        envs: Sequence[int],
        seeds: Sequence[np.random.SeedSequence],
        timeout: float,
    ):
        import cloudpickle  # lets `make` be a closure; Gymnasium depends on it too

        self.envs = list(envs)
        self.replies: list[Reply | None] = [None] * len(envs)
        self.alive = True
        self.description: Description | None = None
        self._expected: list[int] = []
        """Positions whose replies are still to come, in their order. The first message is the description."""
        # spawn: a fork would copy torch's threads and locks in an unusable state
        context = multiprocessing.get_context("spawn")
        self.pipe, worker_pipe = context.Pipe()
        work = cloudpickle.dumps((make, self.envs, seeds, timeout))
        in_main = threading.current_thread() is threading.main_thread()
        self._process = context.Process(
            target=_serve,
            args=(worker_pipe, work, os.getpid() if in_main else None),
            name=f"worldlab-env-{envs[0]}",
            daemon=True,
        )
        with process.one_thread(), process.blocked_signals():
            self._process.start()
        worker_pipe.close()  # so that the death of the worker ends our receive

    @property
    def waiting(self) -> bool:
        """Whether a reply is still to come."""
        return self.alive and (self.description is None or bool(self._expected))

    @property
    def failure(self) -> WorldlabError | None:
        """The first failure among the replies."""
        return first_failure(self.replies)

    def send(self, request: str, arguments: Mapping[int, Any]) -> None:
        """Begin a request; `read` takes the replies. arguments: {position in `envs`: argument}."""
        self._expected = list(arguments)
        with suppress(BrokenPipeError, ConnectionResetError):  # `read` reports why it died
            self.pipe.send((request, arguments))

    def read(self) -> None:
        """Take one message of the worker, which has arrived."""
        try:
            kind, reply = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(2)
            self._fail(self._death(self._process.exitcode))
            return
        if kind == "error":
            name, message, cause, fix = reply
            reply = getattr(errors, name, WorldlabError)(message, cause=cause, fix=fix)
        if self.description is not None:
            self.replies[self._expected.pop(0)] = reply
        elif isinstance(reply, WorldlabError):
            self._fail(reply)
        else:
            self.description = reply

    def give_up(self, timeout: float) -> None:
        """End the worker because no reply came in `timeout` seconds."""
        self._fail(
            EnvCrashedError(
                f"{self._who()} gave no answer in {timeout:g} s",
                cause="its process did not reply and was killed",
                fix="--env.timeout SECONDS, if it only is slow; worldlab check-env ID runs it alone",
            )
        )

    def ask_to_end(self) -> None:
        """Let the worker close its environments and end."""
        with suppress(OSError):
            self.pipe.send(("close", {}))

    def close(self, seconds: float = CLOSING) -> None:
        """Wait `seconds` for the end of the worker, then kill it."""
        self._process.join(seconds)
        self._kill()
        self.pipe.close()

    def _fail(self, error: WorldlabError) -> None:
        self._kill()
        self.alive = False
        self.replies = [error] * len(self.envs)

    def _death(self, code: int | None) -> EnvError:
        # A positive code before the first reply: Python exited before `_serve` could run.
        if self.description is None and code is not None and code > 0:
            return EnvError(
                f"{self._who()}: its process ended before it began (exit code {code})",
                cause="workers import the script that started them; on import, it fails or starts to train",
                fix='guard the script with `if __name__ == "__main__":`, or set env.workers to 0',
            )
        return EnvCrashedError(
            f"{self._who()}: its process died ({process.describe_exit(code)})",
            cause="the worker ended without an error message: out of memory, or a crash in native code",
            fix="--env.workers 0 runs it in the main process, which shows the crash",
        )

    def _who(self) -> str:
        first = self._expected[0] if self._expected else 0
        numbers = str(self.envs[first]) if self._expected or len(self.envs) == 1 else f"{self.envs[0]}-{self.envs[-1]}"
        return f"env {numbers} ({self.description[0][:40] if self.description else '?'})"

    def _kill(self) -> None:
        if self._process.is_alive():
            self._process.kill()
            self._process.join(2)


def _serve(pipe: connection.Connection, work: bytes, parent: int | None) -> None:
    """Run a worker: build its environments, then serve requests until "close" arrives or the parent exits."""
    process.leave_signals_to_parent()
    if parent is not None:
        process.die_with_parent(parent)
    local: Local | None = None
    try:
        local = Local(*pickle.loads(work))
        pipe.send(("ok", local.description))
        while True:
            request, arguments = pipe.recv()
            if request == "close":
                return
            for reply in local.answers(request, arguments):
                pipe.send(_message(reply))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone
    except WorldlabError as error:
        pipe.send(_message(error))
    except BaseException as error:
        trace = "".join(traceback.format_exception(error)).strip()
        pipe.send(_message(EnvError(f"an environment worker failed: {type(error).__name__}", cause=trace)))
    finally:
        if local is not None:
            local.close()


def _message(reply: Reply) -> tuple[str, Any]:
    if isinstance(reply, WorldlabError):
        return "error", (type(reply).__name__, reply.message, reply.cause, reply.fix)
    return "ok", reply
