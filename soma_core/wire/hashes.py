"""Sets and dicts of what came: none in which so much has one hash that making it takes for ever."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

_FEW = 100  # of one hash: each is compared with all of those before it


def hashable(items: Sequence[Any]) -> Sequence[Any]:
    """Items from which a set is made, or keys of a dict.

    Raises:
        ValueError: Too many have the same hash, as no numbers have by chance.
        TypeError: One has none.
    """
    if len(items) > _FEW:
        ((_, most),) = Counter(map(hash, items)).most_common(1)
        if most > _FEW:
            raise ValueError(f"{most:,} of its {len(items):,} items have the same hash")
    return items
