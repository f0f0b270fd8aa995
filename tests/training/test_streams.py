"""Chunks of data stream through a chain, as each node's stream mode says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import soma_core as soma

CHUNKS = [np.arange(3.0), np.arange(3.0, 5.0), np.arange(5.0, 9.0)]


class Double(soma.Filter):
    def forward(self, x: Any, state: Any) -> Any:
        return x * 2


class Running(soma.Filter):
    """Subtracts the smallest number that came so far."""

    def meta(self) -> soma.FilterMeta:
        return super().meta().replace(stream_mode="Evolving")

    def fit(self, x: Any, y: Any = None) -> Any:
        return {"seen": len(x)}

    def partial_fit(self, x: Any, y: Any, state: Any) -> Any:
        return {"seen": state.get("seen", 0) + len(x)}

    def forward(self, x: Any, state: Any) -> Any:
        return x + 100 * state["seen"]


class Backwards(soma.Filter):
    def meta(self) -> soma.FilterMeta:
        return super().meta().replace(stream_mode="Barrier")

    def forward(self, x: Any, state: Any) -> Any:
        return x[::-1]


class Total(Backwards):
    def forward(self, x: Any, state: Any) -> Any:
        return np.array([x.sum()])


def lists(results: Any) -> list[list[float]]:
    return [result.tolist() for result in results]


def test_each_chunk_is_taken_when_its_result_is_asked_for(worker: Any) -> None:
    worker.load({"double": Double()})
    taken = []

    def chunks() -> Iterator[Any]:
        for chunk in CHUNKS:
            taken.append(len(chunk))
            yield chunk

    results = worker.stream(["double"], chunks())
    assert taken == []
    assert next(results).tolist() == [0.0, 2.0, 4.0]
    assert taken == [3]
    assert worker.forward("double", 4) == 8
    assert lists(results) == [[6.0, 8.0], [10.0, 12.0, 14.0, 16.0]]


def test_an_evolving_node_learns_from_each_chunk_and_goes_on_in_the_next_stream(
    worker: Any,
) -> None:
    worker.load({"running": Running(), "double": Double()})
    chain = ["running", "double"]
    first = [
        result[0] - 2 * chunk[0]
        for result, chunk in zip(worker.stream(chain, CHUNKS), CHUNKS, strict=True)
    ]
    assert first == [600.0, 1000.0, 1800.0]
    assert next(worker.stream(chain, CHUNKS))[0] == 2400.0
    assert worker.forward("running", np.zeros(1))[0] == 1200.0


def test_a_barrier_sees_all_chunks_at_once_and_what_follows_sees_chunks_again(worker: Any) -> None:
    worker.load({"double": Double(), "backwards": Backwards()})
    results = lists(worker.stream(["double", "backwards", "double"], CHUNKS))
    assert results == [[32.0, 28.0, 24.0], [20.0, 16.0], [12.0, 8.0, 4.0, 0.0]]


def test_a_barrier_that_changes_the_number_of_rows_sends_on_one_chunk(inline: Any) -> None:
    inline.load({"total": Total(), "double": Double()})
    assert lists(inline.stream(["total", "double"], CHUNKS)) == [[72.0]]
    assert lists(inline.stream(["total", "total"], CHUNKS)) == [[36.0]]
    assert lists(inline.stream(["total"], [])) == []


def test_closing_a_stream_early_closes_its_source_and_frees_the_worker(worker: Any) -> None:
    worker.load({"double": Double()})
    closed = []

    def endless() -> Iterator[Any]:
        try:
            while True:
                yield np.ones(2)
        finally:
            closed.append(True)

    results = worker.stream(["double"], endless())
    next(results)
    results.close()
    assert closed == [True]
    assert worker.forward("double", 1) == 2


def test_chunks_that_cannot_be_gathered_are_named(inline: Any) -> None:
    inline.load({"backwards": Backwards()})
    with pytest.raises(ValueError, match="parts of type int cannot be put together"):
        list(inline.stream(["backwards"], [1, 2]))
