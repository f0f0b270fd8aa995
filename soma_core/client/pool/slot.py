"""Slot: the place of one worker in a pool, and the thread that runs calls on it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

from soma_core.channel.contract import Transport
from soma_core.client.backoff import Backoff
from soma_core.client.pool.blueprint import Blueprint
from soma_core.client.pool.call import Call
from soma_core.client.pool.execution import Execution, ends_worker
from soma_core.client.pool.joined import run_joined
from soma_core.client.pool.queue import CallQueue
from soma_core.client.worker import Worker
from soma_core.errors import StartFailed, TransportError, WorkerDied

__all__ = ["Slot"]

_LOOK = 1.0  # seconds between looks at whether an idle worker still runs
_FRESH = 0.001  # seconds for which a worker that answered need not be looked at
_FAILED_STARTS = 5  # in a row, after which a pool in which no worker is left is given up
_LONGEST_WAIT = 30.0  # seconds between two starts
_log = logging.getLogger("soma.pool")


@dataclass
class _Replica:
    """A worker of the pool, and what its slot knows of it.

    Attributes:
        worker: The worker.
        transport: How it is reached.
        version: The version of the blueprint that it has.
        calls_left: How many calls it may still do; None for any number.
        busy: Whether it runs a call.
        used: Whether it has been sent a call.
        answered: When it last did a call well (``time.monotonic``).
    """

    worker: Worker
    transport: Transport
    version: int
    calls_left: int | None
    busy: bool = False
    used: bool = False
    answered: float = 0.0

    def is_alive(self) -> bool:
        """Whether its process runs."""
        return time.monotonic() - self.answered < _FRESH or self.transport.poll() is None

    def is_used_up(self) -> bool:
        """Whether it has done as many calls as it may."""
        return self.calls_left is not None and self.calls_left <= 0

    def begin(self, calls: int) -> None:
        """It is given calls."""
        self.busy, self.answered = True, 0.0
        if self.calls_left is not None:
            self.calls_left -= calls


class Slot:
    """One worker, and the thread that runs calls on it and replaces it when it is gone.

    Args:
        queue: Where the calls come from.
        blueprint: How its workers are made, and what they must hold.
        quotas: How many calls each of its workers does, in turn; None for any number.
        has_workers: Whether any slot of the pool has a worker, as far as is known.
        number: Its number in the pool, which its thread and its recordings are named by.

    Attributes:
        started: Ends when the first worker is there, or with why it is not.
    """

    def __init__(
        self,
        queue: CallQueue,
        blueprint: Blueprint,
        quotas: Iterator[int | None],
        has_workers: Callable[[], bool],
        number: int,
    ) -> None:
        self._queue, self._blueprint = queue, blueprint
        self._quotas, self._has_workers = quotas, has_workers
        self._replica: _Replica | None = None
        self._starting: Transport | None = None
        self._closed = self._leaving = False
        self._backoff = Backoff(cap=_LONGEST_WAIT, budget=_FAILED_STARTS)
        self._number = number
        self.started: Future[None] = Future()
        name = f"soma-pool-{number}"
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    @property
    def worker(self) -> Worker | None:
        """The worker; None while it is being replaced."""
        replica = self._replica
        return None if replica is None else replica.worker

    @property
    def busy(self) -> bool:
        """Whether a call runs."""
        replica = self._replica
        return replica is not None and replica.busy

    @property
    def ended(self) -> bool:
        """Whether its thread has ended."""
        return not self._thread.is_alive()

    def retire(self) -> None:
        """End the worker once the call that runs is done, and take no other."""
        self._leaving = True
        self._queue.wake()

    def close(self) -> None:
        """End the worker, or its start, and with it the call that runs."""
        self._closed = self._leaving = True
        self._queue.wake()
        worker, transport = self.worker, self._starting
        if worker is not None:
            worker.close()
        elif transport is not None:
            transport.stop(0.0)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the thread has ended, but not on the thread itself; returns whether it has."""
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)
        return self.ended

    def _serve(self) -> None:
        try:
            self._start()
        except BaseException as error:
            self.started.set_exception(error)
            return
        self.started.set_result(None)
        try:
            while not (self._queue.over or self._leaving):
                self._step()
        except BaseException as error:
            reason = f"the pool is broken: {error!r}"
            _log.exception("a slot of the pool failed")
            self._queue.end(lambda: TransportError(reason))
        finally:
            self._discard()

    def _step(self) -> None:
        """Get ready for a call, or take one and run it."""
        replica = self._replica
        if replica is None:
            self._replace()
        elif not replica.is_alive():
            self._note_death(replica)
        elif self._is_behind(replica):
            self._catch_up(replica)
        else:
            calls = self._queue.take(_LOOK)
            if replica.is_alive() and not self._is_behind(replica):
                self._run(calls, replica)
            else:
                self._queue.put_back(calls)
            calls.clear()  # errors that futures hold lead to this frame

    def _is_behind(self, replica: _Replica) -> bool:
        return replica.version != self._blueprint.version

    def _start(self) -> None:
        """Start a worker that holds what all hold.

        Raises:
            Exception: Whatever ``soma.connect`` raises.
        """
        self._starting = transport = self._blueprint.make_transport()
        try:
            self._check_open()
            worker = self._blueprint.connect(transport, self._number)
            try:
                self._check_open()
                version = self._blueprint.update(worker, 0)
            except BaseException:
                worker.close()
                raise
        finally:
            self._starting = None
        self._replica = _Replica(worker, transport, version, next(self._quotas))

    def _check_open(self) -> None:
        if self._closed:
            raise StartFailed("the pool was closed")

    def _replace(self) -> None:
        try:
            self._start()
        except Exception as error:
            self._note_failed_start(error)
        else:
            self._queue.tally.add_replacement()

    def _note_failed_start(self, error: Exception) -> None:
        if self._closed:
            return
        delay = self._backoff.next_delay()
        failures = self._backoff.spent
        _log.warning("a worker of the pool did not start (%d in a row): %s", failures, error)
        if self._backoff.exhausted and not self._has_workers():
            reason = (
                "the pool is broken: no worker is left, and the last "
                f"{failures} attempts to start one failed; the last: {error}"
            )
            self._queue.end(lambda: StartFailed(reason))
        self._queue.pause(delay)

    def _note_death(self, replica: _Replica) -> None:
        """The worker died while nothing ran; if it never did anything, it had not started well."""
        self._discard()
        if not replica.used:
            self._note_failed_start(StartFailed("the worker ended before its first call"))
        elif not self._closed:
            _log.warning("an idle worker of the pool died, and is replaced")

    def _catch_up(self, replica: _Replica) -> None:
        try:
            replica.version = self._blueprint.update(replica.worker, replica.version)
        except Exception as error:
            _log.warning("a worker of the pool cannot catch up, and is replaced: %s", error)
            self._discard()

    def _run(self, calls: list[Call], replica: _Replica) -> None:
        """Do calls; whatever becomes of them, the slot goes on."""
        execution = Execution(replica.worker, self._blueprint.interrupt_grace)
        begun = [call for call in calls if call.begin(execution)]
        if not begun:
            return
        replica.begin(len(begun))
        if len(begun) == 1:
            usable = self._run_alone(begun[0], replica, execution)
        else:
            usable = run_joined(begun, replica.worker, self._queue)
            usable = execution.leave() and usable
            replica.busy = False
        left = [call for call in begun if not call.ended]
        if left:
            self._queue.put_back(left, alone=True)
        if left and len(begun) == 1:
            self._note_death(replica)
            return
        begun.clear()  # likewise
        replica.used = True
        self._backoff.reset()
        if not usable or replica.is_used_up() or not replica.is_alive():
            self._discard()

    def _run_alone(self, call: Call, replica: _Replica, execution: Execution) -> bool:
        """Do a call, and end it unless its worker was dead before it was sent anything.

        Returns:
            Whether the worker can be used on.
        """
        try:
            result = call.run(replica.worker)
            if call.commit is not None:
                self._commit(call.commit(result), replica)
        except BaseException as error:
            usable = execution.leave() and not (call.replace_on_error or ends_worker(error))
            replica.busy = False
            if not _was_not_sent(call, error):
                call.settle(error=error)
        else:
            replica.answered = time.monotonic()
            usable = execution.leave()
            replica.busy = False
            call.settle(result)
        finally:
            del call  # likewise
        return usable

    def _commit(self, version: int, replica: _Replica) -> None:
        if version == replica.version + 1:  # else another change came between, which it lacks
            replica.version = version
        self._queue.wake()

    def _discard(self) -> None:
        replica, self._replica = self._replica, None
        if replica is not None:
            replica.worker.close()


def _was_not_sent(call: Call, error: BaseException) -> bool:
    """Whether a call can be run again: its worker was dead before it was sent anything."""
    return isinstance(error, WorkerDied) and not error.sent and call.commit is None
