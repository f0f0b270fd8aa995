"""A death costs one call and no more; workers are replaced, or the pool says that it is broken."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from contextlib import suppress
from typing import Any
from unittest.mock import MagicMock

import pytest

import soma_core as soma
from soma_core.client.pool.restarts import Restarts

from ..support import either, gate_runs, run_python, wait_until, wait_until_gone
from ..support import filters as f


def pids(pool: soma.WorkerPool) -> set[int]:
    return {status.pid for status in pool.status()}


def fragile(path) -> Any:
    """A filter that loads only where a file exists."""

    def rebuilt(path):
        f.os.stat(path)
        return f.Process()

    class Fragile(f.Process):
        def __reduce__(self):
            return rebuilt, (str(path),)

    path.touch()
    return Fragile()


@pytest.mark.usefixtures("told_how")
@either
def test_a_death_costs_exactly_one_call(make, gate, transport):
    pool = make(transport, 2)
    held = pool.submit("hold", gate.call("held"))
    wait_until(lambda: gate.pids)
    calls = [pool.submit("process", ("leave", 3) if n == 5 else ("pid",)) for n in range(20)]
    with pytest.raises(soma.WorkerDied) as caught:
        calls.pop(5).result(60.0)
    assert (caught.value.exit_code, caught.value.node_id) == (3, "process")
    assert len({call.result(60.0) for call in calls}) == 2  # before the death, and after it
    gate.open()
    assert held.result(60.0) == "held"
    wait_until(lambda: len(pool.status()) == 2)


@pytest.mark.usefixtures("told_how")
@either
def test_every_one_of_many_deaths_costs_its_own_call(make, transport):
    pool = make(transport, 2)
    calls = [
        pool.submit("process", ("kill", signal.SIGKILL) if n % 3 == 0 else ("pid",))
        for n in range(15)
    ]
    for number, call in enumerate(calls):
        if number % 3 == 0:
            with pytest.raises(soma.WorkerDied) as caught:
                call.result(60.0)
            assert caught.value.signal == "SIGKILL"
        else:
            assert call.result(60.0) > 0


@either
def test_results_stay_right_while_workers_are_killed_at_random_moments(make, transport):
    pool = make(transport, 2, filters={"scale": f.Scale(factor=2.0)}, recycle_after=50)
    draw = random.Random(0)
    right = died = 0
    for _ in range(12):
        calls = [pool.submit("scale", float(number)) for number in range(40)]
        killed_at = draw.randrange(20)
        for number, call in enumerate(calls):
            if number == killed_at:
                alive = [status.pid for status in pool.status() if status.alive]
                for pid in draw.sample(alive, min(1, len(alive))):
                    with suppress(ProcessLookupError):  # it was recycled meanwhile
                        os.kill(pid, signal.SIGKILL)
            try:
                assert call.result(60.0) == 2.0 * number
                right += 1
            except soma.WorkerDied:
                died += 1
    assert right + died == 12 * 40
    assert died <= 12


@either
def test_a_death_while_idle_costs_no_call(make, transport):
    pool = make(transport, 2)
    before = pids(pool)
    pool.submit("echo", 1).result(60.0)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_until_gone(*before)
    wait_until(lambda: not any(s.alive and s.pid in before for s in pool.status()))
    assert [pool.submit("echo", number).result(60.0) for number in range(10)] == [*range(10)]
    assert not pids(pool) & before


@pytest.mark.nightly
def test_an_idle_worker_that_died_is_replaced_without_a_call(make):
    pool = make(n=2)
    before = pids(pool)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(pids(pool) - before) == 2)
    assert all(status.alive for status in pool.status())


@pytest.mark.nightly
def test_a_worker_that_its_deadline_ended_is_replaced(make):
    pool = make(n=1, interrupt_grace=0.5)
    (before,) = pids(pool)
    call, after = (
        pool.submit("sleep", ("deaf", 60.0), timeout=1.0),  # by then it is
        pool.submit("process", ("pid",)),
    )
    with pytest.raises(soma.DeadlineExceeded) as caught:
        call.result(60.0)
    assert caught.value.worker_survived is False
    assert after.result(60.0) != before
    wait_until_gone(before)


def test_a_worker_that_closes_its_wire_and_lives_on_is_replaced(make):
    def close_wire(x, state):
        for descriptor in range(3, 64):
            try:
                f.os.close(descriptor)
            except OSError:
                continue
        f.time.sleep(600)

    pool = make("stdio", n=1, filters={"close": f.Apply(close_wire), "echo": f.Echo()})
    (before,) = pids(pool)
    call, after = pool.submit("close", 1), pool.submit("echo", 2)
    with pytest.raises(soma.WorkerDied):
        call.result(60.0)
    assert after.result(60.0) == 2
    wait_until_gone(before)


# Recycling


@either
@pytest.mark.parametrize("n", gate_runs(2, of=[1, 2]))
def test_a_worker_is_replaced_after_so_many_calls(make, transport, n):
    pool = make(transport, n, recycle_after=4)
    used = Counter(pool.map("process", [("pid",)] * 20))
    assert sum(used.values()) == 20
    assert max(used.values()) <= 4
    wait_until_gone(*set(used) - pids(pool))


def test_recycling_counts_failed_calls_but_not_cancelled_ones(make, gate):
    pool = make(n=1, recycle_after=3)
    held = pool.submit("hold", gate.call())
    wait_until(lambda: gate.pids)
    cancelled = [pool.submit("echo", 1) for _ in range(5)]
    assert all(call.cancel() for call in cancelled)
    failing = pool.submit("fail", ("ValueError", "x"))
    last, next_one = pool.submit("process", ("pid",)), pool.submit("process", ("pid",))
    gate.open()
    held.result(60.0)
    with pytest.raises(ValueError, match="x"):
        failing.result(60.0)
    assert last.result(60.0) == gate.pids[0]
    assert next_one.result(60.0) != gate.pids[0]


# Replacements that do not start


@pytest.mark.nightly
def test_a_pool_whose_workers_cannot_be_replaced_says_that_it_is_broken(make, tmp_path):
    path = tmp_path / "allowed"
    pool = make(n=1, filters={"fragile": fragile(path)})
    path.unlink()
    dying, *waiting = [pool.submit("fragile", x) for x in (("leave", 3), 1, 2)]
    with pytest.raises(soma.WorkerDied):
        dying.result(60.0)
    for call in waiting:
        with pytest.raises(soma.StartFailed, match=r"broken.*5 attempts.*No such file"):
            call.result(60.0)
    with pytest.raises(soma.StartFailed, match="broken"):
        pool.submit("fragile", 3)
    with pytest.raises(soma.StartFailed, match="broken"):
        [*pool.map("fragile", [1])]
    assert pool.status() == []
    pool.close()


def test_a_worker_that_cannot_be_replaced_leaves_the_others_at_work(make, tmp_path):
    path = tmp_path / "allowed"
    pool = make(n=2, filters={"fragile": fragile(path)})
    path.unlink()
    with pytest.raises(soma.WorkerDied):
        pool.submit("fragile", ("leave", 3)).result(60.0)
    assert len({pool.submit("fragile", ("pid",)).result(60.0) for _ in range(50)}) == 1
    path.touch()
    wait_until(lambda: len(pool.status()) == 2)


def test_a_replacement_that_starts_late_gets_the_waiting_calls(make, tmp_path):
    path = tmp_path / "allowed"
    pool = make(n=1, filters={"fragile": fragile(path)})
    (before,) = pids(pool)
    path.unlink()
    dying, waiting = pool.submit("fragile", ("leave", 3)), pool.submit("fragile", ("pid",))
    with pytest.raises(soma.WorkerDied):
        dying.result(60.0)
    path.touch()
    assert waiting.result(60.0) != before


# The host forks

FORK = """
import os, sys, warnings
import soma_core as soma
from soma_core.client.pool.restarts import Restarts
warnings.simplefilter("ignore", DeprecationWarning)

class Echo:
    def fit(self, x, y=None):
        return {}
    def forward(self, x, state):
        return x

pool = soma.WorkerPool("stdio", 2, filters={"echo": Echo()})
busy = [pool.submit("echo", x) for x in range(20)]
child = os.fork()
if child == 0:
    for use in (lambda: pool.submit("echo", 1), lambda: pool.map("echo", []), pool.shutdown,
                lambda: pool.fit("echo", 1)):
        try:
            use()
        except soma.TransportError as error:
            assert "forked" in str(error)
        else:
            os._exit(1)
    repr(pool), len(pool)
    pool.close()
    del pool
    with soma.WorkerPool("stdio", 1, filters={"echo": Echo()}) as own:
        os._exit(own.submit("echo", 42).result(60.0))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print([call.result(60.0) for call in busy] == list(range(20)))
print(pool.submit("echo", 7).result(60.0))
pool.close()
"""


@pytest.mark.nightly
def test_a_forked_host_keeps_its_pool_and_the_child_is_told(tmp_path):
    done = run_python(FORK, directory=tmp_path)
    assert done.stdout.splitlines() == ["42", "True", "7"]


def test_an_idle_worker_that_dies_did_not_start_well_only_if_it_was_new() -> None:
    restarts = Restarts(MagicMock(), lambda: True)
    assert [restarts.died(used=False, age=0.0) for _ in range(3)] == [0.0, 0.1, 0.2]
    assert restarts.died(used=False, age=3600.0) == 0.0
