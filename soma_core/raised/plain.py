"""Arguments and attributes of an exception, as data that the JSON of every language holds.

What JSON has no form for has the form that it has in lines: see ``docs/implementing.md``.
"""

from __future__ import annotations

import base64
import math
from contextlib import suppress
from typing import Any

_LARGEST = 1 << 16  # characters of all texts of one exception
_WIDEST = 100  # items of a list, a tuple or a dict
_DEEPEST = 3


class NotPlain(ValueError):
    """What an exception holds is more than plain data, or too much of them."""


class Writer:
    """Writes plain data as JSON holds them.

    Numpy's numbers become Python's, and what is of a subclass, such as a member of an IntEnum, the
    value that it is.
    """

    def __init__(self) -> None:
        self._left = _LARGEST

    def write(self, value: Any, depth: int = _DEEPEST) -> Any:
        """One argument or attribute.

        Raises:
            NotPlain: It is more than plain data, or too large.
        """
        if value is None or type(value) is bool:
            return value
        if isinstance(value, list | tuple | dict):
            return self._container(value, depth)
        for kind, form in _FORMS.items():
            if isinstance(value, kind):
                return self._counted(form(value))
        if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
            return self.write(value.item(), 0)
        raise NotPlain(type(value).__name__)

    def _container(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if not depth or len(value) > _WIDEST or kind not in (list, tuple, dict):
            raise NotPlain(kind.__name__)
        if kind is dict:
            if any(type(key) is not str for key in value) or value.keys() in _TAGS:
                raise NotPlain("dict")
            return {key: self.write(item, depth - 1) for key, item in value.items()}
        items = [self.write(item, depth - 1) for item in value]
        return items if kind is list else {"$soma": "tuple", "items": items}

    def _counted(self, form: Any) -> Any:
        length = len(form) if isinstance(form, str) else len(str(form))
        if length > self._left:
            raise NotPlain("str")
        self._left -= length
        return form


def _int(value: int) -> Any:
    plain = int.__int__(value)
    return plain if -(2**63) <= plain < 2**63 else _tag("int", hex(plain))


def _float(value: float) -> Any:
    return float.__float__(value) if math.isfinite(value) else _tag("float", float.__repr__(value))


def _bytes(value: bytes) -> Any:
    return {"type": "Bytes", "data": {"b64": base64.b64encode(value).decode()}}


def _tag(kind: str, text: str) -> dict[str, str]:
    return {"$soma": kind, "value": text}


_FORMS: dict[type, Any] = {int: _int, float: _float, str: str.__str__, bytes: _bytes}
_TAGS = ({"$soma", "items"}, {"$soma", "value"}, {"type", "data"})


def read(value: Any) -> Any:
    """What was written; what has no such form is as it came."""
    if isinstance(value, list):
        return [read(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() in _TAGS:
        with suppress(KeyError, TypeError, ValueError):  # not one of ours after all
            return _READERS[value.get("$soma") or value["type"]](value)
    return {key: read(item) for key, item in value.items()}


_READERS: dict[str, Any] = {
    "tuple": lambda tag: tuple(read(tag["items"])),
    "int": lambda tag: int(tag["value"], 16),
    "float": lambda tag: float(tag["value"]),
    "Bytes": lambda tag: base64.b64decode(tag["data"]["b64"]),
}
