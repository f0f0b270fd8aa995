"""Steps: what a method of a worker sends, one call after another, without waiting for any.

A generator yields each call and is given its reply, or has its error thrown in; it returns the
result of the method. Whoever runs it decides how to wait: a Worker blocks, an AsyncWorker awaits.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from difflib import get_close_matches
from inspect import signature
from typing import Any, TypeVar

from pydantic import ValidationError

from soma_core.client.calls import Call
from soma_core.models.validation_errors import describe
from soma_core.protocol.commands import COMMANDS, FilterSpec
from soma_core.protocol.parsing import name_of_command

__all__ = ["OWN_COMMANDS", "Steps", "argument_error", "binding_error"]

T = TypeVar("T")

Steps = Generator[Call, Any, T]

OWN_COMMANDS = {name: name.lower() for name in map(name_of_command, COMMANDS)} | {"HELLO": "ping"}
"""The method for each of soma's own commands."""

_METHODS = {model.__name__: name_of_command(model).lower() for model in COMMANDS}
_METHODS[FilterSpec.__name__] = "load"

_EXAMPLES = {"optimizer": '; such as {"name": "Adam", "lr": 0.001}'}


def binding_error(verb: Callable[..., Steps[Any]], error: TypeError) -> TypeError:
    """What to raise where a method does not take the arguments of a call.

    Args:
        verb: The method.
        error: What calling it raised; where that is about something else, it stays.
    """
    text, name = str(error), f"{verb.__qualname__}()"
    if not text.startswith(name):
        return error
    text = text.partition(". Did you mean")[0]  # Python 3.14 says so itself
    _, *known = signature(verb).parameters
    unexpected = text.rpartition("argument ")[2].strip("'") if "unexpected" in text else ""
    close = get_close_matches(unexpected, known, 1)
    hint = f"did you mean {close[0]}?" if close else f"it takes {', '.join(known)}"
    return TypeError(f"Worker.{verb.__name__}(){text.removeprefix(name)}; {hint}")


def argument_error(steps: Steps[Any], error: ValidationError) -> Exception:
    """What to raise in place of an error of pydantic: an argument that a command does not take.

    Args:
        steps: They raised it.
        error: The error; one that is of no command of ours is somebody else's, and stays.
    """
    method = _METHODS.get(error.title)
    if method is None:
        return error
    if method == "call_method":
        method = getattr(steps, "__name__", method)
    of_type = any(problem["type"].endswith("_type") for problem in error.errors(include_url=False))
    kind = TypeError if of_type else ValueError
    text = f"Worker.{method}: {describe(error)}"
    example = next((example for name, example in _EXAMPLES.items() if f": {name}: " in text), "")
    return kind(text + example)
