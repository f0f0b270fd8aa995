"""What travels of an exception besides its text."""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from soma_core.raised.plain import Writer
from soma_core.raised.stack import DEEPEST, StackEntry, entries_of

_LONGEST_CHAIN = 20  # exceptions that are described, of causes of causes and of a group
_MOST = 1000  # notes, and base classes
_LONGEST_TEXT = 1 << 16  # characters of an error, of its traceback and of its notes


class Raised(BaseModel):
    """An exception, as far as another process can make use of it."""

    model_config = ConfigDict(defer_build=True, protected_namespaces=())

    type: str | None = None
    """The name of its class."""
    error: str = ""
    """Its text."""
    bases: Annotated[list[str], Field(max_length=_MOST)] = []
    """The built-in classes that it is an instance of, the nearest first."""
    args: list[Any] | None = None
    """Its arguments; null if they are not plain data."""
    attributes: dict[str, Any] = {}
    """Those of its attributes that are plain data, such as ``errno``."""
    notes: Annotated[list[str], Field(max_length=_MOST)] = []
    stack: Annotated[list[StackEntry], Field(max_length=DEEPEST)] = []
    """Its traceback, the outermost entry first."""
    cause: Raised | None = None
    context: Raised | None = None
    """What was being handled when it was raised, unless that was suppressed."""
    exceptions: Annotated[list[Raised], Field(max_length=_LONGEST_CHAIN)] = []
    """The exceptions of a group."""

    @classmethod
    def of(cls, error: BaseException, *, leave_out: str = "") -> Raised:
        """Describe an exception.

        Args:
            leave_out: The folder of a package; its entries are left out where a traceback
                begins with them.
        """
        return _describe(error, leave_out, set())


def _describe(error: BaseException, leave_out: str, seen: set[int]) -> Raised:
    """Describe an exception and those that it leads to, each once and not without end."""
    seen.add(id(error))

    def further(other: BaseException | None) -> Raised | None:
        if other is None or id(other) in seen or len(seen) >= _LONGEST_CHAIN:
            return None
        return _describe(other, leave_out, seen)

    members = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    writer = Writer()
    args = [error.message] if isinstance(error, BaseExceptionGroup) else list(error.args)
    return Raised(
        type=type(error).__name__,
        error=_text(error),
        bases=[kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"],
        args=_plain(args, writer),
        attributes=dict(_plain_attributes(error, writer)),
        notes=[*_notes(error)],
        stack=entries_of(error.__traceback__, leave_out=leave_out),
        cause=further(error.__cause__),
        context=None if error.__suppress_context__ else further(error.__context__),
        exceptions=[one for member in members if (one := further(member))],
    )


def shortened(text: str, longest: int = _LONGEST_TEXT) -> str:
    """A text of at most so many characters: its start, and its end."""
    if len(text) <= longest:
        return text
    half = longest // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n[... {left_out:,} characters left out ...]\n{text[len(text) - half :]}"


def _notes(error: BaseException) -> Iterator[str]:
    """Its notes, together no longer than its text may be."""
    left = _LONGEST_TEXT
    for note in islice(getattr(error, "__notes__", ()), _MOST):
        if isinstance(note, str) and left:
            yield shortened(note, left)
            left = max(0, left - len(note))


def _text(error: BaseException) -> str:
    try:
        return shortened(str(error))
    except Exception:  # the exception is of the user's class, whose __str__ may fail
        return ""


def _plain_attributes(error: BaseException, writer: Writer) -> Iterator[tuple[str, Any]]:
    """Its own attributes, its properties, and what its class keeps apart, such as ``errno``."""
    described = {name: kind for line in type(error).__mro__ for name, kind in _described(line)}
    for name in {**described, **vars(error)}:
        if name.startswith("_"):
            continue
        with suppress(Exception):  # a property is code of the user; what is not plain stays behind
            value = getattr(error, name)
            if value is not None or described.get(name, property) is property:
                yield name, writer.write(value)


def _described(kind: type) -> Iterator[tuple[str, type]]:
    if kind not in _WITHOUT_ATTRIBUTES:
        for name, member in vars(kind).items():
            if type(member) in _DESCRIPTORS:
                yield name, type(member)


_WITHOUT_ATTRIBUTES = frozenset({BaseException, object, BaseExceptionGroup})
_DESCRIPTORS = (property, types.GetSetDescriptorType, types.MemberDescriptorType)


def _plain(args: list[Any], writer: Writer) -> list[Any] | None:
    try:
        return [writer.write(arg) for arg in args]
    except Exception:  # it is not plain, or an argument of the user's class fails
        return None
