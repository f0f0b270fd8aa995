"""What waits for a worker: how much may, in which order, and for how long."""

from __future__ import annotations

import threading

import pytest

import soma_core as soma

from ..support import wait_until


@pytest.fixture
def busy(make, gate):
    """Makes a pool of one worker that is busy until the gate is opened."""

    def start(**arguments) -> soma.WorkerPool:
        pool = make(n=1, **arguments)
        pool.submit("hold", gate.call())
        wait_until(lambda: gate.pids)
        return pool

    return start


# How much


def test_a_full_queue_refuses_at_once_and_takes_calls_again(busy, gate):
    pool = busy(max_queue=2)
    waiting = [pool.submit("echo", number) for number in range(2)]
    with pytest.raises(soma.QueueFull, match=r"2 calls wait.*max_queue is 2"):
        pool.submit("echo", 3)
    assert pool.stats().refused == 1
    waiting[0].cancel()
    third = pool.submit("echo", 3)
    gate.open()
    assert [waiting[1].result(60.0), third.result(60.0)] == [1, 3]
    assert pool.submit("echo", 4).result(60.0) == 4


def test_with_no_queue_there_is_room_as_soon_as_a_call_has_ended(make):
    pool = make(n=1, max_queue=0)
    assert [pool.submit("echo", number).result(60.0) for number in range(100)] == [*range(100)]


def test_a_full_queue_can_be_waited_for(busy, gate):
    pool = busy(max_queue=1, when_full="wait")
    calls = [pool.submit("echo", 0)]
    thread = threading.Thread(target=lambda: calls.append(pool.submit("echo", 1)))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    gate.open()
    thread.join(60.0)
    assert [call.result(60.0) for call in calls] == [0, 1]


@pytest.mark.nightly
def test_whoever_waits_for_room_has_a_deadline_too(busy):
    pool = busy(max_queue=0, when_full="wait")
    with pytest.raises(soma.DeadlineExceeded, match=r"'echo' waited .* was not sent") as caught:
        pool.submit("echo", 1, deadline=0.1)
    assert caught.value.worker_survived
    assert pool.stats().refused == 1


@pytest.mark.nightly
def test_closing_the_pool_ends_the_wait_for_room(busy):
    pool = busy(max_queue=0, when_full="wait")
    errors = []

    def submit() -> None:
        try:
            pool.submit("echo", 1)
        except soma.SomaError as error:
            errors.append(error)

    thread = threading.Thread(target=submit)
    thread.start()
    thread.join(0.3)
    pool.close()
    thread.join(60.0)
    assert [type(error) for error in errors] == [soma.ChannelClosed]


def test_a_map_waits_for_room(make):
    pool = make(n=2, max_queue=0)
    assert [*pool.map("echo", range(20), ahead=5)] == [*range(20)]


def test_changes_of_the_nodes_are_never_refused(busy, gate):
    pool = busy(max_queue=0)
    thread = threading.Thread(target=pool.fit, args=["mean", [1.0, 3.0]])
    thread.start()
    wait_until(lambda: pool.stats().queued == 1)
    gate.open()
    thread.join(60.0)
    assert pool.forward("mean", 2.0) == 0.0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_queue": -1}, ValueError, "max_queue is at least 0, got -1"),
        ({"max_queue": 1.5}, TypeError, "max_queue is a whole number, got 1.5"),
        ({"when_full": "drop"}, ValueError, "when_full is 'raise' or 'wait', got 'drop'"),
    ],
)
def test_a_queue_that_cannot_be_made_says_why(arguments, error, message):
    with pytest.raises(error, match=message):
        soma.WorkerPool("stdio", 1, **arguments)


# In which order


def test_calls_of_a_greater_priority_go_first(busy, gate):
    pool = busy()
    order: list[int] = []
    for number, priority in enumerate([0, -1, 5, 0, 5]):
        call = pool.submit("echo", number, priority=priority)
        call.add_done_callback(lambda call: order.append(call.result()))
    gate.open()
    wait_until(lambda: len(order) == 5)
    assert order == [2, 4, 0, 3, 1]


@pytest.mark.parametrize("priority", [1.5, True, "high"])
def test_a_priority_is_a_whole_number(warm, priority):
    with pytest.raises(TypeError, match="priority is a whole number"):
        warm.submit("echo", 1, priority=priority)


# For how long


def test_a_deadline_passes_while_a_call_waits(busy, gate):
    pool = busy()
    waiting, after = pool.submit("echo", 1, deadline=0.2), pool.submit("echo", 2)
    with pytest.raises(soma.DeadlineExceeded, match=r"'echo' waited .* was not sent") as caught:
        waiting.result(60.0)
    assert caught.value.worker_survived
    assert (after.done(), pool.stats().queued) == (False, 1)
    gate.open()
    assert after.result(60.0) == 2


def test_each_waiting_call_has_its_own_deadline(busy, gate):
    pool = busy()
    late = [pool.submit("echo", 1, deadline=seconds) for seconds in (60.0, 0.3, 0.1, None, 0.2)]
    for number in (1, 2, 4):
        with pytest.raises(soma.DeadlineExceeded):
            late[number].result(60.0)
    gate.open()
    assert [late[number].result(60.0) for number in (0, 3)] == [1, 1]


def test_a_deadline_counts_while_the_call_runs(make, long_grace):
    pool = make(n=1)
    before = [status.pid for status in pool.status()]
    call = pool.submit("sleep", ("naps", 600.0), deadline=0.5, timeout=60.0)
    with pytest.raises(soma.DeadlineExceeded, match="did not end within") as caught:
        call.result(60.0)
    assert caught.value.worker_survived
    assert "counts from its submission" in caught.value.__notes__[0]
    assert [status.pid for status in pool.status()] == before


def test_the_timeout_holds_within_a_later_deadline(make, long_grace):
    pool = make(n=1, timeout=0.3)
    call = pool.submit("sleep", ("naps", 600.0), deadline=60.0)
    with pytest.raises(soma.DeadlineExceeded, match=r"did not end within 0\.3 s") as caught:
        call.result(60.0)
    assert not hasattr(caught.value, "__notes__")


def test_a_deadline_that_has_passed_ends_the_call_before_it_is_sent(warm):
    with pytest.raises(soma.DeadlineExceeded, match="was not sent"):
        warm.submit("echo", 1, deadline=0.0).result(60.0)
