"""Sentinels: values of a program that mean something by their identity alone.

``MISSING = object()`` at the top of a script, or an instance of a class of the script that has no
state, or a ``ContextVar``. Both sides know such a value by the program, the module and the name
that it is given there. One of a module, such as ``dataclasses.MISSING``, is found on both sides by
module and name.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterable
from contextvars import Context, ContextVar
from importlib import import_module
from typing import Any, NamedTuple

import cloudpickle

from soma_core.wire.definitions.registry import registry
from soma_core.wire.locks import renew_in_forked_child


class Sentinel(NamedTuple):
    """What a sentinel is called.

    Attributes:
        program: The process whose it is.
        module: Its module there.
        name: Its name in that.
    """

    program: str
    module: str
    name: str


_lock = threading.Lock()
renew_in_forked_child(sys.modules[__name__], "_lock", threading.Lock)
_made: dict[Sentinel, Any] = {}
_received: dict[int, Sentinel] = {}
_kept: list[Any] = []  # all that were made, so that their ids are theirs


def sentinel_of(obj: Any) -> Sentinel | None:
    """What an object is called that is a sentinel; None for any other."""
    if not _is_bare(obj):
        return None
    received = _received.get(id(obj))
    if received is not None:
        return received
    place = _place_in(_travelling(), obj)
    return None if place is None else Sentinel(registry.program(), *place)


def _travelling() -> list[str]:
    """The modules that the other side lacks."""
    return ["__main__", *cloudpickle.list_registry_pickle_by_value()]


def _place_in(modules: Iterable[str], obj: Any) -> tuple[str, str] | None:
    for module in modules:
        for name, value in list(getattr(sys.modules.get(module), "__dict__", {}).items()):
            if value is obj:
                return module, name
    return None


def default_of(obj: Any) -> tuple[Any, ...]:
    """What a context variable is worth where nobody has set it; nothing of any other value."""
    try:
        return (Context().run(obj.get),) if type(obj) is ContextVar else ()
    except LookupError:
        return ()


def global_of(obj: Any) -> tuple[str, str] | None:
    """The module and the name of a value without state that the module of its class has made.

    Of a context variable, whatever module has made it.
    """
    kind = type(obj)
    if kind is ContextVar:
        return _place_in([*sys.modules], obj)
    # Its __dict__ comes last: an object of a class in C may have none before it is asked for it,
    # and another state with it.
    if not kind.__flags__ & OF_PYTHON_CODE or isinstance(obj, WITH_CONTENT):
        return None
    if not _is_pickled_plainly(kind):
        return None
    home = kind.__module__
    if home == "__main__" or getattr(obj, "__dict__", None):
        return None
    if object.__getstate__(obj) is not None:
        return None
    return _place_in([home], obj)


def global_at(module: str, name: str) -> Any:
    """The value of a name in a module."""
    return getattr(import_module(module), name)


def _is_pickled_plainly(kind: type) -> bool:
    return all(getattr(kind, name) is getattr(object, name) for name in _PICKLING)


def _is_bare(obj: Any) -> bool:
    """Whether there is nothing to it but what it is: no state, and no method but Python's own."""
    kind = type(obj)
    if kind in (object, ContextVar):
        return True
    return (
        kind.__module__ == "__main__"
        and type(kind) is type
        and getattr(obj, "__dict__", None) == {}
        and _is_pickled_plainly(kind)
        and all(_DUNDER.fullmatch(name) for base in kind.__mro__ for name in vars(base))
    )


OF_PYTHON_CODE = 1 << 9
"""The flag of a class that Python code makes."""

WITH_CONTENT = (tuple, list, dict, set, frozenset, str, bytes, bytearray, int, float, complex)
_PICKLING = ("__reduce__", "__reduce_ex__", "__getstate__")
_DUNDER = re.compile(r"__\w+__")


def find(program: str, module: str, name: str, kind: Any, *default: Any) -> Any:
    """The sentinel of that name: the program's own there, and one and the same elsewhere."""
    if program == registry.program():
        own = getattr(sys.modules.get(module), name, None)
        if type(own) is kind:
            return own
    sentinel = Sentinel(program, module, name)
    with _lock:
        found = _made.get(sentinel)
        if type(found) is not kind or not _is_bare(found):
            found = _made[sentinel] = _new(kind, name, *default)
            _received[id(found)] = sentinel
            _kept.append(found)
        return found


def _new(kind: Any, name: str, *default: Any) -> Any:
    if kind is not ContextVar:
        return object.__new__(kind)
    return ContextVar(name, default=default[0]) if default else ContextVar(name)
