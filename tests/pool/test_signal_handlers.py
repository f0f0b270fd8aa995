"""Pools in signal handlers, which run between any two steps of the thread that uses the pool."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

import soma_core as soma
from soma_core.client.turn import TurnLock

from ..support import filters as f
from ..support import meanwhile, wait_until


@pytest.fixture
def pool() -> Iterator[soma.WorkerPool]:
    with soma.WorkerPool("inline", 1, filters={"echo": f.Echo()}) as pool:
        yield pool


def _signal_at_append(frame: FrameType, event: str, called: Any) -> None:
    """A profiler that sends a signal where the pool leaves a call for its thread."""
    if event == "c_call" and getattr(called, "__name__", "") == "append":
        sys.setprofile(None)
        signal.raise_signal(signal.SIGUSR1)


@pytest.fixture
def on_signal() -> Iterator[Callable[[Callable[[], object]], None]]:
    before = signal.getsignal(signal.SIGUSR1)
    seen = []

    def install(handler: Callable[[], object]) -> None:
        def once(*_: object) -> None:
            if not seen:
                seen.append(1)
                handler()

        signal.signal(signal.SIGUSR1, once)
        sys.setprofile(_signal_at_append)

    yield install
    sys.setprofile(None)
    signal.signal(signal.SIGUSR1, before)
    assert seen, "no signal came"


def test_what_a_handler_submits_in_the_midst_of_a_submission_is_done_too(pool, on_signal):
    second = []
    on_signal(lambda: second.append(pool.submit("echo", 2)))
    assert pool.submit("echo", 1).result(60.0) == 1
    assert second[0].result(60.0) == 2


def test_a_handler_may_wait_for_a_call_in_the_midst_of_a_submission(pool, on_signal):
    second = []
    on_signal(lambda: second.append(pool.forward("echo", 2)))
    assert pool.forward("echo", 1) == 1
    assert second == [2]


def test_a_handler_asks_for_the_statistics_in_the_midst_of_a_submission(pool, on_signal):
    seen = []
    on_signal(lambda: seen.append(pool.stats()))
    assert pool.submit("echo", 1).result(60.0) == 1
    assert seen[0].failed == 0


def test_a_handler_closes_the_pool_in_the_midst_of_a_submission(pool, on_signal):
    on_signal(pool.close)
    with pytest.raises(soma.ChannelClosed):
        pool.submit("echo", 1).result(60.0)


def interrupt() -> None:
    raise KeyboardInterrupt


def test_ctrl_c_before_the_loop_is_told_of_a_call_holds_up_no_later_one(pool, on_signal):
    on_signal(interrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.submit("echo", 1)
    assert pool.submit("echo", 2).result(60.0) == 2


def test_ctrl_c_before_a_worker_is_lent_costs_no_worker(pool, on_signal):
    on_signal(interrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.ping()
    assert pool.submit("echo", 2).result(60.0) == 2


def test_a_pool_closes_in_full_after_ctrl_c_in_its_shutdown(tmp_path):
    before = {*threading.enumerate()}
    sleeper = f.Apply(lambda x, state: f.note_and_sleep(x))
    pool = soma.WorkerPool("stdio", 1, filters={"sleep": sleeper})
    call = pool.submit("sleep", str(tmp_path / "note"))

    def interrupt_shutdown() -> None:
        wait_until(lambda: isinstance(_refusal(pool), soma.ChannelClosed))
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), meanwhile(interrupt_shutdown):  # noqa: PT012
        pool.shutdown()
        pytest.fail(f"the call ended by itself: {call.exception(0)!r}")
    pool.close()
    assert call.done()
    assert "soma-pool" not in {thread.name for thread in {*threading.enumerate()} - before}


def _refusal(pool: soma.WorkerPool) -> Exception | None:
    try:
        pool.submit("sleep", None).cancel()
    except soma.SomaError as error:
        return error
    return None


def test_who_has_its_turn_is_refused_another_instead_of_waiting_for_itself():
    turn = TurnLock("a restart of this worker")
    with turn:
        with pytest.raises(RuntimeError, match=r"a restart of this worker.*wait for itself"):
            turn.take()
        others: list[bool] = []
        other = threading.Thread(target=lambda: others.append(turn.take(0.01)))
        other.start()
        other.join()
        assert others == [False]
    assert turn.take(0)


def test_ctrl_c_just_after_a_turn_was_had_keeps_it_from_nobody():
    turn = TurnLock("a restart of this worker")

    def interrupt_once_it_is_had(frame: FrameType, event: str, called: Any) -> None:
        if event == "c_return" and getattr(called, "__name__", "") == "acquire":
            sys.setprofile(None)
            raise KeyboardInterrupt

    sys.setprofile(interrupt_once_it_is_had)
    with pytest.raises(KeyboardInterrupt):
        turn.take()
    others: list[bool] = []
    other = threading.Thread(target=lambda: others.append(turn.take(0)))
    other.start()
    other.join()
    assert others == [True]
