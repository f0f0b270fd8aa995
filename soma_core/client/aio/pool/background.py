"""BackgroundPool: a pool in the event loop of a thread of its own, for calls from any thread."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

from soma_core.channel.deadline import NEVER
from soma_core.client.aio.pool.group import AsyncSlotGroup
from soma_core.client.aio.pool.queue import AsyncCallQueue
from soma_core.client.pool.call import SLICE, CallFuture, PoolCall
from soma_core.client.pool.plan import PoolPlan
from soma_core.client.pool.results import first_to_end
from soma_core.client.pool.stats import PoolStats
from soma_core.errors import ChannelClosed, SomaError, StartFailed, TransportError

__all__ = ["BackgroundPool"]

_CLOSING = 4.5  # seconds that workers which are not wanted after all have to end


class BackgroundPool:
    """The queue and the workers of a pool, in the event loop of a thread of its own. Thread-safe.

    One thread for all workers does more than one for each: those would wait for each other, since
    Python runs one at a time, and a loop sends several calls and takes several replies at once.

    Args:
        plan: What the pool is to be.

    Raises:
        Exception: Whatever ``soma.connect`` raises; then no worker is left.
    """

    def __init__(self, plan: PoolPlan) -> None:
        self._plan = plan
        self._owner = os.getpid()
        self._lock = threading.RLock()  # a signal handler may submit in the midst of a submission
        self._inbox: deque[PoolCall] = deque()
        self._is_woken = self._has_ended = False
        self._refusal: Callable[[], SomaError] | None = None
        self._started: Future[None] = Future()
        self._queue: AsyncCallQueue
        self._serving: asyncio.Task[None] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="soma-pool", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # this process can start no more threads
            self._loop.close()
            raise StartFailed(f"no thread can be started for the pool: {error}") from error
        try:
            first_to_end([self._started]).result()
        except BaseException:
            self.post(self._stop)
            self._thread.join(_CLOSING)
            raise

    def put(self, call: PoolCall) -> CallFuture:
        """Submit a call.

        Raises:
            ChannelClosed: The pool was shut down.
            QueueFull: There is no room, and the plan is not to wait for any.
            DeadlineExceeded: There was no room before the deadline of the call.
            StartFailed: The pool is broken: no worker is left, and none can be started.
            TransportError: This process was forked from that of the pool.
        """
        self._check_owner()
        call.future = future = _BackgroundFuture(call, self)
        if self._plan.max_queue is None:
            self._send(call)
        elif self.is_here():
            self._place_at_once(call)
        else:
            self._place_and_wait(call)
        return future

    def stats(self) -> PoolStats:
        """What the pool does now, what it has done so far, and how long that took."""
        with self._lock:
            if self._has_ended or self.is_here() or os.getpid() != self._owner:
                return self._queue.stats()
            counted: Future[PoolStats] = Future()
            self.post(lambda: counted.set_result(self._queue.stats()))  # after what was posted
        return first_to_end([counted]).result()

    def shutdown(self, *, wait: bool, cancel_futures: bool) -> None:
        """Take no more calls, and end the workers when those that were submitted are done."""
        self._check_owner()
        self._refuse(cancel_futures=cancel_futures)
        while wait and not self.is_here() and self._thread.is_alive():
            self._thread.join(SLICE)

    def abandon(self) -> None:
        """The pool is garbage: its workers finish what was submitted, and end."""
        if os.getpid() == self._owner:
            self._refuse(cancel_futures=False)

    def is_here(self) -> bool:
        """Whether this is the thread of the loop, which cannot wait for itself."""
        return threading.current_thread() is self._thread

    def post(self, step: Callable[[], object]) -> None:
        """Have the loop do something, after what it was given before; nothing once it is over."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(step)

    def _send(self, call: PoolCall) -> None:
        """Let the loop take a call, together with others that are submitted meanwhile."""
        with self._lock:
            self._check_open()
            self._inbox.append(call)
            if not self._is_woken:
                self._is_woken = True
                self.post(self._empty_inbox)

    def _place_and_wait(self, call: PoolCall) -> None:
        """Wait until the loop has found room for a call, or none."""
        with self._lock:
            self._check_open()
            placing = asyncio.run_coroutine_threadsafe(self._place(call), self._loop)
        try:
            first_to_end([placing]).result()
        except BaseException:  # Ctrl-C, perhaps after it was placed
            placing.cancel()
            self.post(partial(call.cancel, interrupt=True))
            raise

    def _refuse(self, *, cancel_futures: bool) -> None:
        """Take no more calls."""
        with self._lock:
            self._refusal = self._refusal or (lambda: ChannelClosed("the pool was shut down"))
            self.post(partial(self._wind_up, self._refusal, cancel_futures=cancel_futures))

    def _check_open(self) -> None:
        if self._refusal is not None:
            raise self._refusal()
        self._queue.check_open()  # it may be broken

    def _check_owner(self) -> None:
        if os.getpid() != self._owner:
            raise TransportError(
                "this pool belongs to the process that this one was forked from; make one here"
            )

    # From here on: what runs in the thread of the loop.

    def _run(self) -> None:
        try:
            with asyncio.Runner(debug=False, loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        self._serving = asyncio.current_task()
        plan = self._plan
        self._queue = AsyncCallQueue(plan.n, plan.max_queue, plan.batching)
        group = AsyncSlotGroup(self._queue, plan.blueprint, plan.recycle_after)
        await group.resize(plan.n)
        self._started.set_result(None)
        try:
            await group.join(NEVER)
        finally:
            with self._lock:
                self._has_ended = True
                self._refusal = self._refusal or self._queue.refusal
            self._empty_inbox()

    def _stop(self) -> None:
        """Nobody wants the pool: end the workers, which may not have started yet."""
        if self._serving is None:  # its first step is next
            self.post(self._stop)
        else:
            self._serving.cancel()

    def _empty_inbox(self) -> None:
        self._is_woken = False
        while self._inbox:
            call = self._inbox.popleft()
            try:
                self._queue.put(call)
            except SomaError as error:
                call.settle(error=error)

    def _place_at_once(self, call: PoolCall) -> None:
        self._check_open()
        if self._queue.is_full:
            self._queue.check_patience(call, wait=False)
        self._queue.put(call)

    async def _place(self, call: PoolCall) -> None:
        await self._queue.make_room(call, wait=self._plan.waits_for_room)
        self._queue.put(call)

    def _wind_up(self, refusal: Callable[[], SomaError], *, cancel_futures: bool) -> None:
        self._queue.close(refusal)
        if cancel_futures:
            self._queue.cancel()


class _BackgroundFuture(CallFuture):
    """The future of a call that belongs to the loop of another thread.

    To cancel it takes effect at once; the loop sees to the call when it comes to it. Its callbacks
    are called in that thread.
    """

    _call: PoolCall | None = None

    def __init__(self, call: PoolCall, pool: BackgroundPool) -> None:
        super().__init__(call)
        self._pool = pool

    def cancel(self, *, interrupt: bool = True) -> bool:
        """Withdraw a call that waits, interrupt one that runs: see :meth:`CallFuture.cancel`."""
        if self.running() and not interrupt:
            return False
        call = vars(self).pop("_call", None)  # one of two threads gets it
        if call is None or not super(CallFuture, self).cancel():
            return self.cancelled()
        self.set_running_or_notify_cancel()  # wakes those who wait for several futures
        self._pool.post(partial(call.cancel, interrupt=interrupt))
        return True

    def _wait(self, timeout: float | None) -> None:
        if self._pool.is_here() and not self.done():
            raise RuntimeError(
                "a callback of a future waits for another call: it runs in the thread that takes "
                "the replies of all calls; wait in a thread of your own"
            )
        super()._wait(timeout)
