"""What a worker prints: read from a pipe, and shown by the host.

Reading never waits for showing. One thread reads, so that a worker that prints is not held up;
the lines wait in memory, of which they may take a bounded amount, for whoever shows them: the
thread that gets the reply of a call, before it returns, or a thread of their own.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from termios import FIONREAD
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BeforeValidator

from soma_core.channel.deadline import Deadline
from soma_core.channel.forks import close_in_forked_child
from soma_core.channel.printed import LineCutter, OutputLine
from soma_core.channel.starting import starting
from soma_core.errors import StartFailed

_log = logging.getLogger("soma.worker")
_NO_BYTES = bytes(4)  # how many can be read, as the kernel says it
_PIPE = 1 << 18  # bytes that a worker can print before anybody reads
_MOST_WAITING = 1 << 22  # characters that wait to be shown; then the oldest are dropped
_GATHER = 0.005  # seconds: a call that ends within them shows by itself what it printed
_UNFINISHED = 10.0  # seconds after which a line without an end is shown as it is
_STUCK = 1.0  # seconds in which nothing was shown: then reading goes on without showing
_BRIEFLY = 0.2  # seconds that a call waits for another thread that is showing
_TAIL_LINES = 50
_TAIL_LINE = 1000  # characters
_TAIL = 8000


def _checked(output: Any) -> Any:
    if output in ("stderr", "log", "devnull") or callable(output) or isinstance(output, Path):
        return output
    if isinstance(output, str) and (os.sep in output or "." in output):
        return Path(output).absolute()
    raise ValueError(
        "'stderr', 'log', 'devnull', a path (as in './worker.log') or a function of a line is "
        f"expected, got {output!r}"
    )


Output = Annotated[
    Literal["stderr", "log", "devnull"] | Path | Callable[[OutputLine], object],
    BeforeValidator(_checked),
]
"""Where a host shows what a worker prints: the option ``output``."""


def _no_node() -> None:
    """No command runs."""


class OutputPump:
    """Reads what a worker prints, and shows it.

    Args:
        to: ``"stderr"``: the ``sys.stderr`` of this process, each line marked with the worker.
            ``"log"``: the logger ``soma.worker``, level INFO. ``"devnull"``: nowhere. A path: at
            the end of that file. A function: called with each :class:`OutputLine`, from any
            thread; what it raises is reported once, and changes nothing.
        reading: The end to read of a pipe that somebody else made, owned from here on; None
            makes a new pipe.

    Attributes:
        writing: The end of the pipe that becomes the worker's stdout and stderr.
        reading: The other end.
        node_of: Says whose command runs, of which node: lines are marked with that.

    Raises:
        StartFailed: The file cannot be opened, or this process has no descriptors left.
    """

    def __init__(self, to: Output = "stderr", reading: int | None = None) -> None:
        self._show = _shows(to)
        self._woken, self._wakes = _pipe()
        try:
            self.reading, self.writing = _pipe() if reading is None else (reading, -1)
        except StartFailed:
            _close_all(self._woken, self._wakes)
            raise
        os.set_blocking(self.reading, False)
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with suppress(OSError):  # the user's pipes have taken what they may
                fcntl.fcntl(self.reading, fcntl.F_SETPIPE_SZ, _PIPE)
        self.node_of: Callable[[], str | None] = _no_node
        self._name = "worker"
        self._cutter = LineCutter()
        # Of what is read, and waits to be shown. A signal handler may close in the midst of that.
        self._lock = threading.RLock()
        self._waiting: deque[OutputLine] = deque()
        self._size = self._dropped = self._shown = 0
        self._printed_size = bytearray(_NO_BYTES)  # cheaper than a new one for each question
        self._stuck_at = -1
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._ended = False
        self._showing = threading.Lock()
        self._more, self._progress = threading.Event(), threading.Event()
        self._reader: threading.Thread | None = None
        self._shower: threading.Thread | None = None
        close_in_forked_child(self)

    def start(self, name: str) -> None:
        """Begin to read. Called once the worker has its end, of which the copy here is closed.

        Args:
            name: What to call the worker: ``worker 4711``.

        Raises:
            StartFailed: This process can start no more threads.
        """
        self._name = name
        self._close_writing()
        self._reader = threading.Thread(target=self._read_on, name="soma-output", daemon=True)
        try:
            self._reader.start()
        except RuntimeError as error:
            self._reader = None
            self.close()
            raise StartFailed(
                f"no thread can be started to read what {name} prints; end threads that are not "
                "needed, or raise the limit (ulimit -u)"
            ) from error

    def show(self, *, unfinished: bool = True) -> None:
        """Show what was printed up to now.

        Called by a Worker before a call returns, and before it shows a record of the worker.

        Args:
            unfinished: Whether to show a line that has no end yet as it is.
        """
        if not (self._waiting or self._cutter.unfinished or self._ended):
            try:
                fcntl.ioctl(self.reading, FIONREAD, self._printed_size)
                if self._printed_size == _NO_BYTES:
                    return
            except OSError:  # it was closed meanwhile
                return
        self._take(unfinished=unfinished)
        self._deliver(_BRIEFLY)

    def finish(self, patience: float) -> None:
        """Show the last that a worker printed, which has ended, and read no more.

        Args:
            patience: Seconds to wait for the end of it: a child of the worker may hold the pipe.
        """
        deadline = Deadline.after(patience)
        if self._reader is not None and self._reader is not threading.current_thread():
            self._reader.join(patience)
            self._close_wakes()
            self._reader.join(2 * _STUCK)
        self._take(unfinished=True)
        self._deliver(deadline.left())

    def tail(self) -> str:
        """The last lines that the worker printed."""
        self._take(unfinished=False)
        with self._lock:
            lines = [*self._tail, *self._cutter.peek()]
        size, kept = 0, deque[str]()
        for line in reversed(lines):
            size += len(line) + 1
            if size > _TAIL and kept:
                break
            kept.appendleft(line)
        return "\n".join(kept)

    def close(self) -> None:
        """Let go of the pipe where no thread reads it; in a forked child, of the copy there."""
        self._close_writing()
        self._close_wakes()
        if not self._ended:
            self._ended = True
            _close_all(self.reading, self._woken)

    @property
    def reads(self) -> bool:
        """Whether more may come."""
        return not self._ended

    def stop(self) -> None:
        """Read no more, soon; nobody waits for that."""
        self._close_wakes()

    def _close_writing(self) -> None:
        writing, self.writing = self.writing, -1
        if writing >= 0:
            os.close(writing)

    def _close_wakes(self) -> None:
        wakes, self._wakes = self._wakes, -1
        if wakes >= 0:
            os.close(wakes)

    def _read_on(self) -> None:
        poller = select.poll()
        for fd in (self.reading, self._woken):
            poller.register(fd, select.POLLIN)
        stopped = False
        while not (self._ended or stopped):
            unfinished = bool(self._cutter.unfinished)
            ready = dict(poller.poll(_UNFINISHED * 1000 if unfinished else None))
            stopped = self._woken in ready
            if not stopped:
                time.sleep(_GATHER)
            self._take(unfinished=unfinished and not ready)
            if self._waiting:
                self._deliver_elsewhere()
        with self._lock:
            self._ended = True
            _close_all(self.reading, self._woken)
        self._close_wakes()
        self._take(unfinished=True)
        self._deliver(None)
        self._more.set()  # so that the other thread ends

    def _take(self, *, unfinished: bool) -> None:
        """Read what there is.

        Args:
            unfinished: Whether to take a line that has no end yet as it is.
        """
        with self._lock:
            left = 4 * _PIPE  # whoever prints without end must not keep us here
            while not self._ended and left > 0:
                try:
                    data = os.read(self.reading, _PIPE)
                except BlockingIOError:
                    break
                left -= len(data)
                self._keep(self._cutter.feed(data))
                self._ended = not data
                if len(data) < _PIPE:
                    break
            if unfinished or self._ended:
                self._keep(self._cutter.finish())

    def _keep(self, lines: Sequence[str]) -> None:
        self._tail.extend(line[:_TAIL_LINE] for line in lines)
        if self._show is None:
            return
        node_id = self.node_of()
        self._waiting.extend(OutputLine(line, self._name, node_id) for line in lines)
        self._size += sum(map(len, lines))
        while self._size > _MOST_WAITING:
            self._size -= len(self._waiting.popleft())
            self._dropped += 1

    def _deliver_elsewhere(self) -> None:
        """Have a thread show what waits; wait for it as long as it makes progress."""
        if self._shower is None:
            shower = threading.Thread(target=self._deliver_on, name="soma-shown", daemon=True)
            try:
                shower.start()
            except RuntimeError:  # no more threads: the next call shows it
                return
            self._shower = shower
        self._more.set()
        while self._size > _MOST_WAITING // 2 and self._shown != self._stuck_at:
            shown = self._shown
            self._progress.clear()
            if not self._progress.wait(_STUCK):
                self._stuck_at = shown

    def _deliver_on(self) -> None:
        while not (self._ended and not self._waiting):
            self._more.wait()
            self._more.clear()
            while self._waiting:
                self._deliver(None)

    def _deliver(self, patience: float | None) -> None:
        """Show what waits, unless another thread shows so long that the patience is over."""
        if not self._showing.acquire(timeout=-1 if patience is None else patience):
            return
        try:
            with self._lock:
                lines, self._waiting = list(self._waiting), deque()
                dropped, self._dropped, self._size = self._dropped, 0, 0
            if dropped:
                notice = f"({dropped} lines are missing here: showing them was held up)"
                lines.insert(0, OutputLine(notice, self._name))
            if lines and self._show is not None:
                self._show(lines)
        finally:
            self._showing.release()
            self._shown += 1
            self._progress.set()


def _pipe() -> tuple[int, int]:
    with starting("make a pipe for what the worker prints"):
        return os.pipe()


def _close_all(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


_Show = Callable[[Sequence[OutputLine]], object]
_T = TypeVar("_T")


def _shows(to: Output) -> _Show | None:
    """What shows lines at a place; None for nowhere.

    Raises:
        StartFailed: The file cannot be opened.
    """
    if to == "devnull":
        return None
    if to == "stderr":
        return _Guarded(_show_on_stderr)
    if isinstance(to, Path):
        _show_in_file(to, ())
        return _Guarded(partial(_show_in_file, to))
    return partial(_show_each, _Guarded(_show_in_log if to == "log" else to))


class _Guarded(Generic[_T]):
    """Calls what shows lines; that it raises is reported once, and it is called again."""

    def __init__(self, show: Callable[[_T], object]) -> None:
        self._show = show
        self._reported = False

    def __call__(self, shown: _T) -> None:
        try:
            self._show(shown)
        except Exception as error:
            self._report(error)

    def _report(self, error: Exception) -> None:
        if self._reported or sys.stderr is None:
            return
        self._reported = True
        with suppress(OSError, ValueError):
            sys.stderr.write(
                f"soma: what a worker printed could not be shown ({type(error).__name__}: "
                f"{error}); further lines are tried, and this is not reported again\n"
            )


def _show_on_stderr(lines: Sequence[OutputLine]) -> None:
    if sys.stderr is not None:
        sys.stderr.write("".join(f"{line.marked()}\n" for line in lines))
        sys.stderr.flush()


def _show_in_log(line: OutputLine) -> None:
    _log.info("%s", line.marked())


def _show_in_file(path: Path, lines: Sequence[OutputLine]) -> None:
    try:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write("".join(f"{line.marked()}\n" for line in lines))
    except OSError as error:
        raise StartFailed(f"output: cannot write to {path}: {error.strerror}") from error


def _show_each(show: Callable[[OutputLine], object], lines: Sequence[OutputLine]) -> None:
    for line in lines:
        show(line)
