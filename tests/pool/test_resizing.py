"""A pool can have more workers, or fewer, while calls run."""

from __future__ import annotations

import importlib
from concurrent.futures import ThreadPoolExecutor

import pytest

import soma_core as soma

from ..support import either, wait_until, wait_until_gone
from .test_deaths import fragile, pids


@either
def test_new_workers_take_calls_and_know_what_the_others_learned(make, gate, transport):
    pool = make(transport, 1)
    pool.fit("mean", [1.0, 3.0])
    calls = [pool.submit("hold", gate.call(number)) for number in range(3)]
    wait_until(lambda: gate.pids)
    pool.resize(3)
    wait_until(lambda: len(gate.pids) == 3)
    assert (len(pool), pool.stats().workers, {*gate.pids}) == (3, 3, pids(pool))
    gate.open()
    assert [call.result(60.0) for call in calls] == [0, 1, 2]
    assert [float(out) for out in pool.map("mean", [5.0] * 20)] == [3.0] * 20


@pytest.mark.nightly
@either
def test_workers_that_are_too_many_end_after_their_call(make, gate, transport):
    pool = make(transport, 3)
    before = pids(pool)
    calls = [pool.submit("hold", gate.call(number)) for number in range(2)]
    wait_until(lambda: len(gate.pids) == 2)
    pool.resize(1)
    wait_until_gone(*before - {*gate.pids})
    assert len(pool) == 1
    assert not any(call.done() for call in calls)
    gate.open()
    assert [call.result(60.0) for call in calls] == [0, 1]
    wait_until_gone(*before - pids(pool))
    assert pool.forward("process", ("pid",)) in before


def test_a_pool_may_shrink_and_grow_again_and_again(make):
    pool = make(n=1)
    for n in (2, 1, 3, 1):
        pool.resize(n)
        assert [*pool.map("echo", range(10))] == [*range(10)]
        wait_until(lambda n=n: len(pids(pool)) == n)
    pool.close()


@pytest.mark.nightly
def test_a_worker_that_is_being_ended_by_a_resize_is_ended_by_close(make, gate):
    pool = make(n=2)
    call = pool.submit("hold", gate.call())
    other = pool.submit("hold", gate.call())
    wait_until(lambda: len(gate.pids) == 2)
    pool.resize(1)
    pool.close()
    for ended in (call, other):
        with pytest.raises(soma.ChannelClosed):
            ended.result(0)
    wait_until_gone(*gate.pids)


def test_a_pool_that_cannot_grow_stays_as_it_was(make, tmp_path):
    path = tmp_path / "allowed"
    pool = make(n=1, filters={"fragile": fragile(path)})
    before = pids(pool)
    path.unlink()
    with pytest.raises(soma.RemoteError, match="No such file"):
        pool.resize(3)
    assert (len(pool), pids(pool)) == (1, before)
    assert {pool.forward("fragile", ("pid",))} == before


def test_a_number_of_workers_that_is_none_is_refused(warm):
    with pytest.raises(ValueError, match="n is at least 1, got 0"):
        warm.resize(0)
    with pytest.raises(TypeError, match="n is a whole number"):
        warm.resize(1.5)
    assert len(warm) == 2


def test_a_closed_pool_is_not_resized(make):
    pool = make(n=1)
    pool.close()
    with pytest.raises(soma.ChannelClosed):
        pool.resize(2)


VERSION = """
class Version:
    def fit(self, x, y=None):
        return {{}}

    def forward(self, x, state):
        return {answer}
"""


def test_a_refresh_brings_a_new_version_into_use_and_one_that_is_broken_changes_nothing(
    make, tmp_path, monkeypatch
):
    module = tmp_path / "versioned_filter.py"
    module.write_text(VERSION.format(answer=1))
    monkeypatch.syspath_prepend(tmp_path)
    pool = make(n=2, filters={"version": importlib.import_module(module.stem).Version()})
    before = pids(pool)
    assert [*pool.map("version", range(4))] == [1] * 4

    module.write_text(VERSION.format(answer="'two'"))
    pool.refresh()
    assert [*pool.map("version", range(4))] == ["two"] * 4
    assert before.isdisjoint(pids(pool))

    module.write_text("this is no Python")
    before = pids(pool)
    with pytest.raises(soma.RemoteError):
        pool.refresh()
    assert [*pool.map("version", range(4))] == ["two"] * 4
    assert pids(pool) == before


def test_a_refresh_waits_for_the_calls_that_run_and_loses_none(make, gate):
    pool = make(n=1)
    calls = [pool.submit("hold", gate.call(number)) for number in range(3)]
    wait_until(lambda: gate.pids)
    with ThreadPoolExecutor(1) as thread:
        refreshed = thread.submit(pool.refresh)
        gate.open()
        assert [call.result(60.0) for call in calls] == [0, 1, 2]
        refreshed.result(60.0)
    pool.close()
    with pytest.raises(soma.ChannelClosed):
        pool.refresh()
