"""Descriptions of a model's fields, read from its docstrings when somebody asks for them.

pydantic can read them too (``use_attribute_docstrings``), but whenever the model is imported.
"""

from __future__ import annotations

from docstring_parser import DocstringStyle, parse_from_object
from pydantic import BaseModel


def field_descriptions(model: type[BaseModel]) -> dict[str, str]:
    """What the docstrings of a model and its bases say about each field, on one line each.

    Both forms count: the section ``Attributes`` of the class, and a string after the field.
    """
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            for entry in parse_from_object(base, DocstringStyle.GOOGLE).params:
                found[entry.arg_name] = " ".join((entry.description or "").split())
    return found
