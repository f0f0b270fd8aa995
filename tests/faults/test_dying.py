"""Whichever side is killed, whenever: the other learns of it, and nothing is left behind."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import soma_core as soma

from ..support import (
    PROCESSES,
    both_at_night,
    descriptors,
    either,
    gate_runs,
    is_running,
    nightly,
    wait_until,
    wait_until_gone,
)
from ..support import filters as f

# The host dies

HOST = """
import sys
import soma_core as soma

class Busy:
    def fit(self, x, y=None):
        import os, time
        import numpy as np
        child = 0
        if x["fork"]:
            child = os.fork()
            if child == 0:
                os.setsid()
                time.sleep(600)
                os._exit(0)
        with open(x["note"] + ".new", "w") as file:
            file.write(f"{os.getpid()} {child}")
        os.rename(x["note"] + ".new", x["note"])
        if x["how"] == "sort":
            numbers = np.random.default_rng(0).random(5_000_000)
            while True:
                np.sort(numbers)
        time.sleep(600)

    def forward(self, x, state):
        return x

transport, path, note, how, fork = sys.argv[1:]
options = {"path": path} if transport == "socket" else {}
worker = soma.connect(transport, filters={"busy": Busy()}, **options)
worker.fit("busy", {"note": note, "how": how, "fork": fork == "fork"})
"""


@pytest.mark.parametrize(
    ("transport", "how", "number"),
    gate_runs(
        ("stdio", "sort", signal.SIGKILL),
        ("socket", "sleep", signal.SIGTERM),
        of=list(product(PROCESSES, ["sleep", "sort"], [signal.SIGKILL, signal.SIGTERM])),
    ),
)
def test_a_host_killed_during_fit_takes_worker_and_grandchild_with_it(
    request, tmp_path, transport, how, number
):
    path = ""
    if transport == "socket":
        path = request.getfixturevalue("shared_socket_daemon").path
    script, note = tmp_path / "host.py", tmp_path / "note"
    script.write_text(HOST)
    command = [sys.executable, str(script), transport, str(path), str(note), how, "fork"]
    host = subprocess.Popen(command)
    try:
        wait_until(note.exists, 60.0)
    finally:
        host.send_signal(number)
        host.wait()
    worker, grandchild = map(int, note.read_text().split())
    wait_until_gone(worker, grandchild)


def test_a_worker_outlives_the_thread_that_started_it():
    workers = []

    def start():
        workers.append(soma.connect("stdio", filters={"echo": f.Echo()}))

    with ThreadPoolExecutor(1) as pool:
        pool.submit(start).result(60.0)
    (worker,) = workers
    try:
        assert worker.forward("echo", 1) == 1
    finally:
        worker.close()


FIRST = """
import os, psutil
import soma_core as soma

class Orphans(soma.Filter):
    def forward(self, x, state):
        import os, time
        for _ in range(3):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    time.sleep(600)
                os._exit(0)
            os.wait()

if __name__ == "__main__":
    assert os.getpid() == 1
    with soma.connect("stdio", filters={"orphans": Orphans()}) as worker:
        worker.forward("orphans", None)
        assert len(psutil.pids()) > 4
    assert psutil.pids() == [1]
"""


@nightly
def test_a_host_that_is_process_1_leaves_no_zombies(tmp_path):
    script = tmp_path / "host.py"
    script.write_text(FIRST)
    unshare = ["unshare", "--pid", "--fork", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"]).returncode:
        pytest.skip("this process may make no namespace of processes")
    subprocess.run([*unshare, sys.executable, str(script)], check=True, timeout=60.0)


@pytest.mark.nightly
def test_a_forked_child_that_asks_after_the_worker_is_refused_and_does_it_no_harm():
    with soma.connect("stdio", filters={"echo": f.Echo()}) as worker:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                worker.status()
            except soma.TransportError:
                worker.close()
                status = 7
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert worker.status().alive
        assert worker.forward("echo", 1) == 1


@pytest.mark.nightly
def test_a_fork_of_the_host_does_not_keep_the_worker_alive(tmp_path):
    """A pool of processes that the host forked holds none of the worker's descriptors."""
    note = tmp_path / "note"
    script = tmp_path / "host.py"
    script.write_text(
        """
import os, sys, time, warnings
import soma_core as soma
warnings.simplefilter("ignore", DeprecationWarning)
worker = soma.connect("stdio")
child = os.fork()
if child == 0:
    time.sleep(600)
    os._exit(0)
with open(sys.argv[1] + ".new", "w") as file:
    file.write(f"{worker.ping().pid} {child}")
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""
    )
    host = subprocess.Popen([sys.executable, str(script), str(note)])
    child = None
    try:
        wait_until(note.exists, 60.0)
        worker, child = map(int, note.read_text().split())
        host.kill()
        host.wait()
        wait_until_gone(worker)
        assert is_running(child)
    finally:
        host.kill()
        host.wait()
        if child is not None:
            os.kill(child, signal.SIGKILL)


# The worker dies


@pytest.mark.usefixtures("told_how")
@both_at_night
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_killed_worker_is_told_with_its_signal_and_last_words(connect, transport, number):
    worker = connect(transport, filters={"process": f.Process()})
    begun = time.monotonic()
    with pytest.raises(soma.WorkerDied) as caught:
        worker.forward("process", ("complain_and_kill", "these are my last words", number))
    assert time.monotonic() - begun < 10.0
    error = caught.value
    assert (error.signal, error.exit_code) == (number.name, None)
    assert (error.command, error.node_id) == ("FORWARD", "process")
    assert "these are my last words" in error.stderr
    for part in (number.name, "FORWARD", "process", "these are my last words"):
        assert part in str(error)


@either
def test_a_death_is_noticed_within_a_second(connect, transport):
    """Measured from the kill itself; a slow machine gets some grace."""
    worker = connect(transport, filters={"sleep": f.Sleep()})
    pid = worker.ping().pid
    with ThreadPoolExecutor() as pool:
        call = pool.submit(worker.forward, "sleep", ("call", 600.0))
        wait_until(lambda: worker.status().command)
        os.kill(pid, signal.SIGKILL)
        begun = time.monotonic()
        with pytest.raises(soma.WorkerDied):
            call.result(20.0)
        assert time.monotonic() - begun < 3.0


@pytest.mark.usefixtures("told_how")
@pytest.mark.nightly
@either
def test_every_later_call_tells_of_the_death(connect, transport):
    worker = connect(transport, filters={"process": f.Process()})
    with pytest.raises(soma.WorkerDied):
        worker.forward("process", ("leave", 3))
    for call in (worker.ping, lambda: worker.forward("process", ("pid",))):
        with pytest.raises(soma.WorkerDied) as caught:
            call()
        assert caught.value.exit_code == 3
    assert worker.status().alive is False
    worker.close()


@either
def test_the_death_of_an_idle_worker_is_told_by_the_next_call(connect, transport):
    worker = connect(transport, filters={"echo": f.Echo()})
    pid = worker.ping().pid
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(pid)
    wait_until(lambda: worker.status().alive is False)
    with pytest.raises(soma.WorkerDied, match="SIGKILL"):
        worker.forward("echo", 1)


@either
def test_a_death_ends_calls_that_wait_for_their_turn(connect, transport):
    worker = connect(transport, filters={"sleep": f.Sleep()})
    pid = worker.ping().pid
    with ThreadPoolExecutor() as pool:
        calls = [pool.submit(worker.forward, "sleep", ("call", 600.0)) for _ in range(3)]
        wait_until(lambda: worker.status().command)
        os.kill(pid, signal.SIGKILL)
        for call in calls:
            with pytest.raises(soma.WorkerDied):
                call.result(20.0)


@both_at_night
@pytest.mark.parametrize("how", ["forked_grandchild", "forked_grandchild_of_another_session"])
def test_a_grandchild_that_holds_the_wire_does_not_hide_a_death(connect, transport, how):
    worker = connect(transport, filters={"process": f.Process(), "sleep": f.Sleep()})
    grandchild = worker.forward("process", (how,))
    pid = worker.ping().pid
    try:
        with ThreadPoolExecutor() as pool:
            call = pool.submit(worker.forward, "sleep", ("call", 600.0))
            wait_until(lambda: worker.status().command)
            os.kill(pid, signal.SIGKILL)
            begun = time.monotonic()
            with pytest.raises(soma.WorkerDied, match="SIGKILL"):
                call.result(20.0)
            assert time.monotonic() - begun < 6.0
        if how == "forked_grandchild":
            wait_until_gone(grandchild)  # it shares the group of its parent
    finally:
        if is_running(grandchild):
            os.kill(grandchild, signal.SIGKILL)


@both_at_night
def test_a_grandchild_of_the_same_group_ends_when_the_worker_is_closed(connect, transport):
    worker = connect(transport, filters={"process": f.Process()})
    left = [worker.forward("process", (how,)) for how in ("grandchild", "forked_grandchild")]
    worker.close()
    wait_until_gone(*left)


@pytest.mark.nightly
def test_a_worker_that_somebody_else_waited_for_is_told_as_ended():
    """Some frameworks wait for any child; the exit status is lost to us then."""
    worker = soma.connect("stdio", filters={"echo": f.Echo()})
    pid = worker.ping().pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with pytest.raises(soma.WorkerDied, match="status unknown"):
        worker.forward("echo", 1)
    worker.close()
    del worker
    gc.collect()  # here, so that a warning of the process that was never reaped belongs to this


@both_at_night
def test_a_long_stderr_does_not_hold_the_worker_up_and_its_tail_is_kept(connect, transport):
    def shout(x, state):
        for number in range(20_000):
            f.sys.stderr.write(f"line {number} {'x' * 50}\n")
        f.sys.stderr.flush()
        f.os._exit(1)

    worker = connect(transport, filters={"shout": f.Apply(shout)})
    with pytest.raises(soma.WorkerDied) as caught:
        worker.forward("shout", None, timeout=60.0)
    assert "line 19999" in caught.value.stderr
    assert len(caught.value.stderr) < 200_000


# Nothing is left


def resources() -> tuple[int, int]:
    here = os.getpid()
    return len(descriptors()), len(Path(f"/proc/{here}/task/{here}/children").read_text().split())


@nightly
@both_at_night
def test_many_workers_leave_no_descriptors_and_no_processes(connect, transport):
    def use(number: int) -> soma.Worker:
        worker = connect(transport, filters={"echo": f.Echo()} if number % 3 == 0 else None)
        if number % 3 == 0:
            worker.forward("echo", bytes(200_000))
        pids.append(worker.ping().pid)
        worker.close()
        return worker

    pids: list[int] = []
    use(0)  # opens what is opened once and kept
    before = resources()
    kept = [use(number) for number in range(5)]
    wait_until_gone(*pids)
    wait_until(lambda: resources() <= before, 20.0, f"{before} became {resources()}")
    assert len(kept) == 5


@nightly
@both_at_night
def test_failed_starts_leave_no_descriptors(connect, transport, tmp_path):
    options = {"path": tmp_path / "absent"} if transport == "socket" else {"python": "/no/python"}
    attempts = 1 if transport == "socket" else 20
    before = resources()
    for _ in range(attempts):
        with pytest.raises(soma.StartFailed):
            soma.connect(transport, **options)
    assert resources() <= before


@nightly
def test_workers_that_died_leave_no_descriptors(connect):
    warm = connect("stdio", filters={"process": f.Process()})
    warm.close()
    before = resources()
    for _ in range(2):
        worker = connect("stdio", filters={"process": f.Process()})
        with pytest.raises(soma.WorkerDied):
            worker.forward("process", ("kill", signal.SIGKILL))
        worker.close()
    wait_until(lambda: resources() <= before, 20.0, f"{before} became {resources()}")


@both_at_night
def test_large_values_are_sent_over_and_over_without_further_descriptors(connect, transport):
    worker = connect(transport, filters={"process": f.Process(), "echo": f.Echo()})

    def send() -> tuple[int, int]:
        for size in range(20_000, 140_000, 3000):
            worker.forward("echo", np.zeros(size))
        return worker.forward("process", ("descriptors",)), len(descriptors())

    first = send()
    assert send() <= first
    assert max(first) < 150


@pytest.mark.nightly
@both_at_night
def test_many_large_results_are_kept_apart_while_the_host_holds_them(connect, transport):
    worker = connect(transport, filters={"echo": f.Echo()})
    held = [worker.forward("echo", np.full(20_000, number)) for number in range(60)]
    held[::2] = [None] * 30
    more = [worker.forward("echo", np.full(20_000, -number)) for number in range(60)]
    worker.close()
    for number, array in enumerate(held):
        assert array is None or (array == number).all()
    for number, array in enumerate(more):
        assert (array == -number).all()


def test_no_name_of_shared_memory_is_ever_visible(connect):
    before = set(os.listdir("/dev/shm"))
    worker = connect("stdio", filters={"echo": f.Echo()})
    worker.forward("echo", np.zeros(1_000_000))
    assert {name for name in os.listdir("/dev/shm") if "soma" in name.lower()} <= before


@pytest.mark.usefixtures("told_how")
@both_at_night
def test_a_crash_in_native_code_is_told_with_its_stack(connect, transport: str) -> None:
    worker = connect(transport, filters={"process": f.Process()})
    with pytest.raises(soma.WorkerDied) as caught:
        worker.forward("process", ("kill", int(signal.SIGSEGV)))
    assert caught.value.signal == "SIGSEGV"
    assert "Fatal Python error: Segmentation fault" in caught.value.stderr
    assert "in forward" in caught.value.stderr


# A filter forks


class Forks:
    """Forks a child that ends in some way, and returns its exit status."""

    def fit(self, x, y=None):
        return {}

    def forward(self, x, state):
        child = os.fork()
        if child == 0:
            if x == "raise":
                raise ValueError("in the child")
            if x == "exit":
                sys.exit(3)
            return x
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("joining", [{}, {"session": "forks"}], ids=["stdio", "session"])
def test_a_child_that_a_filter_forks_ends_as_one_of_a_program(connect, joining):
    """Also its worker lives on, of whose end the child says nothing."""
    lines = []
    transport = "socket" if joining else "stdio"
    worker = connect(transport, filters={"forks": Forks()}, output=lines.append, **joining)
    assert [worker.forward("forks", x) for x in ("raise", "exit", "return")] == [1, 3, 0]
    assert "ValueError: in the child" in lines
    assert lines.count(lines[0]) == 1
    assert worker.status().alive
    worker.shutdown()


class KeepsAskingAProcess:
    """Leaves a process and a thread that asks after it, as joblib does, which nobody ends."""

    def fit(self, x, y=None):
        return {}

    def forward(self, x, state):
        self.process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        descriptor = self.process.stdin.fileno()

        def ask():
            while True:
                os.fstat(descriptor)

        threading.Thread(target=ask, daemon=True).start()
        return x


def test_threads_that_run_to_the_end_of_a_worker_print_nothing_about_it(connect):
    lines = []
    worker = connect("stdio", filters={"keeps": KeepsAskingAProcess()}, output=lines.append)
    assert worker.forward("keeps", 1) == 1
    worker.close()
    assert lines == []
