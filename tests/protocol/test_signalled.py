"""Errors of signal handlers, told from those of the call that they came into."""

from __future__ import annotations

import signal
from functools import partial

import pytest

from soma_core.channel.signalled import error_of_handler


class _Bell:
    def __call__(self, *_: object) -> None:
        raise ValueError("rung")

    def ring(self, *_: object) -> None:
        raise ValueError("rung")


class _Inheriting(_Bell):
    """What is called is defined by its base."""


def _ring(kind: type[Exception], *_: object) -> None:
    raise kind("rung")


HANDLERS = [_Bell(), _Inheriting(), _Bell().ring, partial(_ring, ValueError), lambda *_: _Bell()()]


@pytest.fixture(params=HANDLERS, ids=["object", "inheriting", "method", "partial", "function"])
def handled(request):
    """What a handler raised in the midst of something else."""
    before = signal.signal(signal.SIGUSR2, request.param)
    try:
        signal.raise_signal(signal.SIGUSR2)
    except ValueError as error:
        yield error
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_an_error_of_a_handler_is_known_whatever_kind_of_function_that_is(handled):
    assert error_of_handler(handled) is handled


def test_it_is_found_behind_the_error_that_was_made_of_it(handled):
    made = SystemError("returned a result with an exception set")
    made.__cause__ = handled
    assert error_of_handler(made) is handled


def test_an_error_that_was_raised_while_another_was_handled_is_of_no_handler(handled):
    try:
        raise handled
    except ValueError:
        with pytest.raises(OSError, match="gone") as caught:
            raise OSError("gone")  # noqa: B904 - the context is the point
    assert caught.value.__context__ is handled
    assert error_of_handler(caught.value) is None
