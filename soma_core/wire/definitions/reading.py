"""Unpickling: definitions that this process has are found, others are made."""

from __future__ import annotations

import io
import linecache
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from soma_core.wire.definitions import recipes
from soma_core.wire.definitions.names import MISSING
from soma_core.wire.definitions.registry import Bundle, Known, Name, origin, registry
from soma_core.wire.definitions.sentinels import find
from soma_core.wire.definitions.signature import Signatures


def restore(content: tuple[Any, ...], number: int) -> Any:
    """The definition of that number in a bundle."""
    bundle = Bundle(*content)
    found = _find(bundle, number)
    return _BundleReader(bundle).load_all()[number] if found is None else found


def bind(bare: types.FunctionType, variables: tuple[types.CellType, ...]) -> types.FunctionType:
    """A closure over variables that :func:`fill` gives values."""
    made = _with_variables(bare, variables)
    _bare[made] = bare
    return made


def without_content(function: types.FunctionType) -> types.FunctionType:
    """What :func:`bind` makes a closure of: the same code, whose variables have no values.

    It is the same each time, also where the closure came from another process: so it is known
    again when it comes back.
    """
    bare = _bare.get(function)
    if bare is None:
        empty = tuple(types.CellType() for _ in function.__closure__ or ())
        bare = _bare[function] = _with_variables(function, empty)
    return bare


def _with_variables(
    function: types.FunctionType, variables: tuple[types.CellType, ...]
) -> types.FunctionType:
    made = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, None, variables
    )
    for name in ("__qualname__", "__module__", "__doc__", "__annotations__"):
        setattr(made, name, getattr(function, name))
    return made


_bare: WeakKeyDictionary[types.FunctionType, types.FunctionType] = WeakKeyDictionary()


def fill(function: types.FunctionType, content: tuple[Any, ...]) -> None:
    """Give a closure what it holds, once that is there."""
    held, function.__defaults__, function.__kwdefaults__, attributes = content
    for cell, values in zip(function.__closure__ or (), held, strict=True):
        for value in values:
            cell.cell_contents = value
    vars(function).update(attributes)


def _find(bundle: Bundle, number: int) -> Any | None:
    """What this process has of it already, unless its program has changed it since."""
    token, name = bundle.tokens[number], Name(*bundle.names[number])
    own = registry.own(token)
    if own is not None:
        return own
    received = registry.received(token)
    if received is None:
        return _find_alike(bundle, token, name)
    known = registry.known(received)
    if known is None or bundle.digest in known.digests:
        return received
    if origin(known.token) == origin(token):
        return None
    if known.name == name:
        known.digests.add(bundle.digest)
        return received
    registry.forget_alike(token)
    return None


def _find_alike(bundle: Bundle, token: str, name: Name) -> Any | None:
    """What another program has defined alike, or this one."""
    if not name.signature:
        return None
    received = registry.alike(name, token)
    if received is not None:
        registry.keep_alike(received, token, bundle.digest)
        return received
    if registry.in_worker:
        return None
    found: Any = sys.modules.get(name.module)
    for part in name.qualname.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, (type, types.FunctionType)) or registry.known(found) is not None:
        return None
    if Signatures().of(found) != name.signature:
        return None
    registry.keep_own(found, token)
    return found


class _BundleReader(pickle.Unpickler):
    """Makes the definitions of a bundle, and brings up to date those that are here already."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(io.BytesIO(bundle.data))
        self._bundle = bundle
        self._made: dict[int, Any] = {}
        self._top_level: list[int] = []
        self._current: set[int] = set()
        self._to_compile: list[Any] = []
        self._namespaces: dict[str, dict[str, Any]] = {}
        self._annotated: list[tuple[Any, dict[str, Any]]] = []
        self._bound: dict[tuple[str, str], Callable[..., Any]] = {
            (__name__, "code"): self._code,
            (__name__, "complete"): self._complete,
            (__name__, "define"): self._define,
            (__name__, "namespace"): self._namespace,
            (__name__, "sentinel"): self._sentinel,
        }

    def find_class(self, module: str, name: str) -> Any:
        return self._bound.get((module, name)) or super().find_class(module, name)

    def load_all(self) -> dict[int, Any]:
        """The definitions by number."""
        bundle = self._bundle
        for file, text in bundle.sources.items():
            lines = text.splitlines(keepends=True)
            linecache.cache[file] = (len(text), None, lines, file)
        self.load()
        for number in self._top_level:
            module, qualname, _ = bundle.names[number]
            self._namespace(module, {}, None)[qualname] = self._made[number]
        for obj, named in self._annotated:
            there = {name: value for name, value in named.items() if value is not MISSING}
            self._globals_of(obj).update(there)
        for kind in self._to_compile:
            recipes.recompile(kind, self._namespaces.get(kind.__module__, {}))
        for made in self._made.values():
            known = registry.known(made)
            if known is not None:  # from now on it need not be read again
                known.digests.add(bundle.digest)
        return self._made

    def _globals_of(self, obj: Any) -> dict[str, Any]:
        if isinstance(obj, types.FunctionType):
            return obj.__globals__
        return self._namespace(obj.__module__, {}, None)

    def _define(self, number: int, top_level: bool, make: Callable[..., Any], args: Any) -> Any:
        """A definition, without its content where it is made here."""
        token = self._bundle.tokens[number]
        with registry.lock:
            found = _find(self._bundle, number)
            if found is not None:
                self._current.add(id(found))
            else:
                found = registry.received(token)
                found = make(*args) if found is None else found
                registry.keep(found, Known(self._bundle, number, token))
        if top_level:
            self._top_level.append(number)
        self._made[number] = found
        return found

    def _complete(
        self, obj: Any, state: tuple[Callable[[Any, Any], None], Any, dict[str, Any]]
    ) -> None:
        """Give a definition its content, unless it is this process's own, or has it already."""
        setter, content, named = state
        if id(obj) not in self._current:
            setter(obj, content)
            self._annotated.append((obj, named))
            if recipes.is_compiled(obj):
                self._to_compile.append(obj)

    def _code(self, number: int, *args: Any) -> types.CodeType:
        file, first_line = self._bundle.places[number]
        return types.CodeType(*args).replace(co_filename=file, co_firstlineno=first_line)

    def _namespace(self, name: str, base: dict[str, Any], spec: str | None) -> dict[str, Any]:
        """The globals of a module; of this process's own the functions are not made, but found."""
        if registry.in_worker:
            program = origin(self._bundle.tokens[0])
            self._namespaces[name] = registry.namespace(program, name, base, spec)
        return self._namespaces.setdefault(name, base)

    def _sentinel(self, module: str, name: str, kind: type, *default: Any) -> Any:
        return find(origin(self._bundle.tokens[0]), module, name, kind, *default)


# Bundles name these; the reader of one has methods of its own in their place.


def define(*args: Any) -> Any:
    """A definition, without its content."""
    raise _alone()


def complete(*args: Any) -> Any:
    """Give a definition its content."""
    raise _alone()


def code(*args: Any) -> Any:
    """A piece of code."""
    raise _alone()


def namespace(*args: Any) -> Any:
    """The globals of a module."""
    raise _alone()


def sentinel(*args: Any) -> Any:
    """A value that means something by its identity."""
    raise _alone()


def _alone() -> pickle.UnpicklingError:
    return pickle.UnpicklingError("a part of a definition is not read by itself")
