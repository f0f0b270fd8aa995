"""Batches: cutting data and targets into rows, in order or shuffled, and joining outputs again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.models import rows
from soma_core.models.rows import Selection


class Batches:
    """The rows of some data and its targets, batch by batch.

    What has no rows (a number, a text) is given whole to every batch. Data without rows, and data
    of no rows, makes one batch.

    Args:
        x: The data.
        y: The targets, or None.
        size: Rows per batch; the last batch may be shorter.

    Raises:
        ProtocolError: ``invalid_command``: columns, or data and targets, differ in length.
    """

    def __init__(self, x: Any, y: Any, size: int) -> None:
        self.x, self.y, self.size = x, y, size
        try:
            self.rows = rows.common_count({"data": x, "y": y}) or 0
        except ValueError as error:
            raise ProtocolError(ErrorCode.INVALID_COMMAND, str(error)) from None
        self.count = max(1, -(-self.rows // size))

    def epoch(
        self, shuffle: np.random.Generator | None = None
    ) -> Iterator[tuple[Selection, Any, Any]]:
        """The batches of one pass: which rows, their data, their targets.

        Args:
            shuffle: Draws the order of the rows; None keeps it, and cuts without copying.
        """
        order = None if shuffle is None or not self.rows else self._order(shuffle)
        for start in range(0, self.count * self.size, self.size):
            end = min(start + self.size, self.rows)
            chosen: Selection = slice(start, end) if order is None else order[start:end]
            yield chosen, rows.take(self.x, chosen), rows.take(self.y, chosen)

    def _order(self, shuffle: np.random.Generator) -> np.ndarray[Any, Any]:
        """A random order of the rows: one that the data can be read in, where they say so."""
        sources = (source for source in (self.x, self.y) if not isinstance(source, np.ndarray))
        own = next((source.order for source in sources if hasattr(source, "order")), None)
        order: np.ndarray[Any, Any] = (
            own(shuffle) if callable(own) else shuffle.permutation(self.rows)
        )
        return order


def size_of(chosen: Selection) -> int:
    """How many rows are selected."""
    return chosen.stop - chosen.start if isinstance(chosen, slice) else len(chosen)


def shifted(chosen: Selection, by: int) -> Selection:
    """The rows that are selected, so many rows further on."""
    if isinstance(chosen, slice):
        return slice(chosen.start + by, chosen.stop + by)
    return chosen + by


def join_outputs(parts: Sequence[tuple[Selection, Any]], purpose: str = "collect='all'") -> Any:
    """Put the outputs of batches together, each row where its input row stood.

    Args:
        parts: For each batch, which rows it had and its output.
        purpose: What needs them together, for the error.

    Raises:
        ProtocolError: ``filter_failed``: an output does not have one row per input row, or the
            outputs are of different kinds.
    """
    in_order = isinstance(parts[0][0], slice)
    if in_order and len(parts) == 1:
        return parts[0][1]
    for chosen, out in parts:
        _check_rows(out, size_of(chosen), purpose)
    try:
        joined = rows.concatenate([out for _, out in parts])
    except ValueError as error:
        raise _failed(f"{purpose} needs outputs of one kind: {error}") from None
    if in_order:
        return joined
    return rows.take(joined, np.argsort(np.concatenate([chosen for chosen, _ in parts])))


def _check_rows(out: Any, wanted: int, purpose: str) -> None:
    needed = f"{purpose} needs one output row for each input row"
    try:
        found = rows.count(out, "output")
    except ValueError as error:
        raise _failed(f"{needed}: {error}") from None
    if found != wanted:
        came = f"a {type(out).__name__}" if found is None else f"{found} rows"
        raise _failed(f"{needed}; a batch of {wanted} rows gave {came}")


def _failed(message: str) -> ProtocolError:
    return ProtocolError(ErrorCode.FILTER_FAILED, message, remote_type="ValueError")
