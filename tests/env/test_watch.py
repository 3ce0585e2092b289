"""Tests of time limits and of signals that reach code which hangs."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from worldlab.env import watch
from worldlab.env.watch import (
    Limit,
    StopRequested,
    TimeIsUp,
    check_stop,
    forget_stop,
    request_stop,
    stop_timer,
)
from worldlab.errors import is_from_user


@pytest.fixture(autouse=True)
def no_stop():
    yield
    forget_stop()
    stop_timer()
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0) and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


def spin() -> None:
    while True:
        pass


@pytest.mark.parametrize("hang", [lambda: time.sleep(30), spin, lambda: os.read(os.pipe()[0], 1)])
def test_code_that_hangs_is_left_after_its_time(hang):
    start = time.monotonic()
    with pytest.raises(TimeIsUp), Limit(0.2):
        hang()
    assert 0.2 <= time.monotonic() - start < 5


def test_code_that_is_in_time_is_left_alone():
    with Limit(0.2):
        pass
    time.sleep(0.3)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL  # the timer has rung, and turned itself off


def test_time_in_which_the_process_was_suspended_does_not_count():
    """The timer rings when the process goes on, late."""
    with Limit(0.2):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        time.sleep(1.5)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
        with pytest.raises(TimeIsUp):
            time.sleep(30)


def test_the_time_of_a_limit_begins_with_it_though_the_timer_runs_on():
    for _ in range(5):
        with Limit(0.3):
            time.sleep(0.1)
    start = time.monotonic()
    with pytest.raises(TimeIsUp), Limit(0.3):
        time.sleep(30)
    assert 0.3 <= time.monotonic() - start < 5


def test_an_exception_that_the_environment_catches_is_raised_again():
    caught = []
    with pytest.raises(TimeIsUp), Limit(0.1):
        try:
            time.sleep(30)
        except BaseException as error:
            caught.append(error)
            time.sleep(30)
    assert isinstance(caught[0], TimeIsUp)


@pytest.mark.parametrize("before", [True, False])
def test_after_a_signal_code_that_hangs_is_left_soon(before, monkeypatch):
    monkeypatch.setattr(watch, "GRACE", 0.2)
    old = signal.signal(signal.SIGTERM, lambda *_: request_stop())
    try:
        if before:
            os.kill(os.getpid(), signal.SIGTERM)
        start = time.monotonic()
        with pytest.raises(StopRequested), Limit(60):
            if not before:
                os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
    finally:
        signal.signal(signal.SIGTERM, old)
    assert 0.1 < time.monotonic() - start < 5
    check_stop()  # it was raised, so it is over


def test_after_a_signal_a_step_may_still_end():
    request_stop()
    with Limit(60):
        time.sleep(0.05)


def test_nothing_is_limited_where_other_code_has_the_alarm_or_in_another_thread():
    old = signal.signal(signal.SIGALRM, lambda *_: None)
    with Limit(0.05):
        time.sleep(0.1)
    signal.signal(signal.SIGALRM, old)
    thread = threading.Thread(target=lambda: Limit(0.05).__enter__())
    thread.start()
    thread.join()


def test_an_interrupt_of_the_environment_is_not_one_of_the_user():
    class Second(KeyboardInterrupt):
        pass

    assert is_from_user(KeyboardInterrupt()) and is_from_user(Second()) and is_from_user(StopRequested())
    assert not is_from_user(SystemExit(7)) and not is_from_user(TimeIsUp())
    old = signal.signal(signal.SIGINT, lambda *_: None)  # as during training
    try:
        assert not is_from_user(KeyboardInterrupt()) and is_from_user(Second())
    finally:
        signal.signal(signal.SIGINT, old)
    with ThreadPoolExecutor() as pool:  # no signal reaches another thread
        assert not pool.submit(is_from_user, KeyboardInterrupt()).result()
