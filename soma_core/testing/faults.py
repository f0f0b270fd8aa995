"""Faults as data: what a filter may do to its worker, when, and how the call may end."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from enum import Enum, StrEnum
from functools import partial
from typing import Any

from soma_core.models.filters import FilterKind, FilterMeta

_MIB = 1 << 20
_HEADROOM = 256 * _MIB  # bytes that a filter may take until its memory is exhausted
_LIFETIME = 60  # seconds: longer than any deadline, and what nobody ends does not stay for ever


class Moment(StrEnum):
    """When a fault happens: while the filter is unpickled, or in one of its methods."""

    IMPORT = "import"
    LOAD = "load"
    FIT = "fit"
    FORWARD = "forward"
    GET_STATE = "get_state"


class CallEnd(StrEnum):
    """How a call ended. The last three are never right."""

    RESULT = "a result"
    REMOTE_ERROR = "RemoteError"
    WORKER_DIED = "WorkerDied"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    OTHER_SOMA_ERROR = "another error of soma"
    UNTYPED_ERROR = "an error that is not soma's"
    NONE = "no end"


def _raise() -> None:
    raise RuntimeError("a fault was injected")


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    _sleep()


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    _sleep()


def _sleep() -> None:
    while True:
        time.sleep(3600)


def _hang_in_python() -> None:
    while True:
        pass


def _hang_in_c() -> None:
    """Read a pipe that stays empty, with the interpreter's lock held and calls restarted."""
    signal.siginterrupt(signal.SIGINT, False)
    reading, _ = os.pipe()
    ctypes.PyDLL(None).read(reading, ctypes.create_string_buffer(1), 1)


def _hang_deaf() -> None:
    _change_signals()  # another thread would receive what this one blocks
    ctypes.PyDLL(None).pause()


def _exhaust_memory() -> None:
    """Take all that a limit allows, down to the last page."""
    pages = int(open("/proc/self/statm").read().split()[0])  # noqa: SIM115 - as a filter would
    limit = pages * resource.getpagesize() + _HEADROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    taken: list[bytearray] = []
    size = 64 * _MIB
    while True:
        try:
            taken.append(bytearray(size))
        except MemoryError:
            if size <= 256:
                raise
            size //= 2


def _print_without_end() -> None:
    while True:
        print("noise " * 20)  # noqa: T201 - what it is about


def _fork_holding_the_wire() -> None:
    """Fork below Python, whose own fork would close the wire in the child."""
    libc = ctypes.PyDLL(None)
    if libc.fork() == 0:
        libc.alarm(_LIFETIME)
        while True:
            libc.pause()


def _fork_and_die() -> None:
    _fork_holding_the_wire()
    os.kill(os.getpid(), signal.SIGKILL)
    _sleep()


def _segfault() -> None:
    """Without the traceback that pytest prints in what it forks: this one is on purpose."""
    faulthandler.disable()
    ctypes.string_at(0)


def _daemonize() -> None:
    """Leave a process behind in a session of its own, whose parent is gone."""
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(_LIFETIME)
        os._exit(0)
    os.waitpid(child, 0)


def _become_daemon() -> None:
    """Go on in a child of a session of its own, as programs do that daemonize themselves."""
    if os.fork() != 0:
        os._exit(0)
    os.setsid()
    if os.fork() != 0:
        os._exit(0)


def _change_signals() -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)


def _change_directory() -> None:
    directory = tempfile.mkdtemp()
    os.chdir(directory)
    os.rmdir(directory)


class Fault(Enum):
    """A fault, with the ways in which a call may end during which it happens.

    Attributes:
        ends: The ways in which the call may end.
        silent: Whether nothing but a deadline ends the call.
    """

    RAISE = "raise", _raise, CallEnd.REMOTE_ERROR
    SYS_EXIT = "sys.exit", partial(sys.exit, 3), CallEnd.REMOTE_ERROR
    OS_EXIT = "os._exit", partial(os._exit, 3), CallEnd.WORKER_DIED
    SEGFAULT = "a segmentation fault", _segfault, CallEnd.WORKER_DIED
    KILL = "SIGKILL", _kill, CallEnd.WORKER_DIED
    TERMINATE = "SIGTERM", _terminate, CallEnd.WORKER_DIED
    HANG_IN_PYTHON = "a hang in Python", _hang_in_python, CallEnd.DEADLINE_EXCEEDED
    HANG_IN_C = "a hang in C", _hang_in_c, CallEnd.DEADLINE_EXCEEDED
    HANG_DEAF = "a hang in C with every signal ignored", _hang_deaf, CallEnd.DEADLINE_EXCEEDED
    PRINT_WITHOUT_END = "printing without end", _print_without_end, CallEnd.DEADLINE_EXCEEDED
    EXHAUST_MEMORY = (
        "exhausted memory", _exhaust_memory, CallEnd.REMOTE_ERROR, CallEnd.WORKER_DIED
    )  # fmt: skip
    FORK = "a forked child that holds the wire", _fork_holding_the_wire, CallEnd.RESULT
    FORK_AND_DIE = "a death with a child that holds the wire", _fork_and_die, CallEnd.WORKER_DIED
    DAEMONIZE = "a daemon of the filter's own", _daemonize, CallEnd.RESULT
    BECOME_DAEMON = (
        "a worker that daemonizes itself", _become_daemon, CallEnd.RESULT, CallEnd.WORKER_DIED
    )  # fmt: skip
    CLOSE_DESCRIPTORS = (
        "every descriptor closed", partial(os.closerange, 0, 1 << 16), CallEnd.WORKER_DIED
    )  # fmt: skip
    CHANGE_SIGNALS = "every signal ignored", _change_signals, CallEnd.RESULT
    CHANGE_DIRECTORY = "a current directory that is gone", _change_directory, CallEnd.RESULT

    def __init__(self, description: str, act: Callable[[], object], *ends: CallEnd) -> None:
        self.description = description
        self._act = act
        self.ends = frozenset(ends)

    @property
    def silent(self) -> bool:
        """Whether nothing but a deadline ends the call."""
        return CallEnd.DEADLINE_EXCEEDED in self.ends

    def happen(self) -> None:
        """Do it, here and now, to this process."""
        self._act()


class Faulty:
    """A filter that does no harm until its moment, and then its fault; only in a worker.

    Args:
        fault: What it does.
        moment: When.
    """

    def __init__(self, fault: Fault, moment: Moment) -> None:
        self.fault = fault
        self.moment = moment
        self._arrived = False

    def __reduce__(self) -> tuple[Any, ...]:
        self._reach(Moment.GET_STATE)
        return _arrive, (self.fault.name, self.moment.value)

    def meta(self) -> FilterMeta:
        """What LOAD asks for."""
        self._reach(Moment.LOAD)
        return FilterMeta(name="Faulty", kind=FilterKind.TRAINABLE)

    def fit(self, x: Any, y: Any = None) -> Any:
        """Learns its input."""
        self._reach(Moment.FIT)
        return {"learned": x}

    def forward(self, x: Any, state: Any = None) -> Any:
        """Returns its input."""
        self._reach(Moment.FORWARD)
        return x

    def _reach(self, moment: Moment) -> None:
        if self._arrived and moment is self.moment:
            self.fault.happen()


def _arrive(fault: str, moment: str) -> Faulty:
    faulty = Faulty(Fault[fault], Moment(moment))
    faulty._arrived = True
    faulty._reach(Moment.IMPORT)
    return faulty
