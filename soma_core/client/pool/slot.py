"""Slot: the place of one worker in a pool, and the task that runs calls on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

from soma_core.channel.contract import Transport
from soma_core.client.aio.threads import in_thread
from soma_core.client.aio.worker import AsyncWorker
from soma_core.client.handle import Handle
from soma_core.client.pool.blueprint import Blueprint
from soma_core.client.pool.call import PoolCall
from soma_core.client.pool.execution import Execution
from soma_core.client.pool.joined import run_joined
from soma_core.client.pool.pipelining import Pipelining
from soma_core.client.pool.queue import CallQueue
from soma_core.client.pool.replica import Replica, ends_worker, was_not_sent
from soma_core.client.pool.restarts import Restarts
from soma_core.errors import ChannelClosed


class Slot:
    """One worker, and the task that runs calls on it and replaces it when it is gone.

    Args:
        queue: Where the calls come from.
        blueprint: How its workers are made, and what they must hold.
        quotas: How many calls each of its workers does, in turn; None for any number.
        has_workers: Whether any slot of the pool has a worker, as far as is known.
        number: Its number in the pool, which its recordings are named by.

    Attributes:
        started: Ends when the first worker is there, or with why it is not.
        task: Ends with the slot.
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
        self._quotas, self._number = quotas, number
        self._restarts = Restarts(queue, has_workers)
        self._replica: Replica | None = None
        self._starting: Transport | None = None
        self._closed = self._leaving = False
        loop = asyncio.get_running_loop()
        self._renewal: asyncio.Future[None] | None = None
        self._next_number = number
        self._pipelining: Pipelining | None = None
        self.started: asyncio.Future[None] = loop.create_future()
        self.task = loop.create_task(self._serve(), name=f"soma-pool-{number}")

    @property
    def worker(self) -> AsyncWorker | None:
        """The worker; None while it is being replaced."""
        replica = self._replica
        return None if replica is None else replica.worker

    @property
    def busy(self) -> bool:
        """Whether a call runs."""
        replica = self._replica
        return replica is not None and replica.busy

    def retire(self) -> None:
        """End the worker once the call that runs is done, and take no other."""
        self._leaving = True
        self._queue.wake()

    async def renew(self, number: int) -> None:
        """Have another worker take the place of this one, once the call that runs is done.

        Args:
            number: That of the other worker, which is there before this one ends.

        Raises:
            Exception: Why it did not start; then the worker stays.
        """
        self._renewal = renewal = asyncio.get_running_loop().create_future()
        self._next_number = number
        self._queue.wake()
        if self.task.done():
            self._refuse_renewal()
        await renewal

    async def close(self) -> None:
        """End the worker, or its start, and with it the call that runs."""
        self._closed = self._leaving = True
        self._queue.wake()
        worker, transport = self.worker, self._starting
        if worker is not None:
            await worker.close()
        elif transport is not None:
            await in_thread(lambda: transport.stop(0.0), name="soma-stop")

    async def _serve(self) -> None:
        try:
            await self._start(self._number)
        except BaseException as error:
            if not self.started.done():
                self.started.set_exception(self._why_not_started(error))
            return
        self.started.set_result(None)
        try:
            while not (self._queue.over or self._leaving):
                await self._step()
        except asyncio.CancelledError:  # the loop ends
            raise
        except BaseException as error:
            self._restarts.failed(error)
        finally:
            try:
                await self._discard()
            finally:
                self._refuse_renewal()  # last: from now on renew() sees that the task is done

    async def _step(self) -> None:
        """Get ready for a call, or take one and run it."""
        replica = self._replica
        if self._renewal is not None:
            await self._renew(self._renewal, replica)
        elif replica is None:
            await self._replace()
        elif not replica.is_alive():
            await self._note_death(replica)
        elif self._is_behind(replica):
            await self._catch_up(replica)
        else:
            if replica.worker.is_settling:  # it has to give up a call that was cancelled
                await replica.worker.settled()
            calls = await self._queue.take()
            if not calls:
                return
            if not replica.is_alive() or self._is_behind(replica):
                self._queue.put_back(calls)
            elif (
                len(calls) == 1
                and self._pipelining is not None
                and self._pipelining.suits(calls[0])
            ):
                await self._run_pipelined(calls.pop(), self._pipelining, replica)
            else:
                await self._run(calls, replica)
            calls.clear()  # errors that futures hold lead to this frame

    async def _start(self, number: int) -> None:
        """Start a worker that holds what all hold, and give it a number.

        Raises:
            Exception: Whatever ``soma.connect`` raises.
        """
        self._starting = transport = self._blueprint.make_transport()
        try:
            self._check_open()
            options = self._blueprint.options(transport, number)
            worker = await AsyncWorker.start(lambda: Handle(transport, options))
            try:
                self._check_open()
                version = await worker.run(self._blueprint.update(worker.verbs, 0))
            except BaseException:
                await worker.close()
                raise
        finally:
            self._starting = None
        self._number = number
        worker.when_lost(self._queue.wake)
        self._replica = replica = Replica(worker, transport, version, next(self._quotas))
        pipeline = worker.pipeline()
        self._pipelining = None
        if pipeline is not None:
            self._pipelining = Pipelining(
                self._queue, replica, pipeline, lambda: self._may_go_on(replica)
            )

    def _check_open(self) -> None:
        if self._closed:
            raise ChannelClosed("the pool was closed")

    def _why_not_started(self, error: BaseException) -> BaseException:
        """What to tell of a start that failed: a worker that close() ended says something else."""
        return ChannelClosed("the pool was closed") if self._closed else error

    async def _replace(self) -> None:
        try:
            await self._start(self._number)
        except Exception as error:
            if not self._closed:
                await self._queue.pause(self._restarts.not_started(error))
        else:
            self._queue.tally.replaced += 1

    async def _renew(self, renewal: asyncio.Future[None], before: Replica | None) -> None:
        self._renewal = None
        try:
            await self._start(self._next_number)
        except Exception as error:
            if not renewal.done():
                renewal.set_exception(self._why_not_started(error))
        else:
            self._queue.tally.replaced += 1
            if before is not None:
                await before.worker.close()
            if not renewal.done():
                renewal.set_result(None)

    def _refuse_renewal(self) -> None:
        renewal, self._renewal = self._renewal, None
        if renewal is not None and not renewal.done():
            renewal.set_exception(ChannelClosed("the pool was closed"))

    async def _note_death(self, replica: Replica) -> None:
        """The worker died while nothing ran."""
        await self._discard()
        if not self._closed:
            await self._queue.pause(self._restarts.died(used=replica.used, age=replica.age))

    async def _catch_up(self, replica: Replica) -> None:
        worker = replica.worker
        try:
            version = await worker.run(self._blueprint.update(worker.verbs, replica.version))
        except Exception as error:
            if not self._closed:
                self._restarts.not_updated(error)
            await self._discard()
        else:
            replica.version = version

    def _is_behind(self, replica: Replica) -> bool:
        return replica.version != self._blueprint.version

    def _may_go_on(self, replica: Replica) -> bool:
        """Whether the worker may be given a call, with no other work before it."""
        return not (self._leaving or self._renewal is not None or self._is_behind(replica))

    async def _run_pipelined(
        self, call: PoolCall, pipelining: Pipelining, replica: Replica
    ) -> None:
        """Do a call and those that are sent behind it; the slot goes on, as in :meth:`_run`."""
        await pipelining.run(call)
        del call  # likewise
        left, pipelining.left = pipelining.left, []
        self._queue.put_back(left)
        await self._look_after(
            replica, did_any=pipelining.answered > 0 or not left, usable=pipelining.usable
        )

    async def _run(self, calls: list[PoolCall], replica: Replica) -> None:
        """Do calls; whatever becomes of them, the slot goes on."""
        execution = Execution(self.task)
        begun = [call for call in calls if call.begin(execution)]
        execution.wanted = len(begun)
        if not begun:
            return
        replica.begin(len(begun))
        try:
            if len(begun) == 1:
                usable = await self._run_alone(begun[0], replica, execution)
            else:
                usable = await self._run_together(begun, replica, execution)
        finally:
            execution.is_over = True
            replica.busy = False
        await execution.settle()
        left = [call for call in begun if not call.ended]
        if left:
            self._queue.put_back(left, alone=True)
        did_any = len(begun) > 1 or not left
        begun.clear()  # likewise
        left.clear()
        await self._look_after(replica, did_any=did_any, usable=usable)

    async def _look_after(self, replica: Replica, *, did_any: bool, usable: bool) -> None:
        """The worker has done calls, or was dead before: see whether it is to be replaced."""
        if not did_any:
            await self._note_death(replica)
            return
        replica.used = True
        self._restarts.worked()
        if not usable or replica.is_used_up() or not replica.is_alive():
            await self._discard()

    async def _run_alone(self, call: PoolCall, replica: Replica, execution: Execution) -> bool:
        """Do a call, here or in the thread that asked for it with the worker lent to it.

        It ends then, unless its worker was dead before it was sent anything.

        Returns:
            Whether the worker can be used on.
        """
        worker, begun = replica.worker, time.monotonic()
        sent = worker.commands_sent
        result: Any = None
        error: BaseException | None = None
        try:
            try:
                if call.lease is None:
                    result = await worker.run(call.run(worker.verbs))
                else:
                    async with worker.lent() as lent:
                        result, error = await call.lease.lend(lent)
                if error is None and call.commit is not None:
                    self._commit(call.commit, result, replica)
            except asyncio.CancelledError as raised:
                if execution.was_cancelled_by_drop():
                    return not _may_be_half_done(call, replica, sent)
                if execution.is_cancelled:
                    raise
                error = raised  # by a callback, or a plugin
            except BaseException as raised:
                error = raised
            if error is not None:
                if not was_not_sent(call, error):
                    call.settle(error=error)
                return not (_may_be_half_done(call, replica, sent) or ends_worker(error))
            replica.answered = time.monotonic()
            self._queue.paces.add(call.label, replica.answered - begun)
            call.settle(result)
            return True
        finally:
            del call, error, result  # likewise

    def _commit(self, commit: Callable[[Any], int], result: Any, replica: Replica) -> None:
        """A call changed the worker: the others must follow."""
        version = commit(result)
        if version == replica.version + 1:  # else another change came between, which it lacks
            replica.version = version
        self._queue.wake()

    async def _run_together(
        self, calls: list[PoolCall], replica: Replica, execution: Execution
    ) -> bool:
        worker = replica.worker
        joined = run_joined(calls, worker.verbs, self._queue.watch, self._queue.tally)
        try:
            usable = await worker.run(joined)
        except asyncio.CancelledError as error:
            if execution.is_cancelled and not execution.was_cancelled_by_drop():
                raise
            for call in calls:  # those that a plugin has cancelled; others have ended
                call.settle(error=error)
            return True
        if usable:
            replica.answered = time.monotonic()
        return usable

    async def _discard(self) -> None:
        replica, self._replica = self._replica, None
        if replica is not None:
            await replica.worker.close()


def _may_be_half_done(call: PoolCall, replica: Replica, sent: int) -> bool:
    """Whether a call that failed may have changed its worker, which was sent so many before."""
    return call.replace_on_error and replica.worker.commands_sent > sent
