"""A pool of an event loop does what a WorkerPool does, and drops what nobody awaits."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import os
import pickle
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import soma_core as soma

from ..support import filters as f
from ..support import nightly, wait_until
from .conftest import begun, until

NAP = ("naps", 60.0)


class Double(soma.Filter):
    def forward(self, x, state):
        if (np.asarray(x) < 0).any():
            raise ValueError("a negative number")
        return x * 2

    def meta(self):
        return super().meta().replace(rowwise=True)


def filters():
    return {"echo": f.Echo(), "sleep": f.Sleep(), "mean": f.Mean(), "process": f.Process()}


@pytest.fixture(scope="module")
def make(options):
    """Like ``soma.AsyncWorkerPool``, with workers that are forked: it starts many."""
    return functools.partial(soma.AsyncWorkerPool, "socket", **options("socket"))


@pytest.fixture(scope="module")
def pool(run, make):
    """A pool of two for tests that leave it as it was."""

    async def start():
        return await make(n=2, filters=filters(), interrupt_grace=30.0)

    pool = run(start())
    yield pool
    run(pool.close())


def test_it_has_the_methods_of_a_pool_with_the_same_arguments():
    for name, member in vars(soma.WorkerPool).items():
        if name.startswith("_") or isinstance(member, property) or name == "filter":
            continue
        there = inspect.signature(getattr(soma.AsyncWorkerPool, name)).parameters
        here = inspect.signature(member).parameters
        assert list(here) == list(there), name


def test_it_takes_the_arguments_of_a_pool():
    kinds = (soma.WorkerPool, soma.AsyncWorkerPool)
    here, there = (list(inspect.signature(kind).parameters) for kind in kinds)
    assert here == there


@pytest.mark.parametrize("wrong", [{"n": 0}, {"max_queue": -1}, {"when_full": "never"}])
def test_wrong_arguments_are_refused_before_anything_is_awaited(wrong):
    with pytest.raises(ValueError, match=r"n is|max_queue is|when_full is"):
        soma.AsyncWorkerPool(**wrong)


def test_calls_of_many_tasks(run, pool):
    async def main():
        calls = (pool.forward("echo", number) for number in range(300))
        assert await asyncio.gather(*calls) == list(range(300))
        assert await pool.composite_forward(["echo", "echo"], [1.0]) == [1.0]

    run(main())


def test_what_a_filter_raises_is_raised(run, pool):
    async def main():
        with pytest.raises(soma.RemoteError):
            await pool.forward("echo no more", 1)
        assert await pool.forward("echo", 1) == 1

    run(main())


def test_every_worker_has_what_one_has_learned(run, pool):
    async def main():
        assert await pool.fit("mean", [1.0, 3.0]) == {"mean": 2.0}
        outs = await asyncio.gather(*(pool.forward("mean", [2.0]) for _ in range(20)))
        assert [out.tolist() for out in outs] == [[0.0]] * 20
        assert (await pool.get_state("mean")).fit_state == {"mean": 2.0}

    run(main())


@pytest.mark.parametrize("ordered", [True, False])
def test_map_over_either_kind_of_iterable(run, pool, ordered):
    async def numbers():
        for number in range(20):
            yield number

    async def main():
        for xs in (numbers(), range(20)):
            outs = [out async for out in pool.map("echo", xs, ordered=ordered)]
            assert (outs if ordered else sorted(outs)) == list(range(20))

    run(main())


def test_an_error_of_the_inputs_of_a_map_comes_after_the_results_before_it(run, pool):
    def numbers():
        yield 1
        raise LookupError("no more")

    async def main():
        outs = pool.map("echo", numbers())
        assert await anext(outs) == 1
        with pytest.raises(LookupError, match="no more"):
            await anext(outs)

    run(main())


def test_callers_that_hang_up_free_the_workers(run, pool):
    async def main():
        calls = [asyncio.create_task(pool.forward("sleep", NAP)) for _ in range(6)]
        await until(lambda: pool.stats().running == 2)
        pids = {status.pid for status in pool.status()}
        for call in calls:
            call.cancel()
        start = time.monotonic()
        assert await pool.forward("echo", "next") == "next"
        assert time.monotonic() - start < 20.0
        assert all(call.cancelled() for call in calls)
        await until(lambda: pool.stats().running == 0)
        assert {status.pid for status in pool.status()} == pids
        assert pool.stats().queued == 0

    run(main())


def test_a_future_is_cancelled_alone_and_a_timeout_is_punctual(run, pool):
    async def main():
        future = await pool.submit("sleep", NAP)
        await until(future.running)
        assert not future.cancel(interrupt=False)
        assert future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await pool.forward("sleep", NAP)
        assert time.monotonic() - start < 5.0

    run(main())


def test_deadlines_count_from_the_submission(run, pool):
    async def main():
        naps = [await pool.submit("sleep", NAP) for _ in range(2)]
        with pytest.raises(soma.DeadlineExceeded, match="waited"):
            await pool.forward("echo", 1, deadline=0.1)
        for nap in naps:
            nap.cancel()
        with pytest.raises(soma.DeadlineExceeded):
            await pool.forward("sleep", NAP, deadline=0.1)

    run(main())


def test_urgent_calls_go_first(run, pool):
    order = []

    async def call(name, priority):
        await pool.forward("echo", name, priority=priority)
        order.append(name)

    async def main():
        naps = [await pool.submit("sleep", NAP) for _ in range(2)]
        await until(lambda: pool.stats().running == 2)
        calls = [asyncio.create_task(call(name, name)) for name in (0, 1, 2)]
        await until(lambda: pool.stats().queued == 3)
        naps[0].cancel()
        await asyncio.gather(*calls)
        naps[1].cancel()

    run(main())
    assert order == [2, 1, 0]


def test_no_thread_runs_for_a_call(run, pool):
    async def main():
        before = set(threading.enumerate())
        calls = [asyncio.create_task(pool.forward("echo", n)) for n in range(1000)]
        await until(lambda: pool.stats().queued > 500)
        assert set(threading.enumerate()) <= before
        await asyncio.gather(*calls)

    run(main())


def test_another_loop_is_refused_and_one_that_is_not_started(pool):
    with pytest.raises(RuntimeError, match="belongs to another event loop"):
        asyncio.run(pool.forward("echo", 1))
    with pytest.raises(RuntimeError, match="is not started"):
        asyncio.run(soma.AsyncWorkerPool(filters={}).forward("echo", 1))


def test_it_tells_what_it_did_wherever_it_is_asked_and_is_not_pickled(run, pool):
    run(pool.forward("echo", 1))
    assert pool.stats().done > 0
    assert len(pool.status()) == 2
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(pool)


def test_a_forked_child_is_refused_in_the_loop_that_runs_there(run, pool):
    async def main():
        reading, writing = os.pipe()
        if (pid := os.fork()) == 0:
            try:
                await pool.forward("echo", 1)
            except soma.TransportError as error:
                os.write(writing, str(error).encode())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        with open(reading), open(writing, "w"):
            assert b"forked" in os.read(reading, 1000)

    run(main())


@nightly
def test_a_start_that_is_cancelled_twice_leaves_no_worker():
    async def started():
        return await soma.AsyncWorkerPool("stdio", n=2, filters={"echo": f.Echo()})

    async def main():
        before = set(psutil.Process().children(recursive=True))
        for pauses in ((0, 0), (1, 0), (3, 1)):  # turns of the loop before each
            start = asyncio.create_task(started())
            for turns in pauses:
                for _ in range(turns + 1):
                    await asyncio.sleep(0)
                start.cancel()
            with pytest.raises(asyncio.CancelledError):
                await start
        await until(lambda: len(asyncio.all_tasks()) == 1)
        await until(lambda: set(psutil.Process().children(recursive=True)) <= before)

    asyncio.run(main())


def test_a_loop_that_ends_while_calls_run_takes_the_pool_along(make):
    async def main():
        pool = await make(n=1, filters={"sleep": f.Sleep()})
        call = asyncio.create_task(pool.forward("sleep", NAP))
        await until(lambda: pool.stats().running == 1)
        return pool, pool.status()[0].pid, call

    pool, pid, call = asyncio.run(main())
    assert call.cancelled()
    assert not psutil.pid_exists(pid)
    asyncio.run(pool.close())
    assert pool.status() == []


def test_an_input_of_a_map_that_fails_is_told_once(run, pool, caplog):
    async def main():
        with pytest.raises(soma.RemoteError):
            [out async for out in pool.map("no such node", range(10))]
        await until(lambda: pool.stats().running == pool.stats().queued == 0)

    run(main())
    gc.collect()
    assert "no such node" not in caplog.text


def test_a_shutdown_that_nobody_waits_for_has_its_timeout(run, make):
    async def main():
        async with soma.AsyncWorkerPool("inline", 1, filters={"echo": f.Echo()}) as pool:
            with pytest.raises(ValueError, match="timeout is a number of seconds from 0"):
                await pool.shutdown(timeout=-1)
        async with make(n=1, filters={"sleep": f.Sleep()}) as pool:
            call = await pool.submit("sleep", NAP)
            await pool.shutdown(wait=False, timeout=0.05)
            with pytest.raises(soma.ChannelClosed):
                await call

    run(main())


def test_a_worker_that_dies_costs_its_call_alone_and_idle_none(run, make):
    async def main():
        async with make(n=2, filters=filters()) as pool:
            with pytest.raises(soma.WorkerDied):
                await pool.forward("process", ("kill", signal.SIGKILL))
            await until(lambda: len(pool.status()) == 2)
            os.kill(pool.status()[0].pid, signal.SIGKILL)
            await until(lambda: pool.stats().replaced == 2)
            assert await pool.forward("echo", 1) == 1

    run(main())


def test_room_in_a_full_queue_is_given_in_the_order_in_which_it_was_asked_for(run):
    async def main():
        order: list[str] = []
        options = {"filters": {"echo": f.Echo()}, "max_queue": 0, "when_full": "wait"}
        async with soma.AsyncWorkerPool("inline", 1, **options) as pool:

            async def caller(name):
                for _ in range(4):
                    order.append(await pool.forward("echo", name))

            await asyncio.gather(*map(caller, "abc"))
        return order

    assert run(main()) == [*"abc"] * 4


@pytest.mark.nightly
def test_a_full_queue_refuses_or_makes_wait(run, note, make):
    async def main(when_full):
        options = {"n": 1, "filters": filters(), "max_queue": 1, "when_full": when_full}
        async with make(**options) as pool:
            nap = await pool.submit("sleep", (*NAP, str(note)))
            await begun(note)
            waiting = await pool.submit("echo", 1)
            if when_full == "raise":
                with pytest.raises(soma.QueueFull):
                    await pool.submit("echo", 2)
                assert pool.stats().refused == 1
                os.unlink(note)
                return
            with pytest.raises(soma.DeadlineExceeded):
                await pool.submit("echo", 2, deadline=0.05)
            third = asyncio.create_task(pool.forward("echo", 3))
            os.unlink(note)
            assert [await nap, await waiting, await third] == ["done", 1, 3]

    run(main("raise"))
    run(main("wait"))


def test_calls_are_joined_and_one_that_fails_fails_alone(run, make):
    async def main():
        batching = soma.Batching(max_rows=8)
        options = {"n": 1, "filters": {"double": Double()}, "batching": batching}
        async with make(**options) as pool:
            numbers = [*range(1, 20), -1, *range(21, 40)]
            calls = (pool.forward("double", np.array([[n]])) for n in numbers)
            outs = await asyncio.gather(*calls, return_exceptions=True)
            for number, out in zip(numbers, outs, strict=True):
                if number < 0:
                    assert isinstance(out, ValueError)
                else:
                    assert out.tolist() == [[2 * number]]
            assert pool.stats().nodes["double"].batches >= 5

    run(main())


class Meeting(soma.Filter):
    """Returns how many workers came to its place, and waits until they are two."""

    place: str

    def forward(self, x, state):
        Path(self.place, str(os.getpid())).touch()
        wait_until(lambda: len(os.listdir(self.place)) == 2)
        return x

    def meta(self):
        return super().meta().replace(rowwise=True)


@pytest.mark.nightly
def test_calls_that_do_not_fit_into_one_command_go_to_the_other_worker(run, tmp_path, make):
    async def main():
        options = {"filters": {"m": Meeting(place=str(tmp_path))}, "batching": soma.Batching(4)}
        async with make(n=2, **options) as pool:
            calls = (pool.forward("m", np.ones((2, 1))) for _ in range(4))
            assert len(await asyncio.gather(*calls)) == 4

    run(main())


def test_a_refresh_replaces_the_workers_without_losing_a_call(run, make):
    async def main():
        async with make(n=2, filters=filters()) as pool:
            await pool.fit("mean", [1.0, 3.0])
            pids = {status.pid for status in pool.status()}
            ended = False

            async def call():
                while not ended:
                    assert await pool.forward("echo", 1) == 1

            callers = [asyncio.create_task(call()) for _ in range(3)]
            await pool.refresh()
            ended = True
            await asyncio.gather(*callers)
            assert pids.isdisjoint(status.pid for status in pool.status())
            assert (await pool.forward("mean", [2.0])).tolist() == [0.0]

    run(main())


@pytest.mark.nightly
def test_a_filter_that_does_not_load_leaves_no_pool(run, make):
    async def main():
        with pytest.raises(soma.RemoteError):
            await make(n=2, filters={"a": "no such filter"})

    run(main())


@pytest.mark.nightly
def test_close_ends_calls_and_shutdown_finishes_them(run, note, make):
    async def main():
        pool = await make(n=1, filters=filters())
        await pool.resize(2)
        call = asyncio.create_task(pool.forward("sleep", (*NAP, str(note))))
        await begun(note)
        ending = asyncio.create_task(pool.shutdown())
        await until(lambda: "closed" in repr(pool))
        os.unlink(note)
        await ending
        assert await call == "done"
        with pytest.raises(soma.ChannelClosed):
            await pool.forward("echo", 1)
        await pool.close()

        async with make(n=1, filters=filters()) as pool:
            calls = [asyncio.create_task(pool.forward("sleep", NAP)) for _ in range(2)]
            await until(lambda: pool.stats().queued == 1)
        for call in calls:
            with pytest.raises(soma.ChannelClosed):
                await call

    run(main())


@pytest.mark.parametrize("batching", [None, soma.Batching()], ids=["alone", "batching"])
def test_a_call_that_waits_is_few_objects_to_the_garbage_collector(batching):
    """It looks at all of them again and again while hundreds of calls wait."""

    async def count() -> float:
        filters = {"echo": f.Echo()}
        async with soma.AsyncWorkerPool("inline", 1, filters=filters, batching=batching) as pool:
            await pool.forward("echo", [0.0])
            gc.collect()
            gc.disable()
            try:
                before = len(gc.get_objects())
                calls = [await pool.submit("echo", [float(number)]) for number in range(400)]
                found = (len(gc.get_objects()) - before) / len(calls)
            finally:
                gc.enable()
            for call in calls:
                await call
            return found

    assert asyncio.run(count()) < 9
