"""What filters did to their workers in bug reports of the field, as functions that do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["MISDEEDS"]

MISDEEDS: dict[str, Callable[[Any, Any], Any]] = {}


def misdeed(act: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    MISDEEDS[act.__name__.replace("_", " ")] = act
    return act


@misdeed
def closes_all_descriptors_and_sleeps(x, state):
    import os
    import time

    os.closerange(0, 1000)
    time.sleep(60)


@misdeed
def closes_all_descriptors_and_returns(x, state):
    __import__("os").closerange(3, 1000)
    return x


@misdeed
def closes_all_sockets_and_sleeps(x, state):
    import os
    import stat
    import time

    for fd in range(3, 100):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                os.close(fd)
        except OSError:
            continue
    time.sleep(60)


@misdeed
def shuts_all_sockets_down(x, state):
    import os
    import socket

    for fd in range(3, 100):
        try:
            with socket.socket(fileno=os.dup(fd)) as connection:
                connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue
    return x


@misdeed
def puts_something_else_under_all_descriptors(x, state):
    import os

    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in range(3, 100):
        if fd != nothing:
            os.dup2(nothing, fd)
    return x


@misdeed
def keeps_all_descriptors_from_blocking(x, state):
    import os

    for fd in range(3, 100):
        try:
            os.set_blocking(fd, False)
        except OSError:
            continue
    return x


@misdeed
def closes_the_standard_streams(x, state):
    import os
    import sys

    sys.stdout.close()
    sys.stderr.close()
    os.closerange(0, 3)
    return x


@misdeed
def becomes_another_program(x, state):
    __import__("os").execv("/bin/sleep", ["sleep", "60"])


@misdeed
def stops_itself(x, state):
    import os
    import signal

    os.kill(os.getpid(), signal.SIGSTOP)


@misdeed
def aborts(x, state):
    __import__("os").abort()


@misdeed
def exits_with_success(x, state):
    __import__("os")._exit(0)


@misdeed
def writes_into_memory_that_is_not_its_own(x, state):
    __import__("ctypes").memset(1, 0, 1)


@misdeed
def is_ended_by_a_timer(x, state):
    import signal
    import time

    signal.setitimer(signal.ITIMER_REAL, 0.05)
    time.sleep(60)


@misdeed
def is_ended_by_faulthandler(x, state):
    import faulthandler
    import time

    faulthandler.dump_traceback_later(0.05, exit=True)
    time.sleep(60)


@misdeed
def catches_every_exception_for_ever(x, state):
    while True:
        try:
            __import__("time").sleep(60)
        except BaseException:
            continue


@misdeed
def ignores_all_signals_and_computes(x, state):
    import signal

    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    while True:
        pass


@misdeed
def interrupts_itself_from_a_thread(x, state):
    import _thread
    import threading
    import time

    threading.Thread(target=_thread.interrupt_main).start()
    time.sleep(60)


@misdeed
def leaves_a_thread_that_never_ends(x, state):
    import threading

    threading.Thread(target=threading.Event().wait, daemon=False).start()
    return x


@misdeed
def leaves_a_thread_that_prints_without_end(x, state):
    import threading

    def prints() -> None:
        while True:
            print("noise " * 100)  # noqa: T201 - what it is about

    threading.Thread(target=prints, daemon=True).start()
    return x


@misdeed
def starts_many_processes_in_sessions_of_their_own(x, state):
    import subprocess

    for _ in range(20):
        subprocess.Popen(["sleep", "60"], start_new_session=True)
    return x


@misdeed
def starts_processes_without_end(x, state):
    import subprocess

    while True:
        subprocess.Popen(["sleep", "60"], start_new_session=True).poll()


@misdeed
def forks_twice_with_setsid(x, state):
    import os
    import time

    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(60)
        os._exit(0)
    os.wait()
    return x


@misdeed
def forks_and_returns_in_both(x, state):
    __import__("os").fork()
    return x


@misdeed
def leaves_a_pool(x, state):
    import multiprocessing

    leaves_a_pool.pool = multiprocessing.get_context("fork").Pool(2)  # type: ignore[attr-defined]
    return leaves_a_pool.pool.map(abs, [x])  # type: ignore[attr-defined]


@misdeed
def leaves_a_spawned_process(x, state):
    import multiprocessing
    import time

    multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,)).start()
    return x


@misdeed
def leaves_an_exit_handler_that_never_ends(x, state):
    import atexit
    import time

    atexit.register(time.sleep, 60)
    return x


@misdeed
def leaves_an_exit_handler_that_starts_a_process(x, state):
    import atexit
    import subprocess

    atexit.register(subprocess.Popen, ["sleep", "60"], start_new_session=True)
    return x


@misdeed
def returns_what_hangs_when_it_is_deleted(x, state):
    class Hangs:
        def __del__(self) -> None:
            __import__("time").sleep(60)

    returns_what_hangs_when_it_is_deleted.kept = Hangs()  # type: ignore[attr-defined]
    return x


@misdeed
def returns_what_exits_when_it_is_pickled(x, state):
    class Exits:
        def __reduce__(self) -> Any:
            raise SystemExit(3)

    return Exits()


@misdeed
def returns_what_nests_without_end(x, state):
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


@misdeed
def raises_what_cannot_be_shown(x, state):
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise SystemExit(4)

        __repr__ = __str__

    raise Unspeakable


@misdeed
def forbids_recursion(x, state):
    __import__("sys").setrecursionlimit(60)
    return x


@misdeed
def forgets_all_modules(x, state):
    __import__("sys").modules.clear()
    return x


@misdeed
def traces_and_raises(x, state):
    import sys

    def trace(*arguments: object) -> None:
        raise RuntimeError("traced")

    sys.settrace(trace)
    return x


@misdeed
def takes_all_descriptors(x, state):
    import os

    kept = takes_all_descriptors.kept = []  # type: ignore[attr-defined]
    while True:
        kept.append(os.open(os.devnull, os.O_RDONLY))


@misdeed
def allows_itself_no_memory(x, state):
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (1 << 20, resource.RLIM_INFINITY))
    return bytes(1 << 22)


@misdeed
def fills_stderr_without_a_line(x, state):
    __import__("os").write(2, b"x" * 30_000_000)
    return x


@misdeed
def removes_where_it_is(x, state):
    import os
    import tempfile

    directory = tempfile.mkdtemp()
    os.chdir(directory)
    os.rmdir(directory)
    os.umask(0o777)
    return x
