"""Errors pickle, copy, and stand for the exception of the worker as closely as Python allows."""

from __future__ import annotations

import builtins
import copy
import doctest
import http
import json
import os
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import soma_core as soma
from soma_core.engine.failures import OF_SOMA
from soma_core.errors import SomaError
from soma_core.raised import Raised

WAYS: dict[str, Callable[[BaseException], BaseException]] = {
    "pickled": lambda error: pickle.loads(pickle.dumps(error)),
    "copied": copy.copy,
    "copied deeply": copy.deepcopy,
}

ERRORS = [
    soma.PluginNotFound("none"),
    soma.ProtocolError(soma.ErrorCode.TOO_LARGE, "big", node_id="n", remote_type="ValueError"),
    soma.StartFailed("did not come up"),
    soma.ChannelClosed("closed", sent=True),
    soma.WorkerDied("died", exit_code=3, signal="SIGKILL", stderr="last words", command="FIT"),
    soma.DeadlineExceeded("late", worker_survived=True),
    soma.IncompatibleWorker("3.11 and 3.12"),
    soma.StateLost("lost"),
    soma.RemoteError.from_reply({"error": "no", "type": "Odd", "node_id": "n"}),
]


def raised(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def told(error: BaseException) -> soma.RemoteError:
    """The error as a host is told of it, by a reply of JSON."""
    reply = {
        "ok": False,
        "error": str(error),
        "code": "filter_failed",
        "type": type(error).__name__,
        "traceback": "".join(traceback.format_exception(error)),
        "exception": Raised.of(error).model_dump(exclude_defaults=True),
    }
    return soma.RemoteError.from_reply(json.loads(json.dumps(reply)))


def facts(error: BaseException) -> object:
    known = {name: value for name, value in vars(error).items() if not isinstance(value, list)}
    return type(error), str(error), error.args, known


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_every_error_of_soma_pickles_and_copies(error: SomaError, way: str) -> None:
    error.add_note("while testing")
    again = WAYS[way](error)
    assert facts(again) == facts(error)
    assert again.__notes__ == error.__notes__


def local_error() -> type[Exception]:
    class Unfitted(ValueError, AttributeError):
        pass

    return Unfitted


def test_an_error_is_an_instance_of_every_builtin_that_the_remote_one_is_of() -> None:
    error = told(local_error()("not fitted"))
    assert isinstance(error, ValueError)
    assert isinstance(error, AttributeError)
    assert type(error).__name__ == "RemoteError[Unfitted]"


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda: json.loads("{"), ValueError),
        (lambda: np.linalg.inv(np.zeros((2, 2))), ValueError),
        (lambda: b"\xff".decode(), UnicodeDecodeError),
        (lambda: {}["x"], LookupError),
        (lambda: Path("/nowhere/at/all").read_text(), FileNotFoundError),
        (lambda: compile("a = = 3", "cell", "exec"), SyntaxError),
        (lambda: __import__("no_such_module_at_all"), ImportError),
    ],
)
def test_an_except_clause_catches_what_it_would_catch_here(
    function: Callable[[], object], kind: type[Exception]
) -> None:
    here = raised(function)
    there = told(here)
    assert isinstance(here, kind)
    assert isinstance(there, kind)
    assert isinstance(there, soma.RemoteError)
    assert str(there) == str(here)


@pytest.mark.parametrize(
    "name",
    ["StopIteration", "StopAsyncIteration", "GeneratorExit", "KeyboardInterrupt", "SystemExit"],
)
def test_an_error_never_ends_an_iteration_or_the_program(name: str) -> None:
    error = told(getattr(builtins, name)("no more"))
    assert isinstance(error, soma.RemoteError)
    assert not isinstance(error, getattr(builtins, name))


def test_plain_attributes_and_arguments_are_kept() -> None:
    missing = told(raised(lambda: Path("/nowhere/at/all").read_text()))
    assert (missing.errno, missing.filename) == (2, "/nowhere/at/all")  # type: ignore[attr-defined]
    assert missing.args == (2, "No such file or directory")
    unread = told(raised(lambda: json.loads("[1, x]")))
    assert (unread.pos, unread.lineno, unread.colno) == (4, 1, 5)  # type: ignore[attr-defined]
    assert told(KeyError("x")).args == ("x",)
    module = told(raised(lambda: __import__("no_such_module_at_all")))
    assert module.name == "no_such_module_at_all"  # type: ignore[attr-defined]


class Told(Exception):
    """It keeps what it knows in a slot, in a property and in an attribute."""

    __slots__ = ("place",)

    @property
    def seen(self) -> list[object]:
        return [float("inf"), np.float32(0.5)]

    @property
    def broken(self) -> int:
        raise ValueError


def test_what_json_has_no_form_for_is_kept_too() -> None:
    error = Told((1, ("a", 2**80)), {"type": 1, "by": http.HTTPStatus.GONE})
    error.place, error.output = np.int64(3), b"\xff"  # type: ignore[attr-defined]
    there = told(error)
    assert there.args == ((1, ("a", 2**80)), {"type": 1, "by": 410})
    assert (there.place, there.output) == (3, b"\xff")  # type: ignore[attr-defined]
    assert there.seen == [float("inf"), 0.5]  # type: ignore[attr-defined]
    assert not hasattr(there, "broken")
    again = pickle.loads(pickle.dumps(there))
    assert (again.args, again.output) == (there.args, b"\xff")


@pytest.mark.parametrize("tag", [{"$soma": "int", "value": []}, {"$soma": [], "items": 1}])
def test_what_only_looks_like_a_tag_is_a_dict(tag: dict[str, object]) -> None:
    reply = {"error": "no", "exception": {"args": [tag]}}
    assert soma.RemoteError.from_reply(reply).args == (tag,)


def test_arguments_that_are_not_plain_data_leave_the_message() -> None:
    assert told(ValueError({1, 2})).args == ("{1, 2}",)


def test_an_attribute_of_the_exception_replaces_none_of_the_errors_own() -> None:
    error = ValueError("no")
    error.code = 404  # type: ignore[attr-defined]
    error.node_id = "other"  # type: ignore[attr-defined]
    error.status = 500  # type: ignore[attr-defined]
    there = told(error)
    assert there.code is soma.ErrorCode.FILTER_FAILED
    assert there.node_id is None
    assert there.status == 500  # type: ignore[attr-defined]


def failing() -> None:
    try:
        {}["key"]
    except KeyError as error:
        wrapped = RuntimeError("could not look it up")
        wrapped.add_note("the table is empty")
        raise wrapped from error


def without_first_frames(text: str) -> list[str]:
    """The lines of a printed traceback, less the names of the classes."""
    return [line.replace("soma_core.errors.RemoteError.", "") for line in text.splitlines()]


@pytest.mark.parametrize("way", ["as it is", *WAYS])
def test_python_prints_it_as_it_would_print_the_exception_itself(way: str) -> None:
    here = raised(failing)
    there = told(here)
    there = there if way == "as it is" else WAYS[way](there)  # type: ignore[assignment]
    printed = "".join(traceback.format_exception(there))
    assert without_first_frames(printed) == "".join(traceback.format_exception(here)).splitlines()
    assert '{}["key"]' in printed
    assert isinstance(there.__cause__, KeyError)
    assert there.__notes__ == ["the table is empty"]


def test_a_doctest_that_ignores_the_module_expects_the_class_of_the_exception() -> None:
    text = """
    >>> fail()  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    KeyError: 'key'
    """

    def fail() -> None:
        raise told(raised(lambda: {}["key"]))

    test = doctest.DocTestParser().get_doctest(text, {"fail": fail}, "a test", None, 0)
    assert doctest.DocTestRunner().run(test).failed == 0


def test_the_traceback_is_a_note_where_this_machine_has_other_sources() -> None:
    there = raised(failing)
    description = Raised.of(there).model_dump(exclude_defaults=True)
    description["stack"][0]["source"] = "something else"
    error = soma.RemoteError.from_reply(
        {"error": "no", "type": "RuntimeError", "traceback": "its\nlines", "exception": description}
    )
    assert error.__traceback__ is None
    assert "The traceback in the worker:\nits\nlines" in error.__notes__


def test_a_group_is_a_group_and_except_star_splits_it() -> None:
    inner = ExceptionGroup("inner", [OSError(13, "denied")])
    there = told(ExceptionGroup("several", [ValueError("a"), TypeError("b"), inner]))
    caught: dict[str, object] = {}
    for way in WAYS.values():
        try:
            raise way(there)
        except* ValueError as values:
            caught["values"] = [str(error) for error in values.exceptions]
            caught["kind"] = isinstance(values, soma.RemoteError)
        except* OSError as files:
            caught["errno"] = files.exceptions[0].exceptions[0].errno  # type: ignore[attr-defined]
        except* TypeError as types:
            caught["types"] = len(types.exceptions)
        assert caught == {"values": ["a"], "kind": True, "errno": 13, "types": 1}


def test_a_recursion_without_end_is_told_in_short() -> None:
    def again(n: int) -> int:
        return again(n + 1)

    description = Raised.of(raised(lambda: again(0)))
    assert len(description.stack) == 100
    assert isinstance(told(raised(lambda: again(0))), RecursionError)


def test_long_texts_of_causes_and_of_notes_are_told_in_short() -> None:
    error = ValueError("short")
    error.__cause__ = KeyError("c" * 10**6)
    for _ in range(3):
        error.add_note("n" * 50_000)
    described = Raised.of(error)
    assert described.cause is not None
    assert "characters left out" in described.cause.error
    assert len(described.cause.error) < 70_000
    assert described.notes[0] == "n" * 50_000
    assert [len(note) < 20_000 for note in described.notes] == [False, True]


def test_a_chain_that_leads_back_to_itself_ends() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    there = told(first)
    assert str(there.__cause__) == "second"
    assert there.__cause__ is not None
    assert there.__cause__.__cause__ is None


@pytest.mark.parametrize(
    "content", [None, 3, [], {"bases": 3}, {"stack": [{}]}, {"cause": "x"}, {"args": 3}]
)
def test_a_reply_that_describes_the_exception_badly_is_an_error_all_the_same(
    content: object,
) -> None:
    error = soma.RemoteError.from_reply(
        {"error": "no", "type": "ValueError", "code": "filter_failed", "exception": content}
    )
    assert isinstance(error, ValueError)
    assert (str(error), error.code) == ("no", soma.ErrorCode.FILTER_FAILED)


@pytest.mark.parametrize("name", ["exit", "print", "__import__", "object", "list", "BaseException"])
def test_the_name_of_anything_else_is_no_base(name: str) -> None:
    reply = {"error": "no", "type": name, "exception": {"bases": [name]}}
    assert type(soma.RemoteError.from_reply(reply)).__mro__[1:3] == (soma.RemoteError, SomaError)


def test_frames_of_a_package_beside_soma_whose_name_begins_like_its_own_are_kept():
    beside = f"{OF_SOMA.removesuffix(os.sep)}_of_mine{os.sep}filters.py"
    made = {}
    exec(compile("def divide(x):\n    return x / 0\n", beside, "exec"), made)
    with pytest.raises(ZeroDivisionError) as raised:
        made["divide"](1)
    error = raised.value
    error.__traceback__ = error.__traceback__.tb_next  # the frame of this test
    assert [entry.file for entry in Raised.of(error, leave_out=OF_SOMA).stack] == [beside]
