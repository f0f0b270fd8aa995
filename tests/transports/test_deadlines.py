"""Every call ends by its deadline, and what comes too late is nobody's."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest

import soma_core as soma

from ..support import (
    PROCESSES,
    both_at_night,
    either,
    gate_runs,
    is_running,
    nightly,
    wait_until,
    wait_until_gone,
)
from ..support import filters as f


@pytest.fixture
def short_grace():
    return 0.5


@pytest.mark.parametrize(
    ("transport", "how"),
    gate_runs(
        ("stdio", "call"),
        ("stdio", "loop"),
        ("socket", "naps"),
        ("socket", "error"),
        of=list(product(PROCESSES, ["naps", "call", "loop", "error"])),
    ),
)
def test_a_call_that_takes_too_long_is_interrupted_and_the_worker_stays(
    connect, transport, how, long_grace
):
    worker = connect(transport, filters={"sleep": f.Sleep(), "echo": f.Echo()})
    pid = worker.ping().pid
    begun = time.monotonic()
    with pytest.raises(soma.DeadlineExceeded) as caught:
        worker.forward("sleep", (how, 60.0), timeout=0.3)
    assert time.monotonic() - begun < 30.0
    assert caught.value.worker_survived is True
    assert isinstance(caught.value, TimeoutError)
    for part in ("FORWARD", "sleep", "0.3 s"):
        assert part in str(caught.value)
    assert worker.forward("echo", 1) == 1
    assert worker.ping().pid == pid


# As torch's: what its import registers in C can be registered once.
IMPORTED_ONCE = """
import sys, time
if hasattr(sys, "imported_once"):
    raise RuntimeError("imported twice")
sys.imported_once = True
end = time.monotonic() + 1.5
while time.monotonic() < end:
    time.sleep(0.01)
"""


def imports(name, state):
    return __import__(name).__name__


@either
def test_a_module_that_is_being_imported_at_the_deadline_is_imported_whole(
    connect, transport, tmp_path, monkeypatch, long_grace
):
    (tmp_path / "imported_once.py").write_text(IMPORTED_ONCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    worker = connect(transport, filters={"imports": f.Apply(imports)})
    with pytest.raises(soma.DeadlineExceeded) as caught:
        worker.forward("imports", "imported_once", timeout=0.5)
    assert caught.value.worker_survived is True
    assert worker.forward("imports", "imported_once", timeout=60.0) == "imported_once"


@nightly
@either
def test_a_module_whose_import_does_not_end_costs_the_worker(
    connect, transport, tmp_path, monkeypatch, short_grace
):
    (tmp_path / "imported_once.py").write_text(IMPORTED_ONCE.replace("1.5", "600"))
    monkeypatch.syspath_prepend(str(tmp_path))
    worker = connect(transport, filters={"imports": f.Apply(imports)}, restart="on-crash")
    pid = worker.ping().pid
    with pytest.raises(soma.DeadlineExceeded) as caught:
        worker.forward("imports", "imported_once", timeout=0.5)
    assert caught.value.worker_survived is False
    assert worker.ping().pid != pid


@nightly
@pytest.mark.parametrize(
    ("transport", "how"),
    gate_runs(
        ("stdio", "deaf"),
        ("socket", "stubborn"),
        of=list(product(PROCESSES, ["stubborn", "deaf"])),
    ),
)
def test_a_filter_that_does_not_stop_is_ended_with_its_worker(connect, transport, how, short_grace):
    worker = connect(transport, filters={"sleep": f.Sleep(), "echo": f.Echo()})
    pid = worker.ping().pid
    begun = time.monotonic()
    with pytest.raises(soma.DeadlineExceeded) as caught:
        worker.forward("sleep", (how, 60.0), timeout=1.0)  # by then it does not listen any more
    assert time.monotonic() - begun < 20.0
    assert caught.value.worker_survived is False
    wait_until_gone(pid)
    with pytest.raises(soma.WorkerDied, match="FORWARD of node 'sleep' did not stop"):
        worker.forward("echo", 1)
    assert worker.status().alive is False


@both_at_night
def test_a_worker_that_dies_of_its_interrupt_is_reported_as_such(connect, transport):
    def dies(x, state):
        try:
            f.time.sleep(60)
        except KeyboardInterrupt:
            f.os.kill(f.os.getpid(), f.signal.SIGKILL)

    worker = connect(transport, filters={"dies": f.Apply(dies)})
    how = "was killed by SIGKILL when"
    with pytest.raises(soma.DeadlineExceeded, match=f"the worker {how} it was interrupted"):
        worker.forward("dies", 1, timeout=0.2)
    with pytest.raises(soma.WorkerDied, match=f"{how} FORWARD of node 'dies' was interrupted"):
        worker.ping()


@both_at_night
def test_a_late_reply_is_never_given_to_the_next_call(connect, transport, long_grace):
    def late(x, state):
        try:
            f.time.sleep(60)
        except KeyboardInterrupt:
            f.time.sleep(0.3)  # so that the reply comes well after the deadline
        return f"late {x}"

    worker = connect(transport, filters={"late": f.Apply(late), "echo": f.Echo()})
    for number in range(3):
        with pytest.raises(soma.DeadlineExceeded) as caught:
            worker.forward("late", number, timeout=0.2)
        assert caught.value.worker_survived is True
        assert worker.forward("echo", number) == number


@nightly
@either
def test_calls_that_end_just_in_time_or_just_not_leave_the_worker_in_step(
    connect, transport, long_grace
):
    worker = connect(transport, filters={"sleep": f.Sleep(), "echo": f.Echo()})
    outcomes = set()
    for step in range(30):
        try:
            worker.forward("sleep", ("naps", 0.05), timeout=0.03 + step * 0.002)
            outcomes.add("done")
        except soma.DeadlineExceeded as error:
            outcomes.add("late" if error.worker_survived else "ended")
        assert worker.forward("echo", step) == step
    assert outcomes <= {"done", "late"}


@either
def test_time_spent_waiting_for_a_turn_counts(connect, transport, note):
    worker = connect(transport, filters={"sleep": f.Sleep(), "echo": f.Echo()})
    with ThreadPoolExecutor() as pool:
        call = pool.submit(worker.forward, "sleep", ("naps", 60.0, str(note)))
        wait_until(note.exists)
        with pytest.raises(soma.DeadlineExceeded, match="was not sent") as caught:
            worker.forward("echo", 1, timeout=0.1)
        assert caught.value.worker_survived is True
        note.unlink()
        assert call.result(30.0) == "done"
    assert worker.forward("echo", 1) == 1


@either
def test_the_workers_own_timeout_holds_where_a_call_names_none(connect, transport, long_grace):
    worker = connect(transport, filters={"sleep": f.Sleep()}, timeout=0.3)
    with pytest.raises(soma.DeadlineExceeded):
        worker.forward("sleep", ("naps", 60.0))
    assert worker.forward("sleep", ("naps", 0.5), timeout=None) == "done"
    assert worker.forward("sleep", ("naps", 0.5), timeout=30.0) == "done"


@either
@pytest.mark.parametrize("timeout", [0, 0.0])
def test_a_timeout_of_nothing_ends_at_once(connect, transport, timeout, long_grace):
    worker = connect(transport, filters={"sleep": f.Sleep(), "echo": f.Echo()})
    with pytest.raises(soma.DeadlineExceeded):
        worker.forward("sleep", ("naps", 60.0), timeout=timeout)
    assert worker.forward("echo", 1) == 1


@either
def test_every_kind_of_call_takes_a_timeout(connect, transport, long_grace):
    slow = f.Apply(
        lambda x, state: f.time.sleep(60) if x else x, lambda x, y: f.time.sleep(60) if x else {}
    )
    worker = connect(transport, filters={"slow": slow})
    calls = [
        lambda: worker.fit("slow", 1, timeout=0.2),
        lambda: worker.composite_forward(["slow"], 1, timeout=0.2),
        lambda: worker.composite_fit(["slow"], 1, timeout=0.2),
        lambda: worker.batched_fit(["slow"], [1], timeout=0.2),
    ]
    for call in calls:
        with pytest.raises(soma.DeadlineExceeded) as caught:
            call()
        assert caught.value.worker_survived
    assert worker.forward("slow", 0) == 0


def test_signals_without_end_do_not_hold_up_a_deadline(connect, long_grace):
    worker = connect("stdio", filters={"sleep": f.Sleep()})
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
    try:
        with pytest.raises(soma.DeadlineExceeded):
            worker.forward("sleep", ("naps", 20.0), timeout=0.3)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


@nightly
@both_at_night
def test_a_worker_that_does_not_read_does_not_hold_a_call_up(connect, transport, short_grace):
    """The deadline holds while the command is being sent, too."""
    import os
    import signal

    worker = connect(transport, filters={"echo": f.Echo()})
    pid = worker.ping().pid
    os.kill(pid, signal.SIGSTOP)
    begun = time.monotonic()
    with pytest.raises(soma.DeadlineExceeded):
        worker.forward("echo", bytes(50_000_000), timeout=0.3)
    assert time.monotonic() - begun < 20.0
    wait_until_gone(pid)


@nightly
@both_at_night
def test_a_stopped_worker_is_ended_by_close(connect, transport):
    import os
    import signal

    worker = connect(transport)
    pid = worker.ping().pid
    os.kill(pid, signal.SIGSTOP)
    assert is_running(pid)
    begun = time.monotonic()
    worker.close()
    assert time.monotonic() - begun < 8.0
    wait_until_gone(pid)


def test_ctrl_c_in_the_host_interrupts_the_call_and_leaves_the_worker(tmp_path, options):
    """In a process of its own, whose main thread makes the call."""
    from ..support import run_python

    script = """
import os, signal, sys, threading
import soma_core as soma

class Sleep:
    def fit(self, x, y=None): return {}
    def forward(self, x, state):
        import time
        if x:
            open(x, "w").close()
            time.sleep(60)
        return "done"

def press():
    while not os.path.exists(sys.argv[3]):
        pass
    os.kill(os.getpid(), signal.SIGINT)

options = {"path": sys.argv[2]} if sys.argv[1] == "socket" else {}
with soma.connect(sys.argv[1], filters={"sleep": Sleep()}, **options) as worker:
    pid = worker.ping().pid
    threading.Thread(target=press).start()
    try:
        worker.forward("sleep", sys.argv[3])
    except KeyboardInterrupt:
        print("interrupted")
    assert worker.forward("sleep", "") == "done"
    assert worker.ping().pid == pid
"""
    for transport in PROCESSES:
        path = options(transport).get("path", "")
        done = run_python(script, transport, path, tmp_path / transport, directory=tmp_path)
        assert done.stdout == "interrupted\n", transport
