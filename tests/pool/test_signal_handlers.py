"""Pools in signal handlers, which run between any two steps of the thread that uses the pool."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from soma_core.client.pool.call import PoolCall
from soma_core.client.pool.queue import CallQueue
from soma_core.client.steps import Steps
from soma_core.client.turn import Turn


def nothing(verbs: object) -> Steps[None]:
    yield from ()


class Interrupted(PoolCall):
    """A call in the midst of whose submission a signal handler runs."""

    def __init__(self, handler: Callable[[], None]) -> None:
        super().__init__(nothing)
        self._handler = handler

    @property
    def priority(self) -> int:  # type: ignore[override]
        handler, self._handler = self._handler, lambda: None
        handler()
        return 0

    @priority.setter
    def priority(self, value: int) -> None:
        pass


@pytest.fixture
def queue() -> CallQueue:
    return CallQueue(1, None)


def test_what_a_handler_submits_in_the_midst_of_a_submission_comes_after_it(queue):
    second = PoolCall(nothing)
    first = Interrupted(lambda: queue.put(second))
    queue.put(first)
    assert [queue.take(0.0), queue.take(0.0)] == [[first], [second]]


def test_a_handler_cancels_the_only_call_that_waits_in_the_midst_of_a_submission(queue):
    waiting = PoolCall(nothing)
    queue.put(waiting)
    submitted = Interrupted(lambda: waiting.cancel(interrupt=False))
    queue.put(submitted)
    assert queue.take(0.0) == [submitted]
    assert queue.stats().cancelled == 1
    assert queue.stats().queued == 0


def test_a_handler_asks_for_the_statistics_in_the_midst_of_a_submission(queue):
    seen = []
    queue.put(Interrupted(lambda: seen.append(queue.stats().queued)))
    assert seen == [0]
    assert queue.stats().queued == 1


def test_who_has_its_turn_is_refused_another_instead_of_waiting_for_itself():
    turn = Turn("a restart of this worker")
    with turn:
        with pytest.raises(RuntimeError, match=r"a restart of this worker.*wait for itself"):
            turn.take()
        others: list[bool] = []
        other = threading.Thread(target=lambda: others.append(turn.take(0.01)))
        other.start()
        other.join()
        assert others == [False]
    assert turn.take(0)
