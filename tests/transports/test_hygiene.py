"""Nothing that a filter does to its process breaks the wire."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from itertools import product
from typing import Any

import pytest

import soma_core as soma
from soma_core.client.connect import transport_maker
from soma_core.plugins.manager import installed_plugins

from ..support import (
    PROCESSES,
    both,
    either,
    gate_runs,
    is_running,
    short_directory,
    socket_daemon,
    wait_until,
    wait_until_gone,
)
from ..support import filters as f

HARMLESS: dict[str, Any] = {
    "print": lambda x, s: print("noise", flush=True),  # noqa: T201
    "print without an end": lambda x, s: print("noise", end=""),  # noqa: T201
    "write to sys.stdout's buffer": lambda x, s: f.sys.stdout.buffer.write(b"noise\n"),
    "write to sys.__stdout__": lambda x, s: f.sys.__stdout__.write("noise\n"),
    "write to fd 1": lambda x, s: f.os.write(1, b"noise\n"),
    "a shell": lambda x, s: f.os.system("echo noise"),
    "a child": lambda x, s: f.subprocess.run([f.sys.executable, "-c", "print('noise')"]).returncode,
    "a child that reads": lambda x, s: f.subprocess.run(["cat"], capture_output=True).stdout,
    "close fd 1": lambda x, s: f.os.close(1),
    "close fd 0": lambda x, s: f.os.close(0),
    "close fds 0 to 2": lambda x, s: [f.os.close(fd) for fd in (0, 1, 2)],
    "close sys.stdout": lambda x, s: f.sys.stdout.close(),
    "close sys.stderr": lambda x, s: f.sys.stderr.close(),
    "sys.stdout is None": lambda x, s: setattr(f.sys, "stdout", None),
    "redirect fd 1": lambda x, s: f.os.dup2(f.os.open("/dev/null", f.os.O_WRONLY), 1) and None,
    "change the cwd": lambda x, s: f.os.chdir("/"),
    "ignore SIGINT": lambda x, s: f.signal.signal(f.signal.SIGINT, f.signal.SIG_IGN) and None,
    "ignore SIGTERM": lambda x, s: f.signal.signal(f.signal.SIGTERM, f.signal.SIG_IGN) and None,
    "ignore SIGPIPE": lambda x, s: f.signal.signal(f.signal.SIGPIPE, f.signal.SIG_DFL) and None,
    "raise SIGINT": lambda x, s: f.signal.raise_signal(f.signal.SIGINT),
    "raise SIGCHLD": lambda x, s: f.signal.raise_signal(f.signal.SIGCHLD),
    "set a timer": lambda x, s: (
        f.signal.signal(f.signal.SIGALRM, lambda *_: None)
        and f.signal.setitimer(f.signal.ITIMER_REAL, 0.01, 0.01)
    ),
    "a warning": lambda x, s: __import__("warnings").warn("noise", stacklevel=2),
    "logging": lambda x, s: __import__("logging").getLogger().error("noise"),
    "a umask": lambda x, s: f.os.umask(0o777),
    "an empty environment": lambda x, s: f.os.environ.clear(),
    "sys.path emptied": lambda x, s: f.sys.path.clear(),
    "a lower recursion limit": lambda x, s: f.sys.setrecursionlimit(120),
    "another locale": lambda x, s: __import__("locale").setlocale(0, "C") and None,
    "a new process group of a child": lambda x, s: f.subprocess.Popen(
        ["sleep", "0"], start_new_session=True
    ).wait(),
}


class Watched:
    """A worker, and the transport that knows how it ended."""

    def __init__(self, transport: str, options: dict[str, Any], filters: dict[str, Any]) -> None:
        self.transport = transport_maker(transport, options, installed_plugins())()
        self.worker = soma.Worker(self.transport)
        self.worker.load(filters)

    def assert_ends_well(self) -> None:
        """Shut the worker down; one of ours must end by itself and with status 0."""
        pid = self.worker.ping().pid
        self.worker.shutdown()
        wait_until_gone(pid)
        if self.transport.name == "stdio":
            status = str(self.transport.poll())
            assert status == "exited with status 0", self.transport.diagnostics()


@pytest.fixture
def watched(options):
    started = []

    def start(transport: str, **filters: Any) -> Watched:
        started.append(Watched(transport, options(transport), filters))
        return started[-1]

    yield start
    for each in started:
        each.worker.close()


# The workers differ in how they keep their descriptors from filters, and in little else.
ON_THE_WIRE = (
    "print", "write to fd 1", "a shell", "a child that reads", "close fds 0 to 2",
    "close sys.stdout",
)  # fmt: skip
SAMPLE = [("stdio" if deed in ON_THE_WIRE else "socket", deed) for deed in HARMLESS]


# One of the deeds is a warning, which the host warns.
@pytest.mark.filterwarnings("ignore:noise")
@pytest.mark.parametrize(
    ("transport", "deed"), gate_runs(*SAMPLE, of=list(product(PROCESSES, HARMLESS)))
)
def test_what_a_filter_does_to_its_process_does_not_show_on_the_wire(watched, transport, deed):
    started = watched(transport, does=f.Apply(HARMLESS[deed]), echo=f.Echo())
    worker = started.worker
    with contextlib.suppress(soma.RemoteError):  # it may fail, as long as it is told
        worker.forward("does", None)
    assert worker.forward("echo", [1, b"2"]) == [1, b"2"]
    assert worker.forward("echo", bytes(200_000)) == bytes(200_000)
    started.assert_ends_well()


@both
def test_input_is_at_its_end(connect, transport):
    worker = connect(transport, filters={"reads": f.Apply(lambda x, s: input()), "echo": f.Echo()})
    with pytest.raises(EOFError):
        worker.forward("reads", None)
    assert worker.forward("echo", 1) == 1


@both
@pytest.mark.parametrize("status", [0, 3])
def test_sys_exit_is_an_error_reply(connect, transport, status):
    worker = connect(
        transport, filters={"exits": f.Apply(lambda x, s: f.sys.exit(x)), "echo": f.Echo()}
    )
    with pytest.raises(soma.RemoteError) as caught:
        worker.forward("exits", status)
    assert caught.value.remote_type == "SystemExit"
    assert worker.forward("echo", 1) == 1


@pytest.mark.usefixtures("told_how")
@both
def test_os_exit_is_a_death_with_its_status(connect, transport):
    worker = connect(transport, filters={"process": f.Process()})
    with pytest.raises(soma.WorkerDied) as caught:
        worker.forward("process", ("leave", 7))
    assert (caught.value.exit_code, caught.value.signal) == (7, None)


@both
def test_a_changed_sigint_handler_is_put_back_before_the_next_command(
    connect, transport, long_grace
):
    worker = connect(
        transport,
        filters={
            "changes": f.Apply(
                lambda x, s: f.signal.signal(f.signal.SIGINT, f.signal.SIG_IGN) and 0
            ),
            "sleep": f.Sleep(),
        },
    )
    worker.forward("changes", None)
    with pytest.raises(soma.DeadlineExceeded) as caught:
        worker.forward("sleep", ("naps", 60.0), timeout=0.3)
    assert caught.value.worker_survived is True


# Not warnings or types, which "python -m" imports before it runs a line of ours.
NAMES = ("pickle", "json", "numpy", "typing", "enum", "random", "base64", "socket", "copyreg")


@pytest.fixture
def shadows(tmp_path):
    """A directory with files that are named like modules and must not be imported."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the wrong module')\n")
    return tmp_path


@pytest.mark.parametrize("module", ["soma_transport_stdio", "soma_transport_socket"])
def test_files_in_the_daemons_cwd_do_not_replace_modules(shadows, module):
    arguments = ["--help"] if module == "soma_transport_socket" else []
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command, cwd=shadows, input='{"cmd":"PING"}\n', capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "wrong module" not in done.stderr


def test_files_in_the_workers_cwd_do_not_replace_modules(connect, shadows):
    worker = connect("stdio", cwd=shadows, filters={"echo": f.Echo()})
    assert worker.forward("echo", {1: 2}) == {1: 2}


@pytest.mark.nightly
def test_files_in_the_socket_daemons_cwd_do_not_replace_modules(shadows):
    with (
        short_directory() as directory,
        socket_daemon(directory / "s", cwd=shadows) as daemon,
        soma.connect("socket", path=daemon.path, filters={"echo": f.Echo()}) as worker,
    ):
        assert worker.forward("echo", {1: 2}) == {1: 2}


LEFT_RUNNING: dict[str, Any] = {
    "a thread": lambda x, s: f.Threads.start(daemon=False),
    "a daemon thread": lambda x, s: f.Threads.start(daemon=True),
    "a thread that prints": lambda x, s: f.Threads.start_printing(),
    "a pool": lambda x, s: f.Threads.start_pool(),
    "a child": lambda x, s: f.subprocess.Popen(["sleep", "600"]).pid,
    "an exit handler that raises": lambda x, s: __import__("atexit").register(lambda: 1 / 0) and 0,
}


@either
@pytest.mark.parametrize("what", LEFT_RUNNING)
def test_what_a_filter_leaves_running_does_not_keep_the_worker(watched, transport, what):
    started = watched(transport, leaves=f.Apply(LEFT_RUNNING[what]))
    left = started.worker.forward("leaves", None)
    started.assert_ends_well()
    if left:
        wait_until_gone(left)


@both
def test_a_child_of_multiprocessing_that_runs_on_is_ended_with_the_worker(connect, transport):
    """Python waits for such children at its exit; closing does not."""
    worker = connect(transport, filters={"leaves": f.Apply(lambda x, s: f.Threads.start_process())})
    left, pid = worker.forward("leaves", None), worker.ping().pid
    worker.close()
    wait_until_gone(left, pid)


@both
def test_exit_handlers_of_filters_run(connect, transport, tmp_path):
    path = tmp_path / "gone"
    worker = connect(
        transport,
        filters={
            "registers": f.Apply(
                lambda x, s: __import__("atexit").register(lambda: open(x, "w").close()) and 0
            )
        },
    )
    worker.forward("registers", str(path))
    worker.shutdown()
    wait_until(path.exists)


@both
def test_the_wire_is_not_inherited_by_children_of_filters(connect, transport):
    def descriptors_of_a_child(x, state):
        child = f.subprocess.run(
            ["ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, text=True
        )
        return child.stdout

    worker = connect(transport, filters={"looks": f.Apply(descriptors_of_a_child)})
    shown = worker.forward("looks", None)
    assert "pipe:" in shown
    assert "socket:" not in shown


@pytest.mark.nightly
def test_a_stray_sigint_to_an_idle_worker_does_nothing(connect):
    worker = connect("stdio", filters={"echo": f.Echo()})
    pid = worker.ping().pid
    for _ in range(20):
        os.kill(pid, signal.SIGINT)
        assert worker.forward("echo", 1) == 1
    assert is_running(pid)
