"""Steps: what a method of a worker sends, one call after another, without waiting for any.

A generator yields each call and is given its reply, or has its error thrown in; it returns the
result of the method. Whoever runs it decides how to wait: a Worker blocks, an AsyncWorker awaits.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any, TypeVar

from pydantic import ValidationError

from soma_core.client.arguments import Meta, check_meta
from soma_core.client.calls import Call
from soma_core.models.validation_errors import describe
from soma_core.protocol.commands import COMMANDS, FilterSpec
from soma_core.protocol.parsing import name_of_command

T = TypeVar("T")

Steps = Generator[Call, Any, T]


def through(send: Callable[[Call], Steps[Any]], steps: Steps[T]) -> Steps[T]:
    """The same steps, each call of which goes through a function, which sends it.

    Args:
        send: Yields the call, and returns its reply.
    """
    advance: Callable[[], Call] = partial(next, steps)
    while True:
        try:
            call = advance()
        except StopIteration as end:
            result: T = end.value
            return result
        try:
            advance = partial(steps.send, (yield from send(call)))
        except GeneratorExit:
            steps.close()
            raise
        except BaseException as error:
            advance = partial(steps.throw, error)


def before_each(prepare: Callable[[Call], None], steps: Steps[T]) -> Steps[T]:
    """The same steps, each call of which is given to a function before it is sent."""

    def send(call: Call) -> Steps[Any]:
        prepare(call)
        return (yield call)

    return through(send, steps)


def carrying(meta: Meta, steps: Steps[T]) -> Steps[T]:
    """The same steps, with what goes along with each call."""
    if meta is None:
        return steps
    carried = check_meta(meta)

    def add(call: Call) -> None:
        call.fields["meta"] = dict(carried)

    return before_each(add, steps)


OWN_COMMANDS = {name: name.lower() for name in map(name_of_command, COMMANDS)} | {"HELLO": "ping"}
"""The method for each of soma's own commands."""

_METHODS = {model.__name__: name_of_command(model).lower() for model in COMMANDS}
_METHODS[FilterSpec.__name__] = "load"

_EXAMPLES = {
    "optimizer": '; such as {"name": "Adam", "lr": 0.001}',
    "node_id": "; it is the id of one node, and composite_fit and composite_forward take a chain",
}


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
