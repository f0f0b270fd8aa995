"""A pool tells what it does, what it has done, and how long that took."""

from __future__ import annotations

import pytest

import soma_core as soma

from ..support import wait_until


def test_it_counts_what_runs_and_what_waits(make, gate):
    pool = make(n=1)
    held, waiting = pool.submit("hold", gate.call()), pool.submit("echo", 1)
    wait_until(lambda: gate.pids)
    stats = pool.stats()
    assert (stats.workers, stats.running, stats.queued, stats.done) == (1, 1, 1, 0)
    gate.open()
    assert [held.result(60.0), waiting.result(60.0)] == [None, 1]
    stats = pool.stats()
    assert (stats.running, stats.queued, stats.done) == (0, 0, 2)


def test_it_counts_how_calls_ended(make, gate):
    pool = make(n=1)
    pool.submit("hold", gate.call())
    pool.submit("echo", 1).cancel()
    late = pool.submit("echo", 1, deadline=0.01)
    with pytest.raises(soma.DeadlineExceeded):
        late.result(60.0)
    gate.open()
    with pytest.raises(ValueError, match="x"):
        pool.forward("fail", ("ValueError", "x"))
    pool.fit("mean", [1.0])
    stats = pool.stats()
    assert (stats.done, stats.failed, stats.cancelled) == (2, 2, 1)


def test_it_counts_the_workers_that_were_replaced(make):
    pool = make(n=1, recycle_after=2)
    for _ in range(2):
        pool.submit("process", ("leave", 1)).exception(60.0)
    assert pool.forward("echo", 1) == 1
    assert pool.stats().replaced == 2
    pool.forward("echo", 1)
    pool.forward("echo", 1)
    assert pool.stats().replaced == 3


def test_it_gives_the_times_of_each_node_and_chain(make):
    pool = make(n=1)
    for seconds in (0.0, 0.0, 0.3):
        pool.forward("sleep", ("naps", seconds))
    pool.composite_forward(["echo", "scale"], 1.0)
    nodes = pool.stats().nodes
    assert nodes.keys() == {"sleep", "echo > scale"}
    sleep, chain = nodes["sleep"], nodes["echo > scale"]
    assert (sleep.done, sleep.failed) == (3, 0)
    assert sleep.p50 < 0.3 <= sleep.p90 == sleep.p99
    assert 0.0 < chain.p50 == chain.p90 == chain.p99


def test_names_of_nodes_that_do_not_exist_are_not_kept(make):
    pool = make(n=1)
    for number in range(5):
        pool.submit(f"none {number}", 1).exception(60.0)
    pool.forward("echo", 1)
    with pytest.raises(soma.RemoteError):
        pool.forward("scale", None)
    assert pool.stats().failed == 6
    assert pool.stats().nodes.keys() == {"echo"}


def test_a_pool_that_is_closed_still_tells(make):
    pool = make(n=1)
    pool.forward("echo", 1)
    pool.close()
    assert (pool.stats().done, pool.stats().nodes["echo"].done) == (1, 1)
