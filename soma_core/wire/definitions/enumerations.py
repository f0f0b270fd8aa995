"""Enumerations: members are made as they are, not by the program's ``__new__`` and ``__init__``.

cloudpickle makes a class without its methods and gives it these later, which is too late for
members that they make; and it leaves out aliases.
"""

from __future__ import annotations

import copyreg
from enum import Enum, EnumMeta, Flag
from typing import Any, NamedTuple

import cloudpickle.cloudpickle as _cloudpickle

from soma_core.wire.definitions import classes


class _Member(NamedTuple):
    """A member, less its attributes: what its data type is made of, and its value."""

    data: tuple[Any, ...]
    value: Any


def reduce(kind: Any, content: dict[str, Any]) -> tuple[Any, ...]:
    """How an enumeration that travels whole is pickled, in the form of cloudpickle's."""
    members: dict[str, Enum] = dict(kind.__members__)
    made = {name: _Member(_data(kind, member), member._value_) for name, member in members.items()}
    boundary = {"boundary": kind._boundary_} if issubclass(kind, Flag) else {}
    args = (type(kind), kind.__name__, kind.__bases__, kind.__module__, boundary, made)
    kept = {name: value for name, value in content.items() if name not in members}
    state = kept, {name: _attributes(found) for name, found in members.items()}
    return _make, args, state, None, None, _complete


def _data(kind: Any, member: Any) -> tuple[Any, ...]:
    """The arguments that make a member of a data type, such as the number of an IntEnum."""
    if kind._member_type_ is object:
        return ()
    reduced: Any = object.__reduce_ex__(member, 2)
    make, args = reduced[:2]
    if make is copyreg.__newobj__:  # type: ignore[attr-defined]
        return tuple(args[1:])
    if make is type(member):
        return tuple(args)
    return member._value_ if isinstance(member._value_, tuple) else (member._value_,)


def _attributes(member: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(member).items() if name not in _OF_ENUM}


_OF_ENUM = frozenset({"_value_", "_name_", "__objclass__", "_sort_order_"})


def _make(
    metaclass: Any,
    name: str,
    bases: tuple[type, ...],
    module: str,
    options: dict[str, Any],
    members: dict[str, _Member],
) -> EnumMeta:
    """The class with its members, without its methods."""
    in_order = [*members.values()]

    def new(cls: Any, number: Any) -> Any:
        data, value = in_order[number[0] if isinstance(number, tuple) else number]
        made = cls._member_type_.__new__(cls, *data)
        made._value_ = value
        return made

    def fill(namespace: Any) -> None:
        namespace |= {"__module__": module, "__new__": new, "__init__": lambda *args: None}
        for number, member in enumerate(members):
            namespace[member] = number

    made = classes.new(metaclass, name, bases, options, fill)
    for own in ("__init__", "__new_member__"):
        if own in vars(made):
            delattr(made, own)
    return made  # type: ignore[no-any-return]


def _complete(kind: Any, content: tuple[dict[str, Any], dict[str, dict[str, Any]]]) -> None:
    """Give the class its methods, and the members their attributes."""
    attributes, of_members = content
    _cloudpickle._class_setstate(kind, (attributes, {}))
    for name, held in of_members.items():
        vars(kind._member_map_[name]).update(held)
