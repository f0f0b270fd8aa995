"""BackgroundPool: a pool in the event loop of a thread of its own, for calls from any thread."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any, TypeVar

from soma_core.channel.deadline import NEVER, Deadline
from soma_core.client.pool.blocking.call_future import CallFuture, first_to_end, one_ends
from soma_core.client.pool.blocking.lease import Lease
from soma_core.client.pool.call import PoolCall
from soma_core.client.pool.group import CLOSING, SlotGroup
from soma_core.client.pool.plan import PoolPlan
from soma_core.client.pool.stats import PoolStats
from soma_core.client.pool.verbs import PoolRequest
from soma_core.client.turn import TurnLock
from soma_core.errors import ChannelClosed, SomaError, StartFailed, TransportError

T = TypeVar("T")


class BackgroundPool:
    """The queue and the workers of a pool, in the event loop of a thread of its own. Thread-safe.

    One thread for all workers does more than one for each: those would wait for each other, since
    Python runs one at a time, and a loop sends several calls and takes several replies at once.
    What calls the user's code meanwhile, as training does, the thread that asks for it does by
    itself, with a worker that it is lent.

    Args:
        plan: What the pool is to be.

    Attributes:
        group: The workers and the calls that wait, in the loop; others may look at them.

    Raises:
        Exception: Whatever ``soma.connect`` raises; then no worker is left.
    """

    def __init__(self, plan: PoolPlan) -> None:
        self._plan = plan
        self._owner = os.getpid()
        self._lock = threading.RLock()  # a signal handler may submit in the midst of a submission
        self._changing = TurnLock("a change of this pool")
        self._inbox: deque[PoolCall] = deque()
        self._borrowers: dict[Lease[Any], int] = {}  # and the threads that use them
        self._is_woken = self._has_ended = False
        self._refusal: Callable[[], SomaError] | None = None
        self._started: Future[None] = Future()
        self._over: Future[None] = Future()  # a thread that Ctrl-C stops joining looks dead
        self.group: SlotGroup
        self._serving: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="soma-pool", daemon=True)
        try:
            self._begin()
            first_to_end([self._started]).result()
        except BaseException:
            self.post(self._stop)
            if self._thread.ident is not None:
                self._join(CLOSING)
            raise

    def put(self, call: PoolCall, *, wait: bool | None = None) -> CallFuture:
        """Submit a call.

        Args:
            wait: Whether to wait for room in a full queue; None for what the plan says.

        Raises:
            ChannelClosed: The pool takes no more calls.
            QueueFull: There is no room, and it is not to wait for any.
            DeadlineExceeded: There was no room before the deadline of the call.
            StartFailed: The pool is broken: no worker is left, and none can be started.
            TransportError: This process was forked from that of the pool.
        """
        self._check_owner()
        wait = self._plan.waits_for_room if wait is None else wait
        call.future = future = CallFuture(call, self)
        try:
            if self._plan.max_queue is None:
                self._send(call)
            elif self._is_here():
                self._place_at_once(call)
            else:
                self.check_may_wait()
                self._ask(partial(self._place, call, wait=wait))
        except BaseException:  # Ctrl-C, perhaps after it was placed
            self.post(partial(call.cancel, interrupt=True))
            raise
        return future

    def perform(self, request: PoolRequest[T]) -> T:
        """Do what a method of the pool asks, on this thread, with a worker that is lent for it.

        Of a change, the other workers are told before their next call.
        """
        self.check_may_wait()
        lease = Lease(request, self._loop)
        with nullcontext() if request.commit is None else self._changing:
            call = request.call(self._plan.blueprint)
            call.lease = lease
            call.future = future = CallFuture(call, self)
            try:
                self._borrowers[lease] = threading.get_ident()
                self._send(call)
                return lease.use(future)
            except BaseException:  # Ctrl-C, perhaps before the worker is lent
                future.cancel()
                raise
            finally:
                self._borrowers.pop(lease, None)
                del call, future  # the error leads to this frame

    def stats(self) -> PoolStats:
        """What the pool does now, what it has done so far, and how long that took."""
        if self._is_here() or os.getpid() != self._owner:
            return self.group.queue.stats()

        async def count() -> PoolStats:
            return self.group.queue.stats()

        try:
            return self._ask(count)
        except ChannelClosed:
            return self.group.queue.stats()

    def resize(self, n: int) -> None:
        """Have so many workers, once those that are new are started."""
        self._ask(lambda: self.group.resize(n))

    def refresh(self) -> None:
        """Replace the workers, one after the other."""
        if self._borrowed_here():
            raise RuntimeError(
                "refresh waits until each worker has done its call, and was asked for by what the "
                "pool calls during one: it would wait for itself; call it afterwards"
            )
        self._ask(lambda: self.group.refresh())

    def close(self) -> None:
        """End the workers and all calls, within 5 s; does nothing in a forked child."""
        if os.getpid() != self._owner:
            return
        with self._lock:
            self._refusal = self._refusal or (lambda: ChannelClosed("the pool was closed"))
            self.post(self._end_all)
        self._join(CLOSING)

    def shutdown(self, *, wait: bool, cancel_futures: bool, timeout: float | None = None) -> None:
        """Take no more calls, and end the workers, as :meth:`WorkerPool.shutdown`."""
        self._check_owner()
        self._refuse(cancel_futures=cancel_futures)
        if timeout is not None:
            self.post(lambda: self._loop.call_later(timeout, self._end_all))
        if wait:
            self._join(None if timeout is None else timeout + CLOSING)

    def abandon(self) -> None:
        """The pool is garbage: its workers finish what was submitted, and end."""
        if os.getpid() == self._owner:
            self._refuse(cancel_futures=False)

    def check_usable(self) -> None:
        """Raise what :meth:`put` would."""
        self._check_owner()
        self._check_open()

    def check_may_wait(self) -> None:
        """Make sure that this thread would not wait for itself.

        Raises:
            RuntimeError: It would.
            TransportError: This process was forked from that of the pool.
        """
        self._check_owner()
        self._check_elsewhere()
        if 0 < len(self.group.slots) <= self._borrowed_here():
            raise RuntimeError(
                "what this pool calls during a call, such as progress or chunks of data, waits for "
                "another call of the pool, and no other worker is left: it would wait for itself. "
                "Use a larger pool, or call afterwards"
            )

    def post(self, step: Callable[[], object]) -> None:
        """Have the loop do something, after what it was given before; nothing once it is over."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(step)

    def _begin(self) -> None:
        try:
            self._thread.start()
        except RuntimeError as error:  # this process can start no more threads
            self._loop.close()
            raise StartFailed(f"no thread can be started for the pool: {error}") from error

    def _send(self, call: PoolCall) -> None:
        """Let the loop take a call, together with others that are submitted meanwhile."""
        with self._lock:
            self._check_open()
            try:
                self._inbox.append(call)
                if not self._is_woken:
                    self._is_woken = True
                    self.post(self._empty_inbox)
            except BaseException:  # Ctrl-C, perhaps before the loop was told
                self.post(self._empty_inbox)
                raise
            if self._has_ended:
                self._empty_inbox()

    def _ask(self, step: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Have the loop do something, and wait for it; Ctrl-C cancels it."""
        self._check_owner()
        self._check_elsewhere()
        if self._has_ended:
            self._check_open()
        steps = step()
        try:
            doing = asyncio.run_coroutine_threadsafe(steps, self._loop)
        except RuntimeError:  # the loop was closed just now
            steps.close()
            self._check_open()
            raise
        try:
            one_ends([doing, self._over], NEVER)
            return doing.result(0.0)
        except (CancelledError, TimeoutError):  # the loop has ended, and perhaps never began it
            if self._has_ended:
                self._check_open()
            raise
        except BaseException:
            doing.cancel()
            raise

    def _join(self, seconds: float | None) -> None:
        """Wait until all has ended, unless this thread has something to do for that."""
        if self._is_here() or self._borrowed_here():
            return
        if one_ends([self._over], Deadline.after(seconds)):
            self._thread.join()  # it has nothing left to do

    def _refuse(self, *, cancel_futures: bool) -> None:
        """Take no more calls."""
        with self._lock:
            self._refusal = self._refusal or (lambda: ChannelClosed("the pool was shut down"))
            self.post(lambda: self.group.shut_down(cancel_futures=cancel_futures))

    def _check_open(self) -> None:
        if self._refusal is not None:
            raise self._refusal()
        self.group.queue.check_open()  # it may be broken

    def _check_owner(self) -> None:
        if os.getpid() != self._owner:
            raise TransportError(
                "this WorkerPool or Executor belongs to the process that this one was forked from; "
                "make one here"
            )

    def _check_elsewhere(self) -> None:
        if self._is_here():
            raise RuntimeError(
                "a callback of a future, or a plugin, waits for another call: it runs in the "
                "thread that takes the replies of all calls; wait in a thread of your own"
            )

    def _borrowed_here(self) -> int:
        """How many workers are lent to this thread."""
        return [*self._borrowers.values()].count(threading.get_ident())

    def _is_here(self) -> bool:
        return threading.current_thread() is self._thread

    # From here on: what runs in the thread of the loop.

    def _run(self) -> None:
        try:
            _check_no_other_loop(self._loop)
            with asyncio.Runner(debug=False, loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
            elif not isinstance(error, asyncio.CancelledError):  # Ctrl-C just after it had started
                raise
        finally:
            self._over.set_result(None)

    async def _serve(self) -> None:
        self._serving = asyncio.current_task()
        self.group = group = SlotGroup(self._plan)
        await group.start()
        self._started.set_result(None)
        try:
            while not group.ended:  # there may be more slots by then
                await group.join(NEVER)
        finally:
            # Without the lock: a signal handler may wait for the end in the midst of a submission.
            self._refusal = self._refusal or group.queue.refusal
            self._has_ended = True
            self._empty_inbox()

    def _stop(self) -> None:
        """Nobody wants the pool: end the workers, which may not have started yet."""
        if self._serving is None:  # its first step is next
            self.post(self._stop)
        else:
            self._serving.cancel()

    def _empty_inbox(self) -> None:
        self._is_woken, queue = False, self.group.queue
        while True:
            try:
                call = self._inbox.popleft()
            except IndexError:  # perhaps since another thread empties it, too, in the end
                return
            try:
                queue.put(call)
            except SomaError as error:
                call.settle(error=error)

    def _place_at_once(self, call: PoolCall) -> None:
        self._check_open()
        queue = self.group.queue
        if queue.is_full:
            queue.check_patience(call, wait=False)
        queue.put(call)

    async def _place(self, call: PoolCall, *, wait: bool) -> None:
        await self.group.queue.make_room(call, wait=wait)
        self.group.queue.put(call)

    def _end_all(self) -> None:
        self._closing = self._loop.create_task(self.group.close())


def _check_no_other_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Make sure that a loop, which is closed otherwise, can run in this thread.

    Raises:
        StartFailed: Another one runs here.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    loop.close()
    raise StartFailed(
        "another event loop runs in the thread of this pool: under gevent, where threads are "
        "greenlets of one thread, a process has one WorkerPool or Executor at a time; close the "
        "other one before, or use soma.connect"
    )
