"""Checks that the parts of a state fit together."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["check_tree", "require"]


def require(met: bool, what: str) -> None:
    """Refuse a state of which something does not hold.

    Raises:
        ValueError: It does not.
    """
    if not met:
        raise ValueError(f"it does not hold that {what}")


def check_tree(left: Any, right: Any, count: int) -> None:
    """Check that no walk from the first node leaves a tree or is endless.

    Args:
        left: The left child of each inner node.
        right: The right ones.
        count: How many nodes there are.

    Raises:
        ValueError: A child does not exist, or is the child of two nodes or the first node.
    """
    children = np.concatenate([left, right]).astype(np.int64)
    require(bool(np.all((children > 0) & (children < count))), "children exist")
    require(len(np.unique(children)) == len(children), "each node is the child of one")
