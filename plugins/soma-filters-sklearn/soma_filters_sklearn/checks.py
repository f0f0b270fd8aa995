"""Checks that the parts of a state fit together."""

from __future__ import annotations

from typing import Any

import numpy as np


def require(met: bool, what: str) -> None:
    """Refuse a state of which something does not hold.

    Raises:
        ValueError: It does not.
    """
    if not met:
        raise ValueError(f"it does not hold that {what}")


def check_range(numbers: Any, count: int, what: str) -> None:
    """Check that all numbers are those of some things of which there are so many.

    Raises:
        ValueError: One leads nowhere.
    """
    require(bool(np.all((numbers >= 0) & (numbers < count))), f"{what} exist")


def check_tree(left: Any, right: Any, count: int) -> None:
    """Check that no walk from the first node leaves a tree or is endless.

    Raises:
        ValueError: A child does not exist, or is the child of two nodes or the first node.
    """
    children = np.concatenate([left, right]).astype(np.int64)
    require(bool(np.all((children > 0) & (children < count))), "children exist")
    require(len(np.unique(children)) == len(children), "each node is the child of one")


def integers(value: Any, name: str) -> Any:
    """An array of whole numbers, wide enough to compare with any.

    Raises:
        ValueError: It holds something else.
    """
    require(value.dtype.kind in "iu", f"{name} holds whole numbers")
    return value.astype(np.int64)


def check_compressed(data: Any, indices: Any, bounds: Any, rows: int, columns: int) -> None:
    """Check a sparse matrix in compressed rows (or columns), every index of it.

    ``bounds`` says where each row begins in the indices, and where the last one ends.

    Raises:
        ValueError: An index leads nowhere, or the arrays do not belong together.
    """
    require(data.ndim == indices.ndim == bounds.ndim == 1, "there is one list of numbers")
    require(0 <= rows == len(bounds) - 1 and columns >= 0, "each row has its bounds")
    bounds, indices = integers(bounds, "indptr"), integers(indices, "indices")
    require(bounds[0] == 0 and bool(np.all(np.diff(bounds) >= 0)), "the bounds are in order")
    require(int(bounds[-1]) == len(indices) == len(data), "the bounds hold all numbers")
    check_range(indices, columns, "columns")
