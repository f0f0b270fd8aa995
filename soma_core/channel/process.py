"""Worker processes: starting one that dies with its parent, watching it, and ending it.

Both sides are here: :class:`WorkerProcess` for the parent, and :func:`hold_lifeline` for the
child. The lifeline is a socket on which nothing is ever sent. The child has the kernel send
SIGKILL to its process group when the other end closes, which happens when the parent is gone,
whatever it died of, and even while the child is deep in C code. (``PR_SET_PDEATHSIG`` would
fire when the *thread* that started the child ends.)
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import io
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, NoReturn, Self

from soma_core.channel.contract import ExitStatus
from soma_core.channel.deadline import Deadline
from soma_core.channel.forks import close_in_forked_child
from soma_core.channel.output import OutputPump
from soma_core.channel.process_tree import TREE_VARIABLE, ProcessTree
from soma_core.channel.starting import starting
from soma_core.errors import StartFailed

LIFELINE_VARIABLE = "SOMA_LIFELINE"
SIDE_VARIABLE = "SOMA_SIDE"
_lifeline: int | None = None  # of this process, which has one for all its life
_holder = 0  # the process that it is of: a child that a filter forked has a copy
_IGNORED_BY_PYTHON = {getattr(signal, name, None) for name in ("SIGPIPE", "SIGXFZ", "SIGXFSZ")}
_ENDING = b"."  # what a worker sends on its lifeline when it begins to end by itself
_CHILDREN = 1.0  # seconds for the children of a worker to see that it ends, and to end too
_GENTLE = 0.5  # seconds to end after SIGTERM, before SIGKILL
_LAST_WORDS = 0.5  # seconds to wait for the end of a dead worker's output


class WorkerProcess:
    """A worker process of ours, in a session of its own.

    Args:
        command: The program and its arguments.
        output: Reads its stderr, and its stdout if that is not the wire; None shows it on the
            stderr of this process.
        wire: The descriptor that becomes its stdin and stdout; None leaves it without.
        side: A socket that it inherits, for shared memory; it finds it by
            :func:`inherited_side`.
        pass_fds: Descriptors that it inherits under their own numbers.
        env: Variables to add to this process's environment.
        inherits: Whether it gets this process's environment, or only what any program needs.
        cwd: Its working directory; None keeps this process's.
        leaves_children: Whether what it starts lives on without it, as what a zygote forks.

    Attributes:
        output: What reads its output.
        lifeline: Our end of its lifeline. It hangs up when the process ends, or when it has
            closed all its descriptors and goes on.

    Raises:
        StartFailed: The program cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        output: OutputPump | None = None,
        wire: int | None = None,
        side: socket.socket | None = None,
        pass_fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
        inherits: bool = True,
        cwd: str | os.PathLike[str] | None = None,
        leaves_children: bool = False,
    ) -> None:
        output = output or OutputPump()
        with starting(f"start {' '.join(command)}"), ExitStack() as undo:
            undo.callback(output.close)
            tree = None if leaves_children else ProcessTree()
            marks = {} if tree is None else {TREE_VARIABLE: tree.mark}
            if tree is not None:
                undo.callback(tree.release)
            ours, lifeline = socket.socketpair()
            undo.callback(ours.close)
            with lifeline:
                handed = {LIFELINE_VARIABLE: lifeline} | ({SIDE_VARIABLE: side} if side else {})
                process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.DEVNULL if wire is None else wire,
                    stdout=output.writing if wire is None else wire,
                    stderr=output.writing,
                    pass_fds=[*(end.fileno() for end in handed.values()), *pass_fds],
                    env=_environment({**(env or {}), **marks}, handed, inherits=inherits),
                    cwd=cwd,
                    start_new_session=True,
                )
            undo.pop_all()
        self._hold(process, output, ours, tree)

    @classmethod
    def adopted(
        cls, pid: int, lifeline: socket.socket, output: OutputPump, tree: ProcessTree
    ) -> Self:
        """Hold a process that another one forked, and whose parent this process is by now.

        Args:
            pid: The process; it has :func:`hold_lifeline` of the other end.
            lifeline: Our end of its lifeline, owned from here on.
            output: Reads its stdout and stderr.
            tree: What comes of it; it bears the mark.
        """
        held = cls.__new__(cls)
        held._hold(_AdoptedChild(pid), output, lifeline, tree)
        return held

    def _hold(
        self,
        process: subprocess.Popen[bytes] | _AdoptedChild,
        output: OutputPump,
        lifeline: socket.socket,
        tree: ProcessTree | None,
    ) -> None:
        close_in_forked_child(lifeline)
        self._process = process
        self._tree = tree
        if tree is not None:
            tree.led_by(process.pid)
        self.lifeline = lifeline
        self._owner = os.getpid()
        self._lock = threading.RLock()  # a signal handler may ask in the midst of an answer
        self._taken = False
        self.output = output
        try:
            output.start(f"worker {process.pid}")
        except StartFailed:
            self.stop(0.0)
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def started(self, pid: int) -> bool:
        """Whether that is its process, or one that it started (it may be a launcher).

        Args:
            pid: The process id to look for.
        """
        if pid == self.pid:
            return True
        try:
            import psutil

            if not hasattr(psutil, "Process"):  # a signal handler asks, in the midst of its import
                return False
            return any(child.pid == pid for child in psutil.Process(self.pid).children(True))
        except OSError:  # out of descriptors
            return False
        except psutil.Error:
            return False

    def poll(self) -> ExitStatus | None:
        """How it ended, or None while it runs. What it left in its session is killed.

        In a forked child of this process it is none of ours: nobody knows, and nothing is killed.
        """
        with self._lock:
            return self._reap()

    def wait(self, timeout: float) -> ExitStatus | None:
        """Wait until it has ended.

        Args:
            timeout: Seconds to wait.

        Returns:
            How it ended; None if it has not.
        """
        deadline = Deadline.after(timeout)
        while (status := self.poll()) is None and (left := deadline.left()):
            _wait_for_exit(self.pid, left)
        return status

    def interrupt(self) -> None:
        """Send SIGINT, as Ctrl-C would."""
        self.send_signal(signal.SIGINT)

    def stop(self, grace: float) -> ExitStatus | None:
        """End it: by itself within the grace, else by SIGTERM, else by SIGKILL.

        Args:
            grace: Seconds for it to end by itself; its input should be at its end by now.
        """
        status = self.wait(grace)
        for number, patience in ((signal.SIGTERM, _GENTLE), (signal.SIGKILL, 5.0)):
            if status is not None:
                break
            self.signal_group(number)
            status = self.wait(patience)
        self.release()
        self.output.finish(_LAST_WORDS)
        return status

    def is_ending(self) -> bool:
        """Whether it has come to its end and tidies up: it has called :func:`exit_now`."""
        try:
            return bool(self.lifeline.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:  # it has said nothing
            return False

    def release(self) -> None:
        """Let go of its lifeline, which ends it if it still runs."""
        self.lifeline.close()

    def output_tail(self, patience: float = _LAST_WORDS) -> str:
        """The last lines that it printed.

        Args:
            patience: Seconds to wait for the end of them, if the process has ended.
        """
        if self.poll() is not None:
            self.output.finish(patience)
        return self.output.tail()

    def send_signal(self, number: int) -> None:
        """Send a signal to it, if it runs.

        Args:
            number: The signal.
        """
        with self._lock:
            if self._reap() is None:
                os.kill(self.pid, number)

    def signal_group(self, number: int) -> None:
        """Send a signal to it and to the children that stayed in its process group.

        SIGKILL goes to it alone: they are killed once it has ended.

        Args:
            number: The signal.
        """
        if number == signal.SIGKILL:
            self.send_signal(number)
            return
        with self._lock:
            if self._reap() is None:
                _kill_group(self.pid, number)

    def _reap(self) -> ExitStatus | None:
        if self._taken or os.getpid() != self._owner:
            return ExitStatus()
        if self._process.returncode is None:
            flags = os.WEXITED | os.WNOWAIT | os.WNOHANG
            try:
                ended = os.waitid(os.P_PID, self.pid, flags)
            except ChildProcessError:  # somebody else in this program waited for our child
                self._process.poll()
                self._taken = True
                self._end_tree(None)
                return ExitStatus()
            if ended is None:
                return None
            # Before it is reaped its number cannot be another's, nor can that of its session.
            if not self._end_tree(self.pid):
                _kill_group(self.pid, signal.SIGKILL)
            self._process.wait()
            assert self._process.returncode is not None
        return ExitStatus.from_returncode(self._process.returncode)

    def _end_tree(self, leader: int | None) -> bool:
        """End what came of it; True if some of that is left to end by itself."""
        if self._tree is None:
            return False
        left = self._tree.kill(leader)
        self._tree.release()
        return left


class _AdoptedChild:
    """A child of this process that it did not start: what Popen is for one that it did."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode

    def wait(self) -> int:
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode


def _kill_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass  # nobody is left in it
    except PermissionError:  # macOS answers so for a group of zombies
        if sys.platform != "darwin":
            raise


def _wait_for_exit(pid: int, timeout: float) -> None:
    """Sleep until a child ends, or the time is over."""
    if not hasattr(os, "pidfd_open"):
        time.sleep(min(timeout, 0.02))
        return
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError:  # out of descriptors, or a kernel that is too old
        time.sleep(min(timeout, 0.02))
        return
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        poller.poll(timeout * 1000)
    finally:
        os.close(descriptor)


_NEEDED = frozenset({"HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER"})
"""The variables that any program needs, beside those of its language."""


def _environment(
    added: Mapping[str, str], handed: Mapping[str, socket.socket], *, inherits: bool
) -> dict[str, str]:
    kept = {
        key: value
        for key, value in os.environ.items()
        if key != SIDE_VARIABLE and (inherits or key in _NEEDED or key.startswith("LC_"))
    }
    merged = {**kept, **added, **{name: _identify(end) for name, end in handed.items()}}
    if "PYTHONPATH" in merged:  # an empty entry would be the current directory, in spite of -P
        entries = merged["PYTHONPATH"].split(os.pathsep)
        merged["PYTHONPATH"] = os.pathsep.join(filter(None, entries))
    return merged


def _identify(end: socket.socket) -> str:
    """Names a descriptor so that the child can tell that it really received this one."""
    return f"{end.fileno()}:{os.fstat(end.fileno()).st_ino}"


def hold_lifeline(handed: int | None = None) -> int | None:
    """Die with the parent that holds this process as a :class:`WorkerProcess`.

    Called by a daemon at its start. Does nothing where nobody handed it a lifeline (a shell, a
    remote launcher) or where the kernel has none (macOS): then the end of input ends it.

    Args:
        handed: The lifeline; None looks for the one that the parent handed down at the start.

    Returns:
        The lifeline, if there is one; it stays open as long as this process runs.
    """
    global _lifeline, _holder
    _holder = os.getpid()
    fd = _lifeline = _inherited(LIFELINE_VARIABLE) if handed is None else handed
    if fd is None or not sys.platform.startswith("linux"):
        return fd
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(fd, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    if poller.poll(0):  # the parent died before the kernel knew of the lifeline
        os.killpg(os.getpgrp(), signal.SIGKILL)
    return fd


def inherited_side() -> socket.socket | None:
    """The socket that the parent handed down as ``side``, if it did."""
    fd = _inherited(SIDE_VARIABLE)
    return None if fd is None else socket.socket(fileno=fd)


def _inherited(variable: str) -> int | None:
    """The socket that an environment variable names, if this process really inherited it."""
    descriptor, _, inode = os.environ.pop(variable, "").partition(":")
    if not descriptor.isdecimal():
        return None
    fd = int(descriptor)
    try:
        status = os.fstat(fd)
    except (OSError, OverflowError):
        return None
    if not stat.S_ISSOCK(status.st_mode) or str(status.st_ino) != inode:
        return None
    os.set_inheritable(fd, False)
    return fd


def default_signals() -> None:
    """Put signals back to what Python does by default, for this process and its children.

    Called by a daemon at its start: its parent may block or ignore some, and both are inherited.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals():
        if signal.getsignal(number) is signal.SIG_IGN and number not in _IGNORED_BY_PYTHON:
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)


def exit_now(status: int = 0) -> NoReturn:
    """End this process as Python would, but without waiting for threads of filters.

    Exit handlers run, files are flushed, and children that wait for this end, such as the
    resource tracker of :mod:`multiprocessing`, have a moment to see it. Whoever holds the other
    end of the lifeline knows from here on that this process ends by itself.

    Args:
        status: The exit status.
    """
    _tell_parent()
    _run_exit_handlers()
    threading.excepthook = lambda told: None  # threads that run on lose their files from here on
    _close_files()
    _wait_for_children()
    os._exit(status)


def _run_exit_handlers() -> None:
    """Run them; that of :mod:`multiprocessing` is done here, since it waits for children."""
    util: Any = sys.modules.get("multiprocessing.util")
    if util is None:
        atexit._run_exitfuncs()
        return
    atexit.unregister(util._exit_function)
    atexit._run_exitfuncs()
    util._run_finalizers(0)  # pools and managers end what they started, and tidy up
    for child in sys.modules["multiprocessing"].active_children():
        if child._parent_pid == os.getpid():  # else this was forked, and it is a sibling
            child.terminate()
    util._run_finalizers()


def _tell_parent() -> None:
    if _lifeline is not None and _holder == os.getpid():
        with suppress(OSError):  # the parent is gone, or a filter closed it
            os.write(_lifeline, _ENDING)


def _close_files() -> None:
    """Flush and close the files that are still open, those of filters among them."""
    streams: list[Any] = [sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__]
    for stream in streams:
        with suppress(AttributeError, ValueError, OSError):  # a filter closed or removed it
            stream.flush()
    kept = {id(stream) for stream in streams}
    kept |= {id(getattr(stream, "buffer", None)) for stream in streams}
    objects = gc.get_objects()
    kinds = {kind for kind in set(map(type, objects)) if _IO in kind.__mro__}
    files = [one for one in objects if type(one) in kinds and id(one) not in kept]
    for file in sorted(files, key=_depth):
        with suppress(Exception):  # it may be of any class, with a thread that uses it
            file.close()


_IO = io.IOBase.__mro__[1]  # the base of all files; the check of an abstract class costs more
_BUFFERS = (io.BufferedWriter, io.BufferedRandom, io.BufferedReader, io.BufferedRWPair)


def _depth(file: Any) -> int:
    """What writes into another file is closed before that."""
    if isinstance(file, io.TextIOWrapper):
        return 0
    if isinstance(file, _BUFFERS):
        return 2
    return 3 if isinstance(file, io.RawIOBase) else 1


def _wait_for_children() -> None:
    """Close what this process holds, and wait a moment for children that notice that."""
    with suppress(OSError):  # there are none any more, or no list of descriptors
        os.waitpid(-1, os.WNOHANG)
        for name in os.listdir("/dev/fd"):
            if int(name) > 2 and int(name) != _lifeline:
                with suppress(OSError):  # the one with which this was listed
                    os.close(int(name))
        deadline = Deadline.after(_CHILDREN)
        while not deadline.over():
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.005)
