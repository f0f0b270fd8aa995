"""Spelling: names in a configuration, with arguments or without, and what to say of wrong ones."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator
from pydantic.json_schema import SkipJsonSchema

_MOST = 40


def _spelled_out(value: Any) -> Any:
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        return value
    raise ValueError(
        f'expected a name, such as "this", or a name and arguments, such as {{"name": "this", '
        f'"that": 1}}; got {value!r}'
    )


def _listed(value: Any) -> Any:
    if value is None:
        return []
    return value if isinstance(value, list | tuple) else [value]


Choice = Annotated[
    dict[str, Any],
    BeforeValidator(_spelled_out, json_schema_input_type=str | dict[str, Any]),
]
"""A name and its arguments: ``{"name": "Adam", "lr": 0.01}``; a text is a name without any."""


def _spelled_out_or_called(value: Any) -> Any:
    return value if callable(value) else _spelled_out(value)


FunctionChoice = Annotated[
    dict[str, Any] | SkipJsonSchema[Callable[..., Any]],
    BeforeValidator(_spelled_out_or_called, json_schema_input_type=str | dict[str, Any]),
]
"""A choice, or a function itself, which travels as a pickle."""

_Input = str | dict[str, Any] | list[str | dict[str, Any]] | None

Listed = BeforeValidator(_listed, json_schema_input_type=_Input)
"""For a list of choices that may also be one choice, or none."""


def passing(check: Callable[[Any], object]) -> AfterValidator:
    """Lets a value through that a check does not refuse."""

    def passed(value: Any) -> Any:
        check(value)
        return value

    return AfterValidator(passed)


def arguments_of(choice: dict[str, Any], *apart: str) -> dict[str, Any]:
    """The arguments of a choice, without those that are ours."""
    return {key: value for key, value in choice.items() if key not in ("name", *apart)}


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """A message about an unknown name: the closest known ones, and all unless they are many."""
    names = sorted(known)
    by_lower = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), by_lower, n=3)
    meant = " or ".join(repr(by_lower[match]) for match in close)
    listed = f"known: {', '.join(names)}" if len(names) <= _MOST or not meant else ""
    told = " ".join(filter(None, [meant and f"did you mean {meant}?", listed]))
    return f"unknown {what} {name!r}; {told}"
