"""Whatever a call does on its way, it ends in its own error, and the pool works on.

The matrix is that of loky: errors, exits and crashes while the arguments are pickled, while they
are read, in the function, while its result is pickled, and while that is read here.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import threading

import pytest

import soma_core as soma

from ..support import filters as f
from ..support import nightly

pytestmark = nightly


def fail(*ignored):
    raise ValueError("on purpose")


def leave(*ignored):
    sys.exit(3)


def vanish(*ignored):
    os._exit(3)


def kill(*ignored):
    os.kill(os.getpid(), signal.SIGKILL)


def crash(*ignored):
    ctypes.string_at(0)


def abort(*ignored):
    os.abort()


def recurse(*ignored):
    return recurse()


def flood(*ignored):
    os.write(1, b"x" * 100_000 + b"\n")
    raise ValueError("on purpose")


def daemons(*ignored):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    return "answered"


class AtPickle:
    """Does something as it is pickled."""

    def __init__(self, action):
        self.action = action

    def __reduce__(self):
        self.action()
        return int, ()


class AtUnpickle:
    """Does something as its pickle is read."""

    def __init__(self, action):
        self.action = action

    def __reduce__(self):
        return self.action, ()


class AtEnd:
    """Does something when nobody needs it any more."""

    def __init__(self, action):
        self.action = action

    def __del__(self):
        self.action()


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class Demanding(Exception):
    def __init__(self, one, two):
        super().__init__("three")


def demand(*ignored):
    raise Demanding(1, 2)


def mumble(*ignored):
    raise Unprintable


def take(thing):
    return "taken"


def give(kind, action):
    return kind(action)


def drop(kind, action):
    kind(action)
    return "answered"


REMOTE, DIED = soma.RemoteError, soma.WorkerDied
SENT = (soma.ProtocolError, ValueError, SystemExit)  # what happens here is raised here
CASES = {
    "error as the arguments are pickled": (take, (AtPickle(fail),), SENT),
    "exit as the arguments are pickled": (take, (AtPickle(leave),), SENT),
    "error as the arguments are read": (take, (AtUnpickle(fail),), (REMOTE, ValueError)),
    "exit as the arguments are read": (take, (AtUnpickle(leave),), (REMOTE, DIED)),
    "death as the arguments are read": (take, (AtUnpickle(vanish),), DIED),
    "crash as the arguments are read": (take, (AtUnpickle(crash),), DIED),
    "error in the function": (fail, (), ValueError),
    "exit in the function": (leave, (), (REMOTE, SystemExit)),
    "death in the function": (vanish, (), DIED),
    "kill in the function": (kill, (), DIED),
    "crash in the function": (crash, (), DIED),
    "abort in the function": (abort, (), DIED),
    "too deep a recursion in the function": (recurse, (), (REMOTE, RecursionError)),
    "much output, and an error": (flood, (), ValueError),
    "a thread that stays": (daemons, (), None),
    "an exception without a text": (mumble, (), (REMOTE, Unprintable)),
    "an exception that does not unpickle": (demand, (), REMOTE),
    "error as the result is pickled": (give, (AtPickle, fail), (REMOTE, ValueError)),
    "exit as the result is pickled": (give, (AtPickle, leave), (REMOTE, DIED)),
    "death as the result is pickled": (give, (AtPickle, vanish), DIED),
    "crash as the result is pickled": (give, (AtPickle, crash), DIED),
    "error as the result is read": (give, (AtUnpickle, fail), SENT),
    "exit as the result is read": (give, (AtUnpickle, leave), SENT),
    "error as the function's object ends": (drop, (AtEnd, fail), None),
    "exit as the function's object ends": (drop, (AtEnd, leave), None),
    "death as the function's object ends": (drop, (AtEnd, vanish), DIED),
}


def called(x, state):
    function, arguments = x
    return function(*arguments)


class Loop:
    """An AsyncWorkerPool in the loop of a thread, behind the methods of a WorkerPool."""

    def __init__(self, **options):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._pool = self._run(self._started(options))

    async def _started(self, options):
        return await soma.AsyncWorkerPool(**options)

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def submit(self, node_id, x):
        return asyncio.run_coroutine_threadsafe(self._pool.forward(node_id, x), self._loop)

    def close(self):
        self._run(self._pool.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def of_executor():
    executor = soma.Executor(2)
    return lambda function, *arguments: executor.submit(function, *arguments), executor.shutdown


def of_pool(kind):
    pool = kind(n=2, filters={"call": f.Apply(called)})
    return lambda function, *arguments: pool.submit("call", (function, arguments)), pool.close


KINDS = {
    "an Executor": of_executor,
    "a WorkerPool": lambda: of_pool(soma.WorkerPool),
    "an AsyncWorkerPool": lambda: of_pool(Loop),
}


@pytest.fixture(scope="module", params=KINDS)
def submit(request):
    submit, close = KINDS[request.param]()
    yield submit
    close()


@pytest.mark.parametrize("name", CASES)
def test_a_call_ends_in_its_own_error_and_the_pool_works_on(submit, name):
    function, arguments, expected = CASES[name]
    before = [submit(abs, -number) for number in range(3)]
    call = submit(function, *arguments)
    after = [submit(abs, -number) for number in range(5)]
    error = call.exception(60)
    if expected is None:
        assert error is None
        assert call.result() == "answered"
    else:
        assert isinstance(error, expected), repr(error)
    assert [one.result(60) for one in (*before, *after)] == [0, 1, 2, 0, 1, 2, 3, 4]


def test_many_deaths_in_a_row_cost_only_those_who_die(submit):
    calls = [submit(vanish if number % 10 == 5 else abs, number) for number in range(60)]
    for number, call in enumerate(calls):
        if number % 10 == 5:
            assert isinstance(call.exception(60), soma.WorkerDied)
        else:
            assert call.result(60) == number
