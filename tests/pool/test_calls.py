"""Calls of a pool: whichever worker is free takes the next, and each future tells its own fate."""

from __future__ import annotations

import asyncio
import threading
import weakref
from concurrent.futures import CancelledError, Future, as_completed

import numpy as np
import pytest

import soma_core as soma

from ..support import both, wait_until
from ..support import filters as f


@pytest.mark.nightly
@both
def test_calls_run_at_once_in_different_processes(make, gate, transport):
    pool = make(transport, 2)
    calls = [pool.submit("hold", gate.call(number)) for number in range(2)]
    wait_until(lambda: len(set(gate.pids)) == 2)
    gate.open()
    assert [call.result(60.0) for call in calls] == [0, 1]
    assert {status.pid for status in pool.status()} == set(gate.pids)


def test_a_slow_call_holds_up_nobody(warm, gate):
    slow = warm.submit("hold", gate.call("slow"))
    try:
        assert [warm.submit("echo", number).result(60.0) for number in range(20)] == [*range(20)]
        assert not slow.done()
    finally:
        gate.open()
    assert slow.result(60.0) == "slow"


def test_a_future_is_one_of_the_standard_library(warm):
    calls = [warm.submit("echo", number) for number in range(5)]
    assert all(isinstance(call, Future) for call in calls)
    assert {call.result() for call in as_completed(calls, 60.0)} == {*range(5)}


def test_arrays_arrive_whole(warm):
    x = np.arange(1_000_000.0).reshape(1000, 1000)
    calls = [warm.submit("scale", x + number) for number in range(4)]
    for number, call in enumerate(calls):
        np.testing.assert_array_equal(call.result(60.0), (x + number) * 2.0)


def test_a_state_may_be_given(warm):
    assert warm.submit("mean", 5.0, state={"mean": 2.0}).result(60.0) == 3.0


def test_a_chain_of_nodes_is_one_call(warm):
    states = {"mean": {"mean": 1.0}}
    assert warm.submit(["scale", "mean"], np.array([3.0]), state=states).result(60.0) == [5.0]
    assert [*warm.map(["scale", "scale"], [np.ones(1), np.ones(1)])] == [[4.0], [4.0]]


def test_what_a_filter_raises_is_raised_by_the_future_alone(warm):
    failing = warm.submit("fail", ("ValueError", "it is odd"))
    assert warm.submit("echo", 1).result(60.0) == 1
    with pytest.raises(soma.RemoteError, match="it is odd") as caught:
        failing.result(60.0)
    assert isinstance(caught.value, ValueError)
    assert (caught.value.node_id, caught.value.command) == ("fail", "FORWARD")


def test_an_unknown_node_is_told_with_those_that_are_loaded(warm):
    with pytest.raises(soma.RemoteError, match=r"'none'.*echo") as caught:
        warm.submit("none", 1).result(60.0)
    assert caught.value.code is soma.ErrorCode.UNKNOWN_NODE


def test_what_cannot_be_sent_fails_the_call_alone(warm):
    with pytest.raises(soma.ProtocolError):
        warm.submit("echo", threading.Lock()).result(60.0)
    assert warm.submit("echo", 1).result(60.0) == 1


def test_a_call_that_no_worker_has_taken_can_be_cancelled(make, gate):
    pool = make(n=1)
    running = pool.submit("hold", gate.call("done"))
    wait_until(lambda: gate.pids)
    waiting, after = pool.submit("process", ("leave", 1)), pool.submit("echo", "after")
    assert waiting.cancel() is True
    assert running.cancel(interrupt=False) is False
    gate.open()
    assert (running.result(60.0), after.result(60.0)) == ("done", "after")
    with pytest.raises(CancelledError):
        waiting.result(60.0)


def test_a_call_that_takes_too_long_is_interrupted(make, long_grace):
    pool = make(n=1, timeout=0.3)
    pids = {status.pid for status in pool.status()}
    for call in (
        pool.submit("sleep", ("naps", 60.0)),
        pool.submit("sleep", ("naps", 60.0), timeout=0.2),
    ):
        with pytest.raises(soma.DeadlineExceeded) as caught:
            call.result(60.0)
        assert caught.value.worker_survived is True
    assert {status.pid for status in pool.status()} == pids


def test_waiting_for_a_worker_does_not_count_against_the_timeout(make, gate):
    pool = make(n=1)
    running = pool.submit("hold", gate.call())
    wait_until(lambda: gate.pids)
    waiting = pool.submit("echo", 1, timeout=30.0)
    with pytest.raises(TimeoutError):
        waiting.result(0.1)
    gate.open()
    running.result(60.0)
    assert waiting.result(60.0) == 1


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_what_a_callback_raises_does_not_stop_the_pool(make, gate, error):
    def fail(_: Future) -> None:
        raise error("from a callback")

    pool = make(n=1)
    call = pool.submit("hold", gate.call())
    call.add_done_callback(fail)
    gate.open()
    call.result(60.0)
    assert pool.submit("echo", 1).result(60.0) == 1


def test_a_callback_may_submit_and_may_close_the_pool(make, gate):
    submitted, closed = [], threading.Event()

    def submit(_: Future) -> None:
        submitted.append(pool.submit("echo", "from a callback"))

    def close(_: Future) -> None:
        pool.close()
        closed.set()

    pool = make(n=1)
    call = pool.submit("hold", gate.call())
    call.add_done_callback(submit)
    call.add_done_callback(lambda _: submitted[0].add_done_callback(close))
    gate.open()
    call.result(60.0)
    assert closed.wait(60.0)
    assert submitted[0].result(60.0) == "from a callback"
    with pytest.raises(soma.ChannelClosed):
        pool.submit("echo", 1)


def test_many_threads_share_a_pool(warm):
    wrong = []

    def work(number: int) -> None:
        for step in range(50):
            x = (number, step)
            if tuple(warm.submit("echo", x).result(60.0)) != x:
                wrong.append(x)

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_pool_tells_what_it_is(warm, gate):
    assert len(warm) == 2
    assert warm.node_ids == ["echo", "fail", "hold", "mean", "process", "scale", "sleep"]
    call = warm.submit("hold", gate.call())
    wait_until(lambda: gate.pids)
    # What an earlier test gave up may still run for a moment.
    wait_until(lambda: sum(status.command is not None for status in warm.status()) == 1)
    (busy,) = [status for status in warm.status() if status.command]
    assert (busy.command, busy.node_id, busy.alive) == ("FORWARD", "hold", True)
    assert repr(warm).startswith("<WorkerPool of 2 over socket, 1 busy, 0 waiting, nodes ['echo'")
    gate.open()
    call.result(60.0)


def test_the_inline_transport_serves_a_pool_too(make):
    pool = make("inline", 2)
    assert [*pool.map("echo", range(10))] == [*range(10)]
    pool.fit("mean", [1.0, 3.0])
    assert [*pool.map("mean", [2.0, 3.0])] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n": 0}, ValueError, "n is at least 1, got 0"),
        ({"n": True}, TypeError, "n is a whole number, got True"),
        ({"n": 1.5}, TypeError, "n is a whole number, got 1.5"),
        ({"n": 1, "recycle_after": 0}, ValueError, "recycle_after is at least 1, got 0"),
        ({"n": 1, "threads": 0}, ValueError, "threads"),
        ({"n": 1, "interrupt_grace": -1}, ValueError, "interrupt_grace is a number of seconds"),
        ({"n": 1, "interrupt_grace": None}, TypeError, "interrupt_grace is a number of seconds"),
        ({"n": 1, "record": 5}, TypeError, "record is a path or a Recording, got 5"),
        ({"n": 1, "filters": [1]}, TypeError, "filters is a dict from node id to filter"),
        ({"n": 1, "wrong": 1}, TypeError, "'stdio' has no option wrong"),
        ({"n": 1, "transport": "none"}, soma.PluginNotFound, "none"),
        ({"n": 1, "transport": "inline", "threads": 2}, TypeError, "has no option threads"),
        ({"n": 2, "filters": {"a": object()}}, TypeError, "filter 'a'"),
        ({"n": 2, "filters": {"a": "no.Such"}}, soma.RemoteError, "no.Such"),
        ({"n": 2, "python": "/no/python"}, soma.StartFailed, "/no/python"),
    ],
)
def test_a_pool_that_cannot_be_made_says_why(arguments, error, message):
    before = set(threading.enumerate())
    with pytest.raises(error, match=message):
        soma.WorkerPool(**arguments)
    assert set(threading.enumerate()) <= before  # those of other tests may have ended


def test_workers_start_at_the_same_time(make, tmp_path):
    """Each waits, while it is loaded, until the others are being loaded too."""

    def rebuild(directory):
        with open(f.os.path.join(directory, str(f.os.getpid())), "w"):
            pass
        while len(f.os.listdir(directory)) < 3:
            f.time.sleep(0.01)
        return f.Echo()

    class MetLoading:
        def fit(self, x, y=None):
            return {}

        def forward(self, x, state):
            return x

        def __reduce__(self):
            return rebuild, (str(tmp_path),)

    pool = make(n=3, filters={"met": MetLoading()})
    assert pool.submit("met", 1).result(60.0) == 1


@pytest.mark.parametrize("node_id", ["echo", "none"])
def test_an_idle_pool_keeps_nothing_of_the_calls_that_it_did(warm, node_id):
    x = np.ones(10)
    kept = weakref.ref(x)
    call = warm.submit(node_id, x)
    call.exception(60.0)
    del x, call
    wait_until(lambda: kept() is None)


def test_a_pool_of_one_session_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="would share one worker"):
        soma.WorkerPool("socket", 2, path=tmp_path / "s", session="shared")


def test_where_threads_share_an_event_loop_as_under_gevent_a_further_pool_is_refused(monkeypatch):
    async def main() -> None:
        monkeypatch.setattr(threading.Thread, "start", threading.Thread.run)
        with pytest.raises(soma.StartFailed, match="under gevent"):
            soma.WorkerPool("stdio", 1, filters={})

    asyncio.run(main())
