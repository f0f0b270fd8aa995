"""Short texts for values that may be large: what a repr shows of them."""

from __future__ import annotations

import reprlib
from typing import Any


def brief(value: object) -> str:
    """A value in a few words: arrays by shape and type, long containers by their beginning.

    It never raises: a value that cannot be shown is named by its class.
    """
    return _SHORT.repr(value)


def size(count: int) -> str:
    """A number of bytes, as people write it."""
    if count < 1000:
        return "1 byte" if count == 1 else f"{count} bytes"
    amount, unit = count / 1000, "kB"
    for larger in ("MB", "GB", "TB"):
        if amount >= 999.95:  # it would be written as 1000.0
            amount, unit = amount / 1000, larger
    return f"{amount:.1f} {unit}"


class Brief:
    """Stands for a value in a repr, and is written in a few words."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __repr__(self) -> str:
        return brief(self._value)


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = 4
        self.maxstring = self.maxother = self.maxlong = 60
        self.fillvalue = "…"

    def repr1(self, value: Any, level: int) -> str:
        try:
            return super().repr1(value, level)
        except Exception:  # of the user's class, or an integer of more digits than Python writes
            return f"<{type(value).__qualname__}>"

    def repr_bytes(self, value: bytes, level: int) -> str:
        return f"<{size(len(value))}>"

    repr_bytearray = repr_bytes

    def repr_list(self, value: list[Any], level: int) -> str:
        text = super().repr_list(value, level)
        more = len(value) - self.maxlist
        return text if more <= 0 else f"{text.removesuffix('…]')}… {more:,} more]"

    def repr_instance(self, value: Any, level: int) -> str:
        shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
        if isinstance(shape, tuple) and shape and dtype is not None:
            held, kind = getattr(value, "nbytes", 0), str(dtype).removeprefix("torch.")
            return f"<{type(value).__name__} of {_by(shape)} {kind}, {size(held)}>"
        if isinstance(shape, tuple) and hasattr(value, "columns"):
            return f"<{type(value).__name__} of {_by(shape)}>"
        if callable(getattr(value, "parameters", None)) and hasattr(value, "state_dict"):
            return f"<{type(value).__name__} of {_parameters(value):,} parameters>"
        text = super().repr_instance(value, level)
        return text if len(text) <= 200 else f"<{type(value).__qualname__}>"


def _by(shape: tuple[Any, ...]) -> str:
    return " by ".join(map(str, shape))


def _parameters(module: Any) -> int:
    try:
        return sum(parameter.numel() for parameter in module.parameters())
    except Exception:  # an object that only looks like a module
        return 0


_SHORT = _Short()
