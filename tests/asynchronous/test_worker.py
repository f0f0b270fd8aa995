"""A worker of an event loop does what a Worker does, and gives up what nobody awaits."""

from __future__ import annotations

import asyncio
import inspect
import os
import pickle
import signal
import threading
import time

import numpy as np
import pytest

import soma_core as soma

from ..support import filters as f
from .conftest import begun, until

NAP = ("naps", 60.0)


@pytest.mark.parametrize("start", [soma.connect_async, soma.AsyncWorkerPool])
def test_without_asyncio_the_error_names_what_to_do(start):
    with pytest.raises(RuntimeError, match=r"^no event loop of asyncio runs here.*trio"):
        next(start("stdio").__await__())


def test_it_has_the_methods_of_a_worker_with_the_same_arguments():
    for name, member in vars(soma.Worker).items():
        if name.startswith("_") or isinstance(member, property) or name == "filter":
            continue
        there = getattr(soma.AsyncWorker, name)
        assert list(inspect.signature(there).parameters) == list(
            inspect.signature(member).parameters
        ), name


def test_connect_async_takes_the_arguments_of_connect():
    parameters = [inspect.signature(one).parameters for one in (soma.connect, soma.connect_async)]
    assert list(parameters[0]) == list(parameters[1])


@pytest.mark.parametrize("wrong", [{"colour": "red"}, {"timeuot": 3}])
def test_wrong_arguments_are_refused_before_anything_is_awaited(wrong):
    with pytest.raises(TypeError, match="has no option"):
        soma.connect_async("stdio", **wrong)


def test_what_is_sent_comes_back(run, worker):
    array = np.random.default_rng(0).random((300, 300))  # through shared memory
    assert run(worker.forward("echo", [1.5, "a", None])) == [1.5, "a", None]
    assert np.array_equal(run(worker.forward("echo", array)), array)


def test_verbs_of_all_kinds(run, worker):
    async def main():
        assert await worker.fit("mean", [1.0, 3.0]) == {"mean": 2.0}
        assert (await worker.forward("mean", [2.0])).tolist() == [0.0]
        state = await worker.get_state("mean")
        assert state.fit_state == {"mean": 2.0}
        await worker.set_state("mean", state)
        result = await worker.composite_forward(["mean", "scale"], np.array([3.0]))
        assert result.tolist() == [2.0]
        assert (await worker.list()).nodes.keys() == worker.metas.keys()
        assert (await worker.ping()).pid == worker.status().pid

    run(main())


def test_what_a_filter_raises_is_raised(run, worker):
    with pytest.raises(soma.RemoteError, match="too bad"):
        run(worker.forward("fail", ("ValueError", "too bad")))
    with pytest.raises(ValueError, match="too bad"):
        run(worker.forward("fail", ("ValueError", "too bad")))


def test_an_argument_that_a_command_does_not_take_is_named(run, worker):
    with pytest.raises(TypeError, match=r"Worker\.fit: return_state"):
        run(worker.fit("mean", [1.0], return_state="no"))


def test_progress_is_reported_in_the_loop(run, worker):
    seen = []

    async def main():
        await worker.fit(
            "report",
            3,
            progress=lambda report: seen.append((report["epoch"], threading.get_ident())),
        )

    run(main())
    assert seen == [(epoch, threading.get_ident()) for epoch in (1, 2, 3)]


def test_a_callback_that_raises_ends_its_call_alone(run, worker):
    def refuse(report):
        raise LookupError("no more")

    async def main():
        with pytest.raises(LookupError, match="no more"):
            await worker.fit("report", 3, progress=refuse)
        assert await worker.forward("echo", 1) == 1

    run(main())


def test_a_stream_of_chunks_from_either_kind_of_iterable(run, worker):
    async def numbers():
        for number in (1.0, 2.0):
            yield np.array([number])

    async def main():
        for chunks in (numbers(), [np.array([1.0]), np.array([2.0])]):
            outs = [out.tolist() async for out in worker.stream(["scale"], chunks)]
            assert outs == [[2.0], [4.0]]

    run(main())


def test_a_stream_that_ends_early_closes_its_source(run, worker):
    ended = []

    async def numbers():
        try:
            while True:
                yield np.array([1.0])
        finally:
            ended.append(True)

    async def main():
        stream = worker.stream(["scale"], numbers())
        assert (await anext(stream)).tolist() == [2.0]
        await stream.aclose()

    run(main())
    assert ended == [True]


def test_calls_of_many_tasks_take_turns_in_order(run, worker):
    async def main():
        calls = [worker.forward("echo", number) for number in range(100)]
        assert await asyncio.gather(*calls) == list(range(100))

    run(main())


def test_no_thread_runs_for_a_call_or_a_worker(run, worker):
    async def main():
        before = set(threading.enumerate())
        calls = [asyncio.create_task(worker.forward("echo", n)) for n in range(1000)]
        await asyncio.sleep(0)
        assert set(threading.enumerate()) <= before
        await asyncio.gather(*calls)

    run(main())


def by_timeout(call):
    async def main():
        async with asyncio.timeout(0.2):
            await call

    return main()


def by_cancel(call):
    async def main():
        task = asyncio.create_task(call)
        await asyncio.sleep(0.2)
        task.cancel()
        await task

    return main()


def by_task_group(call):
    async def fail():
        await asyncio.sleep(0.2)
        raise LookupError

    async def main():
        async with asyncio.TaskGroup() as group:
            group.create_task(call)
            group.create_task(fail())

    return main()


@pytest.mark.parametrize("give_up", [by_timeout, by_cancel, by_task_group])
def test_a_call_that_is_cancelled_is_interrupted_and_the_worker_stays(run, worker, give_up):
    async def main():
        pid = (await worker.ping()).pid
        start = time.monotonic()
        with pytest.raises((TimeoutError, asyncio.CancelledError, BaseExceptionGroup)):
            await give_up(worker.forward("sleep", NAP))
        assert await worker.forward("echo", "next") == "next"
        assert time.monotonic() - start < 20.0
        assert (await worker.ping()).pid == pid

    run(main())


def test_a_call_that_waits_for_its_turn_is_withdrawn(run, worker, note):
    async def main():
        first = asyncio.create_task(worker.forward("sleep", (*NAP, str(note))))
        await begun(note)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await worker.forward("echo", 1)
        with pytest.raises(soma.DeadlineExceeded, match="was not sent"):
            await worker.forward("echo", 1, timeout=0.05)
        os.unlink(note)
        assert await first == "done"

    run(main())


def test_a_deadline_interrupts_and_the_worker_stays(run, worker):
    async def main():
        with pytest.raises(soma.DeadlineExceeded) as caught:
            await worker.forward("sleep", NAP, timeout=0.2)
        assert caught.value.worker_survived
        assert await worker.forward("echo", 1) == 1

    run(main())


def test_interrupt_ends_the_call_that_runs(run, worker, note):
    async def main():
        call = asyncio.create_task(worker.forward("sleep", (*NAP, str(note))))
        await begun(note)
        worker.interrupt()
        with pytest.raises(soma.RemoteError):
            await call

    run(main())


def test_another_loop_is_refused(worker):
    with pytest.raises(RuntimeError, match="belongs to another event loop"):
        asyncio.run(worker.forward("echo", 1))


def test_it_is_not_pickled(worker):
    with pytest.raises(TypeError, match="is not pickled"):
        pickle.dumps(worker)


def test_a_forked_child_is_refused(run, worker):
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(worker.forward("echo", 1))
        except soma.TransportError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert b"forked" in os.read(reading, 1000)
    os.close(reading)
    os.close(writing)
    assert run(worker.forward("echo", 1)) == 1


@pytest.mark.nightly
def test_a_worker_that_does_not_stop_is_ended_and_another_one_started(run):
    async def main():
        async with soma.connect_async(
            filters={"sleep": f.Sleep(), "echo": f.Echo()},
            restart="on-crash",
            interrupt_grace=0.3,
        ) as worker:
            pid = worker.status().pid
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await worker.forward("sleep", ("stubborn", 60.0))
            assert await worker.forward("echo", 1) == 1
            assert worker.status().pid != pid
            os.kill(worker.status().pid, signal.SIGKILL)
            await until(lambda: not worker.status().alive)
            patient = asyncio.create_task(worker.forward("echo", 2))
            for _ in range(3):
                with pytest.raises(soma.DeadlineExceeded):
                    await worker.forward("echo", 1, timeout=0.001)
            assert not patient.done()
            assert await patient == 2
            assert worker.status().restarts == 2

    run(main())


def test_a_death_costs_its_call_and_close_ends_the_call_that_runs(run, note):
    async def main():
        worker = await soma.connect_async(filters={"sleep": f.Sleep(), "process": f.Process()})
        call = asyncio.create_task(worker.forward("sleep", (*NAP, str(note))))
        await begun(note)
        await worker.close()
        with pytest.raises(soma.ChannelClosed, match="closed while FORWARD"):
            await call
        with pytest.raises(soma.ChannelClosed):
            await worker.forward("sleep", NAP)
        await worker.close()

    run(main())


def test_inline_runs_beside_the_loop(run):
    async def main():
        async with soma.connect_async("inline", filters={"sleep": f.Sleep()}) as worker:
            call = asyncio.create_task(worker.forward("sleep", ("call", 0.2)))
            ticks = 0
            while not call.done():
                await asyncio.sleep(0.01)
                ticks += 1
            assert await call == "done"
            assert ticks >= 5

    run(main())


def test_a_recorded_worker_is_recorded(run, tmp_path):
    async def main():
        path = tmp_path / "calls.jsonl"
        async with soma.connect_async("inline", filters={"echo": f.Echo()}, record=path) as worker:
            await worker.forward("echo", "seen")
        assert "seen" in path.read_text()

    run(main())


def test_a_filter_that_does_not_load_leaves_no_worker(run):
    async def main():
        with pytest.raises(soma.RemoteError):
            await soma.connect_async(filters={"a": "no such filter"})

    run(main())


@pytest.mark.nightly
def test_it_runs_under_uvloop():
    uvloop = pytest.importorskip("uvloop")

    async def main():
        async with soma.connect_async(filters={"echo": f.Echo(), "sleep": f.Sleep()}) as worker:
            assert await worker.forward("echo", 1) == 1
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await worker.forward("sleep", NAP)
            assert await worker.forward("echo", 2) == 2

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
