"""map: lazy, bounded, and as robust as what it is given."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

import soma_core as soma

from ..support import either, run_python, wait_until

orders = pytest.mark.parametrize("ordered", [True, False])


class Counted:
    """Inputs that know how many of them were taken."""

    def __init__(self, inputs) -> None:
        self._inputs = iter(inputs)
        self.taken = 0

    def __iter__(self) -> Iterator:
        return self

    def __next__(self):
        value = next(self._inputs)
        self.taken += 1
        return value


@either
def test_results_come_in_the_order_of_the_inputs(make, gate, transport):
    gate.open()
    pool = make(transport, 3)
    chain = iter(["hold", "echo"])  # is read once
    assert [*pool.map(chain, [gate.call(number) for number in range(30)])] == [*range(30)]


def test_unordered_results_come_as_they_are_ready(warm, gate):
    inputs = itertools.chain([gate.call("slow")], itertools.repeat(gate.passed("fast")))
    results = warm.map("hold", inputs, ordered=False)
    assert [next(results) for _ in range(10)] == ["fast"] * 10
    gate.open()
    assert "slow" in itertools.islice(results, 100)
    results.close()


@orders
@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_no_more_is_taken_than_was_allowed(warm, ordered, ahead):
    inputs = Counted(itertools.count())
    results = warm.map("echo", inputs, ordered=ordered, ahead=ahead)
    assert inputs.taken == 0
    for given in range(20):
        next(results)
        assert inputs.taken <= given + ahead * len(warm)
    results.close()


@orders
def test_inputs_without_end_are_fine(warm, ordered):
    results = warm.map("echo", itertools.count(), ordered=ordered)
    first = [*itertools.islice(results, 50)]
    assert len(set(first)) == 50
    assert max(first) < 60
    assert ordered is False or first == [*range(50)]
    results.close()


@orders
def test_nothing_in_is_nothing_out(warm, ordered):
    assert [*warm.map("echo", [], ordered=ordered)] == []


def test_closing_early_cancels_what_no_worker_has_taken(make, gate):
    pool = make(n=1)
    results = pool.map("hold", (gate.call(number) for number in range(10)), ahead=5)
    first = pool.submit("hold", gate.call("first"))
    wait_until(lambda: gate.pids)
    gate.open()
    next(results)
    results.close()
    assert first.result(60.0) == "first"
    assert pool.submit("echo", 1).result(60.0) == 1
    assert len(gate.pids) < 10


@orders
def test_an_error_of_the_inputs_comes_after_what_came_before_it(warm, ordered):
    def inputs():
        yield from range(3)
        raise LookupError("no more")

    results = warm.map("echo", inputs(), ordered=ordered, ahead=4)
    assert sorted(next(results) for _ in range(3)) == [0, 1, 2]
    with pytest.raises(LookupError, match="no more"):
        next(results)
    assert [*warm.map("echo", range(3))] == [0, 1, 2]


def test_an_input_that_fails_raises_at_its_place_and_leaves_the_pool(warm):
    results = warm.map("scale", [1, 2, None, 4])
    assert [next(results), next(results)] == [2, 4]
    with pytest.raises(soma.RemoteError, match="NoneType"):
        next(results)
    assert [*results] == []
    assert [*warm.map("echo", range(3))] == [0, 1, 2]


@pytest.mark.usefixtures("told_how")
@either
def test_a_death_raises_at_its_place_and_leaves_the_pool(make, transport):
    pool = make(transport, 2)
    results = pool.map("process", [("pid",), ("leave", 3), ("pid",)])
    assert isinstance(next(results), int)
    with pytest.raises(soma.WorkerDied) as caught:
        next(results)
    assert caught.value.exit_code == 3
    assert [*pool.map("echo", range(10))] == [*range(10)]


@orders
def test_a_pool_that_is_closed_meanwhile_ends_the_iterator(make, ordered):
    pool = make(n=1)
    results = pool.map("echo", itertools.count(), ordered=ordered)
    next(results)
    pool.close()
    with pytest.raises(soma.ChannelClosed):
        list(results)


@pytest.mark.parametrize(("ahead", "error"), [(0, ValueError), (1.5, TypeError)])
def test_a_wrong_number_is_refused_at_once(warm, ahead, error):
    with pytest.raises(error, match="ahead"):
        warm.map("echo", [], ahead=ahead)


CTRL_C = """
import os, signal, sys, threading, time
import soma_core as soma

class Sleep:
    def fit(self, x, y=None):
        return {}
    def forward(self, x, state):
        import os, time
        if x:
            open(f"running {os.getpid()}", "w").close()
        time.sleep(x)
        return x

ordered = sys.argv[1] == "True"
with soma.WorkerPool("stdio", 2, filters={"sleep": Sleep()}) as pool:
    pids = sorted(status.pid for status in pool.status())

    def waits():  # a signal that comes just before the main thread waits would not wake it
        with open(f"/proc/self/task/{os.getpid()}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "S"

    def press():
        while sum(name.startswith("running") for name in os.listdir()) < 2 or not waits():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    try:
        list(pool.map("sleep", [600.0] * 8, ordered=ordered))
    except KeyboardInterrupt:
        print("interrupted")
    thread.join()
    print([pool.submit("sleep", 0).result(60.0) for _ in range(4)])
    print(pids == sorted(status.pid for status in pool.status()))
"""


@pytest.mark.nightly
@orders
def test_ctrl_c_interrupts_the_calls_and_leaves_the_pool(tmp_path, ordered):
    done = run_python(CTRL_C, ordered, directory=tmp_path)
    assert done.stdout.splitlines() == ["interrupted", "[0, 0, 0, 0]", "True"]
