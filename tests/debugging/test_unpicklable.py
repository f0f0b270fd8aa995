"""What does not pickle is named by the way that leads to it."""

from __future__ import annotations

import functools
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

import soma_core as soma
from soma_core.wire.pickles import Pickles

LOCK = threading.Lock()


def uses_a_global() -> object:
    return LOCK


class Held:
    def __init__(self, held: Any) -> None:
        self.held = held


class InSlots:
    __slots__ = ("inner",)

    def __init__(self, inner: Any) -> None:
        self.inner = inner


class Private(soma.Filter):
    _kept: object = None

    def model_post_init(self, context: Any) -> None:
        self._kept = {"a": [threading.Lock()]}

    def forward(self, x: Any, state: Any) -> Any:
        return x


class WithState:
    def __init__(self) -> None:
        self.unused, self.used = threading.Lock(), 1

    def __getstate__(self) -> dict[str, Any]:
        return {"used": self.used, "other": (1, threading.Lock())}


class Ends:
    def __reduce__(self) -> Any:
        sys.exit(3)


def local() -> tuple[object, object]:
    lock = threading.RLock()

    class Local:
        @property
        def guarded(self) -> object:
            return lock

    class Below(Local):
        shared = (1, lock)

    return Local(), Below()


CASES: list[tuple[Callable[[], object], str]] = [
    (lambda: Held({"layers": [Held(LOCK)]}), 'self.held["layers"][0].held is a _thread.lock'),
    (lambda: Held({1: {2: LOCK}}), "self.held[1][2] is a _thread.lock"),
    (lambda: Held(InSlots([LOCK])), "self.held.inner[0] is a _thread.lock"),
    (lambda: Held(x for x in [1]), "self.held is a builtins.generator"),
    (lambda: Held(functools.partial(print, LOCK)), "self.held.args[0] is a _thread.lock"),
    (lambda: Held(lambda: LOCK), "self.held uses the global LOCK, which is a _thread.lock"),
    (Private, 'self._kept["a"][0] is a _thread.lock'),
    (WithState, "self.other[1] is a _thread.lock"),
    (lambda: Held(deque([1, LOCK])), "self.held[1] is a _thread.lock"),
    (lambda: Held(Ends()), "Ends: 3"),
    (lambda: local()[0], "self.guarded uses lock, which is a _thread.RLock"),
    (lambda: local()[1], "self.shared[1] is a _thread.RLock"),
    (lambda: (yield), "a list of what it yields"),
]


@pytest.mark.parametrize(("make", "where"), CASES)
def test_the_error_says_where_it_is(make: Callable[[], object], where: str) -> None:
    with pytest.raises(soma.ProtocolError) as caught:
        Pickles().dump(make())
    assert where in str(caught.value)
    assert caught.value.code is soma.ErrorCode.INVALID_COMMAND


def test_an_object_that_contains_itself_is_searched_once() -> None:
    held = Held([LOCK])
    held.itself = held  # type: ignore[attr-defined]
    held.held.append(held.held)
    with pytest.raises(soma.ProtocolError, match=r"self\.held\[0\] is a _thread\.lock"):
        Pickles().dump(held)


def test_large_arrays_beside_it_are_not_copied_in_the_search() -> None:
    np = pytest.importorskip("numpy")
    held = Held([np.zeros(2**26, dtype=np.uint8) for _ in range(8)] + [LOCK])
    with pytest.raises(soma.ProtocolError, match=r"self\.held\[8\]"):
        Pickles().dump(held, lambda buffer: None)


@pytest.mark.parametrize("value", [sys.float_info, {"a": [sys.flags]}, Held(sys.version_info)])
def test_an_object_of_a_class_in_c_that_has_no_name_is_refused_where_it_is_sent(value: Any) -> None:
    with pytest.raises(soma.ProtocolError, match=r"class is written in C.*'sys'") as caught:
        Pickles().dump(value)
    assert "__repr__" not in str(caught.value)
