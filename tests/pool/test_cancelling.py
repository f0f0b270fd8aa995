"""A call can be cancelled at any time, and its worker is there for the next one at once."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import CancelledError, as_completed, wait

import pytest

import soma_core as soma

from ..support import either, wait_until, wait_until_gone

NAP = ("naps", 600.0)


def pids(pool: soma.WorkerPool) -> set[int]:
    return {status.pid for status in pool.status()}


@either
def test_a_call_that_runs_is_interrupted_and_its_worker_goes_on(make, note, transport):
    pool = make(transport, 1, interrupt_grace=60.0)
    before = pids(pool)
    call, after = pool.submit("sleep", (*NAP, str(note))), pool.submit("process", ("pid",))
    wait_until(note.exists)
    assert call.running()
    assert call.cancel() is True
    assert (call.cancelled(), call.done(), call.running()) == (True, True, False)
    with pytest.raises(CancelledError):
        call.result(0)
    assert {after.result(60.0)} == before


@either
def test_a_call_that_was_only_just_taken_is_interrupted_too(make, transport):
    pool = make(transport, 1, interrupt_grace=60.0)
    before = pids(pool)
    for _ in range(20):
        call = pool.submit("sleep", NAP)
        wait_until(call.running)
        assert call.cancel()
    assert {pool.submit("process", ("pid",)).result(60.0)} == before


def test_those_who_hang_up_hold_up_nobody(make):
    pool = make(n=2, interrupt_grace=60.0)
    before = pids(pool)
    calls = [pool.submit("sleep", NAP) for _ in range(6)]
    wait_until(lambda: sum(call.running() for call in calls) == 2)
    assert all(call.cancel() for call in calls)
    assert pool.submit("process", ("pid",)).result(60.0) in before
    assert pids(pool) == before


@pytest.mark.nightly
def test_a_worker_that_does_not_stop_in_time_is_replaced(make, note):
    pool = make(n=1, interrupt_grace=0.3)
    (before,) = pids(pool)
    call, after = pool.submit("sleep", ("deaf", 600.0, str(note))), pool.submit("echo", "after")
    wait_until(note.exists)
    assert call.cancel()
    assert after.result(60.0) == "after"
    wait_until_gone(before)


def test_cancelling_says_whether_the_call_is_cancelled(warm):
    done = warm.submit("echo", 1)
    done.result(60.0)
    assert done.cancel() is False
    cancelled = warm.submit("sleep", NAP)
    assert [cancelled.cancel(), cancelled.cancel()] == [True, True]


def test_those_who_wait_for_several_calls_see_a_cancelled_one(warm):
    calls = [warm.submit("sleep", NAP), warm.submit("echo", 1)]
    called_back: list[object] = []
    calls[0].add_done_callback(called_back.append)
    wait_until(calls[0].running)
    calls[0].cancel()
    assert wait(calls, 60.0).not_done == set()
    assert {*as_completed(calls, 60.0)} == {*calls}
    assert called_back == [calls[0]]


def test_a_coroutine_that_is_timed_out_frees_the_worker(make, note):
    async def serve() -> None:
        call = pool.submit("sleep", (*NAP, str(note)))
        waiting = asyncio.ensure_future(asyncio.wrap_future(call))
        while not note.exists():
            await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(waiting, 0.01)
        assert call.cancelled()
        assert await asyncio.wrap_future(pool.submit("echo", 1)) == 1

    pool = make(n=1, interrupt_grace=60.0)
    before = pids(pool)
    asyncio.run(serve())
    assert pids(pool) == before


def test_a_call_of_an_inline_worker_ends_for_its_caller_at_once(make, gate):
    pool = make("inline", 1, interrupt_grace=0.1)
    call, after = pool.submit("hold", gate.call()), pool.submit("echo", 1)
    wait_until(lambda: gate.pids)
    assert call.cancel()
    with pytest.raises(CancelledError):
        call.result(0)
    gate.open()
    assert after.result(60.0) == 1


@pytest.mark.nightly
@either
def test_calls_cancelled_at_random_moments_mix_up_no_others(make, transport):
    pool = make(transport, 2, interrupt_grace=60.0)
    before, draw = pids(pool), random.Random(0)
    for _ in range(10):
        calls = [pool.submit("echo", number) for number in range(40)]
        for number in draw.sample(range(40), 15):
            calls[number].cancel()
        for number, call in enumerate(calls):
            assert call.cancelled() or call.result(60.0) == number
    wait_until(lambda: pool.stats().running == pool.stats().queued == 0)
    stats = pool.stats()
    assert (stats.done + stats.cancelled, stats.failed) == (400, 0)
    assert pids(pool) == before
