"""Signatures: what functions take, and what is said to who calls them with something else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, Signature, iscoroutinefunction, signature
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def binding_error(called: str, function: Callable[..., Any], error: TypeError) -> TypeError:
    """What to raise where a function does not take the arguments of a call.

    Args:
        called: What the caller calls it.
        error: What calling it raised; where that is about something else, it stays.
    """
    text, name = str(error), f"{function.__qualname__}()"
    if not text.startswith(name):
        return error
    text = text.partition(". Did you mean")[0]  # Python 3.14 says so itself
    parameters = [one for one in signature(function).parameters.values() if one.name != "self"]
    unexpected = text.rpartition("argument ")[2].strip("'") if "unexpected" in text else ""
    close = get_close_matches(unexpected, [one.name for one in parameters], 1)
    if close:
        hint = f"did you mean {close[0]}?"
    elif " given" in text or "too many" in text:
        hint = _by_position(parameters)
    else:
        hint = f"it takes {_names(parameters)}"
        if unexpected and any(one.name == "y" for one in parameters):
            beside = f'y={{"y": y, "{unexpected}": …}}'
            hint += f"; what goes beside the targets is given with them: {beside}"
    return TypeError(f"{called}(){text.removeprefix(name)}; {hint}")


def attribute_error(worker: object, name: str, node_ids: Iterable[str]) -> AttributeError:
    """What to raise where a worker is asked for an attribute that it has not."""
    kind = type(worker).__name__
    close = get_close_matches(name, [one for one in dir(worker) if not one.startswith("_")], 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    if name in node_ids:
        hint = f": it is a node; call forward({name!r}, x), or take filter({name!r})"
    elif name in ("map", "submit"):
        hint = f": a {kind}Pool has it"
    return AttributeError(f"a {kind} has no attribute {name!r}{hint}")


def _by_position(parameters: list[Parameter]) -> str:
    first = [one for one in parameters if one.kind is not Parameter.KEYWORD_ONLY]
    named = [one for one in parameters if one.kind is Parameter.KEYWORD_ONLY]
    taken = f"it takes {_names(first)}" if first else "it takes none by position"
    by_name = ", ".join(f"{one.name}=…" for one in named)
    return f"{taken}, and by name {by_name}" if named else taken


def _names(parameters: list[Parameter]) -> str:
    return ", ".join(one.name for one in parameters if one.kind is not Parameter.VAR_KEYWORD)


def tells_what_it_takes(method: Callable[P, T]) -> Callable[P, T]:
    """Have a method say more than Python does where it is called with other arguments."""
    called = telling(method.__qualname__, method)
    if not iscoroutinefunction(method):
        return called

    @wraps(method)
    async def awaited(*args: P.args, **kwargs: P.kwargs) -> Any:
        return await called(*args, **kwargs)  # type: ignore[misc]

    return awaited  # type: ignore[return-value]


def takes_arguments_of(
    function: Callable[P, Any],
) -> Callable[[Callable[..., T]], Callable[P, T]]:
    """Declare that a function takes the arguments of another one, which says what they mean."""

    def declare(other: Callable[..., T]) -> Callable[P, T]:
        called: Callable[..., T] = telling(other.__qualname__, other, function)
        called.__signature__ = signature(function).replace(  # type: ignore[attr-defined]
            return_annotation=other.__annotations__["return"]
        )
        return called

    return declare


def init_takes_arguments_of(
    function: Callable[P, Any],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    """The same for the ``__init__`` of a class."""

    def declare(init: Callable[..., None]) -> Callable[Concatenate[Any, P], None]:
        name = init.__qualname__.removesuffix(".__init__")
        called: Callable[..., None] = telling(name, init, function)
        own = Parameter("self", Parameter.POSITIONAL_ONLY)
        taken = signature(function).parameters.values()
        called.__signature__ = Signature([own, *taken])  # type: ignore[attr-defined]
        return called

    return declare


def telling(
    name: str, called: Callable[P, T], function: Callable[..., Any] | None = None
) -> Callable[P, T]:
    """A function that says more than Python does where it is called with other arguments.

    Args:
        name: What the caller calls it.
        function: What it hands its arguments to; None if it takes them itself.
    """

    @wraps(called)
    def tell(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return called(*args, **kwargs)
        except TypeError as error:
            told = binding_error(name, function or called, error)
            if told is error:
                raise
            raise told from None

    return tell
