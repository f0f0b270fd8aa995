"""``prepare(state)``: made once of what a node learned, handed to ``forward``, never sent."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import soma_core as soma


class Prepared:
    """What ``prepare`` makes; it does not pickle."""

    def __init__(self, number: int, offset: float) -> None:
        self.number, self.offset, self.lock = number, offset, threading.Lock()


class Shift(soma.Filter):
    """Answers with its input and the number of the preparation that it was handed."""

    _count: int = 0

    def fit(self, x: Any, y: Any = None) -> Any:
        return {"offset": x}

    def partial_fit(self, x: Any, y: Any, state: Any) -> Any:
        state["offset"] += x
        return state

    def prepare(self, state: Any) -> Prepared:
        self._count += 1
        return Prepared(self._count, state.get("offset", 0))

    def forward(self, x: Any, state: Any, prepared: Any) -> Any:  # type: ignore[override]
        return (x + prepared.offset, prepared.number)

    def predict(self, x: Any, state: Any, prepared: Any = None) -> Any:
        return (x + prepared.offset, prepared.number)

    def transform(self, x: Any, state: Any) -> Any:
        return x + state["offset"]


class Unrelated:
    """Has a ``prepare`` of its own, which ``forward`` knows nothing of."""

    def prepare(self, meal: Any) -> Any:
        raise AssertionError("nobody asked for it")

    def forward(self, x: Any, state: Any) -> Any:
        return x


@pytest.fixture
def inline() -> Any:
    with soma.connect("inline", filters={"it": Shift()}) as worker:
        yield worker


def test_it_is_called_once_for_a_state_that_was_learned(inline: soma.Worker) -> None:
    inline.fit("it", 1)
    assert inline.forward("it", 10) == (11, 1)
    assert inline.composite_forward(["it"], 20) == (21, 1)
    assert inline.predict("it", 30) == (31, 1)
    assert inline.transform("it", 30) == 31


def test_a_newer_state_is_prepared_anew_also_one_that_was_changed_in_place(
    inline: soma.Worker,
) -> None:
    inline.fit("it", 1)
    assert inline.forward("it", 10) == (11, 1)
    inline.partial_fit("it", 5)
    assert inline.forward("it", 10) == (16, 2)
    inline.set_state("it", soma.NodeState(None, "value", fit_state={"offset": 100}))
    assert inline.forward("it", 10) == (110, 3)


def test_a_state_of_a_call_is_prepared_for_that_call(inline: soma.Worker) -> None:
    inline.fit("it", 1)
    assert inline.forward("it", 10) == (11, 1)
    assert inline.forward("it", 10, {"offset": 2}) == (12, 2)
    assert inline.forward("it", 10) == (11, 1)


def test_what_was_prepared_is_in_no_state(inline: soma.Worker) -> None:
    inline.fit("it", 1)
    inline.forward("it", 10)
    state = inline.get_state("it")
    assert state.fit_state == {"offset": 1}
    inline.set_state("it", state)
    assert inline.forward("it", 10)[0] == 11


def test_what_it_raises_is_the_filters_failure(inline: soma.Worker) -> None:
    with pytest.raises(soma.RemoteError, match="no attribute 'get'"):
        inline.forward("it", 10, 7)


def test_a_prepare_that_forward_does_not_take_is_left_alone() -> None:
    with soma.connect("inline", filters={"it": Unrelated()}) as worker:
        assert worker.forward("it", 10) == 10
