"""Slot: the place of one worker in a pool, and the thread that runs calls on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future

from soma_core.client.pool.blueprint import Blueprint
from soma_core.client.pool.call import PoolCall
from soma_core.client.pool.execution import Execution, ends_worker
from soma_core.client.pool.joined import run_joined
from soma_core.client.pool.queue import CallQueue
from soma_core.client.pool.replica import Replica, was_not_sent
from soma_core.client.pool.slot_rules import SlotRules
from soma_core.client.worker import Worker
from soma_core.errors import ChannelClosed, StartFailed

__all__ = ["Slot"]

_LOOK = 1.0  # seconds between looks at whether an idle worker still runs


class Slot(SlotRules[Worker]):
    """One worker, and the thread that runs calls on it and replaces it when it is gone.

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
        super().__init__(queue, blueprint, quotas, has_workers, number)
        self._queue = queue
        self._renewal: Future[None] | None = None
        self.started: Future[None] = Future()
        name = f"soma-pool-{number}"
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # this process can start no more threads
            failed = StartFailed(f"no thread can be started for a worker of the pool: {error}")
            failed.__cause__ = error
            self.started.set_exception(failed)

    @property
    def ended(self) -> bool:
        """Whether its thread has ended."""
        return not self._thread.is_alive()

    def renew(self) -> Future[None]:
        """Have another worker take the place of this one, once the call that runs is done.

        Returns:
            Ends when it has, or with why it did not start; then the worker stays.
        """
        self._renewal = renewal = Future[None]()
        self._queue.wake()
        if self.ended:
            self._refuse_renewal()
        return renewal

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
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout)
        return self.ended

    def _serve(self) -> None:
        try:
            self._start()
        except BaseException as error:
            self.started.set_exception(self._why_not_started(error))
            return
        self.started.set_result(None)
        try:
            while not (self._queue.over or self._leaving):
                self._step()
        except BaseException as error:
            self._failed(error)
        finally:
            self._discard()
            self._refuse_renewal()

    def _step(self) -> None:
        """Get ready for a call, or take one and run it."""
        replica = self._replica
        if self._renewal is not None:
            self._renew(self._renewal, replica)
        elif replica is None:
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

    def _start(self) -> None:
        """Start a worker that holds what all hold.

        Raises:
            Exception: Whatever ``soma.connect`` raises.
        """
        self._starting = transport = self._blueprint.make_transport()
        try:
            self._check_open()
            worker = Worker(transport, **self._blueprint.options(transport, self._number))
            try:
                self._check_open()
                version = worker.run(self._blueprint.update(worker.verbs, 0))
            except BaseException:
                worker.close()
                raise
        finally:
            self._starting = None
        self._hold(worker, transport, version)

    def _replace(self) -> None:
        try:
            self._start()
        except Exception as error:
            self._queue.pause(self._failed_start(error))
        else:
            self._queue.tally.add_replacement()

    def _renew(self, renewal: Future[None], before: Replica[Worker] | None) -> None:
        self._renewal = None
        try:
            self._start()
        except Exception as error:
            renewal.set_exception(self._why_not_started(error))
        else:
            self._queue.tally.add_replacement()
            if before is not None:
                before.worker.close()
            renewal.set_result(None)

    def _refuse_renewal(self) -> None:
        renewal, self._renewal = self._renewal, None
        if renewal is not None:
            renewal.set_exception(ChannelClosed("the pool was closed"))

    def _note_death(self, replica: Replica[Worker]) -> None:
        """The worker died while nothing ran."""
        self._discard()
        self._queue.pause(self._died_idle(replica))

    def _catch_up(self, replica: Replica[Worker]) -> None:
        try:
            worker = replica.worker
            replica.version = worker.run(self._blueprint.update(worker.verbs, replica.version))
        except Exception as error:
            self._failed_update(error)
            self._discard()

    def _run(self, calls: list[PoolCall], replica: Replica[Worker]) -> None:
        """Do calls; whatever becomes of them, the slot goes on."""
        execution = Execution(replica.worker, self._blueprint.interrupt_grace)
        begun = [call for call in calls if call.begin(execution)]
        if not begun:
            return
        replica.begin(len(begun))
        if len(begun) == 1:
            usable = self._run_alone(begun[0], replica, execution)
        else:
            worker = replica.worker
            joined = run_joined(begun, worker.verbs, self._queue.watch, self._queue.tally)
            usable = worker.run(joined)
            if usable:
                replica.answered = time.monotonic()
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

    def _run_alone(self, call: PoolCall, replica: Replica[Worker], execution: Execution) -> bool:
        """Do a call, and end it unless its worker was dead before it was sent anything.

        Returns:
            Whether the worker can be used on.
        """
        try:
            result = replica.worker.run(call.run(replica.worker.verbs))
            if call.commit is not None:
                self._commit(call.commit, result, replica)
        except BaseException as error:
            usable = execution.leave() and not (call.replace_on_error or ends_worker(error))
            replica.busy = False
            if not was_not_sent(call, error):
                call.settle(error=error)
        else:
            replica.answered = time.monotonic()
            usable = execution.leave()
            replica.busy = False
            call.settle(result)
        finally:
            del call  # likewise
        return usable

    def _discard(self) -> None:
        replica, self._replica = self._replica, None
        if replica is not None:
            replica.worker.close()
