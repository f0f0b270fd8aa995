"""Batches: cutting data into rows, in order or shuffled, and joining outputs again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from soma_core.engine.training import tensors
from soma_core.errors import ErrorCode, ProtocolError

__all__ = ["Batches", "Rows", "join_rows"]

Rows = slice | np.ndarray[Any, Any]


class Batches:
    """The rows of some data and its targets, batch by batch.

    Lists, arrays, tensors and data frames are cut along their first axis, and dicts column by
    column; what has no rows (a number, a text) is given whole to every batch. Data without
    rows, and data of no rows, makes one batch.

    Args:
        x: The data.
        y: The targets, or None.
        size: Rows per batch; the last batch may be shorter.

    Raises:
        ProtocolError: ``invalid_command``: columns, or data and targets, differ in length.
    """

    def __init__(self, x: Any, y: Any, size: int) -> None:
        self.x, self.y, self.size = x, y, size
        lengths = {**_lengths("data", x), **_lengths("y", y)}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} has {length:,}" for name, length in lengths.items())
            raise ProtocolError(
                ErrorCode.INVALID_COMMAND, f"data and y must have equally many rows; {listed}"
            )
        self.rows = next(iter(lengths.values()), 0)
        self.count = max(1, -(-self.rows // size))

    def epoch(self, shuffle: np.random.Generator | None = None) -> Iterator[tuple[Rows, Any, Any]]:
        """The batches of one pass: which rows, their data, their targets.

        Args:
            shuffle: Draws the order of the rows; None keeps it, and cuts without copying.
        """
        order = None if shuffle is None or not self.rows else shuffle.permutation(self.rows)
        for start in range(0, self.count * self.size, self.size):
            end = min(start + self.size, self.rows)
            rows: Rows = slice(start, end) if order is None else order[start:end]
            yield rows, _take(self.x, rows), _take(self.y, rows)


def _lengths(name: str, value: Any) -> dict[str, int]:
    """The number of rows of each thing in some data that has rows."""
    if isinstance(value, dict):
        found: dict[str, int] = {}
        for key, item in value.items():
            found |= _lengths(f"{name}[{key!r}]", item)
        return found
    return {name: _row_count(value)} if _has_rows(value) else {}


def _has_rows(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return True
    return bool(getattr(value, "shape", ())) and hasattr(value, "__getitem__")


def _row_count(value: Any) -> int:
    shape = getattr(value, "shape", None)
    return int(shape[0]) if shape else len(value)


def _take(value: Any, rows: Rows) -> Any:
    if type(value) is np.ndarray and value.ndim:
        return value[rows]
    if isinstance(value, dict):
        return {key: _take(item, rows) for key, item in value.items()}
    if not _has_rows(value):
        return value
    if hasattr(value, "iloc"):
        return value.iloc[rows]
    if isinstance(rows, slice):
        return value[rows]
    if isinstance(value, list | tuple):
        return type(value)(value[row] for row in rows)
    if tensors.is_tensor(value):
        return value[rows.tolist()]
    return value[rows]


def join_rows(parts: list[tuple[Rows, Any]], purpose: str = "collect='all'") -> Any:
    """Put the outputs of batches together, each row where its input row stood.

    Args:
        parts: For each batch, which rows it had and its output.
        purpose: What needs them together, for the error.

    Raises:
        ProtocolError: ``filter_failed``: an output does not have one row per input row.
    """
    if len(parts) == 1 and isinstance(parts[0][0], slice):
        return parts[0][1]
    for rows, out in parts:
        wanted = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        if not _has_rows(out) or _row_count(out) != wanted:
            raise ProtocolError(
                ErrorCode.FILTER_FAILED,
                f"{purpose} needs one output row for each input row; "
                f"a batch of {wanted} rows gave {_describe(out)}",
                remote_type="ValueError",
            )
    joined = _concatenate([out for _, out in parts])
    if isinstance(parts[0][0], slice):
        return joined
    return _take(joined, np.argsort(np.concatenate([rows for rows, _ in parts])))


def _describe(out: Any) -> str:
    return f"{_row_count(out)} rows" if _has_rows(out) else f"a {type(out).__name__}"


def _concatenate(outputs: list[Any]) -> Any:
    first = outputs[0]
    if tensors.is_tensor(first):
        import torch

        return torch.cat(outputs)
    if isinstance(first, np.ndarray):
        return np.concatenate(outputs)
    if hasattr(first, "iloc"):
        import pandas

        return pandas.concat(outputs)
    return [row for out in outputs for row in out]
