"""An executor of soma goes where one of the standard library goes, and can do more."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import os
import signal
import threading
import time

import numpy as np
import pytest

import soma_core as soma

from ..support import meanwhile, run_python, wait_until


def add(one, other=1):
    return one + other


def fail(text):
    raise ValueError(text, 7)


class Awkward(Exception):
    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")


def fail_awkwardly():
    raise Awkward("this", "that")


def nap(note, seconds=60.0):
    with open(note, "w"):
        pass
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)
    return "woke"


def remember(text):
    os.environ["SEEN"] = text


def leave():
    os._exit(3)


@pytest.fixture(scope="module")
def make(options):
    """Like ``soma.Executor``, with workers that are forked: it starts many."""
    return functools.partial(soma.Executor, transport="socket", **options("socket"))


@pytest.fixture(scope="module")
def executor():
    with soma.Executor(2, interrupt_grace=30.0) as executor:
        yield executor


def test_it_is_an_executor_of_the_standard_library(executor):
    assert isinstance(executor, concurrent.futures.Executor)
    assert vars(executor)["_max_workers"] == 2  # dask asks for it
    call = executor.submit(add, 1)
    assert isinstance(call, concurrent.futures.Future)
    assert call.result() == 2


def test_functions_of_any_kind_are_called_with_their_arguments(executor):
    factor = 3
    calls = [
        executor.submit(add, 1),
        executor.submit(add, 1, other=2),
        executor.submit(lambda x: x * factor, 2),
        executor.submit("a {}".format, 1),
        executor.submit(len, {1, 2, 3}),
    ]
    assert [call.result() for call in calls] == [2, 3, 6, "a 1", 3]


def test_arrays_and_other_types_come_back_as_they_are(executor):
    array = np.arange(100_000.0)
    assert np.array_equal(executor.submit(add, array).result(), array + 1)
    for result in ((1, 2), {1, 2}, None, {"a": (1,)}):
        came = executor.submit(lambda result=result: result).result()
        assert came == result
        assert type(came) is type(result)


def test_map_keeps_the_order(executor):
    assert list(executor.map(add, range(20), range(20))) == [2 * n for n in range(20)]


def test_map_gives_a_worker_a_chunk_at_once(executor):
    def plus(one, other):
        return one + other

    results = executor.map(plus, range(20), range(30), chunksize=6)
    assert list(results) == [2 * n for n in range(20)]
    assert [tally.done for name, tally in executor.stats().nodes.items() if "plus" in name] == [4]


def test_what_a_function_of_a_chunk_raises_is_raised_after_the_chunks_before(executor):
    results = executor.map(lambda n: 1 / (4 - n), range(9), chunksize=3)
    assert [next(results) for _ in range(3)] == [1 / 4, 1 / 3, 1 / 2]
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize("chunksize", [0, -1, 1.5])
def test_a_chunk_holds_a_whole_number_of_calls(executor, chunksize):
    with pytest.raises((TypeError, ValueError), match="chunksize"):
        executor.map(add, [1], chunksize=chunksize)


def test_what_a_function_raises_is_raised_with_its_traceback_as_the_cause(executor):
    with pytest.raises(ValueError, match="oh no") as caught:
        executor.submit(fail, "oh no").result()
    assert type(caught.value) is ValueError
    assert caught.value.args == ("oh no", 7)
    assert "in fail" in str(caught.value.__cause__)


def test_an_exception_that_no_pickle_holds_is_an_error_with_its_text(executor):
    with pytest.raises(soma.RemoteError, match="this and that"):
        executor.submit(fail_awkwardly).result()


def test_a_function_that_runs_is_interrupted_by_cancel(executor, tmp_path):
    call = executor.submit(nap, tmp_path / "note")
    wait_until((tmp_path / "note").exists)
    assert call.running()
    assert call.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        call.result()
    assert executor.submit(add, 1).result() == 2


def test_calls_that_are_cancelled_among_quick_ones_cost_no_other_call(executor, tmp_path):
    calls = [executor.submit(add, n) for n in range(300)]
    slow = executor.submit(nap, tmp_path / "note", 30.0)
    calls += [executor.submit(add, n) for n in range(300, 600)]
    cancelled = [call for call in calls[1::7] if call.cancel()]
    wait_until((tmp_path / "note").exists)
    assert slow.cancel()
    for n, call in enumerate(calls):
        if call not in cancelled:
            assert call.result() == n + 1
    assert all(call.cancelled() for call in cancelled)


def test_calls_are_counted_by_the_name_of_their_function(make):
    with make(1) as executor:
        for function in (add, functools.partial(add, other=2), "".join):
            executor.submit(function, [])
        assert list(executor.map(add, [1, 2], chunksize=2)) == [2, 3]
        executor.submit(functools.partial(add, 2)).result()
        nodes = executor.stats().nodes
    assert {label: node.done for label, node in nodes.items()} == {
        "str.join": 1,
        "call_each(add)": 1,
        "add": 1,
    }


def test_all_workers_together_cost_one_thread(make):
    before = {*threading.enumerate()}
    with make(2):
        new = {thread.name for thread in {*threading.enumerate()} - before}
    assert new == {"soma-pool", "soma-output"}


def test_a_callback_may_submit_and_may_not_wait(executor, tmp_path):
    outcome: concurrent.futures.Future[object] = concurrent.futures.Future()

    def wait_for_another(call):
        try:
            executor.submit(add, call.result()).result()
        except RuntimeError as error:
            outcome.set_result(str(error))

    def submit_another(call):
        executor.submit(add, 1).add_done_callback(wait_for_another)

    first = executor.submit(wait_until, (tmp_path / "go").exists)
    first.add_done_callback(submit_another)
    (tmp_path / "go").touch()
    assert "waits for another call" in outcome.result(timeout=30)


def test_a_full_queue_refuses_a_call_or_makes_it_wait(tmp_path, make):
    with make(1, max_queue=1) as executor:
        first = executor.submit(nap, tmp_path / "note")
        second = executor.submit(add, 1)
        with pytest.raises(soma.QueueFull):
            executor.submit(add, 2)
        assert second.cancel()
        third = executor.submit(add, 3)
        assert first.cancel()
        assert third.result() == 4
        assert executor.stats().refused == 1
    with make(1, max_queue=0, when_full="wait") as executor:
        assert [call.result() for call in [executor.submit(add, n) for n in range(5)]] == [
            *range(1, 6)
        ]


@pytest.mark.parametrize("waits", [False, True])
def test_a_forked_child_is_refused(executor, tmp_path, waits):
    call = executor.submit(nap, tmp_path / "note")
    child = os.fork()
    if child == 0:
        try:
            call.result(60.0) if waits else executor.submit(add, 1)
        except soma.TransportError:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    call.cancel()
    assert executor.submit(add, 1).result() == 2


def test_an_executor_that_nobody_has_any_more_ends_when_its_calls_are_done(make):
    executor = make(1)
    (pool,) = [thread for thread in threading.enumerate() if thread.name == "soma-pool"][-1:]
    call = executor.submit(add, 1)
    del executor
    gc.collect()
    assert call.result() == 2
    pool.join(30)
    assert not pool.is_alive()


def test_ctrl_c_while_it_starts_leaves_no_worker(tmp_path, make):
    before = {*threading.enumerate()}

    def interrupt() -> None:
        wait_until((tmp_path / "note").exists)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), meanwhile(interrupt):
        make(1, initializer=nap, initargs=(tmp_path / "note",))
    wait_until(lambda: {*threading.enumerate()} <= before)


def test_it_serves_an_event_loop(executor, tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        assert await asyncio.gather(
            *(loop.run_in_executor(executor, add, n) for n in range(20))
        ) == list(range(1, 21))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await loop.run_in_executor(executor, nap, tmp_path / "note")
        assert await loop.run_in_executor(executor, add, 1) == 2

    asyncio.run(main())


def test_what_a_callback_raises_is_not_said_to_come_of_the_call(executor):
    contexts = []

    def fail(_):
        try:
            raise ValueError("from a callback")
        except ValueError as error:
            contexts.append(error.__context__)

    executor.submit(add, 1).result()  # quick, so that those to come are sent ahead
    for call in [executor.submit(add, number) for number in range(50)]:
        call.add_done_callback(fail)
    wait_until(lambda: len(contexts) == 50)
    assert contexts == [None] * 50


def test_what_is_no_function_is_refused_at_once(executor):
    with pytest.raises(TypeError, match="takes a function"):
        executor.submit(3)
    with pytest.raises(ValueError, match="max_workers is at least 1"):
        soma.Executor(0)
    with pytest.raises(TypeError, match="initializer is a function"):
        soma.Executor(1, initializer=3)
    with pytest.raises(soma.ProtocolError, match="is not pickled; make one in the other process"):
        executor.submit(add, executor).result()


def test_a_dead_worker_costs_its_call_and_a_timeout_ends_one(tmp_path, make):
    with make(1, timeout=2.0) as executor:
        with pytest.raises(soma.WorkerDied) as caught:
            executor.submit(leave).result()
        assert caught.value.__notes__ == ["It was the call of 'leave'."]
        with pytest.raises(soma.DeadlineExceeded):
            executor.submit(nap, tmp_path / "note").result()
        assert executor.submit(add, 1).result() == 2


def test_an_initializer_runs_in_each_worker_and_shutdown_takes_no_more(make):
    with make(1, initializer=remember, initargs=("yes",)) as executor:
        calls = [executor.submit(os.getenv, "SEEN") for _ in range(3)]
        executor.shutdown(wait=False)
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(add, 1)
    assert [call.result() for call in calls] == ["yes"] * 3


@pytest.mark.nightly
def test_an_initializer_that_fails_leaves_no_worker(make):
    with pytest.raises(soma.RemoteError, match="not today"):
        make(1, initializer=fail, initargs=("not today",))


@pytest.mark.nightly
def test_a_program_that_ends_before_its_calls_says_how_many_were_not_done(tmp_path):
    code = """
import time
import soma_core as soma

executor = soma.Executor(1)
for _ in range(3):
    executor.submit(time.sleep, 60)
executor.shutdown(wait=False)
"""
    ended = run_python(code, directory=tmp_path)
    assert "3 calls of a soma.Executor were not done" in ended.stderr
