"""Pipelining: sends the calls of a pool to a worker that has not answered those before yet.

So a worker finds its next command as soon as it has done with one, and the loop takes replies by
callbacks, without a task in between. Only nodes whose last calls were all quick are treated so, and
what is behind a call that takes long after all is taken back, if the channel can do that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from soma_core.channel.deadline import NEVER
from soma_core.client.aio.pipelined import PipelinedConnection
from soma_core.client.calls import Call
from soma_core.client.pool.call import PoolCall
from soma_core.client.pool.queue import CallQueue
from soma_core.client.pool.replica import Replica, ends_worker, was_not_sent
from soma_core.client.steps import Steps, argument_error
from soma_core.errors import ErrorCode, RemoteError, SomaError

_MOST = 16  # calls that one worker has
_SECONDS = 0.01  # that the calls which one worker has may take together, by the last ones


class Pipelining:
    """Sends calls ahead to one worker of a pool.

    Args:
        may_go_on: Whether the worker may be given another call, as far as its slot knows.

    Attributes:
        left: Calls that the worker has not begun, and never will; whoever takes them empties it.
        answered: How many calls the worker has answered.
        usable: Whether the worker can be used on.
    """

    def __init__(
        self,
        queue: CallQueue,
        replica: Replica,
        pipeline: PipelinedConnection,
        may_go_on: Callable[[], bool],
    ) -> None:
        self._queue, self._replica, self._paces = queue, replica, queue.paces
        self._may_go_on = may_go_on
        self._worker, self.pipeline = replica.worker, pipeline
        pipeline.refill = self._fill
        self.left: list[PoolCall] = []
        self.answered = 0
        self.usable = True
        self._remedies: list[Call] = []
        self._seconds = 0.0  # that the calls on their way are expected to take

    def suits(self, call: PoolCall) -> bool:
        """Whether a call may be sent ahead, or others behind it."""
        return call.ahead and call.joinable is None and self._paces.is_quick(call.label)

    async def run(self, call: PoolCall) -> None:
        """Do a call, and those that come while there are some on their way."""
        await self.pipeline.open()
        try:
            self._send(call)
            self._fill()
            self.pipeline.flush()
            await self.pipeline.drained()
        finally:
            self.pipeline.close()
            self._seconds = 0.0
            self._replica.busy = False
        while self._remedies:
            try:
                await self._worker.ask(self._remedies.pop())
            except SomaError as error:  # the call that needed it says why it fails
                self.usable = self.usable and not ends_worker(error)

    def _fill(self) -> None:
        """Send calls as long as some wait, and the worker may have more."""
        queue, pipeline = self._queue, self.pipeline
        if not self._may_go_on():
            return
        room = min(_MOST, queue.share) - len(pipeline)
        while room > 0 and pipeline.can_send and not self._replica.is_used_up():
            call = queue.first()
            if call is None or not self.suits(call):
                return
            if len(pipeline) and self._seconds + self._paces.usual(call.label) > _SECONDS:
                return
            self._send(queue.take_first())
            room -= 1

    def _send(self, call: PoolCall) -> None:
        sent = _PipelinedCall(self, call, self._paces.usual(call.label))
        if not call.begin(sent):
            return
        if len(self.pipeline):
            call.due = call.deadline  # to which the queue sees until the worker begins it
        self._replica.begin(1)
        self._seconds += sent.expected
        try:
            sent.steps = call.run(self._worker.verbs)
            sent.command = next(sent.steps)
            self.pipeline.send(sent.command, sent)
        except BaseException as error:
            self.failed(sent, sent.explained(error))

    def arrived(self, sent: _PipelinedCall, seconds: float) -> None:
        """A call is answered, after so many seconds."""
        self._paces.add(sent.call.label, seconds)
        self._seconds -= sent.expected
        self.answered += 1
        self._replica.answered = time.monotonic()

    def failed(self, sent: _PipelinedCall, error: BaseException) -> None:
        """A call has no result, or the worker has not begun it."""
        self._seconds -= sent.expected
        call = sent.call
        self.usable = self.usable and not ends_worker(error)
        if was_not_sent(call, error):
            self.left.append(call)
        elif self._was_meant_for_another(error) or self._can_be_mended(sent, error):
            call.ahead = False
            self.left.append(call)
        else:
            call.settle(error=error)

    def taken_back(self, sent: _PipelinedCall) -> None:
        """The worker will never begin a call: another one may."""
        self._seconds -= sent.expected
        self._replica.give_back(1)
        self._queue.put_back([sent.call])

    def _was_meant_for_another(self, error: BaseException) -> bool:
        """Whether an interrupt of the call before came too late, and ended this one."""
        interrupted = isinstance(error, RemoteError) and error.code == ErrorCode.INTERRUPTED
        return interrupted and self.pipeline.interrupts

    def _can_be_mended(self, sent: _PipelinedCall, error: BaseException) -> bool:
        if sent.command is None:
            return False
        remedy = self._worker.verbs.remedy(sent.command, error)
        self._remedies += remedy or ()
        return remedy is not None


class _PipelinedCall:
    """A call that is on its way."""

    __slots__ = ("_pipelining", "call", "command", "expected", "steps")

    def __init__(self, pipelining: Pipelining, call: PoolCall, expected: float) -> None:
        self._pipelining, self.call, self.expected = pipelining, call, expected
        self.steps: Steps[Any] | None = None
        self.command: Call | None = None

    @property
    def wanted(self) -> bool:
        """Whether the call has not ended."""
        return not self.call.ended

    def drop(self) -> None:
        """The call is not wanted any more."""
        self._pipelining.pipeline.dropped()

    def begun(self) -> None:
        """The worker begins the call."""
        assert self.command is not None
        self.call.due = NEVER
        self.command.deadline = self.call.deadline.within(self.command.timeout)

    def arrived(self, reply: Any, seconds: float) -> None:
        """The reply has come."""
        assert self.steps is not None
        result = raised = None
        try:
            self.steps.send(reply)
        except StopIteration as end:
            result = end.value
        except BaseException as error:
            raised = error
        self.call.settle(result, raised)  # not above: what a callback raises would be about that
        del result, raised  # whose frames lead to this one
        self._pipelining.arrived(self, seconds)

    def failed(self, error: BaseException) -> None:
        """There is no reply."""
        self._pipelining.failed(self, self.explained(error))

    def taken_back(self) -> None:
        """The worker will never begin it."""
        self._pipelining.taken_back(self)

    def explained(self, error: BaseException) -> BaseException:
        """What the call raises in place of an error."""
        if isinstance(error, ValidationError) and self.steps is not None:
            return argument_error(self.steps, error)
        if isinstance(error, RemoteError):
            error.shorten()
        return error
