"""How a worker begins and ends: nothing bad is inherited, nothing is lost, nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import soma_core as soma

from ..support import (
    both_at_night,
    descriptors,
    gate_runs,
    is_running,
    nightly,
    run_python,
    short_directory,
    socket_daemon,
    wait_until,
    wait_until_gone,
)
from ..support import filters as f

# A clean end


def holds_much(x, state):
    """Hold what Python tidies up at its end, in a file, a directory and shared memory."""
    import atexit
    import importlib
    import tempfile
    from multiprocessing import shared_memory

    holds_much.files = [
        importlib.import_module("io").open(f"{x}/text", "w"),
        importlib.import_module("gzip").open(f"{x}/zipped", "wt"),
    ]
    for file in holds_much.files:
        file.write("a row\n")
    holds_much.directory = tempfile.TemporaryDirectory(dir=x)
    holds_much.memory = shared_memory.SharedMemory(create=True, size=1000)
    atexit.register(lambda: open(f"{x}/at_exit", "w").close())
    return holds_much.directory.name, holds_much.memory.name


def close_during_a_call(worker) -> None:
    """The filter of the call waits for its interrupt, as most would."""
    worker.load({"sleep": f.Sleep()})
    with ThreadPoolExecutor() as pool:
        call = pool.submit(worker.forward, "sleep", ("naps", 600.0))
        wait_until(lambda: worker.status().command == "FORWARD")
        worker.close()
        with pytest.raises(soma.ChannelClosed):
            call.result(20.0)


ENDS = {
    "close": lambda worker: worker.close(),
    "close during a call": close_during_a_call,
    "shutdown": lambda worker: worker.shutdown(),
}


@both_at_night
@pytest.mark.parametrize("end", gate_runs("close", of=list(ENDS)))
def test_what_filters_hold_is_tidied_up_at_the_end(connect, transport, end, tmp_path):
    worker = connect(transport, filters={"holds": f.Apply(holds_much)}, output="devnull")
    directory, memory = worker.forward("holds", str(tmp_path))
    assert os.path.exists(directory)
    ENDS[end](worker)
    assert_tidied_up(tmp_path, directory, memory)


def assert_tidied_up(tmp_path, directory, memory) -> None:
    import gzip

    assert (tmp_path / "text").read_text() == "a row\n"
    with gzip.open(tmp_path / "zipped", "rt") as zipped:
        assert zipped.read() == "a row\n"
    assert (tmp_path / "at_exit").exists()
    assert not os.path.exists(directory)
    wait_until(lambda: not os.path.exists(f"/dev/shm/{memory}"))


NEVER_CLOSED = """
import sys
import soma_core as soma
class Holds(soma.Filter):
    def forward(self, x, state):
        import atexit
        self._place = x
        self._file = open(x + "/text", "w")
        self._file.write("a row")
        atexit.register(lambda: open(x + "/at_exit", "w").close())
    def on_unload(self):
        open(self._place + "/unloaded", "w").close()
    _file: object = None
    _place: str = ""
def main():
    options = {"path": sys.argv[3]} if sys.argv[2] == "socket" else {}
    worker = soma.connect(sys.argv[2], filters={"holds": Holds()}, **options)
    worker.forward("holds", sys.argv[1])
    if sys.argv[4] == "raises":
        raise RuntimeError("the end of the script")
if __name__ == "__main__":
    main()  # at whose end nobody holds the worker any more
"""


@both_at_night
@pytest.mark.parametrize("how", ["ends", pytest.param("raises", marks=nightly)])
def test_a_script_that_never_closes_ends_its_worker_cleanly(transport, how, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(NEVER_CLOSED)
    with short_directory() as directory, socket_daemon(directory / "s") as daemon:
        command = [sys.executable, str(script), str(tmp_path), transport, str(daemon.path), how]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == (how == "raises"), done.stderr
        wait_until((tmp_path / "at_exit").exists)
        assert (tmp_path / "unloaded").exists()
        wait_until(lambda: (tmp_path / "text").read_text() == "a row")


@nightly
@both_at_night
def test_a_script_that_ends_during_a_call_ends_its_worker_too(transport, tmp_path):
    source = """if True:
        import os, sys, threading
        import soma_core as soma
        class Naps(soma.Filter):
            def forward(self, x, state):
                import os, time
                print(os.getpid(), flush=True)
                time.sleep(600)
        if __name__ == "__main__":
            options = {"path": sys.argv[2]} if sys.argv[1] == "socket" else {}
            seen = threading.Event()
            def show(line):
                sys.stdout.write(line + "\\n"); seen.set()
            worker = soma.connect(sys.argv[1], filters={"n": Naps()}, output=show, **options)
            threading.Thread(target=worker.forward, args=["n", 1], daemon=True).start()
            seen.wait()
    """
    with short_directory() as directory, socket_daemon(directory / "s") as daemon:
        done = run_python(source, transport, daemon.path, directory=tmp_path)
        wait_until_gone(int(done.stdout))


@nightly
@both_at_night
def test_shared_memory_of_a_worker_that_is_killed_is_removed(connect, transport, tmp_path):
    worker = connect(transport, filters={"holds": f.Apply(holds_much)}, output="devnull")
    _, memory = worker.forward("holds", str(tmp_path))
    os.kill(worker.ping().pid, signal.SIGKILL)
    with pytest.raises(soma.WorkerDied):
        worker.forward("holds", str(tmp_path))
    wait_until(lambda: not os.path.exists(f"/dev/shm/{memory}"))


@nightly
@both_at_night
def test_an_exit_handler_that_takes_its_time_is_waited_for(connect, transport, tmp_path):
    """Longer than the daemon gives to a worker whose client is gone and that does not end."""

    def registers(x, state):
        def save():
            f.time.sleep(1.3)
            open(x, "w").close()

        __import__("atexit").register(save)

    path = tmp_path / "saved"
    worker = connect(transport, filters={"registers": f.Apply(registers)})
    worker.forward("registers", str(path))
    worker.close()
    wait_until(path.exists)


@nightly
@both_at_night
def test_an_exit_handler_that_never_ends_is_not(connect, transport):
    def registers(x, state):
        __import__("atexit").register(f.time.sleep, 600)

    worker = connect(transport, filters={"registers": f.Apply(registers)})
    worker.forward("registers", None)
    pid = worker.ping().pid
    worker.close()
    wait_until_gone(pid)


# on_unload


class Unloads(soma.Filter):
    """Adds a line to a file when it is unloaded."""

    path: str
    name: str
    fails: bool = False

    def forward(self, x, state):
        return x

    def on_load(self):
        if self.name == "cannot load":
            raise OSError("no device")

    def on_unload(self):
        with open(self.path, "a") as file:
            file.write(self.name + "\n")
        if self.fails:
            sys.exit("a reason")


@pytest.fixture
def unloaded(tmp_path):
    """The names of the filters that were unloaded, in their order."""
    path = tmp_path / "unloaded"
    path.touch()

    def names() -> list[str]:
        return path.read_text().splitlines()

    names.path = str(path)
    return names


every_transport = pytest.mark.parametrize("transport", ["inline", "stdio", "socket"])


@every_transport
def test_a_filter_is_told_when_it_is_unloaded(connect, transport, unloaded):
    worker = connect(transport, filters={"a": Unloads(path=unloaded.path, name="a")})
    worker.unload(["a"])
    assert unloaded() == ["a"]
    worker.close()
    assert unloaded() == ["a"]


@pytest.mark.nightly
@every_transport
def test_a_filter_is_told_when_another_takes_its_place(connect, transport, unloaded):
    worker = connect(transport, filters={"a": Unloads(path=unloaded.path, name="a")})
    worker.load({"a": Unloads(path=unloaded.path, name="b")})
    assert unloaded() == ["a"]


@every_transport
def test_filters_are_told_when_the_worker_ends_the_last_first(connect, transport, unloaded):
    filters = {name: Unloads(path=unloaded.path, name=name) for name in "abc"}
    connect(transport, filters=filters).close()
    wait_until(lambda: len(unloaded()) == 3)
    assert unloaded() == ["c", "b", "a"]


@pytest.mark.nightly
@every_transport
def test_filters_of_a_load_that_fails_are_told(connect, transport, unloaded):
    worker = connect(transport)
    names = ("a", "b", "cannot load")
    with pytest.raises(soma.RemoteError, match="no device"):
        worker.load({name: Unloads(path=unloaded.path, name=name) for name in names})
    assert sorted(unloaded()) == ["a", "b"]


@pytest.mark.nightly
@both_at_night
def test_what_on_unload_raises_is_logged_and_stops_nothing(connect, transport, unloaded, caplog):
    lines: list[str] = []
    filters = {
        "a": Unloads(path=unloaded.path, name="a", fails=True),
        "b": Unloads(path=unloaded.path, name="b", fails=True),
    }
    worker = connect(transport, filters=filters, output=lines.append)
    worker.unload(["a"])
    assert [record.getMessage() for record in caplog.records] == ["on_unload of node 'a' failed"]
    assert "SystemExit: a reason" in caplog.text
    worker.close()
    assert unloaded() == ["a", "b"]
    assert "ERROR:soma.engine:on_unload of node 'b' failed" in lines


def test_filters_of_a_session_are_told_when_it_is_shut_down(connect, unloaded):
    name = f"told-{os.getpid()}"
    filters = {"a": Unloads(path=unloaded.path, name="a")}
    connect("socket", session=name, filters=filters).close()
    assert unloaded() == []
    connect("socket", session=name).shutdown()
    assert unloaded() == ["a"]


# What is inherited


def signals_of_this_process(x, state):
    mask = f.signal.pthread_sigmask(f.signal.SIG_BLOCK, ())
    ignored = [
        int(number)
        for number in f.signal.valid_signals()
        if f.signal.getsignal(number) is f.signal.SIG_IGN
    ]
    return sorted(map(int, mask)), ignored


def test_signals_that_the_host_blocks_or_ignores_are_at_their_defaults_in_a_worker(connect):
    usual = connect("stdio", filters={"s": f.Apply(signals_of_this_process)}).forward("s", None)
    numbers = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        worker = connect("stdio", filters={"s": f.Apply(signals_of_this_process)})
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
        signal.signal(signal.SIGCHLD, before)
    assert worker.forward("s", None) == usual
    assert usual[0] == []


@pytest.mark.nightly
def test_a_worker_of_a_host_that_blocks_sigint_can_be_interrupted(connect, long_grace):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        worker = connect("stdio", filters={"sleep": f.Sleep()})
        with pytest.raises(soma.DeadlineExceeded) as caught:
            worker.forward("sleep", ("naps", 60.0), timeout=0.3)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    assert caught.value.worker_survived is True


@nightly
@both_at_night
def test_a_host_that_dies_of_sigpipe_is_not_killed_by_the_death_of_its_worker(transport, tmp_path):
    source = """if True:
        import os, signal, sys
        import soma_core as soma
        class Echo(soma.Filter):
            def forward(self, x, state): return x
        if __name__ == "__main__":
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            options = {"path": sys.argv[2]} if sys.argv[1] == "socket" else {}
            worker = soma.connect(
                sys.argv[1], filters={"echo": Echo()}, restart="on-crash", **options
            )
            pid = worker.ping().pid
            os.kill(pid, signal.SIGKILL)
            while os.path.exists(f"/proc/{pid}/fd/1"): pass
            try: worker.forward("echo", 1)
            except soma.WorkerDied: pass  # over a socket the command could still be sent
            print(worker.forward("echo", bytes(10)), worker.forward("echo", bytes(3_000_000))[:2])
    """
    with short_directory() as directory, socket_daemon(directory / "s") as daemon:
        done = run_python(source, transport, daemon.path, directory=tmp_path)
    assert done.stdout == f"{bytes(10)} {bytes(2)}\n"


# Children of filters


GROUPS = {
    "a process group of its own": {"process_group": 0},
    "a session of its own": {"start_new_session": True},
}
needs_proc = pytest.mark.skipif(not os.path.isdir("/proc"), reason="without a list of processes")


@needs_proc
@both_at_night
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("end", [pytest.param("close", marks=nightly), "kill"])
def test_children_of_filters_are_ended_whatever_group_they_are_in(connect, transport, group, end):
    def begins(x, state):
        return f.subprocess.Popen(["sleep", "600"], **x).pid

    worker = connect(transport, filters={"begins": f.Apply(begins)})
    child, pid = worker.forward("begins", GROUPS[group]), worker.ping().pid
    assert is_running(child)
    if end == "close":
        worker.close()
    else:
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(soma.WorkerDied):
            worker.forward("begins", {})
    wait_until_gone(child, pid)


HOST_OF_AN_UNMARKED_CHILD = """
import os, signal, sys, time
from soma_core.transport import WorkerProcess

shell = f"set -m; env -i sleep 600 & echo $! > {sys.argv[1]}; mv {sys.argv[1]} {sys.argv[2]}; wait"
process = WorkerProcess(["/bin/sh", "-c", shell])
while not os.path.exists(sys.argv[2]):
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""


@needs_proc
def test_what_is_left_in_the_session_of_a_worker_ends_with_a_killed_host(tmp_path):
    script = tmp_path / "host.py"
    script.write_text(HOST_OF_AN_UNMARKED_CHILD)
    told = tmp_path / "child"
    subprocess.run([sys.executable, str(script), str(tmp_path / "half"), str(told)], check=False)
    wait_until_gone(int(told.read_text()))


@both_at_night
def test_pools_and_managers_of_a_filter_end_cleanly_and_what_it_wrote_is_kept(connect, transport):
    def begins(x, state):
        import multiprocessing
        import tempfile

        tempfile.tempdir = x
        context = multiprocessing.get_context("fork")
        fd = f.os.open(f"{x}/written", f.os.O_CREAT | f.os.O_WRONLY)
        begins.file = f.os.fdopen(fd, "w")
        begins.file.write("kept")
        begins.manager = context.Manager()
        begins.pool = context.Pool(2)
        return begins.pool.map(f.os.getpgid, [0, 0]) and [
            child.pid for child in multiprocessing.active_children()
        ]

    with short_directory() as directory:
        worker = connect(transport, filters={"begins": f.Apply(begins)})
        children = worker.forward("begins", str(directory))
        assert len(list(directory.iterdir())) == 2
        worker.close()
        wait_until_gone(*children)
        assert [path.name for path in directory.iterdir()] == ["written"]
        assert (directory / "written").read_text() == "kept"


@nightly
@pytest.mark.parametrize("where", ["stdio", "socket", "session"])
def test_a_worker_that_closes_its_descriptors_and_goes_on_is_seen_and_ended(connect, where):
    def closes(x, state):
        child = f.subprocess.Popen(["sleep", "600"], start_new_session=True).pid
        with open(x, "w") as file:
            file.write(f"{f.os.getpid()} {child}")
        f.os.closerange(3, 1000)
        f.time.sleep(600)

    options = {"session": f"closes-{os.getpid()}"} if where == "session" else {}
    transport = "stdio" if where == "stdio" else "socket"
    worker = connect(transport, filters={"closes": f.Apply(closes)}, **options)
    with short_directory() as directory:
        begun = time.monotonic()
        with pytest.raises(soma.WorkerDied):
            worker.forward("closes", str(directory / "pids"), timeout=60.0)
        assert time.monotonic() - begun < 10.0
        wait_until_gone(*map(int, (directory / "pids").read_text().split()))


@nightly
def test_many_ends_leave_no_descriptor_and_no_thread(connect):
    def used() -> tuple[int, int]:
        return len(descriptors()), threading.active_count()

    connect("stdio").close()
    before = used()
    for _ in range(5):
        connect("stdio", filters={"echo": f.Echo()}).close()
    wait_until(lambda: used() <= before)
