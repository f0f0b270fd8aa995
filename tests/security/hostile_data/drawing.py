"""Drawing: numbers, texts, nested data and wrong bytes by chance, the same for the same seed.

Hypothesis took from 3 to 20 milliseconds to draw an input, and drew one of two twice.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeVar

__all__ = ["Draw"]

_T = TypeVar("_T")

_NUMBERS = [0, 1, 2, 3, 7, 8, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62]
_SIGNED = [*_NUMBERS, *(-number for number in _NUMBERS if number), 2**63 - 1]
_REALS = [0.0, -0.0, 1.5, -1.0, math.inf, -math.inf, math.nan, 5e-324, 1.8e308, 1e16, 2.0**31]
_CHARACTERS = [
    *"abcxyzAZ019 ./:_-$%\\'\"<{[\0\n\r\t\x1b",
    *"\x7f\x85éß\u202e\u2028\ufeff\U0001f600",
]


class Draw:
    """Everything that an input is made of.

    Args:
        seed: Says what is drawn.
    """

    def __init__(self, seed: str) -> None:
        self._random = Random(seed).random

    def below(self, count: int) -> int:
        """A number from 0 on."""
        return int(self._random() * count)

    def within(self, least: int, most: int) -> int:
        """A number, the ends among them."""
        return least + self.below(most - least + 1)

    def one_in(self, count: int) -> bool:
        """Whether something happens that does so once in so many times."""
        return self._random() * count < 1

    def among(self, options: Sequence[_T]) -> _T:
        """One of them."""
        return options[self.below(len(options))]

    def several(self, most: int, draw: Callable[[], _T]) -> list[_T]:
        """None of them, one, or more."""
        return [draw() for _ in range(self.below(most + 1))]

    def number(self) -> int:
        """A small number, or one that is near a limit of some type."""
        return self.among(_SIGNED) if self.one_in(2) else self.within(-4, 64)

    def text(self, most: int = 8) -> str:
        """A few characters."""
        return "".join(self.several(most, lambda: self.among(_CHARACTERS)))

    def binary(self, most: int = 8) -> bytes:
        """A few bytes."""
        return bytes(self.several(most, lambda: self.below(256)))

    def real(self) -> float:
        """A number of any bits, or one that is treated apart."""
        if self.one_in(2):
            return self.among(_REALS)
        found: float = struct.unpack("<d", bytes(self.below(256) for _ in range(8)))[0]
        return found

    def leaf(self) -> Any:
        """Plain data that hold no others."""
        ways: list[Callable[[], Any]] = [
            lambda: None, lambda: self.one_in(2), self.number, self.real, self.text, self.binary,
        ]  # fmt: skip
        return self.among(ways)()

    def plain(self, levels: int = 3) -> Any:
        """Plain data, nested at most so deep."""
        if levels == 0 or self.one_in(2):
            return self.leaf()
        items = self.several(4, lambda: self.plain(levels - 1))
        how = self.below(3)
        if how == 0:
            return items
        return tuple(items[:2]) if how == 1 else {self.text(6): item for item in items}

    def changed_bytes(self, data: bytes) -> bytes:
        """Some bytes of it overwritten, cut out, repeated or cut off."""
        content = bytearray(data)
        for _ in range(self.within(1, 4)):
            at = self.below(max(1, len(content)))
            how = self.among(["byte", "number", "cut", "repeat", "end"])
            if how == "byte":
                content[at : at + 1] = bytes([self.below(256)])
            elif how == "number":
                width = self.among(["<H", "<I", "<Q"])
                size = struct.calcsize(width)
                content[at : at + size] = struct.pack(width, self.number() % (1 << 8 * size))
            elif how == "cut":
                del content[at : at + self.within(1, 16)]
            elif how == "repeat":
                content[at:at] = content[at : at + self.within(1, 64)]
            else:
                del content[at:]
        return bytes(content)

    def replaced(self, value: Any, other: Callable[[], Any], chance: int) -> Any:
        """The same nesting with one part in so many another one, and as many keys missing."""
        if isinstance(value, dict) and value:
            return {
                item_key: self.replaced(item, other, chance)
                for item_key, item in value.items()
                if not self.one_in(chance)
            }
        if isinstance(value, list | tuple) and 0 < len(value) < 30:
            return type(value)(self.replaced(item, other, chance) for item in value)
        return other() if self.one_in(chance) else value
