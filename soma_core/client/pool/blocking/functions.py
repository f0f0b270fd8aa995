"""Functions: the filter that calls what it is given, in a worker of an Executor."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any


class RemoteTraceback(Exception):
    """Where in a worker an exception was raised: the cause of the exception that the host sees."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class Functions:
    """Calls a function for each ``forward``."""

    def __init__(
        self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]
    ) -> None:
        self._initializer, self._initargs = initializer, initargs

    def on_load(self) -> None:
        """Call the initializer, in a worker that has just loaded this."""
        if self._initializer is not None:
            self._initializer(*self._initargs)

    def fit(self, x: Any, y: Any = None) -> dict[str, Any]:
        """There is nothing to learn."""
        return {}

    def forward(self, x: Any, state: Any) -> tuple[Any, ...]:
        """Call a function.

        Args:
            x: The function, its positional arguments, and those by name.
            state: Not used.

        Returns:
            The result alone; or None, the exception that the function raised, and its traceback.
        """
        function, arguments, named = x
        try:
            return (function(*arguments, **named),)
        except Exception as error:
            if not _travels(error):
                raise  # it becomes an error of soma, with its text
            text = "".join(traceback.format_exception(error))
            return None, error, text


def call_each(function: Callable[..., Any], arguments: list[list[Any]]) -> list[Any]:
    """What a function returns for each item of some lists, of which each is one argument."""
    return [*map(function, *arguments)]


def name_of(function: Callable[..., Any]) -> str:
    """What the calls of a function are counted under: with a function that it was bound to."""
    if isinstance(function, partial):
        bound = [name_of(first) for first in function.args[:1] if callable(first)]
        return name_of(function.func) + "".join(f"({name})" for name in bound)
    name: str = getattr(function, "__qualname__", type(function).__qualname__)
    return name


def _travels(error: Exception) -> bool:
    """Whether an exception is still of its class when it was pickled and read."""
    try:
        return type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:
        return False


def outcome(returned: tuple[Any, ...]) -> tuple[Any, Exception | None]:
    """The result of a function, and what it raised, of what :meth:`Functions.forward` returned."""
    if len(returned) == 1:
        return returned[0], None
    _, error, text = returned
    error.__cause__ = RemoteTraceback(text)
    return None, error
