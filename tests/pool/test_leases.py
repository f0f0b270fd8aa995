"""The thread that asks for training does it with a worker that it is lent: it runs its own code."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np
import pytest

import soma_core as soma
from soma_core.client.pool.blocking.background import BackgroundPool
from soma_core.client.pool.blocking.call_future import CallFuture
from soma_core.client.pool.call import PoolCall
from soma_core.client.pool.plan import plan_pool
from soma_core.client.pool.verbs import PoolRequest

from ..support import filters as f
from ..support import meanwhile, wait_until

CHUNK = (np.ones(2), None)


class _Execution:
    def drop(self):
        pass


class Learn(soma.Filter):
    """Learns from chunks; from a path, only when it is interrupted; from nothing, never.

    Its ``forward`` waits until there is a file of a path.
    """

    def fit(self, x, y=None):
        if isinstance(x, str):
            f.note_and_sleep(x)
        if x is None:
            f.os._exit(3)
        return {}

    def partial_fit(self, x, y=None, state=None):
        return {}

    def forward(self, x, state):
        while isinstance(x, str) and not f.os.path.exists(x):
            f.time.sleep(0.01)
        return x


@pytest.fixture
def make(make):
    filters = {"echo": f.Echo(), "learn": Learn(), "report": f.Report()}
    return lambda n: make("socket", n, filters=filters)


def test_progress_and_chunks_are_asked_for_in_the_thread_of_the_caller(make):
    pool = make(n=1)
    seen = []

    def chunks():
        seen.append(threading.current_thread())
        yield CHUNK

    pool.fit("report", 3, progress=lambda _: seen.append(threading.current_thread()))
    pool.batched_fit(["learn"], chunks())
    assert {*seen} == {threading.current_thread()}


def test_chunks_may_come_of_other_calls_of_the_pool(make):
    pool = make(n=2)

    def chunks():
        for number in range(3):
            yield np.array([pool.forward("echo", number)]), None

    pool.batched_fit(["learn"], chunks())
    assert pool.forward("echo", 1) == 1


def test_a_call_for_which_no_other_worker_is_left_is_refused(make):
    pool = make(n=1)

    def chunks():
        yield CHUNK
        pool.forward("echo", 1)

    with pytest.raises(RuntimeError, match="would wait for itself"):
        pool.batched_fit(["learn"], chunks())
    assert pool.forward("echo", 1) == 1


def test_chunks_may_ask_how_the_pool_does_and_enlarge_it(make):
    pool = make(n=1)
    seen = []

    def chunks():
        seen.append(pool.stats().running)
        with pytest.raises(RuntimeError, match="refresh waits"):
            pool.refresh()
        pool.resize(2)
        seen.append(pool.forward("echo", 1))
        yield CHUNK

    pool.batched_fit(["learn"], chunks())
    assert seen == [1, 1]


def test_what_the_chunks_raise_is_raised_and_costs_no_worker_that_others_use(make):
    pool = make(n=2)

    def chunks():
        yield CHUNK
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        pool.batched_fit(["learn"], chunks())
    assert list(pool.map("echo", range(4))) == [*range(4)]


def test_a_pool_that_is_closed_by_a_chunk_ends_at_once(make):
    pool = make(n=1)

    def chunks():
        yield CHUNK
        pool.close()
        yield CHUNK

    with pytest.raises(soma.ChannelClosed):
        pool.batched_fit(["learn"], chunks())
    wait_until(lambda: not pool.status())


def test_ctrl_c_ends_what_the_thread_does_and_the_pool_goes_on(make, tmp_path):
    pool = make(n=1)
    note = tmp_path / "note"

    def interrupt() -> None:
        wait_until(note.exists)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), meanwhile(interrupt):
        pool.fit("learn", str(note))
    assert pool.forward("echo", 1) == 1
    assert pool.stats().cancelled == 1


def test_a_worker_that_dies_in_a_fit_is_replaced_and_one_that_was_sent_nothing_is_not(make):
    pool = make(n=1)
    pool.fit("learn", CHUNK)
    with pytest.raises(soma.ProtocolError, match="cannot be sent"):
        pool.fit("learn", threading.Lock())
    with pytest.raises(TypeError, match="got 'soon'"):
        pool.fit("learn", CHUNK, timeout="soon")
    with pytest.raises(FileNotFoundError):
        pool.load_checkpoint("/nowhere")
    assert pool.forward("echo", 1) == 1
    assert pool.stats().replaced == 0
    with pytest.raises(soma.WorkerDied):
        pool.fit("learn", None)
    assert pool.forward("echo", 1) == 1
    assert pool.stats().replaced == 1


def test_a_call_that_a_worker_begins_just_when_it_is_withdrawn_ends():
    steps: list[Callable[[], object]] = []
    home = SimpleNamespace(post=steps.append, check_may_wait=lambda: None)
    call = PoolCall(lambda verbs: verbs.ping(), label="ping")
    call.future = future = CallFuture(call, home)
    assert future.cancel(interrupt=False)  # the pool sees to the call at its next step
    assert call.begin(_Execution())
    steps.pop()()
    assert call.ended


def test_a_change_that_the_pool_cannot_take_over_costs_that_call_alone():
    def refuse(_):
        raise ValueError("not this change")

    pool = BackgroundPool(plan_pool("inline", 1))
    with pytest.raises(ValueError, match="not this change"):
        pool.perform(PoolRequest(lambda verbs: verbs.ping(), commit=refuse))
    assert pool.perform(PoolRequest(lambda verbs: verbs.ping())) is not None
    pool.close()


def test_callbacks_of_futures_may_not_wait_for_the_pool(make, tmp_path):
    pool = make(n=1)
    refusals: Future[list[str]] = Future()

    def wait_for_others(_):
        refused = []
        for use in (
            lambda: pool.forward("echo", 1),
            lambda: pool.fit("learn", 1.0),
            lambda: next(pool.map("echo", [1])),
            lambda: pool.resize(2),
        ):
            with pytest.raises(RuntimeError) as caught:
                use()
            refused.append(str(caught.value))
        refusals.set_result(refused)

    call = pool.submit("learn", str(tmp_path / "go"))
    call.add_done_callback(wait_for_others)
    (tmp_path / "go").touch()
    assert all(
        "a callback of a future, or a plugin, waits" in text for text in refusals.result(60.0)
    )
