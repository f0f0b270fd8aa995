"""Streams: chunks of data through a chain, pulled one by one by whoever reads the results."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

__all__ = ["stream"]

Run = Callable[[Sequence[str], Any], Any]


def stream(
    node_ids: Sequence[str], chunks: Iterable[Any], barriers: Collection[str], run: Run
) -> Generator[Any, None, None]:
    """Run chunks through a chain; a chunk is taken when its result is asked for.

    Before a node that needs all the data at once everything is gathered; behind it, the data
    goes on in chunks of the old sizes if it has as many rows as before, else in one.

    Args:
        node_ids: The chain.
        chunks: The data; closed with this generator if it can be.
        barriers: The nodes that need all the data at once.
        run: Runs some nodes of the chain: ``run(node_ids, x)``.

    Raises:
        ValueError: Chunks that must be gathered cannot be put together.
    """
    source = iter(chunks)
    try:
        first, *others = _segments(node_ids, barriers)
        flow: Iterator[Any] = (run(first, chunk) if first else chunk for chunk in source)
        for segment in others:
            flow = _from_barrier(segment, flow, run)
        yield from flow
    finally:
        close = getattr(source, "close", None)
        if callable(close):
            close()


def _segments(node_ids: Sequence[str], barriers: Collection[str]) -> list[list[str]]:
    """The chain cut before each barrier; the first segment may be empty."""
    starts = [index for index, node_id in enumerate(node_ids) if node_id in barriers]
    return [list(node_ids[a:b]) for a, b in pairwise([0, *starts, len(node_ids)])]


def _from_barrier(segment: Sequence[str], flow: Iterator[Any], run: Run) -> Iterator[Any]:
    barrier, *behind = segment
    gathered = list(flow)
    if not gathered:
        return
    sizes = [_rows(chunk) for chunk in gathered]
    out = run([barrier], _joined(gathered))
    del gathered
    for piece in _cut(out, sizes):
        yield run(behind, piece) if behind else piece


def _rows(value: Any) -> int:
    if isinstance(value, dict):
        return max(map(_rows, value.values()), default=0)
    return len(value) if hasattr(value, "__len__") and getattr(value, "shape", True) else 0


def _cut(out: Any, sizes: Sequence[int]) -> Iterator[Any]:
    if isinstance(out, dict | str | bytes) or not 0 < _rows(out) == sum(sizes):
        yield out
        return
    start = 0
    for size in sizes:
        rows = slice(start, start + size)
        yield out.iloc[rows] if hasattr(out, "iloc") else out[rows]
        start += size


def _joined(chunks: list[Any]) -> Any:
    first = chunks[0]
    if len(chunks) == 1:
        return first
    if isinstance(first, dict):
        return {key: _joined([chunk[key] for chunk in chunks]) for key in first}
    if isinstance(first, list):
        return [row for chunk in chunks for row in chunk]
    if isinstance(first, np.ndarray):
        return np.concatenate(chunks)
    if hasattr(first, "iloc"):
        import pandas

        return pandas.concat(chunks)
    if type(first).__module__.partition(".")[0] == "torch":
        import torch

        return torch.cat(chunks)
    raise ValueError(
        f"chunks of type {type(first).__name__} cannot be put together for a node that needs all "
        "the data at once; expected arrays, tensors, lists, data frames, or dicts of these"
    )
