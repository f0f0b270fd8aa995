"""What a filter holds beside its fields stays in its process, whoever fetches or sets its state."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from pydantic import PrivateAttr

import soma_core as soma


class Ready(soma.Filter):
    """Gets ready when it is loaded, and holds a lock once it ran."""

    size: int = 1
    _words: list[str] = PrivateAttr(default_factory=list)
    _lock: Any = None

    def on_load(self) -> None:
        self._words = ["word"] * self.size

    def forward(self, x: Any, state: Any) -> Any:
        self._lock = self._lock or threading.Lock()
        return self._words


@pytest.fixture
def inline() -> Any:
    with soma.connect("inline", filters={"it": Ready()}) as worker:
        worker.forward("it", None)
        yield worker


@pytest.mark.parametrize("format", [None, "cloudpickle", "value"])
def test_a_state_is_fetched_and_set_without_them(inline: soma.Worker, format: Any) -> None:
    inline.set_state("it", inline.get_state("it", format=format))
    assert inline.forward("it", None) == ["word"]


@pytest.mark.parametrize("format", ["cloudpickle", "value"])
def test_a_filter_of_another_configuration_gets_ready_anew(
    inline: soma.Worker, format: Any
) -> None:
    with soma.connect("inline", filters={"it": Ready(size=2)}) as other:
        state = other.get_state("it", format=format)
    inline.set_state("it", state)
    assert inline.forward("it", None) == ["word"] * 2
