"""A pool ends when it is told to, from anywhere, and leaves nothing behind."""

from __future__ import annotations

import gc
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

import soma_core as soma

from ..support import descriptors, either, run_python, wait_until, wait_until_gone
from ..support import filters as f


@either
def test_close_ends_running_and_waiting_calls(make, gate, transport):
    pool = make(transport, 2)
    running = [pool.submit("hold", gate.call()) for _ in range(2)]
    wait_until(lambda: len(gate.pids) == 2)
    waiting = [pool.submit("echo", 1) for _ in range(3)]
    begun = time.monotonic()
    pool.close()
    assert time.monotonic() - begun < 8.0
    for call in (*running, *waiting):
        with pytest.raises(soma.ChannelClosed):
            call.result(0)
    wait_until_gone(*gate.pids)
    assert pool.status() == []


@pytest.mark.nightly
def test_close_takes_no_longer_for_filters_that_do_not_want_to_stop(make):
    pool = make(n=3)
    calls = [pool.submit("sleep", ("deaf", 600.0)) for _ in range(3)]
    wait_until(lambda: sum(status.command is not None for status in pool.status()) == 3)
    pids = [status.pid for status in pool.status()]
    begun = time.monotonic()
    pool.close()
    assert time.monotonic() - begun < 8.0
    for call in calls:
        with pytest.raises(soma.ChannelClosed):
            call.result(10.0)
    wait_until_gone(*pids)


@pytest.mark.nightly
def test_close_may_be_called_again_and_at_once_from_many_threads(make, gate):
    pool = make(n=2)
    call = pool.submit("hold", gate.call())
    wait_until(lambda: gate.pids)
    threads = [threading.Thread(target=pool.close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
    pool.close()
    with pytest.raises(soma.ChannelClosed):
        call.result(0)


def slow_to_load(directory):
    """A filter that only the first worker loads: each leaves a file there, and the others stay."""

    def rebuild(directory):
        path = f.os.path.join(directory, str(f.os.getpid()))
        with open(path, "w"):
            pass
        if len(f.os.listdir(directory)) > 1:
            f.time.sleep(600)
        return f.Process()

    class SlowToLoad(f.Process):
        def __reduce__(self):
            return rebuild, (str(directory),)

    return SlowToLoad()


@pytest.mark.nightly
def test_who_waits_for_a_worker_is_told_that_the_pool_was_closed(make, tmp_path):
    pool = make(n=1, filters={"slow": slow_to_load(tmp_path)})
    with ThreadPoolExecutor(1) as thread:
        resizing = thread.submit(pool.resize, 2)
        wait_until(lambda: len([*tmp_path.iterdir()]) == 2)
        pool.close()
        with pytest.raises(soma.ChannelClosed, match="the pool was closed"):
            resizing.result(60.0)


def test_close_ends_a_worker_that_is_being_started(make, tmp_path):
    pool = make(n=1, filters={"slow": slow_to_load(tmp_path)})
    call, waiting = pool.submit("slow", ("leave", 1)), pool.submit("slow", ("pid",))
    with pytest.raises(soma.WorkerDied):
        call.result(60.0)
    wait_until(lambda: len([*tmp_path.iterdir()]) == 2)
    begun = time.monotonic()
    pool.close()
    assert time.monotonic() - begun < 8.0
    with pytest.raises(soma.ChannelClosed):
        waiting.result(0)
    wait_until_gone(*(int(path.name) for path in tmp_path.iterdir()))


def test_a_closed_pool_says_so(make):
    pool = make(n=1)
    pool.close()
    for use in (
        lambda: pool.submit("echo", 1),
        lambda: pool.map("echo", [1]),
        lambda: pool.fit("mean", [1.0]),
        lambda: pool.load({"echo": f.Echo()}),
    ):
        with pytest.raises(soma.ChannelClosed, match="the pool was closed"):
            use()
    assert len(pool) == 1


def test_leaving_the_block_closes_the_pool(options, gate):
    with soma.WorkerPool("stdio", 1, filters={"process": f.Process()}) as pool:
        pid = pool.submit("process", ("pid",)).result(60.0)
    wait_until_gone(pid)
    with pytest.raises(soma.ChannelClosed):
        pool.submit("process", ("pid",))


def test_shutdown_finishes_what_was_submitted(make, gate):
    pool = make(n=2)
    calls = [pool.submit("hold", gate.call(number)) for number in range(5)]
    pool.shutdown(wait=False)
    with pytest.raises(soma.ChannelClosed, match="shut down"):
        pool.submit("echo", 1)
    gate.open()
    pool.shutdown()
    assert [call.result(0) for call in calls] == [*range(5)]
    wait_until_gone(*gate.pids)


def test_shutdown_survives_a_death_among_what_was_submitted(make):
    pool = make(n=1)
    dying = pool.submit("process", ("leave", 1))
    after = [pool.submit("echo", number) for number in range(3)]
    pool.shutdown()
    assert isinstance(dying.exception(0), soma.WorkerDied)
    assert [call.result(0) for call in after] == [0, 1, 2]


def test_shutdown_may_cancel_what_waits(make, gate):
    pool = make(n=1)
    running = pool.submit("hold", gate.call("done"))
    wait_until(lambda: gate.pids)
    waiting = pool.submit("echo", 1)
    pool.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(CancelledError):
        waiting.result(60.0)
    gate.open()
    pool.shutdown()
    assert running.result(0) == "done"


@pytest.mark.nightly
def test_a_pool_that_nobody_has_any_more_ends_its_workers(gate):
    pool = soma.WorkerPool("stdio", 2, filters={"process": f.Process()})
    pids = [status.pid for status in pool.status()]
    call = pool.submit("process", ("pid",))
    del pool
    gc.collect()
    assert call.result(60.0) in pids
    wait_until_gone(*pids)


@pytest.mark.nightly
@either
def test_pools_leave_no_descriptors_and_no_threads(make, transport):
    def use() -> None:
        pool = make(transport, 2, recycle_after=3)
        assert [*pool.map("echo", [bytes(200_000)] * 5)] == [bytes(200_000)] * 5
        pool.submit("process", ("leave", 1)).exception(60.0)
        pool.close()

    def open_now() -> tuple[int, int]:
        gc.collect()
        return len(descriptors()), threading.active_count()

    use()  # opens what is opened once and kept
    before = open_now()
    use()
    wait_until(lambda: open_now() <= before, 20.0, f"{before} became {open_now()}")


def test_a_host_that_forgets_to_close_ends_and_takes_the_workers_along(tmp_path):
    script = """
import soma_core as soma

class Sleep:
    def fit(self, x, y=None):
        return {}
    def forward(self, x, state):
        import time
        time.sleep(600)

pool = soma.WorkerPool("stdio", 2, filters={"sleep": Sleep()})
pool.submit("sleep", None)
print(*[status.pid for status in pool.status()])
"""
    done = run_python(script, directory=tmp_path)
    wait_until_gone(*map(int, done.stdout.split()))


def test_shutdown_ends_what_is_not_done_after_its_timeout(make, gate):
    pool = make(n=1)
    running, waiting = pool.submit("hold", gate.call()), pool.submit("echo", 1)
    wait_until(lambda: gate.pids)
    pool.shutdown(timeout=0.2)
    for call in (running, waiting):
        with pytest.raises(soma.ChannelClosed):
            call.result(0)
    wait_until_gone(*gate.pids)


@pytest.mark.nightly
def test_shutdown_does_so_too_when_nobody_waits_for_it(make, gate):
    pool = make(n=1)
    running = pool.submit("hold", gate.call())
    wait_until(lambda: gate.pids)
    pool.shutdown(wait=False, timeout=0.2)
    with pytest.raises(soma.ChannelClosed):
        running.result(60.0)
    wait_until_gone(*gate.pids)


def test_shutdown_waits_no_longer_than_it_must(make):
    pool = make(n=2)
    call = pool.submit("echo", 1, deadline=600.0)
    begun = time.monotonic()
    pool.shutdown(timeout=600.0)
    assert time.monotonic() - begun < 60.0
    assert call.result(0) == 1


def test_a_deadline_in_the_far_future_leaves_no_thread(make):
    before = set(threading.enumerate())
    pool = make(n=1)
    pool.submit("echo", 1, deadline=600.0).result(60.0)
    pool.close()
    wait_until(lambda: set(threading.enumerate()) <= before)


@pytest.mark.nightly
def test_a_program_that_ends_does_not_wait_for_a_call_in_its_own_process(tmp_path):
    script = """
import threading
import soma_core as soma

class Sleep(soma.Filter):
    def forward(self, x, state):
        threading.Event().wait()

pool = soma.WorkerPool("inline", 1, filters={"sleep": Sleep()})
pool.submit("sleep", 1)
while not pool.stats().running:
    pass
print("the end")
"""
    done = run_python(script, directory=tmp_path)
    assert (done.stdout, done.stderr) == ("the end\n", "")
