"""Calls of quick nodes are sent to a worker that has not answered those before yet."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import Counter

import pytest

import soma_core as soma
from soma_core.client.aio.channels import WatchedChannel
from soma_core.client.pool.paces import Paces

from .conftest import begun, until

MANY = 6  # calls that one worker surely has at once


class Task(soma.Filter):
    """Notes what it does in a file, and does it."""

    notes: str

    def forward(self, x, state):
        name, what, *_ = x
        with open(self.notes, "a") as notes:
            notes.write(f"{name}\n")
        if what == "raise":
            raise ValueError(name)
        if what == "say":
            os.write(1, f"said {name}\n".encode())
        while os.path.exists(what):
            time.sleep(0.001)
        return name


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    return tmp_path_factory.mktemp("ahead") / "notes"


@pytest.fixture(scope="module")
def printed():
    return []


@pytest.fixture(scope="module")
def pool(run, notes, printed):
    """A pool of one worker, which the tests leave usable."""

    async def start():
        filters = {"task": Task(notes=str(notes))}
        return await soma.AsyncWorkerPool(n=1, filters=filters, output=printed.append)

    pool = run(start())
    yield pool
    run(pool.close())


@pytest.fixture
def gate(tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    return str(gate)


@pytest.fixture
def _none_taken_back(monkeypatch):
    """What was sent stays sent, as where there is no shared memory."""
    monkeypatch.setattr(WatchedChannel, "take_back", lambda channel: 0)


@pytest.fixture
def hold(_none_taken_back, sent_behind):
    return sent_behind


@pytest.fixture
def sent_behind(pool, notes, gate, monkeypatch):
    """Submits calls behind one that runs until the gate is gone; all are on their way then."""
    monkeypatch.setattr(Paces, "is_quick", lambda paces, label: True)  # on a busy machine, too
    monkeypatch.setattr(Paces, "usual", lambda paces, label: 0.0)

    async def hold(*others, first_timeout=None, **options):
        await pool.forward("task", ("warm", ""))
        notes.unlink()
        first = await pool.submit("task", ("first", gate), timeout=first_timeout)
        rest = [await pool.submit("task", other, **options) for other in others]
        await begun(notes)
        return first, rest

    notes.unlink(missing_ok=True)
    return hold


def runs(notes):
    return Counter(notes.read_text().split())


def test_a_quick_node_has_several_calls_on_their_way_and_each_gets_its_own_answer(
    run, pool, notes, gate, hold
):
    async def main():
        first, rest = await hold(*((f"{number}", "") for number in range(MANY)))
        assert pool.stats().running == MANY + 1
        assert not any(future.done() for future in rest)
        os.unlink(gate)
        assert await asyncio.gather(first, *rest) == ["first", *map(str, range(MANY))]

    run(main())
    assert set(runs(notes).values()) == {1}


def test_what_one_raises_and_what_cannot_be_sent_concern_nobody_else(
    run, pool, gate, hold, printed
):
    async def main():
        wrong, unsendable = ("wrong", "raise"), ("lock", threading.Lock())
        first, rest = await hold(("a", ""), wrong, ("b", "say"), unsendable, ("c", ""))
        os.unlink(gate)
        answers = await asyncio.gather(first, *rest, return_exceptions=True)
        assert answers[:2] == ["first", "a"]
        assert isinstance(answers[2], ValueError)
        assert answers[3] == "b"
        assert isinstance(answers[4], soma.ProtocolError)
        assert answers[5] == "c"
        assert {str(line).strip() for line in printed if "said" in line} == {"said b"}

    run(main())


def test_large_data_are_not_sent_ahead_without_end(run, pool, notes, gate, hold):
    async def main():
        await hold(("warm", ""))
        os.unlink(gate)
        await until(lambda: pool.stats().running == 0)
        open(gate, "w").close()
        notes.unlink()
        first = await pool.submit("task", ("first", gate))
        rest = [await pool.submit("task", (name, "", bytes(700_000))) for name in "abcd"]
        await begun(notes)
        assert pool.stats().queued >= 2
        os.unlink(gate)
        assert await asyncio.gather(first, *rest) == ["first", *"abcd"]

    run(main())


def test_a_call_behind_a_slow_one_keeps_its_time(run, pool, gate, hold):
    async def main():
        first, rest = await hold(("late", ""), deadline=0.2)
        with pytest.raises(soma.DeadlineExceeded):
            await rest[0]
        assert not first.done()
        os.unlink(gate)
        assert await first == "first"
        assert await pool.forward("task", ("next", "")) == "next"

    run(main())


@pytest.mark.parametrize("limit", ["timeout", "deadline"])
def test_a_call_with_little_time_is_not_sent_ahead_so_that_its_limit_is_exact(
    run, pool, gate, hold, limit
):
    async def main():
        first, (short,) = await hold(("short", ""), **{limit: 0.02})
        assert pool.stats().running == 1
        os.unlink(gate)
        assert await first == "first"
        await asyncio.wait([short])

    run(main())


def test_the_time_of_a_call_begins_when_the_one_before_is_done(run, pool, gate, hold):
    async def main():
        first, rest = await hold(*((name, "") for name in "abc"), timeout=1.0)
        with pytest.raises(soma.DeadlineExceeded):  # so much time has passed then
            await pool.forward("task", ("late", ""), deadline=1.0)
        assert not any(future.done() for future in rest)
        os.unlink(gate)
        assert await asyncio.gather(first, *rest) == ["first", "a", "b", "c"]

    run(main())


def test_those_behind_a_call_whose_time_is_over_are_answered(run, pool, notes, gate, hold):
    async def main():
        first, rest = await hold(*((name, "") for name in "abc"), first_timeout=0.2)
        with pytest.raises(soma.DeadlineExceeded) as caught:
            await first
        assert caught.value.worker_survived
        assert await asyncio.gather(*rest) == ["a", "b", "c"]

    run(main())
    assert {runs(notes)[name] for name in "abc"} == {1}


def test_a_call_is_cancelled_wherever_it_is(run, pool, gate, hold):
    async def main():
        first, (behind, last) = await hold(("behind", ""), ("last", ""))
        assert behind.cancel()
        assert first.cancel()
        assert await last == "last"
        assert behind.cancelled()
        assert first.cancelled()
        await until(lambda: pool.stats().running == 0)

    run(main())


def test_a_dead_worker_costs_only_the_call_that_it_ran(run, pool, notes, gate, hold):
    async def main():
        first, rest = await hold(*((f"{number}", "") for number in range(MANY)))
        os.kill(pool.status()[0].pid, signal.SIGKILL)
        with pytest.raises(soma.WorkerDied):
            await first
        assert await asyncio.gather(*rest) == [*map(str, range(MANY))]

    run(main())
    assert set(runs(notes).values()) == {1}


def test_what_is_behind_a_slow_call_is_taken_back_and_waits_for_any_worker(
    run, pool, notes, gate, sent_behind
):
    async def main():
        first, rest = await sent_behind(*((f"{number}", "") for number in range(MANY)))
        await until(lambda: pool.stats().queued == MANY)
        assert rest[2].cancel()
        await until(lambda: pool.stats().queued == MANY - 1)
        os.unlink(gate)
        assert await asyncio.gather(first, *rest[:2], *rest[3:]) == ["first", *"01345"]

    run(main())
    assert runs(notes) == Counter(["first", *"01345"])


@pytest.mark.nightly
def test_a_pool_that_is_closed_ends_those_on_their_way(run, notes, gate, hold, pool):
    async def main():
        first, rest = await hold(("a", ""), ("b", ""))
        await pool.close()
        for future in (first, *rest):
            with pytest.raises(soma.ChannelClosed):
                await future

    run(main())
