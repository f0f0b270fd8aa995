"""Large buffers in Ray's object store, made the receiver's own without a copy.

Ray hands out read-only arrays, since several processes may read one object. An object of ours is
read by exactly one: its sender drops it, and nobody else has ever heard of it. So the receiver may
write into it, where the store is mapped writable, as Ray's client maps it to create objects. That
is looked up in the kernel's table of mappings; where it says anything else, a copy is made.
"""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path
from typing import Any

import numpy as np

_MAPS = Path("/proc/self/maps")


class _Writable:
    """Lends the memory of a read-only array to a writable one, whose base keeps it alive."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array
        shape, address = array.shape, array.__array_interface__["data"][0]
        self.__array_interface__ = {
            "shape": shape, "typestr": "|u1", "data": (address, False), "version": 3,
        }  # fmt: skip


class Owner:
    """Makes buffers that came through the object store the receiver's own."""

    def __init__(self) -> None:
        self._mappings: list[tuple[int, int]] = []

    def __call__(self, array: np.ndarray[Any, Any]) -> Any:
        """The bytes of an array of bytes, writable: its own memory, or a copy."""
        if array.flags.writeable:
            return array.data
        if self._in_writable_store(array.__array_interface__["data"][0], array.nbytes):
            return np.asarray(_Writable(array)).data
        return bytearray(array)

    def _in_writable_store(self, address: int, size: int) -> bool:
        if self._covers(address, size):
            return True
        self._mappings = _shared_writable_mappings()
        return self._covers(address, size)

    def _covers(self, address: int, size: int) -> bool:
        number = bisect_right(self._mappings, (address, float("inf"))) - 1
        if number < 0:
            return False
        start, end = self._mappings[number]
        return start <= address and address + size <= end


def _shared_writable_mappings() -> list[tuple[int, int]]:
    """Where this process has files of memory mapped shared and writable, in order."""
    if not _MAPS.exists():
        return []
    found = []
    for line in _MAPS.read_text().splitlines():
        span, permissions, _, _, inode, *_ = line.split()
        if permissions.startswith("rw") and permissions.endswith("s") and inode != "0":
            start, end = (int(side, 16) for side in span.split("-"))
            found.append((start, end))
    return sorted(found)
