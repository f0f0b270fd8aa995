"""What was computed before is answered, and only that."""

from __future__ import annotations

import math
import uuid
from typing import Any

import numpy as np
import pytest
from soma_cache.keys import KEY_SIZE, Keys

import soma_core as soma
from soma_core.models.filters import FilterKind
from soma_core.testing.samples import VALUES, difference

from .filters import RUNS, Counted, Learning, Pairs, Returning, Saying

X = np.arange(6.0)
PICKLED = ("an object array",)


@pytest.fixture
def name() -> str:
    """A name under which no other test counts."""
    return uuid.uuid4().hex


def told(worker: soma.Worker) -> Any:
    return worker.status().plugins["cache"]


def test_an_equal_call_is_answered_and_the_filter_does_not_run(connect, name) -> None:
    worker = connect(node=Counted(name=name))
    first, again = worker.forward("node", X), worker.forward("node", X.copy())
    assert (RUNS[name], first.tolist(), again.tolist()) == (1, [*(X * 2)], [*(X * 2)])
    again[0] = 9.0  # the host's own
    assert worker.forward("node", X)[0] == 0.0
    counts = {"hits": 2, "misses": 1, "skipped": 0}
    assert told(worker) == {"last": "hit", **counts}


def test_another_worker_with_another_id_finds_the_result(connect, name) -> None:
    connect(node=Counted(name=name)).forward("node", X)
    connect(other=Counted(name=name)).forward("other", X)
    assert RUNS[name] == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda worker: worker.forward("node", X + 1),
        lambda worker: worker.forward("node", X.astype("float32")),
        lambda worker: worker.forward("node", X.reshape(2, 3)),
        lambda worker: worker.forward("node", X, {"any": "state"}),
        lambda worker: worker.forward("factor", X),
        lambda worker: worker.composite_forward(["node"], X),
    ],
    ids=["values", "dtype", "shape", "state", "configuration", "verb"],
)
def test_whatever_the_result_depends_on_makes_another_one(connect, name, call) -> None:
    worker = connect(node=Counted(name=name), factor=Counted(name=name, factor=3.0))
    worker.forward("node", X)
    call(worker)
    assert RUNS[name] == 2
    call(worker)
    assert RUNS[name] == 2


def test_what_a_node_learned_is_part_of_the_key(connect, name) -> None:
    worker = connect(node=Learning(name=name))
    worker.fit("node", X)
    first = worker.forward("node", X)
    worker.fit("node", X + 10)
    assert worker.forward("node", X).tolist() == (X - 12.5).tolist()
    worker.fit("node", X)
    assert worker.forward("node", X).tolist() == first.tolist()
    assert (RUNS[name], told(worker)["hits"]) == (2, 1)


def test_a_chain_is_one_result_and_depends_on_each_node_in_order(connect, name) -> None:
    worker = connect(a=Counted(name=name), b=Learning(name=name))
    for _ in range(2):
        assert worker.composite_forward(["a", "b"], X).tolist() == (X * 2).tolist()
    assert RUNS[name] == 2
    worker.composite_forward(["b", "a"], X)
    worker.composite_forward(["a", "b"], X, {"b": {"mean": 1.0}})
    assert RUNS[name] == 6
    with pytest.raises(soma.RemoteError, match="unknown node 'c'"):
        worker.composite_forward(["a", "c"], X)


@pytest.mark.parametrize(
    ("says", "why"),
    [
        ({"deterministic": False}, "not deterministic"),
        ({"cacheable": False}, "not cacheable"),
        ({"kind": FilterKind.OPAQUE}, "opaque"),
        ({"differentiable": True}, "weights"),
    ],
    ids=str,
)
def test_a_filter_that_does_not_promise_equal_results_runs_each_time(
    connect, name, says, why
) -> None:
    worker = connect(node=Saying(name=name, says=says))
    for _ in range(2):
        worker.forward("node", X)
    assert (RUNS[name], told(worker)["skipped"]) == (2, 2)
    assert why in told(worker)["why"]


class Duck:
    def fit(self, x: Any, y: Any) -> Any:
        return {}

    def forward(self, x: Any, state: Any) -> Any:
        return x


def test_an_object_without_a_hash_of_its_configuration_is_not_kept(connect) -> None:
    worker = connect(node=Duck())
    worker.forward("node", X)
    assert "not a soma.Filter" in told(worker)["why"]


@pytest.mark.parametrize("value", VALUES)
def test_a_result_of_any_kind_is_answered_as_it_was(connect, name, value) -> None:
    worker = connect(node=Returning(name=name))
    sent = VALUES[value]
    first, second = worker.forward("node", sent), worker.forward("node", sent)
    assert difference(second, first) == ""
    assert RUNS[name] == (2 if value in PICKLED else 1)
    if value in PICKLED:
        assert "the input is not typed values" in told(worker)["why"]


def test_a_result_that_only_a_pickle_could_keep_is_not_kept(connect, name) -> None:
    worker = connect(node=Pairs(name=name))
    assert worker.forward("node", 5) == worker.forward("node", 5) == slice(1, 5)
    assert RUNS[name] == 2
    assert "the result is not typed values" in told(worker)["why"]


def test_hits_and_misses_are_events_for_a_host_that_wants_them(connect, name) -> None:
    worker = connect(node=Counted(name=name))
    seen: list[Any] = []
    for _ in range(2):
        worker.forward("node", X, progress=seen.append)
    worker.composite_forward(["node"], X, progress=seen.append)
    assert [event["cache"] for event in seen] == ["miss", "hit", "miss"]
    assert seen[0]["nodes"] == ["node"]


def test_a_failure_is_not_kept(connect, name) -> None:
    worker = connect(node=Counted(name=name))
    for _ in range(2):
        with pytest.raises(soma.RemoteError):
            worker.forward("node", {"no": "number"})
    assert RUNS[name] == 2


def test_a_command_that_learns_runs_and_is_kept_from_the_cache(connect, name) -> None:
    worker = connect(node=Learning(name=name))
    for _ in range(2):
        worker.composite_fit(["node"], X)
    assert RUNS[name] == 2
    assert worker.status().plugins == {}


def test_nan_and_negative_zero_are_themselves(connect, name) -> None:
    worker = connect(node=Returning(name=name))
    assert math.copysign(1.0, worker.forward("node", 0.0)) == 1.0
    assert math.copysign(1.0, worker.forward("node", -0.0)) == -1.0
    assert math.isnan(worker.forward("node", math.nan))
    assert RUNS[name] == 3


def test_values_that_share_their_bytes_have_keys_of_their_own() -> None:
    keys = Keys()
    values = [b"ab", [b"a", b"b"], [b"", b"ab"], "ab", X, X.view("int64"), [X[:3], X[3:]], [], {}]
    found = {keys.key("FORWARD", [], value) for value in values}
    assert len(found) == len(values)
    assert {len(key) for key in found} == {KEY_SIZE}
