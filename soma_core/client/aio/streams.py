"""Streams of an event loop: chunks of data through a chain, one by one."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Sequence,
)
from contextlib import aclosing
from typing import Any

from soma_core.client.chunks import StreamPlan, gather, split

Run = Callable[[Sequence[str], Any], Awaitable[Any]]


async def stream(
    plan: StreamPlan, chunks: Iterable[Any] | AsyncIterable[Any], run: Run
) -> AsyncGenerator[Any, None]:
    """Run chunks through a chain, as :func:`soma_core.client.chunks.stream`."""
    first, *others = plan.segments()
    flow = _run_each(first, chunks, run)
    for segment in others:
        flow = _from_barrier(segment, flow, run)
    async with aclosing(flow):
        async for out in flow:
            yield out


async def _run_each(
    segment: Sequence[str], chunks: Iterable[Any] | AsyncIterable[Any], run: Run
) -> AsyncGenerator[Any, None]:
    async with aclosing(each(chunks)) as source:
        async for chunk in source:
            yield (await run(segment, chunk)) if segment else chunk


async def each(chunks: Iterable[Any] | AsyncIterable[Any]) -> AsyncGenerator[Any, None]:
    """The chunks of either kind of iterable, which is closed in the end if it can be."""
    if isinstance(chunks, AsyncIterable):
        source: AsyncIterator[Any] = aiter(chunks)
        try:
            async for chunk in source:
                yield chunk
        finally:
            aclose = getattr(source, "aclose", None)
            if callable(aclose):
                await aclose()
        return
    iterator = iter(chunks)
    try:
        for chunk in iterator:
            yield chunk
    finally:
        close = getattr(iterator, "close", None)
        if callable(close):
            close()


async def _from_barrier(
    segment: Sequence[str], flow: AsyncGenerator[Any, None], run: Run
) -> AsyncGenerator[Any, None]:
    barrier, *behind = segment
    async with aclosing(flow):
        gathered = [chunk async for chunk in flow]
    if not gathered:
        return
    x, sizes = gather(gathered)
    del gathered
    for piece in split(await run([barrier], x), sizes):
        yield (await run(behind, piece)) if behind else piece
