"""Signatures: whether two programs define the same class or function."""

from __future__ import annotations

import functools
import hashlib
import io
import pickle
import types
from collections.abc import Iterable, Iterator
from typing import Any

from soma_core.wire.definitions.names import named, names_in
from soma_core.wire.definitions.recipes import is_importable
from soma_core.wire.definitions.structures import is_derived

_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, type(...)})
_MADE_BY_PYTHON = frozenset(
    {"__dict__", "__weakref__", "__firstlineno__", "__static_attributes__", "__slotnames__"}
    | {"_abc_impl"}
)
_DESCRIBING = ("__pydantic_", "__dataclass_", "__attrs_")  # what methods were made from
_LARGEST = 2**20  # bytes of a value that definitions use; larger ones are not compared


class Signatures:
    """Hashes of definitions: equal only where all that they say and use is equal.

    That is their code and what it refers to in their own program, and the plain values there; of
    what other modules define it is the name. Where the text stands does not matter.
    """

    def __init__(self) -> None:
        self._shallow: dict[int, tuple[bytes, list[Any]]] = {}

    def of(self, obj: Any) -> str:
        """The signature of a class or function; empty if it uses what cannot be compared."""
        found: dict[int, bytes] = {}
        left = [obj]
        try:
            while left:
                item = left.pop()
                if id(item) not in found:
                    found[id(item)], used = self._describe(item)
                    left += used
        except Exception:  # an object of any class may be among what it uses
            return ""
        own = found.pop(id(obj))
        return hashlib.sha256(own + b"".join(sorted(found.values()))).hexdigest()[:32]

    def _describe(self, item: Any) -> tuple[bytes, list[Any]]:
        """A hash of what it says itself, and the definitions that it uses."""
        known = self._shallow.get(id(item))
        if known is None:
            used: list[Any] = []
            parts = _class(item, used) if isinstance(item, type) else _function(item, used)
            text = "\0".join(parts).encode("utf-8", "surrogatepass")
            known = self._shallow[id(item)] = (hashlib.sha256(text).digest(), used)
        return known


def _value(value: Any, used: list[Any]) -> Iterator[str]:
    kind = type(value)
    if kind in _PLAIN:
        yield f"{kind.__name__} {value!r}"
    elif isinstance(value, (type, types.FunctionType)):
        yield f"{value.__module__} {value.__qualname__}"
        if not is_importable(value):
            used.append(value)
    elif isinstance(value, types.ModuleType):
        yield value.__name__
    elif isinstance(value, (staticmethod, classmethod, functools._lru_cache_wrapper)):
        yield kind.__name__
        yield from _value(value.__wrapped__, used)
    elif kind is property:
        yield from _values((value.fget, value.fset, value.fdel), used)
    elif kind in (tuple, list):
        yield f"{kind.__name__} {len(value)}"
        yield from _values(value, used)
    elif kind is dict:
        yield f"dict {len(value)}"
        yield from _values(value, used)
        yield from _values(value.values(), used)
    else:
        file = _Short()
        pickle.Pickler(file, protocol=5).dump(value)
        yield file.getvalue().hex()


def _values(values: Iterable[Any], used: list[Any]) -> Iterator[str]:
    for value in values:
        yield from _value(value, used)


class _Short(io.BytesIO):
    def write(self, data: Any) -> int:
        if self.tell() + len(data) > _LARGEST:
            raise ValueError("too large to be compared")
        return super().write(data)


def _class(kind: type, used: list[Any]) -> Iterator[str]:
    yield f"class {kind.__module__} {kind.__qualname__}"
    yield from _values((type(kind), *kind.__bases__), used)
    for name in sorted(vars(kind)):
        if name == "__pydantic_fields__":
            yield from map(repr, vars(kind)[name].items())
        elif not (name in _MADE_BY_PYTHON or name.startswith(_DESCRIBING)):
            value = vars(kind)[name]
            if not is_derived(value):
                yield name
                yield from _value(value, used)
    for name, value in named(kind).items():
        yield name
        yield from _value(value, used)


def _function(function: Any, used: list[Any]) -> Iterator[str]:
    yield f"function {function.__module__} {function.__qualname__}"
    yield from _values((function.__defaults__, function.__kwdefaults__), used)
    yield _code(function.__code__)
    for name in sorted(names_in(function.__code__)):
        if name in function.__globals__:
            yield name
            yield from _value(function.__globals__[name], used)
    for cell in function.__closure__ or ():
        yield from _value(cell.cell_contents, used)


@functools.lru_cache(maxsize=4096)
def _code(code: types.CodeType) -> str:
    parts = [code.co_code.hex(), *code.co_names, *code.co_varnames]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            parts.append(_code(constant))
        elif isinstance(constant, frozenset):
            parts += sorted(map(repr, constant))
        else:
            parts.append(repr(constant))
    return "\0".join(parts)
