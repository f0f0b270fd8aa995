"""Bundles that are kept: a definition is pickled again only if something in it has changed."""

from __future__ import annotations

import abc
import contextvars
import dataclasses
import sys
import threading
import types
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

import cloudpickle

from soma_core.wire.definitions.names import MISSING, annotated, may_be_named, names_in
from soma_core.wire.definitions.recipes import DEFINITIONS, is_importable, name_of
from soma_core.wire.definitions.registry import Bundle
from soma_core.wire.locks import renew_in_forked_child

_UNCHANGING = frozenset(
    {type(None), object, bool, int, float, complex, str, bytes, type(...)}
    | {
        contextvars.ContextVar,
        types.BuiltinFunctionType,
        types.MemberDescriptorType,
        types.GetSetDescriptorType,
    }
    | {type(dataclasses.MISSING), type(dataclasses._HAS_DEFAULT_FACTORY)}  # type: ignore[attr-defined]
)


class _Changeable(Exception):
    """It refers to something whose content may change while it stays the same object."""


class BundleCache:
    """The bundles of definitions of modules, as long as nothing in them changes.

    Only of those that are made of code and of values that cannot change: then it is enough to
    see that they refer to the same objects.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        renew_in_forked_child(self, "_lock", threading.Lock)
        self._kept: dict[tuple[str, str], tuple[Any, _Snapshot, Bundle]] = {}

    def get(self, obj: Any) -> Bundle | None:
        """The bundle of a definition, if it would be the same now."""
        kept = self._kept.get(_key(obj))
        if kept is not None and kept[0] is obj and kept[1].is_current():
            return kept[2]
        return None

    def put(self, obj: Any, definitions: Iterable[Any], bundle: Bundle) -> None:
        """Keep the bundle of a definition of a module, with those that are in it."""
        try:
            snapshot = _Snapshot(definitions)
        except _Changeable:
            return
        with self._lock:
            self._kept[_key(obj)] = (obj, snapshot, bundle)


def _key(obj: Any) -> tuple[str, str]:
    return getattr(obj, "__module__", None) or "", name_of(obj)


class _Snapshot:
    """What definitions refer to."""

    def __init__(self, definitions: Iterable[Any]) -> None:
        self._registered = _registered()
        self._held: list[tuple[Mapping[str, Any], dict[str, Any]]] = []
        self._sizes: list[tuple[Mapping[str, Any], int]] = []
        self._functions: list[tuple[Any, tuple[int, ...]]] = []
        self._alive: list[Any] = []  # an id says who it is only as long as that lives
        ids: set[int] = set()
        found = list(definitions)
        ids.update(map(id, found))
        for obj in found:
            if isinstance(obj, (type, types.FunctionType)):
                self._annotations(obj, ids)
            if isinstance(obj, type):
                self._class(obj, ids)
            elif isinstance(obj, types.FunctionType):
                self._function(obj, ids)
            elif not isinstance(obj, DEFINITIONS):
                raise _Changeable

    def _class(self, kind: type, ids: set[int]) -> None:
        attributes = vars(kind)
        self._hold(attributes)
        if issubclass(kind, Enum) or hasattr(kind, "_fields"):
            return  # members of an enumeration and fields of a named tuple are made once for all
        for name, value in attributes.items():
            if not (name.startswith("__") and name.endswith("__")) and name != "_abc_impl":
                _require_unchanging(value, ids)

    def _hold(self, mapping: Mapping[str, Any]) -> None:
        self._sizes.append((mapping, len(mapping)))
        if mapping:
            self._held.append((mapping, dict(mapping)))

    def _annotations(self, definition: Any, ids: set[int]) -> None:
        scope, named = annotated(definition)
        self._held.append((scope, named))
        for value in named.values():
            if not may_be_named(value):
                _require_unchanging(value, ids)

    def _function(self, function: types.FunctionType, ids: set[int]) -> None:
        names = names_in(function.__code__)
        scope = function.__globals__
        used = {name: scope.get(name, MISSING) for name in names}
        self._held.append((scope, used))
        parts = _parts(function)
        self._functions.append((function, tuple(map(id, parts))))
        self._alive += parts
        attributes, kwdefaults = vars(function), function.__kwdefaults__ or {}
        self._hold(attributes)
        self._hold(kwdefaults)
        if scope.get("__name__") == "dataclasses":  # what keeps a repr from recursing
            return
        held = [*_contents(function), *(function.__defaults__ or ())]
        held += [*kwdefaults.values(), *attributes.values(), *used.values()]
        for value in held:
            _require_unchanging(value, ids)

    def is_current(self) -> bool:
        """Whether they refer to the same objects still."""
        return (
            self._registered == _registered()
            and all(len(mapping) == size for mapping, size in self._sizes)
            and all(
                mapping.get(name, MISSING) is value
                for mapping, values in self._held
                for name, value in values.items()
            )
            and all(
                tuple(map(id, _parts(function))) == parts for function, parts in self._functions
            )
        )


def _registered() -> tuple[object, set[str]]:
    """What is registered with abstract classes, and which modules travel by value."""
    return abc.get_cache_token(), cloudpickle.list_registry_pickle_by_value()


def _parts(function: Any) -> tuple[Any, ...]:
    """What a function is made of, each of which may be set anew."""
    parts = function.__code__, function.__defaults__, function.__kwdefaults__
    return (*parts, *_contents(function)) if function.__closure__ else parts


def _contents(function: Any) -> list[Any]:
    """The values of a closure's variables."""
    contents: list[Any] = []
    for cell in function.__closure__ or ():
        try:
            contents.append(cell.cell_contents)
        except ValueError:  # it has no value yet
            contents.append(MISSING)
    return contents


def _require_unchanging(value: Any, ids: set[int]) -> None:
    kind = type(value)
    if kind in _UNCHANGING or id(value) in ids or value is MISSING:
        return
    if kind in (tuple, frozenset):
        for item in value:
            _require_unchanging(item, ids)
    elif kind is types.ModuleType:
        if sys.modules.get(value.__name__) is not value:
            raise _Changeable
    elif kind in (staticmethod, classmethod):
        _require_unchanging(value.__func__, ids)
    elif kind is property:
        for function in (value.fget, value.fset, value.fdel):
            _require_unchanging(function, ids)
    elif not (isinstance(value, (type, types.FunctionType)) and is_importable(value)):
        raise _Changeable
