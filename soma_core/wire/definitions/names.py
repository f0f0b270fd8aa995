"""Names that definitions look up in the globals of their module: in code, and in annotations."""

from __future__ import annotations

import ast
import dis
import functools
import importlib
import sys
import types
import typing
from typing import Any

import cloudpickle

from soma_core.wire.definitions.recipes import ALIASES, DEFINITIONS, is_importable, name_of
from soma_core.wire.definitions.sentinels import global_of

MISSING = object()
"""What a name stands for that is not there."""


@functools.lru_cache(maxsize=4096)
def names_in(code: types.CodeType) -> frozenset[str]:
    """The names that code looks up in its globals, with the code within it."""
    own = {step.argval for step in dis.get_instructions(code) if step.opname in _GLOBAL}
    nested = (item for item in code.co_consts if isinstance(item, types.CodeType))
    return frozenset(own).union(*map(names_in, nested))


_GLOBAL = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL"})


def annotated(definition: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The globals in which annotations that are texts are looked up, and what they name there.

    A library may look them up where the definition travelled to. It is only what may stand in an
    annotation: the text may be a remark, and a global any value. ``Annotated`` takes any value.
    """
    annotations = vars(definition).get("__annotations__")
    if isinstance(definition, types.FunctionType):
        annotations, scope = definition.__annotations__, definition.__globals__
    else:
        scope = getattr(sys.modules.get(definition.__module__), "__dict__", {})
    if type(annotations) is not dict:
        return scope, {}
    texts = _all_texts(annotations, scope)
    extra = frozenset[str]().union(*map(_metadata, texts))
    names = extra.union(*map(_names_of_text, texts))
    found = {name: scope.get(name, MISSING) for name in sorted(names)}
    return scope, {
        name: value for name, value in found.items() if name in extra or may_be_named(value)
    }


def named(definition: Any) -> dict[str, Any]:
    """What :func:`annotated` finds that is there."""
    found = annotated(definition)[1]
    return {name: value for name, value in found.items() if value is not MISSING}


def _all_texts(annotations: dict[str, Any], scope: dict[str, Any]) -> set[str]:
    """The texts among annotations, and in the aliases that these name: an alias may name itself."""
    texts: set[str] = set()
    aliases: list[Any] = []
    left = [*annotations.values()]
    while left:
        part = left.pop()
        if isinstance(part, typing.ForwardRef):
            part = part.__forward_arg__
        if isinstance(part, str):
            if part not in texts:
                texts.add(part)
                named = (scope.get(name) for name in _names_of_text(part))
                left += (value for value in named if isinstance(value, ALIASES))
        elif isinstance(part, ALIASES):
            if all(part is not alias for alias in aliases):
                aliases.append(part)
                left.append(part.__value__)
        elif not isinstance(part, type):
            left += getattr(part, "__args__", None) or ()
            left += [part.__origin__] if hasattr(part, "__origin__") else []
    return texts


@functools.lru_cache(maxsize=4096)
def _names_of_text(text: str) -> frozenset[str]:
    try:
        code = compile(text, "<annotation>", "eval")
    except (SyntaxError, ValueError):
        return frozenset()  # a remark, or a unit
    quoted = (item for item in code.co_consts if isinstance(item, str) and item != text)
    return names_in(code).union(*map(_names_of_text, quoted))


@functools.lru_cache(maxsize=4096)
def _metadata(text: str) -> frozenset[str]:
    """The names of what ``Annotated[...]`` adds to a type, such as ``Field(le=LIMIT)``."""
    if "Annotated" not in text:
        return frozenset()
    try:
        found = [*ast.walk(ast.parse(text, mode="eval"))]
    except (SyntaxError, ValueError):
        return frozenset()
    added = [
        part
        for node in found
        if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("Annotated")
        if isinstance(node.slice, ast.Tuple)
        for part in node.slice.elts[1:]
    ]
    names = (node for part in added for node in ast.walk(part) if isinstance(node, ast.Name))
    return frozenset(node.id for node in names)


def may_be_named(value: Any) -> bool:
    """Whether a value is what annotations are made of."""
    return (
        isinstance(value, _NAMED)
        or type(value).__module__ in _OF_TYPES
        or value is MISSING
        or global_of(value) is not None
    )


_OF_TYPES = frozenset({"typing", "typing_extensions", "types"})
_NAMED = (*DEFINITIONS, type, types.BuiltinFunctionType, types.FunctionType, types.ModuleType)


class _Imported:
    """Pickled by name, and no harm where the other side lacks it: nothing but a text names it."""

    def __init__(self, module: str, name: str) -> None:
        self._args = module, name

    def __reduce__(self) -> Any:
        return find_imported, self._args


def by_reference(value: Any) -> Any:
    """What is pickled in the place of a value that only annotations name."""
    if isinstance(value, types.ModuleType):
        name = value.__name__
        by_value = name == "__main__" or name in cloudpickle.list_registry_pickle_by_value()
        found = sys.modules.get(name) is value and not by_value
        return _Imported(name, "") if found else value
    if hasattr(value, "__module__") and is_importable(value):
        return _Imported(value.__module__, name_of(value))
    return value


def find_imported(module: str, name: str) -> Any:
    """A module, or what has a name there; ``MISSING`` where it cannot be imported."""
    try:
        found = importlib.import_module(module)
        for part in filter(None, name.split(".")):
            found = getattr(found, part)
    except Exception:  # a module may raise anything
        return MISSING
    return found
