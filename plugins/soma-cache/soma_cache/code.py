"""Code: a hash of what a filter's class would run, so that an edited filter misses.

Followed is all that the code names, as it is loaded, and what that holds: functions and their
closures, classes, decorators, objects. Of Python's own library and of installed distributions no
code is looked at: the names and versions of all distributions are in each key.
"""

from __future__ import annotations

import copyreg
import dis
import importlib.util
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

from blake3 import blake3

from soma_core.execution import fingerprint

_INSTALLED = {"site-packages", "dist-packages"}
_PRIVATE_FIELDS = "__private_attributes__"  # where pydantic puts a model's own
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})
_WRAPPERS = (staticmethod, classmethod)
_TEMPORARY = (WeakKeyDictionary, WeakSet, WeakValueDictionary)  # what was called fills them


def code_digest(*roots: Any) -> bytes:
    """A hash of the code of classes or functions, and of what of the user's they use."""
    walk = _Walk()
    for root in roots:
        walk.visit(root)
    digest: bytes = walk.hasher.digest()
    return digest


class _Walk:
    def __init__(self) -> None:
        self.hasher = blake3()
        self._seen: set[int] = set()
        self._kept: list[Any] = []  # an object that was freed could lend its id to another one

    def visit(self, value: Any) -> None:
        """Hash one object, and what it leads to."""
        if isinstance(value, types.ModuleType):
            self._feed("module", value.__name__)
        elif type(value) in _PLAIN:
            self._feed("value", fingerprint(value))
        elif isinstance(value, type | types.FunctionType):
            self._feed(type(value).__name__, f"{value.__module__}:{value.__qualname__}")
            self._once(value, self._class if isinstance(value, type) else self._function)
        else:
            self._feed("object", f"{type(value).__module__}:{type(value).__qualname__}")
            self._once(value, self._object)

    def _once(self, value: Any, look_into: Callable[[Any], None]) -> None:
        if id(value) not in self._seen:
            self._seen.add(id(value))
            self._kept.append(value)
            look_into(value)

    def _class(self, cls: type) -> None:
        if _is_installed(cls.__module__):
            return
        for base in (type(cls), *cls.__bases__):
            self.visit(base)
        for name, value in sorted(vars(cls).items()):
            if _is_written(name, value):
                self._feed("attribute", name)
                self.visit(value)
        for name, field in sorted(vars(cls).get(_PRIVATE_FIELDS, {}).items()):
            self._feed("private", name)
            self._each((field.default, field.default_factory))

    def _function(self, function: types.FunctionType) -> None:
        """A function; of one that was installed, such as a decorator's, what it was given."""
        if not _is_installed(function.__globals__.get("__name__", "")):
            self._code(function.__code__)
            self._names(function)
        self._each((function.__defaults__, function.__kwdefaults__))
        self._each(map(_content, function.__closure__ or ()))
        self.visit(vars(function))

    def _object(self, value: Any) -> None:
        """Any other object: its class, and what it holds, as far as that can be known."""
        self.visit(type(value))
        if isinstance(value, _TEMPORARY):
            return
        if isinstance(value, Mapping):
            self._items(list(value.items()))
        elif isinstance(value, set | frozenset):
            self._feed("members", " ".join(sorted(map(_digest, value))))
        elif isinstance(value, list | tuple):
            self._items(value)
        elif isinstance(value, _WRAPPERS):
            self.visit(value.__func__)
        elif isinstance(value, property):
            self._each((value.fget, value.fset))
        elif isinstance(value, types.MethodType):
            self._each((value.__func__, value.__self__))
        elif not self._described(value):
            self._reduced(value)

    def _items(self, items: Collection[Any]) -> None:
        """Items in their order: at once if they are plain."""
        self._feed("items", str(len(items)))
        if set(map(type, items)) <= _PLAIN:
            self._feed("value", fingerprint([*items]))
        else:
            self._each(items)

    def _each(self, values: Iterable[Any]) -> None:
        for value in values:
            self.visit(value)

    def _described(self, value: Any) -> bool:
        """Whether it is data of a type that was installed, such as an array; then hash it."""
        if not _is_installed(type(value).__module__):
            return False
        with suppress(TypeError):
            self._feed("value", fingerprint(value))
            return True
        return False

    def _reduced(self, value: Any) -> None:
        """What a pickle of an object would hold; of what does not pickle, its attributes."""
        reduce = copyreg.dispatch_table.get(type(value))
        try:
            parts = value.__reduce_ex__(4) if reduce is None else reduce(value)
        except Exception:  # a lock, say, or a file; it runs code of any kind
            parts = ()
        if isinstance(parts, tuple):
            self._each(parts[:3])
            self._each(list(items or ()) for items in parts[3:5])
        if not (isinstance(parts, tuple) and parts):  # it is found by its name, or not at all
            self._feed("name", str(parts))
            self.visit(getattr(value, "__dict__", {}))

    def _names(self, function: types.FunctionType) -> None:
        """The globals that a function names, and the modules that it imports itself."""
        parts = [*_parts(function.__code__)]
        names = sorted({name for part in parts for name in part.co_names})
        for name in names:
            if name in function.__globals__:
                self._named(function.__globals__[name], names)
        package = function.__globals__.get("__package__") or ""
        for name in sorted({name for part in parts for name in _imported(part, package)}):
            self._feed("import", f"{name} {_source_digest(name)}")

    def _named(self, value: Any, names: list[str]) -> None:
        """A global that a function names; of a module, the attributes that it names too."""
        self.visit(value)
        if isinstance(value, types.ModuleType) and not _is_installed(value.__name__):
            self._once(value, lambda module: self._attributes(module, names))

    def _attributes(self, module: types.ModuleType, names: list[str]) -> None:
        for name in names:
            if name in vars(module):
                self._named(vars(module)[name], names)

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


def _is_written(name: str, value: Any) -> bool:
    """Whether an attribute is the author's: pydantic and Python add others."""
    if isinstance(value, types.FunctionType | staticmethod | classmethod | property):
        return not name.startswith("__pydantic")
    return not name.startswith(("__", "_abc_")) and name != "model_config"


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


def _digest(value: Any) -> str:
    return code_digest(value).hex()


def _imported(code: types.CodeType, package: str) -> Iterator[str]:
    """The topmost modules or packages that some code imports from."""
    before: deque[Any] = deque([0, 0], 2)  # what the steps before pushed: the level, the names
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME":
            yield (package if before[0] else step.argval).partition(".")[0]
        if step.opname != "EXTENDED_ARG":
            before.append(step.argval)


def _source_digest(name: str) -> str:
    """A hash of the files of a module or package that is yours; it is not imported."""
    if name in sys.stdlib_module_names:
        return ""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return ""
    if spec is None:
        return ""
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    alone = [Path(spec.origin)] if spec.origin is not None and not folders else []
    if any(map(_is_path_installed, folders + alone)):
        return ""
    files = alone + [path for folder in folders for path in folder.rglob("*.py")]
    with suppress(OSError):  # it lies in an archive, say
        return fingerprint([path.read_bytes() for path in sorted(files)])
    return ""


@cache
def _is_installed(module_name: str) -> bool:
    """Whether a module is of Python's own library, or of a distribution that was installed.

    Soma is, also where it was installed from a folder that is edited.
    """
    top = module_name.partition(".")[0]
    if (top in sys.stdlib_module_names and top != "__main__") or top == "soma_core":
        return True
    file = getattr(sys.modules.get(module_name), "__file__", None)
    if file is None:
        return False
    return _is_path_installed(Path(file))


def _is_path_installed(path: Path) -> bool:
    return bool(_INSTALLED & set(path.parts)) or path.is_relative_to(sysconfig.get_path("stdlib"))
