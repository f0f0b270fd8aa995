"""Where in an object something lies that cannot be pickled."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, NamedTuple

from soma_core.wire.definitions.names import names_in
from soma_core.wire.definitions.sentinels import OF_PYTHON_CODE

_DEEPEST = 30
_LONGEST = 2.0  # seconds that the search may take


class Culprit(NamedTuple):
    """What does not pickle.

    Attributes:
        path: Where it is: ``self.model["layers"][0].guard``.
        obj: What it is.
        error: Why it does not.
    """

    path: str
    obj: Any
    error: BaseException

    def sentence(self, kind: str) -> str:
        """Where it is, and of what kind: ``self.held[1] is a _thread.lock``."""
        if _USES not in self.path:
            return f"{self.path} is a {kind}"
        return f"{self.path.replace(_USES, ' uses ', 1)}, which is a {kind}"


_USES = ", which uses "


def find_culprit(obj: Any, error: BaseException, pickle: Callable[[Any], object]) -> Culprit:
    """Find the innermost thing in an object that does not pickle."""
    named = isinstance(obj, (type, types.FunctionType))
    found = Culprit(obj.__qualname__ if named else "self", obj, error)
    end = monotonic() + _LONGEST
    seen: list[Any] = [obj]  # kept, so that no id stands for two objects
    for _ in range(_DEEPEST):
        inner = _culprit_within(found, seen, pickle, end)
        if inner is None:
            break
        found = inner
    return found


def place_of(part: Any, fields: Any) -> str:
    """Where a part of the data is in the fields of a message: ``data["a"][1]``; else empty."""
    ways = [*fields.items()] if isinstance(fields, dict) else []
    seen = set()
    for place, found in ways:  # it grows meanwhile
        if found is part:
            return "" if place in fields else place
        if isinstance(found, (dict, list, tuple, set, frozenset)) and id(found) not in seen:
            seen.add(id(found))
            ways += ((f"{place}{step}", inner) for step, inner in _items(found))
    return ""


def _culprit_within(
    outer: Culprit, seen: list[Any], pickle: Callable[[Any], object], end: float
) -> Culprit | None:
    known = set(map(id, seen))
    for step, part in _parts(outer.obj):
        if id(part) in known:
            continue
        if monotonic() > end:
            return None
        known.add(id(part))
        seen.append(part)
        try:
            pickle(part)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # pickling may raise SystemExit as well
            return Culprit(outer.path + step, part, error)
    return None


def _parts(obj: Any) -> Iterator[tuple[str, Any]]:
    """What an object is made of, and how each part is reached from it."""
    yield from _items(obj)
    if isinstance(obj, types.FunctionType):
        yield from _used_by(obj)
    elif isinstance(obj, types.MethodType):
        yield ".__self__", obj.__self__
    elif isinstance(obj, functools.partial):
        yield from ((f".{name}", getattr(obj, name)) for name in ("func", "args", "keywords"))
    elif isinstance(obj, property):
        yield from (("", function) for function in (obj.fget, obj.fset, obj.fdel))
    elif isinstance(obj, (staticmethod, classmethod)):
        yield "", obj.__func__
    elif isinstance(obj, type):
        yield from ((f".{name}", value) for name, value in vars(obj).items())
        yield from ((f", of the class {base.__name__}", base) for base in obj.__bases__)
    if not isinstance(obj, (type, types.FunctionType)):
        yield from _state(obj)
        if type(obj).__flags__ & OF_PYTHON_CODE:  # nothing within another is the user's
            yield "", type(obj)


def _items(obj: Any) -> Iterator[tuple[str, Any]]:
    """What data hold."""
    if isinstance(obj, dict):
        yield from ((_item(key), value) for key, value in obj.items())
        yield from ((f", whose key {key!r}", key) for key in obj)
    elif isinstance(obj, (list, tuple)):
        yield from ((f"[{number}]", item) for number, item in enumerate(obj))
    elif isinstance(obj, (set, frozenset)):
        yield from ((f", which holds {item!r}", item) for item in obj)


def _item(key: Any) -> str:
    return f'["{key}"]' if isinstance(key, str) else f"[{key!r}]"


def _used_by(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f"{_USES}{name}", cell.cell_contents
        except ValueError:  # it has no value yet
            continue
    for name in sorted(names_in(function.__code__)):
        if name in function.__globals__:
            yield f"{_USES}the global {name}", function.__globals__[name]
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    yield from ((", one of its defaults", value) for value in defaults)


def _state(obj: Any) -> Iterator[tuple[str, Any]]:
    """The attributes and the items that pickling takes from an object."""
    try:
        reduced = obj.__reduce_ex__(4)
    except BaseException:  # then it is itself what does not pickle
        return
    if isinstance(reduced, tuple):
        yield from (
            (", made from a value that", part) for part in reduced[1] if not isinstance(part, type)
        )
        rest: tuple[Any, ...] = (*reduced[2:], None, None, None)
        state, items, pairs = rest[:3]
        for held in state if isinstance(state, tuple) else (state,):
            yield from _attributes(held)
        yield from ((f"[{number}]", item) for number, item in enumerate(items or ()))
        yield from ((_item(key), value) for key, value in pairs or ())


def _attributes(held: Any) -> Iterator[tuple[str, Any]]:
    for name, value in held.items() if isinstance(held, dict) else ():
        if name in ("__dict__", "__pydantic_private__"):  # as pydantic keeps them
            yield from _attributes(value)
        else:
            yield f".{name}", value
