"""Signatures: functions that take the arguments of another one."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature, signature
from typing import Any, Concatenate, ParamSpec, TypeVar

__all__ = ["init_takes_arguments_of", "takes_arguments_of"]

P = ParamSpec("P")
T = TypeVar("T")


def takes_arguments_of(
    function: Callable[P, Any],
) -> Callable[[Callable[..., T]], Callable[P, T]]:
    """Declare that a function takes the arguments of another one, which says what they mean."""

    def declare(other: Callable[..., T]) -> Callable[P, T]:
        other.__signature__ = signature(function).replace(  # type: ignore[attr-defined]
            return_annotation=other.__annotations__["return"]
        )
        return other

    return declare


def init_takes_arguments_of(
    function: Callable[P, Any],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    """The same for the ``__init__`` of a class."""

    def declare(init: Callable[..., None]) -> Callable[Concatenate[Any, P], None]:
        own = Parameter("self", Parameter.POSITIONAL_ONLY)
        taken = signature(function).parameters.values()
        init.__signature__ = Signature([own, *taken])  # type: ignore[attr-defined]
        return init

    return declare
