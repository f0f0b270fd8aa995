"""Code: a hash of what a filter's class would run, so that an edited filter misses.

Followed are functions, classes and plain values that the class's methods name, as they are loaded,
as far as they are no part of Python or of an installed distribution: for these the names and
versions of all distributions are in each key.
"""

from __future__ import annotations

import sys
import sysconfig
import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from blake3 import blake3

from soma_core.execution import fingerprint

__all__ = ["code_digest"]

_INSTALLED = {"site-packages", "dist-packages"}
_PRIVATE_FIELDS = "__private_attributes__"  # where pydantic puts a model's own


def code_digest(cls: type) -> bytes:
    """A hash of the code of a class, its bases, and what of the user's they call."""
    walk = _Walk()
    walk.visit(cls)
    digest: bytes = walk.hasher.digest()
    return digest


class _Walk:
    def __init__(self) -> None:
        self.hasher = blake3()
        self._seen: set[int] = set()
        self._kept: list[Any] = []  # an object that was freed could lend its id to another one

    def visit(self, value: Any) -> None:
        """Hash one object, and what it leads to."""
        value = _unwrapped(value)
        if isinstance(value, type | types.FunctionType):
            self._visit_once(value)
        elif isinstance(value, types.ModuleType):
            self._feed("module", value.__name__)
        else:
            self._feed("value", _described(value))
            if type(value).__module__ not in sys.stdlib_module_names:
                self.visit(type(value))

    def _visit_once(self, value: Any) -> None:
        self._feed(type(value).__name__, f"{value.__module__}:{value.__qualname__}")
        if id(value) in self._seen or _is_installed(value.__module__):
            return
        self._seen.add(id(value))
        self._kept.append(value)
        if isinstance(value, type):
            self._class(value)
        else:
            self._function(value)

    def _class(self, cls: type) -> None:
        for base in cls.__bases__:
            self.visit(base)
        for name in sorted(vars(cls)):
            value = vars(cls)[name]
            if _is_written(name, _unwrapped(value)):
                self._feed("attribute", name)
                self.visit(value)
        for name, field in sorted(vars(cls).get(_PRIVATE_FIELDS, {}).items()):
            self._feed("private", f"{name} {_described(field.default)}")

    def _function(self, function: types.FunctionType) -> None:
        code = function.__code__
        self._code(code)
        for value in (function.__defaults__, function.__kwdefaults__):
            self._feed("defaults", _described(value))
        for cell in function.__closure__ or ():
            self.visit(_content(cell))
        names = sorted({name for part in _parts(code) for name in part.co_names})
        for name in names:
            if name in function.__globals__:
                self._named(function.__globals__[name], names)

    def _named(self, value: Any, names: list[str]) -> None:
        """A global that a function names; of a module, the attributes that it names too."""
        self.visit(value)
        if isinstance(value, types.ModuleType) and not _is_installed(value.__name__):
            for name in names:
                if name in vars(value):
                    self.visit(vars(value)[name])

    def _code(self, code: types.CodeType) -> None:
        for part in _parts(code):
            self._feed("code", f"{part.co_flags} {(part.co_code + part.co_exceptiontable).hex()}")
            for names in (part.co_names, part.co_varnames, part.co_freevars, part.co_cellvars):
                self._feed("names", " ".join(names))
            for item in part.co_consts:
                if not isinstance(item, types.CodeType):
                    self._feed("constant", _constant(item))

    def _feed(self, kind: str, text: str) -> None:
        self.hasher.update(f"{kind} {len(text)} {text}\n".encode("utf-8", "backslashreplace"))


def _unwrapped(value: Any) -> Any:
    """The function in a method, a property or a decorated function."""
    if isinstance(value, staticmethod | classmethod | types.MethodType):
        return _unwrapped(value.__func__)
    if isinstance(value, property):
        return _unwrapped(value.fget)
    return getattr(value, "__wrapped__", value)


def _is_written(name: str, value: Any) -> bool:
    """Whether an attribute is the author's: pydantic and Python add others."""
    if isinstance(value, types.FunctionType):
        return not name.startswith("__pydantic")
    return not name.startswith(("__", "_abc_", "model_"))


def _constant(item: Any) -> str:
    """A constant of some code; an Ellipsis, for one, has no fingerprint."""
    try:
        return fingerprint(item)
    except TypeError:
        return repr(item)


def _parts(code: types.CodeType) -> Iterator[types.CodeType]:
    """Some code, and the code of the functions in it."""
    yield code
    for item in code.co_consts:
        if isinstance(item, types.CodeType):
            yield from _parts(item)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _described(value: Any) -> str:
    """A hash of plain data; the class of anything else, such as a logger."""
    try:
        return fingerprint(value)
    except (TypeError, RecursionError):
        return f"{type(value).__module__}:{type(value).__qualname__}"


@cache
def _is_installed(module_name: str) -> bool:
    """Whether a module is of Python's own library, or of a distribution that was installed."""
    top = module_name.partition(".")[0]
    if top in sys.stdlib_module_names and top != "__main__":
        return True
    file = getattr(sys.modules.get(module_name), "__file__", None)
    if file is None:
        return False
    path = Path(file)
    return bool(_INSTALLED & set(path.parts)) or path.is_relative_to(sysconfig.get_path("stdlib"))
