"""CallFuture: tells of a call of a pool; and how to wait for one, or for those of a map.

Ctrl-C is heard meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, InvalidStateError, wait
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from soma_core.channel.deadline import NEVER, Deadline
from soma_core.channel.signalled import error_of_handler
from soma_core.client.pool.call import PoolCall

if TYPE_CHECKING:
    from soma_core.client.pool.blocking.background import BackgroundPool

F = TypeVar("F", bound=Future[Any])

SLICE = 0.2
"""Seconds of one wait: a Ctrl-C that comes just before it begins is noted, and does not end it: it
ends the next one."""

_log = logging.getLogger("soma.pool")


class CallFuture(Future[Any]):
    """The future of a call: unlike others it can be cancelled while a worker runs the call.

    To its base class it is pending until it ends, which lets it be cancelled until then. To cancel
    it takes effect at once; the pool sees to the call when it comes to it.
    """

    _call: PoolCall | None = None

    def __init__(self, call: PoolCall, pool: BackgroundPool) -> None:
        super().__init__()
        self._call, self._pool = call, pool

    def result(self, timeout: float | None = None) -> Any:
        """What the call returned; Ctrl-C ends the wait, and not the call."""
        self._wait(timeout)
        try:
            return super().result(0.0)
        finally:
            del self  # or it and its error would hold each other

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the call raised, or None; Ctrl-C ends the wait, and not the call."""
        self._wait(timeout)
        return super().exception(0.0)

    def _wait(self, timeout: float | None) -> None:
        if self.done():
            return
        self._pool.check_may_wait()
        deadline = Deadline.after(timeout)
        while not self.done():
            try:
                super().exception(deadline.within(SLICE).left())
            except CancelledError:
                return
            except TimeoutError as error:
                if error_of_handler(error) is not None:
                    raise
                if deadline.over():
                    return
            except RuntimeError as error:
                raise _meant(error) from None

    def running(self) -> bool:
        """Whether a worker runs the call."""
        call = self._call
        return call is not None and call.running

    def cancel(self, *, interrupt: bool = True) -> bool:
        """Withdraw a call that waits; interrupt one that runs. Its worker stays usable.

        Args:
            interrupt: Whether a call that runs is cancelled too.

        Returns:
            Whether the call is cancelled: False if it had ended before.
        """
        if self.running() and not interrupt:
            return False
        call = vars(self).pop("_call", None)  # one of two threads gets it
        if call is None or not super().cancel():
            return self.cancelled()
        self.set_running_or_notify_cancel()  # wakes those who wait for several futures
        # Even if a worker has begun it by then: nobody would see to what comes of it.
        self._pool.post(partial(call.cancel, interrupt=True))
        return True

    def end(self, result: Any, error: BaseException | None) -> None:
        """Set the result or the error. What callbacks raise is logged, and stops nobody."""
        self._call = None  # with it goes the input of the call
        try:
            if error is not None:
                self.set_exception(error)
            else:
                self.set_result(result)
        except InvalidStateError:  # another thread has cancelled it just now
            pass
        except BaseException:
            _log.exception("a callback of a call's future failed")


def wait_for_result(future: CallFuture) -> Any:
    """The result of a call; Ctrl-C cancels it."""
    try:
        with _cancelling([future]):
            return future.result()
    finally:
        del future  # its error leads to this frame


def map_results(calls: Iterator[CallFuture], window: int, *, ordered: bool) -> Iterator[Any]:
    """The results of calls that are submitted as they are taken from an iterator.

    Args:
        calls: Submits a call each time that it is asked for one; what it raises is raised after
            the results of those before.
        window: How many of them may be submitted before their results are taken.
        ordered: Whether results come in their order, or as they are ready.
    """
    pending: list[CallFuture] = []
    end: Exception | None = None
    try:
        with _cancelling(pending):
            while True:
                try:
                    while end is None and len(pending) < window:
                        pending.append(next(calls))
                except Exception as error:  # StopIteration, or what the inputs raised
                    end = error
                if not pending:
                    break
                yield _next_result(pending, ordered=ordered)
        if end is not None and not isinstance(end, StopIteration):
            raise end
    finally:
        end = None  # likewise


def _next_result(pending: list[CallFuture], *, ordered: bool) -> Any:
    ended = pending[0] if ordered else first_to_end(pending)
    try:
        result = ended.result()
        pending.remove(ended)
        return result
    finally:
        del ended  # likewise


def first_to_end(futures: Collection[F]) -> F:
    """Wait until one of them has ended, and return it; Ctrl-C ends the wait."""
    one_ends(futures, NEVER)
    return next(future for future in futures if future.done())


def one_ends(futures: Collection[Future[Any]], deadline: Deadline) -> bool:
    """Wait until one of them has ended; False if none has by the deadline. Ctrl-C ends the wait."""
    while True:
        try:
            ended = wait(futures, deadline.within(SLICE).left(), FIRST_COMPLETED).done
        except RuntimeError as error:
            raise _meant(error) from None
        if ended or deadline.over():
            return bool(ended)


@contextmanager
def _cancelling(futures: list[CallFuture]) -> Iterator[None]:
    """Cancel what is left of some calls in the end: those that run only at Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        _cancel(futures, interrupt=True)
        raise
    finally:
        _cancel(futures, interrupt=False)
        futures.clear()  # likewise


def _cancel(futures: list[CallFuture], *, interrupt: bool) -> None:
    for future in futures:
        future.cancel(interrupt=interrupt)


def _meant(error: RuntimeError) -> BaseException:
    """What an error was that came of waiting: Ctrl-C in the midst of Python's own lock is one."""
    interrupt = error.__context__
    return interrupt if isinstance(interrupt, KeyboardInterrupt) else error
