"""Pickling: definitions as bundles, everything else as cloudpickle does."""

from __future__ import annotations

import copyreg
import hashlib
import io
import linecache
import os
import pickle
import sys
import threading
import types
from collections.abc import Callable
from enum import EnumMeta
from typing import Any, TypeGuard

import cloudpickle
import cloudpickle.cloudpickle as _cloudpickle

from soma_core.wire.definitions import classes, enumerations, reading, recipes, structures
from soma_core.wire.definitions.caching import BundleCache
from soma_core.wire.definitions.names import by_reference, named
from soma_core.wire.definitions.registry import Bundle, registry
from soma_core.wire.definitions.sentinels import (
    OF_PYTHON_CODE,
    WITH_CONTENT,
    Sentinel,
    default_of,
    find,
    global_at,
    global_of,
    sentinel_of,
)
from soma_core.wire.definitions.signature import Signatures
from soma_core.wire.locks import renew_in_forked_child

if hasattr(_cloudpickle, "_DYNAMIC_CLASS_TRACKER_LOCK"):  # cloudpickle holds it for each class
    renew_in_forked_child(_cloudpickle, "_DYNAMIC_CLASS_TRACKER_LOCK", threading.Lock)


# In one dict with those of copyreg: the chain of the two is asked in Python, for each object.
_OF_CLOUDPICKLE: dict[type[Any], Any] = cloudpickle.Pickler.dispatch_table.maps[0]


def write(
    obj: object, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None
) -> bytes:
    """Pickle an object, without the large buffers that a callback is given instead."""
    file = io.BytesIO()
    _Pickler(file, buffer_callback=buffer_callback).dump(obj)
    return file.getvalue()


class _Reducing(cloudpickle.Pickler):  # type: ignore[misc]
    """Tells definitions that travel whole from everything else."""

    def __init__(self, file: io.BytesIO, **options: Any) -> None:
        self.dispatch_table = {**copyreg.dispatch_table, **_OF_CLOUDPICKLE}
        super().__init__(file, protocol=5, **options)
        self._variables: dict[int, _Variable] = {}
        self._values: set[type[Any]] = set()  # whose instances are pickled as they say themselves

    def variables(self, function: types.FunctionType) -> tuple[_Variable, ...] | None:
        """The variables of a closure, each the same for all closures that share it."""
        if function.__closure__ is None:
            return None
        made = self._variables
        return tuple(made.setdefault(id(cell), _Variable(cell)) for cell in function.__closure__)

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) in self._values:
            return NotImplemented
        sentinel = sentinel_of(obj)
        if sentinel is not None:
            return self.sentinel(sentinel, type(obj), *default_of(obj))
        place = global_of(obj)
        if place is not None:
            return global_at, place
        recipe = recipes.of(obj)
        if recipe is None:
            reduced = super().reducer_override(obj)
            if reduced is NotImplemented and isinstance(obj, WITH_CONTENT):
                self._values.add(type(obj))
            whole = reduced is not NotImplemented and len(reduced) == _WITH_SETTER
            if whole and isinstance(obj, type) and not obj.__flags__ & OF_PYTHON_CODE:
                raise pickle.PicklingError(_not_found(obj))
            if whole and isinstance(obj, EnumMeta):
                reduced = enumerations.reduce(obj, reduced[2][0])
            elif whole and isinstance(obj, type):
                reduced = _made_with_fields(obj, reduced)
            return self.definition(obj, reduced) if whole else reduced
        return self.definition(obj, recipe) if recipes.is_definition(obj) else recipe

    def definition(self, obj: Any, reduced: tuple[Any, ...]) -> Any:
        """How a class or function that travels whole is pickled."""
        raise NotImplementedError

    def sentinel(self, sentinel: Sentinel, kind: type, *default: Any) -> Any:
        """How a value is pickled that means something by its identity."""
        return find, (*sentinel, kind, *default)


def _made_with_fields(kind: type, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """How a class is pickled, with what its statement said of its fields."""
    _, (*args, _), *content, setter = reduced
    structure = structures.fields_of(kind)
    if structure is None:
        return classes.make, (*args, ()), *content, setter
    return classes.make, (*args, structure.options), *content, structures.complete


def _not_found(kind: type) -> str:
    return (
        f"its class is written in C, and no {kind.__qualname__!r} that is a class is in the module "
        f"{kind.__module__!r}"
    )


class _Variable:
    """Pickled in the place of a variable of a closure, as one without a value."""

    def __init__(self, cell: types.CellType) -> None:
        self._cell = cell  # kept, so that its id is its own

    def __reduce__(self) -> Any:
        return types.CellType, ()


_WITH_SETTER = 6  # the parts of what cloudpickle reduces a class or function to


class _Pickler(_Reducing):
    """Pickles a value: a definition in it is a bundle."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, _KINDS):
            known = registry.known(obj)
            if known is not None:
                return reading.restore, (tuple(known.bundle), known.number)
            kept = _kept.get(obj)
            if kept is not None:
                return reading.restore, (tuple(kept), 0)
            if _closes_over_data(obj):
                content = _held(obj), obj.__defaults__, obj.__kwdefaults__, vars(obj)
                made_of = reading.without_content(obj), self.variables(obj)
                return reading.bind, made_of, content, None, None, reading.fill
        return super().reducer_override(obj)

    def definition(self, obj: Any, reduced: tuple[Any, ...]) -> Any:
        return reading.restore, (tuple(_bundle(obj)), 0)


def _closes_over_data(obj: Any) -> TypeGuard[types.FunctionType]:
    """Whether it is a closure of what may be elsewhere in the message too.

    That is an object such as ``self``, or a variable that another closure changes.
    """
    if not isinstance(obj, types.FunctionType) or not obj.__closure__:
        return False
    if all(isinstance(value, _CODE) for held in _held(obj) for value in held):
        return False
    return not _is_top_level(obj) and not recipes.is_importable(obj)


_CODE = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)


def _held(function: types.FunctionType) -> list[tuple[Any, ...]]:
    """The values of a closure's variables; nothing of one that has none yet."""
    held: list[tuple[Any, ...]] = []
    for cell in function.__closure__ or ():
        try:
            held.append((cell.cell_contents,))
        except ValueError:
            held.append(())
    return held


_KINDS = (type, *recipes.DEFINITIONS, types.FunctionType)
_kept = BundleCache()


def _bundle(obj: Any) -> Bundle:
    file = io.BytesIO()
    pickler = _BundlePickler(file)
    pickler.dump(obj)
    data = file.getvalue()
    signatures = Signatures()
    bundle = Bundle(
        digest=hashlib.sha256(data).digest(),
        data=data,
        tokens=tuple(map(registry.token, pickler.definitions)),
        names=tuple(_name(found, signatures) for found in pickler.definitions),
        places=tuple(pickler.places),
        sources={
            file: text for file in {file for file, _ in pickler.places} if (text := _source(file))
        },
    )
    if _is_top_level(obj):
        _kept.put(obj, pickler.definitions, bundle)
    return bundle


def _name(obj: Any, signatures: Signatures) -> tuple[str, str, str]:
    known = registry.known(obj)
    if known is not None:
        return known.name
    return str(getattr(obj, "__module__", "")), recipes.name_of(obj), signatures.of(obj)


def _source(file: str) -> str:
    """The text of a file that is only in the memory of this process, such as a notebook's cell."""
    return "" if os.path.isfile(file) else "".join(linecache.getlines(file))


class _BundlePickler(_Reducing):
    """Pickles a definition: whatever differs between two programs alike is a number in it.

    Attributes:
        definitions: The definitions in the order of their numbers.
        places: The file and first line of each piece of code, likewise.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.definitions: list[Any] = []
        self.places: list[tuple[str, int]] = []
        self._namespaces: dict[int, Any] = {}

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, types.CodeType):
            return self._code(obj)
        return super().reducer_override(obj)

    def sentinel(self, sentinel: Sentinel, kind: type, *default: Any) -> Any:
        return reading.sentinel, (sentinel.module, sentinel.name, kind, *default)

    def definition(self, obj: Any, reduced: tuple[Any, ...]) -> Any:
        number = len(self.definitions)
        self.definitions.append(obj)
        make, args, *further = reduced
        args = tuple(self._argument(obj, arg) for arg in args)
        if isinstance(obj, types.FunctionType):
            args = (*args[:-1], self.variables(obj))
        new = (reading.define, (number, _is_top_level(obj), make, args))
        if not further:
            return new
        state, *_, setter = further
        names = {name: by_reference(value) for name, value in named(obj).items()}
        content = (setter, recipes.without_derived(obj, state), names)
        return (*new, content, None, None, reading.complete)

    def _argument(self, obj: Any, arg: Any) -> Any:
        """An argument of what makes a definition."""
        if type(arg) is not dict or isinstance(obj, EnumMeta):
            return arg
        if isinstance(obj, types.FunctionType):
            return self._namespace(obj, arg)
        return recipes.made_with(obj, arg)

    def _namespace(self, function: types.FunctionType, base: dict[str, Any]) -> Any:
        """The globals that a function of a module begins with, which it shares with others."""
        module = sys.modules.get(function.__module__)
        if module is None or function.__globals__ is not vars(module):
            return base
        key = id(base)
        if key not in self._namespaces:
            spec = getattr(vars(module).get("__spec__"), "name", None)
            self._namespaces[key] = _Namespace(function.__module__, base, spec)
        return self._namespaces[key]

    def _code(self, code: types.CodeType) -> Any:
        number = len(self.places)
        self.places.append((code.co_filename, code.co_firstlineno))
        plain = code.replace(co_firstlineno=1)
        _, args = self.dispatch_table[types.CodeType](plain)
        return reading.code, (number, *(_in_order(arg) for arg in args))


class _Namespace:
    def __init__(self, name: str, base: dict[str, Any], spec: str | None) -> None:
        self._args = (name, base, spec)

    def __reduce__(self) -> Any:
        return reading.namespace, self._args


class _Sorted:
    """A set among the constants of code, in the same order in every process."""

    def __init__(self, content: frozenset[Any]) -> None:
        self._content = content

    def __reduce__(self) -> Any:
        return frozenset, (sorted(self._content, key=repr),)


def _in_order(arg: Any) -> Any:
    if type(arg) is tuple:
        return tuple(_Sorted(item) if type(item) is frozenset else item for item in arg)
    return arg


def _is_top_level(obj: Any) -> bool:
    """Whether it is what its module calls by its name."""
    module = sys.modules.get(getattr(obj, "__module__", None) or "")
    return getattr(module, recipes.name_of(obj), None) is obj
