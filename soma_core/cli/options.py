"""Options: name, type, default and meaning of each option of a transport, read from its class."""

from __future__ import annotations

import inspect
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


class Option(NamedTuple):
    """One option: its name, its type, its default and its meaning, for people."""

    name: str
    type: str
    default: str
    meaning: str


def options_of(model: type[BaseModel]) -> list[Option]:
    """The options that a model has, those of its bases last.

    Their meaning is the description of the field, or else what a docstring says about it.
    """
    from soma_core.models.field_descriptions import field_descriptions

    described = field_descriptions(model)
    own = inspect.get_annotations(model)
    names = sorted(model.model_fields, key=lambda name: name not in own)
    options = []
    for name in names:
        field = model.model_fields[name]
        meaning = (field.description or described.get(name, "")).replace("``", "")
        options.append(Option(name, _type_text(field.annotation), _default(field), meaning))
    return options


def _type_text(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_text(parts[0])
    if origin is Literal:
        return " | ".join(map(repr, parts))
    if origin in (Union, UnionType):
        return " | ".join(map(_type_text, parts))
    if annotation is NoneType:
        return "None"
    name = getattr(annotation, "__name__", str(annotation))
    return f"{name}[{', '.join(map(_type_text, parts))}]" if parts else name


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        return "computed"
    return repr(field.default)
