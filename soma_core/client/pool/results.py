"""Waiting for the calls of a pool: for one, or for those of a map; Ctrl-C is heard meanwhile."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from typing import Any, TypeVar

from soma_core.client.pool.call import SLICE, CallFuture, meant

__all__ = ["first_to_end", "map_results", "wait_for_result"]

F = TypeVar("F", bound=Future[Any])


def wait_for_result(future: CallFuture) -> Any:
    """The result of a call; Ctrl-C cancels it."""
    with _cancelling([future]):
        return future.result()


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
    with _cancelling(pending):
        while True:
            try:
                while end is None and len(pending) < window:
                    pending.append(next(calls))
            except Exception as error:  # StopIteration, or what the inputs raised
                end = error
            if not pending:
                break
            ended = pending[0] if ordered else first_to_end(pending)
            result = ended.result()
            pending.remove(ended)
            yield result
    if end is not None and not isinstance(end, StopIteration):
        raise end


def first_to_end(futures: Collection[F]) -> F:
    """Wait until one of them has ended, and return it; Ctrl-C ends the wait."""
    while True:
        try:
            wait(futures, SLICE, FIRST_COMPLETED)
        except RuntimeError as error:
            raise meant(error) from None
        for future in futures:
            if future.done():
                return future


@contextmanager
def _cancelling(futures: Collection[CallFuture]) -> Iterator[None]:
    """Cancel what is left of some calls in the end: those that run only at Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        for future in futures:
            future.cancel()
        raise
    finally:
        for future in futures:
            future.cancel(interrupt=False)
