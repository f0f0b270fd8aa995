"""Structures: classes of ctypes and msgspec, whose fields decide how their objects lie in memory.

They are made with their fields, which cannot be given to them later.
"""

from __future__ import annotations

import inspect
import operator
import sys
from typing import Any, NamedTuple

import cloudpickle.cloudpickle as _cloudpickle


class Fields(NamedTuple):
    """What a structure is made with.

    Attributes:
        namespace: Of its body.
        options: Of its ``class`` statement, as pairs.
        final: What of the body cannot be set again.
    """

    namespace: dict[str, Any]
    options: tuple[tuple[str, Any], ...]
    final: frozenset[str]


def of(kind: type) -> tuple[Any, ...] | None:
    """How to pickle a type that ctypes makes of others, or keeps under no name; None for others."""
    ctypes: Any = sys.modules.get("ctypes")
    if ctypes is None or (kind.__module__ != "_ctypes" and type(kind).__module__ != "_ctypes"):
        return None
    for base in (ctypes.Structure, ctypes.Union, ctypes.Array, ctypes._SimpleCData):
        if kind is type(base):
            return type, (base,)
    held = vars(kind)
    made: tuple[Any, tuple[Any, ...]]
    if issubclass(kind, ctypes.Array) and "_length_" in held:
        made = operator.mul, (held["_type_"], held["_length_"])
    elif issubclass(kind, ctypes._Pointer) and "_type_" in held:
        made = ctypes.POINTER, (held["_type_"],)
    elif issubclass(kind, ctypes._CFuncPtr) and "_argtypes_" in held:
        made = ctypes.CFUNCTYPE, (held["_restype_"], *held["_argtypes_"])
    else:
        return _other_endian(kind, ctypes)
    make, args = made
    return made if make(*args) is kind else None


def _other_endian(kind: type, ctypes: Any) -> tuple[Any, ...] | None:
    """Of a number whose bytes lie in the order that other machines have."""
    order = "be" if sys.byteorder == "little" else "le"
    native = getattr(ctypes, kind.__name__.removesuffix(f"_{order}"), None)
    swapped = f"__ctype_{order}__"
    if native is kind or getattr(native, swapped, None) is not kind:
        return None
    return getattr, (native, swapped)


def fields_of(kind: type) -> Fields | None:
    """What a structure that travels whole is made with; None of any other class."""
    if type(kind).__module__ in _OF_CTYPES:
        held = {name: value for name, value in vars(kind).items() if name in _LAYOUT}
        if kind in _used_by(kind):
            held.pop("_fields_", None)  # it refers to itself: its fields come once it is there
        return Fields(held, (), frozenset(held))
    if type(kind).__module__ == "msgspec._core" and hasattr(kind, "__struct_config__"):
        return _of_msgspec(kind)
    return None


_OF_CTYPES = frozenset({"_ctypes", "ctypes._endian"})
_LAYOUT = frozenset(
    {"_fields_", "_anonymous_", "_pack_", "_align_", "_layout_", "_type_", "_length_"}
    | {"_argtypes_", "_restype_", "_flags_", "_swappedbytes_"}
)


def _used_by(kind: type) -> set[Any]:
    """The types that a type of ctypes is made of."""
    used: set[Any] = set()
    left = [kind]
    while left:
        held = vars(left.pop())
        parts = [field[1] for field in held.get("_fields_", ())]
        parts += held.get("_type_"), held.get("_restype_"), *held.get("_argtypes_", ())
        new = {part for part in parts if type(part).__module__ in _OF_CTYPES} - used
        used |= new
        left += new
    return used


def _of_msgspec(kind: Any) -> Fields:
    config = kind.__struct_config__
    options = {name: getattr(config, name) for name in dir(config) if name[0] != "_"}
    names, encoded = kind.__struct_fields__, kind.__struct_encode_fields__
    annotated = inspect.get_annotations(kind).items()
    annotations = {name: value for name, value in annotated if name in names}  # no ClassVar
    options["rename"] = {name: key for name, key in zip(names, encoded, strict=True) if key != name}
    parameters = inspect.signature(kind).parameters
    of_name = inspect.Parameter.KEYWORD_ONLY
    options["kw_only"] = any(parameters[name].kind is of_name for name in annotations)
    defaults = kind.__struct_defaults__
    given = zip(names[len(names) - len(defaults) :], defaults, strict=True)
    namespace = {
        name: _default(value)
        for name, value in given
        if name in annotations and type(value).__name__ != "NoDefault"
    }
    body = {**namespace, "__annotations__": annotations}
    if "__post_init__" in vars(kind):
        body["__post_init__"] = _post_init
    return Fields(body, tuple(options.items()), frozenset(namespace))


def _post_init(struct: Any) -> None:
    """What msgspec calls of a class that is given its methods later."""
    struct.__post_init__()


def _default(value: Any) -> Any:
    """A default as a class body spells it."""
    return _Made(value.factory) if type(value).__name__ == "Factory" else value


class _Made:
    """Pickled in the place of a default that is made for each object."""

    def __init__(self, factory: Any) -> None:
        self._factory = factory

    def __reduce__(self) -> Any:
        return _made_by, (self._factory,)


def _made_by(factory: Any) -> Any:
    import msgspec

    return msgspec.field(default_factory=factory)


def complete(kind: Any, content: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Give a structure its content; the fields that it has by now are for ever."""
    attributes, slots = content
    if "_fields_" in vars(kind):
        attributes.pop("_fields_", None)
    _cloudpickle._class_setstate(kind, (attributes, slots))


def is_derived(value: Any) -> bool:
    """Whether an attribute of a class is made of its fields."""
    return type(value).__name__ == "CField" and type(value).__module__ == "_ctypes"
