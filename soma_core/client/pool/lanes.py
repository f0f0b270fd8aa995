"""Lanes: each a thread and a worker of its own; all take their calls from one queue."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import Any, NamedTuple

from soma_core.channel.contract import Transport
from soma_core.client.pool.blueprint import Blueprint
from soma_core.client.results import WorkerStatus
from soma_core.client.worker import Worker
from soma_core.errors import DeadlineExceeded, SomaError, StartFailed, TransportError

__all__ = ["Call", "CallQueue", "Lane", "WorkerFactory"]

_LOOK = 1.0  # seconds between looks at whether an idle worker still runs
_FRESH = 0.001  # seconds for which a worker that answered need not be looked at
_FAILED_STARTS = 5  # in a row, after which a pool in which no worker is left is given up
_BACK_OFF = 0.1  # seconds after the second failed start, doubled after each further one
_LONGEST_BACK_OFF = 30.0
_log = logging.getLogger("soma.pool")


class Call(NamedTuple):
    """A call that waits for a worker, or runs on one.

    Attributes:
        future: Receives how it ends.
        run: Does it on a worker, and returns the result.
        commit: Called with the result if the call changed the worker: makes the change one of
            the blueprint, and returns the version of that.
    """

    future: Future[Any]
    run: Callable[[Worker], Any]
    commit: Callable[[Any], int] | None = None


class CallQueue:
    """The calls of a pool that no worker has taken yet, in order; and whether more may come.

    Attributes:
        over: Whether nothing is left to do, and nothing will come.
    """

    def __init__(self) -> None:
        self._calls: deque[Call] = deque()
        self._changed = threading.Condition()
        self._refusal: tuple[type[SomaError], str] | None = None
        self._ended = False

    @property
    def over(self) -> bool:
        return self._refusal is not None and not self._calls

    def __len__(self) -> int:
        return len(self._calls)

    def put(self, call: Call) -> None:
        """Add a call.

        Raises:
            SomaError: No more calls are taken; the message says why.
        """
        with self._changed:
            self.check_open()
            self._calls.append(call)
            self._changed.notify()

    def check_open(self) -> None:
        """Raise what :meth:`put` would."""
        if self._refusal is not None:
            kind, reason = self._refusal
            raise kind(reason)

    def put_back(self, call: Call) -> None:
        """Let another worker take a call."""
        with self._changed:
            if not self._ended:
                self._calls.appendleft(call)
                self._changed.notify()
                return
        self._refuse(call)

    def take(self, patience: float) -> Call | None:
        """The next call; None if there is none in so many seconds, or something else is due."""
        with self._changed:
            if not self._calls and self._refusal is None:
                self._changed.wait(patience)
            return self._calls.popleft() if self._calls else None

    def rest(self, seconds: float) -> None:
        """Wait, but not beyond the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._refusal is not None, seconds)

    def wake(self) -> None:
        """Let every idle lane look for what is due."""
        with self._changed:
            self._changed.notify_all()

    def finish(self, kind: type[SomaError], reason: str) -> None:
        """Take no more calls; those that wait are still for the workers."""
        with self._changed:
            self._refusal = self._refusal or (kind, reason)
            self._changed.notify_all()

    def end(self, kind: type[SomaError], reason: str) -> None:
        """Take no more calls, and fail those that wait."""
        self.finish(kind, reason)
        with self._changed:
            self._ended = True
            waiting = list(self._calls)
            self._calls.clear()
        for call in waiting:
            self._refuse(call)

    def cancel(self) -> None:
        """Cancel the calls that wait."""
        with self._changed:
            waiting = list(self._calls)
            self._calls.clear()
        for call in waiting:
            call.future.cancel()
            call.future.set_running_or_notify_cancel()

    def _refuse(self, call: Call) -> None:
        assert self._refusal is not None
        kind, reason = self._refusal
        if call.future.set_running_or_notify_cancel():
            settle(call.future, error=kind(reason))


def settle(future: Future[Any], *, result: Any = None, error: BaseException | None = None) -> None:
    """End a future; what its callbacks raise must not end the thread that happens to call them."""
    try:
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
    except BaseException:
        _log.exception("a callback of a call's future failed")


class WorkerFactory:
    """Starts the workers of a pool.

    Args:
        make_transport: Makes a transport to start.
        blueprint: What each worker holds.
        timeout: Seconds that each call may take, unless it names its own.
        start_timeout: Seconds for HELLO, and for each command that brings a worker up to date.
    """

    def __init__(
        self,
        make_transport: Callable[[], Transport],
        blueprint: Blueprint,
        *,
        timeout: float | None,
        start_timeout: float | None,
    ) -> None:
        self._make_transport = make_transport
        self._blueprint = blueprint
        self._timeout, self._start_timeout = timeout, start_timeout
        self._lock = threading.Lock()
        self._starting: set[Transport] = set()
        self._aborted = False

    def create(self) -> tuple[Worker, int]:
        """A worker that holds what all hold, and the version of that.

        Raises:
            Exception: Whatever ``soma.connect`` raises.
        """
        transport = self._make_transport()
        with self._lock:
            self._starting.add(transport)
        try:
            self._check_not_aborted()
            worker = Worker(transport, timeout=self._timeout, start_timeout=self._start_timeout)
            try:
                self._check_not_aborted()
                return worker, self.update(worker, 0)
            except BaseException:
                worker.close()
                raise
        finally:
            with self._lock:
                self._starting.discard(transport)

    def _check_not_aborted(self) -> None:
        if self._aborted:
            raise StartFailed("the pool was closed")

    def update(self, worker: Worker, since: int) -> int:
        """Make a worker that has a version equal to the others; returns the version it then has."""
        return self._blueprint.bring(worker, since, self._start_timeout)

    def abort(self) -> list[Transport]:
        """Start no more; returns the transports that are being started, for the caller to stop."""
        with self._lock:
            self._aborted = True
            return list(self._starting)


class Lane:
    """One worker, and the thread that drives it and replaces it.

    Args:
        crew: All lanes of the pool, this one too.
        calls: Where the calls come from.
        factory: Makes its workers.
        blueprint: What its worker must hold.
        first_life: How many calls its first worker does; None for any number.
        life: How many calls the others do.

    Attributes:
        started: Ends when the first worker is there, or with why it is not.
    """

    def __init__(
        self,
        crew: list[Lane],
        calls: CallQueue,
        factory: WorkerFactory,
        blueprint: Blueprint,
        *,
        first_life: int | None,
        life: int | None,
    ) -> None:
        self._crew, self._calls = crew, calls
        self._factory, self._blueprint = factory, blueprint
        self._left, self._life = first_life, life
        self._worker: Worker | None = None
        self._version = 0
        self._used = False
        self._failures = 0
        self._answered = 0.0
        self._running: Future[Any] | None = None
        self._lock = threading.Lock()
        self.started: Future[None] = Future()
        name = f"soma-pool-lane-{len(crew)}"
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        self._thread.start()

    @property
    def status(self) -> WorkerStatus | None:
        """That of the worker; None while it is being replaced."""
        worker = self._worker
        return None if worker is None else worker.status()

    @property
    def has_worker(self) -> bool:
        """Whether there is a worker, as far as is known."""
        return self._worker is not None

    @property
    def busy(self) -> bool:
        """Whether a call runs."""
        return self._running is not None

    def interrupt(self, futures: Collection[Future[Any]]) -> None:
        """Interrupt the call that runs, if it is one of these."""
        with self._lock:
            if self._running in futures and self._worker is not None:
                self._worker.interrupt()

    def close(self) -> None:
        """End the worker, and with it the call that runs."""
        worker = self._worker
        if worker is not None:
            worker.close()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the lane has ended; does nothing on its own thread, in a callback."""
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _live(self) -> None:
        try:
            if self._start_first():
                self._serve()
        except BaseException as error:
            _log.exception("a lane of the pool failed")
            self._calls.end(TransportError, f"the pool is broken: {error!r}")
        finally:
            self._discard()

    def _start_first(self) -> bool:
        try:
            self._worker, self._version = self._factory.create()
        except BaseException as error:
            self.started.set_exception(error)
            return False
        self.started.set_result(None)
        return True

    def _serve(self) -> None:
        while not self._calls.over:
            if self._worker is None:
                self._replace()
                continue
            if self._is_behind():
                self._catch_up(self._worker)
                continue
            call = self._calls.take(_LOOK)
            if not self._is_alive():
                if call is not None:
                    self._calls.put_back(call)
                self._mourn()
            elif call is not None:
                self._do(call)
            del call  # the data in it is not kept while the lane is idle

    def _do(self, call: Call) -> None:
        if self._is_behind():  # it was submitted after a change that this worker lacks
            self._calls.put_back(call)
            return
        usable = self._execute(call)
        del call
        if self._left == 0 or not usable or not self._is_alive():
            self._discard()

    def _is_behind(self) -> bool:
        return self._version != self._blueprint.version

    def _is_alive(self) -> bool:
        if time.monotonic() - self._answered < _FRESH:
            return True
        return self._worker is not None and self._worker.status().alive

    def _mourn(self) -> None:
        """The worker died while nothing ran; if it never did anything, it had not started well."""
        self._discard()
        if self._calls.over:  # it was close() that ended it
            return
        if self._used:
            _log.warning("an idle worker of the pool died, and is replaced")
        else:
            self._count_failure(StartFailed("the worker ended before its first call"))

    def _replace(self) -> None:
        try:
            worker, self._version = self._factory.create()
        except Exception as error:
            self._count_failure(error)
            return
        self._left, self._used, self._answered = self._life, False, 0.0
        self._worker = worker

    def _catch_up(self, worker: Worker) -> None:
        try:
            self._version = self._factory.update(worker, self._version)
        except Exception as error:
            _log.warning("a worker of the pool cannot catch up, and is replaced: %s", error)
            self._discard()

    def _count_failure(self, error: Exception) -> None:
        if self._calls.over:  # it was close() that ended it
            return
        self._failures += 1
        _log.warning("a worker of the pool did not start (%d in a row): %s", self._failures, error)
        if self._failures >= _FAILED_STARTS and not any(lane.has_worker for lane in self._crew):
            self._calls.end(
                StartFailed,
                "the pool is broken: no worker is left, and the last "
                f"{self._failures} attempts to start one failed; the last: {error}",
            )
        elif self._failures > 1:
            self._calls.rest(min(_BACK_OFF * 2 ** (self._failures - 2), _LONGEST_BACK_OFF))

    def _execute(self, call: Call) -> bool:
        """Do a call; whatever becomes of it, the lane goes on. Returns whether the worker does."""
        worker = self._worker
        assert worker is not None
        with self._lock:
            if not call.future.set_running_or_notify_cancel():
                return True
            self._running = call.future
        self._used, self._failures, self._answered = True, 0, 0.0
        if self._left is not None:
            self._left -= 1
        try:
            result = call.run(worker)
            if call.commit is not None:
                self._commit(call.commit(result))
            self._answered = time.monotonic()
            self._rest()
            settle(call.future, result=result)
            return True
        except BaseException as error:
            self._rest()
            settle(call.future, error=error)
            return not _ends_worker(error)
        finally:
            del call  # or the error, whose traceback leads here and to the caller, keeps itself

    def _rest(self) -> None:
        with self._lock:
            self._running = None

    def _commit(self, version: int) -> None:
        if version == self._version + 1:  # else another change came between, which we lack
            self._version = version
        self._calls.wake()

    def _discard(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()


def _ends_worker(error: BaseException) -> bool:
    if isinstance(error, DeadlineExceeded):
        return not error.worker_survived
    return isinstance(error, TransportError)
