"""Tests of EnvPool: equal data for any number of workers, same-step restarts, errors that name the environment."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pool_kit
import pytest
from gymnasium import spaces
from pool_kit import Counter, crossings, play, stream

from worldlab.env import watch
from worldlab.env.pool import EnvPool
from worldlab.env.process import BLAS_THREADS
from worldlab.env.watch import StopRequested, forget_stop, request_stop
from worldlab.errors import EnvCrashedError, EnvError, MemoryLimitError, WorldlabError


def run(pool: EnvPool, steps: int = 8) -> list:
    log = [pool.reset()]
    for t in range(steps):
        log.append(pool.step([t + env for env in range(pool.num_envs)]))
    return log


def flat(arrivals) -> list:
    reset = None if arrivals.reset_obs is None else arrivals.reset_obs["vector"].tolist()
    return [
        arrivals.obs["vector"].tolist(),
        *(getattr(arrivals, name).tolist() for name in ("reward", "terminated", "truncated", "is_first", "done")),
        reset,
        arrivals.finished,
    ]


def test_the_data_does_not_depend_on_the_number_of_workers():
    with EnvPool(Counter, 3, 0, seed=5) as local, EnvPool(Counter, 3, 2, seed=5) as remote:
        assert [flat(one) for one in run(local)] == [flat(one) for one in run(remote)]
        assert (remote.env_id, remote.action_space) == ("Counter", spaces.Discrete(100))


def test_an_ended_episode_returns_its_final_and_the_next_first_observation():
    with EnvPool(Counter, 2, 0, seed=0) as pool:
        first, *steps = run(pool)
    assert first.is_first.all() and not first.done.any() and first.reset_obs is None
    secret = first.obs["vector"][0, 0]
    end = steps[2]
    assert end.done.all() and not end.is_first.any()
    assert end.obs["vector"][0].tolist() == [secret, 3]
    assert end.reset_obs is not None and end.reset_obs["vector"][:, 1].tolist() == [0, 0]
    assert end.terminated[0] == (secret % 2 == 0) and end.truncated[0] == (secret % 2 == 1)
    assert end.finished == [(0, 0 + 1 + 2, 3), (1, 1 + 2 + 3, 3)]
    follow = steps[3]
    assert follow.obs["vector"][0].tolist() == [end.reset_obs["vector"][0, 0], 1]
    assert follow.finished == [] and follow.reward.dtype == np.float32


def test_environments_and_episodes_have_their_own_seeds():
    with EnvPool(Counter, 4, 0, seed=1) as pool, EnvPool(Counter, 4, 0, seed=(1, 7)) as other:
        log = run(pool)
        secrets = [*log[0].obs["vector"][:, 0], *log[3].reset_obs["vector"][:, 0]]
        assert len(set(secrets)) == 8
        assert not set(secrets) & set(other.reset().obs["vector"][:, 0])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_names_the_environment_and_keeps_its_reason(workers):
    with EnvPool(lambda: Counter("raise"), 2, workers, seed=0) as pool:
        pool.reset()
        with pytest.raises(EnvError, match=r"env 1 \(Counter\) failed in step 1 of its episode: RuntimeError") as error:
            pool.step([0, 99])
    assert "the licence ran out" in (error.value.cause or "")


def test_a_killed_worker_is_named():
    with EnvPool(lambda: Counter("die"), 2, 2, seed=0) as pool:
        pool.reset()
        with pytest.raises(EnvError, match=r"env 1 \(Counter\): its process died \(killed by SIGKILL"):
            pool.step([0, 99])


def test_a_signal_to_the_group_ends_no_worker():
    """A terminal or a scheduler signals every process of the group, including those that are still starting."""

    def signal_all() -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGINT)
            os.kill(child.pid, signal.SIGTERM)

    timers = [threading.Timer(delay, signal_all) for delay in (0.02, 0.1, 0.3, 1.0)]
    for timer in timers:
        timer.start()
    with EnvPool(Counter, 1, 1, seed=0) as pool:
        for timer in timers:
            timer.join()
        signal_all()
        assert pool.reset().obs["vector"].shape == (1, 2)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


class Simulator(Counter):
    """Starts and terminates a program, like environments around a simulator; the reward is its exit code."""

    def step(self, action):
        program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        program.terminate()
        obs, _, terminated, truncated, info = super().step(action)
        return obs, float(program.wait(30)), terminated, truncated, info


def test_processes_that_an_environment_starts_in_a_worker_can_be_terminated():
    with EnvPool(Simulator, 1, 1, seed=0) as pool:
        pool.reset()
        assert pool.step([0]).reward.tolist() == [-signal.SIGTERM]


def test_a_script_without_a_main_guard_gets_an_explanation(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import gymnasium\nfrom worldlab.env.pool import EnvPool\nEnvPool(lambda: gymnasium.make('CartPole-v1'), 1, 1)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "its process ended before it began" in done.stderr and 'if __name__ == "__main__":' in done.stderr


@pytest.mark.parametrize("fault", ["exit", "interrupt", "base"])
@pytest.mark.parametrize("workers", [0, 1])
def test_whatever_an_environment_raises_is_its_error(fault, workers, monkeypatch):
    old = signal.signal(signal.SIGINT, lambda *_: None)  # as during training
    try:
        with EnvPool(lambda: Counter(fault), 1, workers, seed=0, taken=40) as pool:
            pool.reset()
            pool.step([1])
            with pytest.raises(EnvError, match=r"env 0 \(Counter\) failed in step 2 of its episode: \w+") as error:
                pool.step([99])
    finally:
        signal.signal(signal.SIGINT, old)
    place = "worker 0" if workers else "the main process"
    assert (error.value.cause or "").startswith(f"in {place}, after step 41 of the run: Traceback")
    assert error.value.exit_code == 4 and len(error.value.message) <= 100


def test_ctrl_c_outside_of_training_is_no_error_of_the_environment():
    with EnvPool(lambda: Counter("interrupt"), 1, 0, seed=0) as pool:
        pool.reset()
        with pytest.raises(KeyboardInterrupt):
            pool.step([99])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_environment_without_memory_is_named(workers):
    with EnvPool(lambda: Counter("memory"), 1, workers, seed=0, restarts=9) as pool:
        pool.reset()
        with pytest.raises(MemoryLimitError, match=r"env 0 \(Counter\) failed in step 1 of its episode: MemoryError"):
            pool.step([99])
    assert pool.restarts == 9


# ---- hangs ----


@pytest.mark.parametrize("workers", [0, 2])
def test_a_hang_in_python_is_named_with_its_place(workers):
    with EnvPool(lambda: Counter("hang"), 2, workers, seed=0, timeout=0.5) as pool:
        pool.reset()
        start = time.monotonic()
        with pytest.raises(
            EnvCrashedError, match=r"env 1 \(Counter\) failed in step 1 of its episode: took over 0.5 s"
        ) as error:
            pool.step([0, 99])
        assert time.monotonic() - start < 0.5 + 1
    assert "time.sleep(60)" in (error.value.cause or "")


def test_workers_that_hang_in_native_code_are_killed_all_within_one_timeout():
    pool = EnvPool(lambda: Counter("native"), 3, 3, seed=0, timeout=0.5)
    with pool:
        pool.reset()
        start = time.monotonic()
        with pytest.raises(EnvCrashedError, match=r"env 0 \(Counter\) gave no answer in 0.5 s"):
            pool.step([99, 99, 99])
        assert time.monotonic() - start < 2  # one after the other would take three times as long
        workers = [part._process for part in pool._parts]
        assert not any(worker.is_alive() for worker in workers)


def test_slow_environments_of_one_worker_have_their_time_each():
    class Slow(Counter):
        def step(self, action):
            time.sleep(0.4)
            return super().step(action)

    with EnvPool(Slow, 3, 1, seed=0, timeout=0.7) as pool:
        pool.reset()
        assert pool.step([1, 2, 3]).reward.tolist() == [1, 2, 3]


@pytest.mark.parametrize("workers", [0, 1])
def test_after_a_signal_a_hang_is_not_waited_for(workers, monkeypatch):
    monkeypatch.setattr(watch, "GRACE", 0.3)
    with EnvPool(lambda: Counter("hang"), 1, workers, seed=0) as pool:
        pool.reset()
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
        old = signal.signal(signal.SIGTERM, lambda *_: request_stop())
        try:
            timer.start()
            start = time.monotonic()
            with pytest.raises(StopRequested):
                pool.step([99])
        finally:
            signal.signal(signal.SIGTERM, old)
            forget_stop()
        assert time.monotonic() - start < 3


@pytest.mark.parametrize("workers", [0, 2])
def test_environments_that_hang_when_closed_are_closed_within_seconds(workers):
    pool = EnvPool(lambda: Counter("close"), 2, workers, seed=0)
    start = time.monotonic()
    pool.close(0.3)
    assert time.monotonic() - start < 2


PARENT = """
import os, signal, sys
from worldlab.env.pool import EnvPool
from pool_kit import Counter
if __name__ == "__main__":
    pool = EnvPool(lambda: Counter("native"), 1, 1, seed=0)
    pool.reset()
    pool.send([99])
    print(pool._parts[0]._process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux ends a process with its parent")
def test_a_worker_that_hangs_dies_with_its_parent(tmp_path, monkeypatch):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    path = os.pathsep.join([os.path.dirname(pool_kit.__file__), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL
    for _ in range(50):
        if not is_running(int(done.stdout)):
            return
        time.sleep(0.1)
    os.kill(int(done.stdout), signal.SIGKILL)
    pytest.fail("the worker lives on")


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# ---- restarts ----


@pytest.mark.parametrize(("fault", "workers"), [("raise", 0), ("raise", 3), ("native", 3), ("hang", 0)])
def test_a_failed_environment_begins_a_new_episode_and_the_others_lose_nothing(fault, workers, caplog):
    faults = {1: [1], 6: [1, 2]}
    with EnvPool(Counter, 3, 0, seed=5) as pool:
        undisturbed = play(pool, {})
    with (
        EnvPool(lambda: Counter(fault), 3, workers, seed=5, timeout=0.5, restarts=3, taken=100) as pool,
        caplog.at_level(logging.WARNING),
    ):
        log = play(pool, faults)
        assert pool.restarts == 0
    assert stream(log, 0) == stream(undisturbed, 0)
    for env, crashed in ((1, [1, 6]), (2, [6])):
        rows = stream(log, env)
        assert crossings(rows) == []
        assert [t for t in range(12) if log[t + 1].is_first[env]] == crashed
        assert not any(log[t + 1].done[env] for t in crashed)  # so no return of a broken episode is reported
    assert [one.taken for one in log] == [0, *(3 - (t == 1) - 2 * (t == 6) for t in range(12))]
    lines = [record.message for record in caplog.records]
    assert len(lines) == 3 and all("restarted" in line for line in lines)
    assert f"after step {100 + 3} of the run" in lines[0]
    if fault == "raise":
        assert [line.count("Traceback") for line in lines] == [1, 0, 0]  # its traceback is shown once


def test_a_worker_that_dies_restarts_all_its_environments_in_new_episodes():
    with EnvPool(lambda: Counter("die"), 3, 1, seed=5, restarts=1) as pool:
        log = play(pool, {4: [1]})
    assert log[5].is_first.tolist() == [True] * 3 and log[5].taken == 0
    secrets = [{row[0] for row in stream(log, env)} for env in range(3)]
    assert sum(map(len, secrets)) == len(set.union(*secrets))  # no seed was used twice
    with EnvPool(Counter, 3, 0, seed=5) as pool:
        undisturbed = play(pool, {})
    for env in range(3):  # the seeds go on where they were: the third episode follows the second
        got, wanted = ([row[0] for row in stream(one, env) if row[4]][:3] for one in (log, undisturbed))
        assert got == wanted


@pytest.mark.parametrize(("fault", "workers"), [("raise", 0), ("die", 2)])
def test_restarts_are_counted_over_the_whole_pool(fault, workers):
    with EnvPool(lambda: Counter(fault), 2, workers, seed=0, restarts=2) as pool:
        pool.reset()
        pool.step([99, 0])
        pool.step([0, 99])
        with pytest.raises(EnvCrashedError, match=r"env 0 \(Counter\)"):
            pool.step([99, 0])


def test_a_violation_of_the_spaces_is_no_crash():
    class Wrong(Counter):
        def step(self, action):
            raise EnvError("obs['vector'] breaks the declared space")

    with EnvPool(Wrong, 1, 0, seed=0, restarts=5) as pool:
        pool.reset()
        with pytest.raises(WorldlabError, match="env 0: obs"):
            pool.step([0])
    assert pool.restarts == 5


def test_an_environment_that_cannot_be_built_again_spends_the_restarts():
    built = []

    def make():
        built.append(0)
        if len(built) > 1:
            raise RuntimeError("no licence left")
        return Counter("raise")

    with EnvPool(make, 1, 0, seed=0, restarts=3) as pool:
        pool.reset()
        with pytest.raises(EnvCrashedError, match=r"env 0 .* failed in build: RuntimeError"):
            pool.step([99])
    assert len(built) == 4


def test_close_ends_the_workers():
    pool = EnvPool(Counter, 2, 2, seed=0)
    workers = [part._process for part in pool._parts]
    pool.close()
    pool.close()
    assert not any(worker.is_alive() for worker in workers)


def test_an_environment_that_cannot_be_built_is_an_error():
    def broken():
        raise ImportError("no module named 'timm'")

    with pytest.raises(EnvError, match="failed in build: ImportError"):
        EnvPool(broken, 1, 0, seed=0)


@pytest.mark.parametrize("space", ["observation_space", "action_space"])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_environment_with_other_spaces_than_the_first_is_named_before_it_is_stepped(workers, space, tmp_path):
    def make():
        env = Counter()
        try:
            (tmp_path / "built").mkdir()  # only the first one built can
        except FileExistsError:
            other = {"vector": spaces.Box(-1, 1, (2,), np.float32)}
            setattr(env, space, spaces.Dict(other) if space == "observation_space" else spaces.Discrete(3))
        return env

    with pytest.raises(EnvError, match=rf"^env 1 \(Counter\) has another {space} than env 0"):
        EnvPool(make, 2, workers, seed=0)


def test_same_episodes_gives_every_environment_the_same_sequence_of_them():
    with EnvPool(Counter, 4, 2, seed=1, same_episodes=True) as pool:
        arrivals = pool.reset()
        seen = [arrivals.obs["vector"][:, 0]]
        for _ in range(6):
            arrivals = pool.step([0] * 4)
            if arrivals.reset_obs is not None:
                seen.append(arrivals.reset_obs["vector"][:, 0])
    assert len(seen) == 3 and all((row == row[0]).all() for row in seen)
    assert len({row[0] for row in seen}) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_reset_makes_the_episodes_of_all_environments_equal_again(workers):
    """Idle environments have begun fewer episodes than the others."""
    with EnvPool(Counter, 3, workers, seed=1, same_episodes=True) as pool:
        secrets = [pool.reset().obs["vector"][:, 0]]
        for _ in range(7):
            pool.send([0, 0, 0], np.array([False, True, False]))
            pool.receive()
        for _ in range(2):
            secrets.append(pool.reset().obs["vector"][:, 0])
    assert all((row == row[0]).all() for row in secrets) and len({row[0] for row in secrets}) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_an_idle_environment_does_not_change(workers):
    with EnvPool(Counter, 3, workers, seed=5) as pool:
        before = pool.reset()
        pool.send([7, 7, 7], np.array([False, True, False]))
        after = pool.receive()
        assert after.skipped.tolist() == [False, True, False] and after.reward.tolist() == [7, 0, 7]
        assert after.obs["vector"][:, 1].tolist() == [1, 0, 1] and not after.done.any()
        assert (after.obs["vector"][:, 0] == before.obs["vector"][:, 0]).all()
        pool.step([7, 7, 7])
        ends = pool.step([7, 7, 7])
        assert ends.done.tolist() == [True, False, True]
        pool.send([7, 7, 7], np.array([True, False, True]))  # a new episode has begun there: that is what stays
        last = pool.receive()
    assert ends.reset_obs is not None
    assert (last.obs["vector"][[0, 2]] == ends.reset_obs["vector"][[0, 2]]).all()
    assert last.finished == [(1, 21.0, 3)]


class Threads(Counter):
    """Observes the thread limits of its process instead of a secret."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.secret = sum(2**i for i, name in enumerate(BLAS_THREADS) if os.environ.get(name) == "1")
        return self._obs(), {}


def test_workers_use_one_thread_unless_the_user_sets_another_number(monkeypatch):
    for name in BLAS_THREADS:
        monkeypatch.delenv(name, raising=False)
    with EnvPool(Threads, 1, 1, seed=0) as pool:
        assert pool.reset().obs["vector"][0, 0] == 0b111
    assert not set(BLAS_THREADS) & set(os.environ)  # this process keeps its own
    monkeypatch.setenv(BLAS_THREADS[0], "2")
    with EnvPool(Threads, 1, 1, seed=0) as pool:
        assert pool.reset().obs["vector"][0, 0] == 0b110
    assert os.environ[BLAS_THREADS[0]] == "2"
