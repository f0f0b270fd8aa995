"""PoolCall: one call of a pool, from its submission to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import Context
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from soma_core.channel.deadline import NEVER, Deadline
from soma_core.client.calls import Call
from soma_core.client.pool.batching import Joinable
from soma_core.client.steps import Steps, before_each
from soma_core.client.verbs.verbs import Verbs
from soma_core.errors import DeadlineExceeded, SomaError

if TYPE_CHECKING:
    from soma_core.client.pool.blocking.lease import Lease

SHORT = 0.02
"""Seconds. A limit up to that is kept to the moment, so that such a call is not sent ahead: what is
on its way is looked at that often."""

Run = Callable[[Verbs], Steps[Any]]
"""What a call does on a worker."""


def asked_in(contexts: tuple[Context, ...], since: float, steps: Steps[Any]) -> Steps[Any]:
    """Steps whose commands say to plugins where they were asked for, and the first one when."""
    asked: float | None = since

    def mark(call: Call) -> None:
        nonlocal asked
        call.contexts = contexts
        if asked is not None:
            call.asked, asked = asked, None

    return before_each(mark, steps)


class CallOutcome(Enum):
    """How a call ended."""

    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Ending(Protocol):
    """The future of a call, of whatever kind."""

    def end(self, result: Any, error: BaseException | None) -> None:
        """Set the result or the error."""

    def cancel(self, *, interrupt: bool = True) -> bool:
        """Cancel the call."""


class Running(Protocol):
    """A worker that runs a call, perhaps together with others."""

    def drop(self) -> None:
        """A call wants it no longer."""


class PoolCall:
    """One call of a pool: it waits, a worker may begin it, and it ends once. Used in
    the thread of the pool's event loop; others may ask whether it runs, or has ended.

    Args:
        run: Does it on a worker, and returns the result.
        label: What it is counted under in the statistics; None for what is only counted.
        priority: Calls of a greater one are run sooner.
        deadline: When it must have ended; until a worker has begun it, the pool sees to that.
        context: Where it was asked for, if plugins observe calls: what traces calls finds there
            what they are a part of.
        joinable: What other calls must have in common with it to be run together with it; None
            if it is always run alone.
        commit: Called with the result if the call changed the worker: makes the change one of
            the blueprint, and returns the version of that.
        replace_on_error: Whether a call that fails may leave the worker half changed, so that it
            must be replaced.
        ahead: Whether it is one command, and may be sent to a worker that has not answered the
            calls before it.
        unwrap: Makes the result and the error of what ``run`` returned; None if that is the
            result.

    Attributes:
        submitted: When it was made (``time.monotonic``).
        due: When the pool must end it, whatever the worker does: its deadline while it waits.
        future: Receives how it ends; set when it is submitted.
        on_end: Called once, just before the future says how it ended.
        lease: Who does it, with a worker that is lent for it; None if the pool does.
    """

    def __init__(
        self,
        run: Run,
        *,
        context: Context | None = None,
        label: str | None = None,
        priority: int = 0,
        deadline: Deadline | None = None,
        joinable: Joinable | None = None,
        commit: Callable[[Any], int] | None = None,
        replace_on_error: bool = False,
        ahead: bool = False,
        unwrap: Callable[[Any], tuple[Any, Exception | None]] | None = None,
    ) -> None:
        self._run, self.commit = run, commit
        self.context = context
        self.label, self.priority = label, priority
        self.deadline = self.due = deadline or NEVER
        self.joinable = joinable
        self.replace_on_error, self.ahead = replace_on_error, ahead
        self._unwrap = unwrap
        self.submitted = time.monotonic()
        self.future: Ending | None = None
        self.on_end: Callable[[PoolCall, CallOutcome], None] | None = None
        self.lease: Lease[Any] | None = None
        self._ended = False
        self._execution: Running | None = None

    def run(self, verbs: Verbs) -> Steps[Any]:
        """What it does on a worker."""
        steps = self._run(verbs)
        return steps if self.context is None else asked_in((self.context,), self.submitted, steps)

    @property
    def running(self) -> bool:
        """Whether a worker has it."""
        return self._execution is not None and not self._ended

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._ended

    def begin(self, execution: Running) -> bool:
        """A worker has it from now on, and sees to its time; False if it has ended."""
        if self.due.at is not None:
            self.expire()
        if self._ended:
            return False
        self._execution = execution
        self.due = NEVER
        return True

    def wait_again(self) -> None:
        """The worker that had it has not begun it."""
        self._execution = None
        self.due = self.deadline

    def settle(self, result: Any = None, error: BaseException | None = None) -> None:
        """End it with what came of it; nothing happens if it has ended before."""
        if error is None and self._unwrap is not None:
            result, error = self._unwrap(result)
        elif isinstance(error, SomaError) and self._unwrap is not None:
            error.add_note(f"It was the call of {self.label!r}.")  # of whose node nobody knows
        if self._end(CallOutcome.DONE if error is None else CallOutcome.FAILED):
            if isinstance(error, DeadlineExceeded) and self.deadline.over():
                waited = time.monotonic() - self.submitted
                error.add_note(f"Its deadline counts from its submission, {waited:.3g} s before.")
            self._execution = None  # which may hold this call
            self._tell(result, error)

    def refuse(self, error: Exception) -> None:
        """End it with an error, unless a worker has it or it has ended."""
        if self._end(CallOutcome.FAILED, if_waiting=True):
            self._tell(None, error)

    def expire(self) -> None:
        """End it if it is due; its worker may go on for the calls that it runs with it."""
        if self.due.over() and self._end(CallOutcome.FAILED):
            excess = self.excess()
            self._drop()
            self._tell(None, excess)

    def excess(self) -> DeadlineExceeded:
        """What it raises when the pool ends it over its time."""
        passed = time.monotonic() - self.submitted
        what = "the call" if self.label is None else f"the call of {self.label!r}"
        how = (
            f"{what} waited {passed:.3g} s for a worker of the pool and was not sent; its deadline "
            "has passed"
            if self._execution is None
            else f"{what} did not end in time: it was submitted {passed:.3g} s ago, and its worker "
            "ran other calls with it, or before it"
        )
        return DeadlineExceeded(how, worker_survived=True)

    def cancel(self, *, interrupt: bool) -> bool:
        """End it; the future says so. A worker that runs it for nobody else is made to stop."""
        if not self._end(CallOutcome.CANCELLED, if_waiting=not interrupt):
            return False
        self._drop()
        return True

    def _tell(self, result: Any, error: BaseException | None) -> None:
        if self.future is not None:
            self.future.end(result, error)

    def _drop(self) -> None:
        execution, self._execution = self._execution, None
        if execution is not None:
            execution.drop()

    def _end(self, outcome: CallOutcome, *, if_waiting: bool = False) -> bool:
        if self._ended or (if_waiting and self._execution is not None):
            return False
        self._ended = True
        if self.on_end is not None:
            self.on_end(self, outcome)
        return True
