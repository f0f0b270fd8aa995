"""Calls that wait for the same node are joined, and nobody can tell but by the clock."""

from __future__ import annotations

import random
import threading
import weakref
from collections import OrderedDict
from concurrent.futures import CancelledError, wait
from typing import Any, NamedTuple

import numpy as np
import pytest

import soma_core as soma

from ..support import TRANSPORTS, either, gate_runs, wait_until
from ..support import filters as f
from .conftest import hold


class Rowwise(soma.Filter):
    def meta(self) -> soma.FilterMeta:
        return super().meta().replace(rowwise=True)


class Double(Rowwise):
    def forward(self, x, state):
        return x * 2.0


class Listed(Rowwise):
    """Doubles each row of a list, or of each column of a dict."""

    def forward(self, x, state):
        if isinstance(x, dict):
            return {key: self.forward(column, state) for key, column in x.items()}
        return [row * 2 for row in x]


class Sized(Rowwise):
    """With how many rows each row came."""

    def forward(self, x, state):
        return f.np.full(len(x), len(x))


class Same(Rowwise):
    def forward(self, x, state):
        return x


class Both(NamedTuple):
    """What :class:`Two` returns."""

    rows: Any
    negative: OrderedDict[str, Any]


class Two(Rowwise):
    def forward(self, x, state):
        return Both(x, OrderedDict(negative=-x))


class Center(Rowwise):
    def fit(self, x, y=None):
        return {"mean": f.np.mean(x)}

    def forward(self, x, state):
        return x - state["mean"]


class Picky(Rowwise):
    """Does what the first negative row says."""

    def forward(self, x, state):
        for row in x[:, 0]:
            if row == -1:
                raise ValueError("minus one")
            if row == -2:
                f.os._exit(2)
            if row == -3:
                f.time.sleep(600)
        return x


class Forgetful(Rowwise):
    """Returns what has another number of rows."""

    def forward(self, x, state):
        return {"fewer": x[:-1], "none": 1.0, "columns": {"a": x, "b": x[:-1]}}[str(x[0, 0])]


class Napping(Rowwise):
    """Sleeps until the file is gone that a row names, and that it has written."""

    def forward(self, x, state):
        naps = [f.Sleep().forward(("naps", 600.0, x[0]), {})]
        return naps * len(x)


class NotRowwise(soma.Filter):
    def forward(self, x, state):
        return f.np.full(len(x), len(x))


FILTERS = {
    "hold": f.Apply(hold),
    "process": f.Process(),
    "double": Double(),
    "listed": Listed(),
    "sized": Sized(),
    "two": Two(),
    "center": Center(),
    "picky": Picky(),
    "forgetful": Forgetful(),
    "napping": Napping(),
    "whole": NotRowwise(),
}


@pytest.fixture
def joined(make, gate):
    """Submits calls while the only worker is busy, and lets it go on."""

    def start(
        node_id: str | list[str], inputs, transport="socket", batching=None, before=(), **arguments
    ):
        filters = {**FILTERS, **arguments.pop("filters", {})}
        batching = batching or soma.Batching()
        pool = make(transport, 1, filters=filters, batching=batching, **arguments)
        for prepare in before:
            prepare(pool)
        pool.submit("hold", gate.call())
        wait_until(lambda: gate.pids)
        calls = [pool.submit(node_id, x) for x in inputs]
        gate.open()
        return pool, calls

    return start


def rows(*values: float) -> np.ndarray:
    return np.array(values)[:, None]


def sizes(pool: soma.WorkerPool, label: str) -> tuple[int, int]:
    node = pool.stats().nodes[label]
    return node.batches, node.batched


@pytest.mark.parametrize("transport", gate_runs("socket", "inline", of=TRANSPORTS))
def test_each_caller_gets_the_rows_of_its_own(joined, transport):
    inputs = [rows(1.0), rows(2.0, 3.0), rows(4.0)]
    pool, calls = joined("double", inputs, transport)
    for call, x in zip(calls, inputs, strict=True):
        np.testing.assert_array_equal(call.result(60.0), x * 2)
    assert sizes(pool, "double") == (1, 3)


def test_calls_run_together(joined):
    _, calls = joined("sized", [rows(1.0)] * 5)
    assert [call.result(60.0).tolist() for call in calls] == [[5]] * 5


def test_no_command_has_more_rows_than_it_may(joined):
    batching = soma.Batching(max_rows=4)
    _, calls = joined("sized", [rows(1.0, 2.0)] * 5 + [rows(*range(9))], batching=batching)
    assert [call.result(60.0).tolist() for call in calls[:5]] == [[4, 4]] * 4 + [[2, 2]]
    assert calls[5].result(60.0).tolist() == [9] * 9


def test_only_data_of_like_shape_and_type_are_joined(joined):
    inputs = [
        np.ones((1, 2)),
        np.ones((1, 3)),
        np.ones((1, 2), "float32"),
        [[1.0, 1.0]],
        {"a": np.ones((1, 2))},
        {"b": np.ones((1, 2))},
    ]
    pool, calls = joined("sized", [x for x in inputs for _ in range(2)])
    wait(calls, 60.0)
    assert sizes(pool, "sized") == (len(inputs), 2 * len(inputs))


def test_lists_and_columns_are_joined_too(joined):
    inputs = [{"a": [1, 2], "b": {"c": [3, 4]}}, {"a": [5], "b": {"c": [6]}}]
    pool, calls = joined("listed", [*inputs, [7, 8], [9]])
    assert [call.result(60.0) for call in calls] == [
        {"a": [2, 4], "b": {"c": [6, 8]}},
        {"a": [10], "b": {"c": [12]}},
        [14, 16],
        [18],
    ]
    assert sizes(pool, "listed") == (2, 4)


@pytest.mark.nightly
def test_tensors_and_frames_are_joined_too(joined):
    torch, pandas = pytest.importorskip("torch"), pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    inputs = [torch.ones(1, 2), torch.zeros(2, 2), frame, frame.iloc[:1]]
    leaves = [torch.ones(1, 2, requires_grad=True)] * 2  # which joined ones would not be
    pool, calls = joined("double", [*inputs, *leaves])
    for call, x in zip(calls[:2], inputs[:2], strict=True):
        assert torch.equal(call.result(60.0), x * 2)
    for call, x in zip(calls[2:4], inputs[2:], strict=True):
        pandas.testing.assert_frame_equal(call.result(60.0), x * 2)
    assert sizes(pool, "double") == (2, 4)


def test_frames_keep_their_labels_and_types_in_a_batch(joined):
    pandas = pytest.importorskip("pandas")
    wide = [f"column {number}" for number in range(100)]  # as a text it is cut
    inputs = [
        pandas.DataFrame({"a": [1.0]}),
        pandas.DataFrame({"a": [2.0, 3.0]}),
        pandas.DataFrame({"a": [4.0]}, index=["x"]),
        pandas.Series([1.0], name="one"),
        pandas.Series([1.0], name="other"),
        pandas.DataFrame({"a": pandas.Categorical(["x"])}),
        pandas.DataFrame({"a": pandas.Categorical(["y"])}),
        pandas.DataFrame(np.zeros((1, 100)), columns=wide),
        pandas.DataFrame(np.ones((1, 100)), columns=[*wide[:50], "else", *wide[51:]]),
    ]
    pool, calls = joined("same", inputs, "inline", filters={"same": Same()})
    for call, x in zip(calls, inputs, strict=True):
        result = call.result(60.0)
        assert (type(result), type(result.index)) == (type(x), type(x.index))
        assert result.equals(x)
        assert [getattr(result, "name", None)] == [getattr(x, "name", None)]
    assert sizes(pool, "same") == (1, 2)


@pytest.mark.nightly
@pytest.mark.parametrize("x", [1.0, "text", (rows(1.0), rows(2.0)), np.zeros((0, 2)), None])
def test_what_has_no_rows_to_join_is_run_alone(joined, x):
    pool, calls = joined("two", [x, x], filters={"two": f.Echo()})
    wait(calls, 60.0)
    assert sizes(pool, "two") == (0, 0)


@pytest.mark.nightly
def test_a_column_without_rows_must_be_the_same(joined):
    inputs = [{"x": rows(1.0), "scale": scale} for scale in (1, 2, 1)]
    pool, calls = joined("sized", inputs)
    wait(calls, 60.0)
    assert sizes(pool, "sized") == (1, 2)


def test_a_result_of_several_parts_is_cut_in_each_and_keeps_its_class(joined):
    pool, calls = joined("two", [rows(1.0), rows(2.0)])
    for number, call in enumerate(calls, 1):
        result = call.result(60.0)
        assert (type(result), type(result.negative)) == (Both, OrderedDict)
        assert (result.rows, result.negative["negative"]) == ([[number]], [[-number]])
    assert sizes(pool, "two") == (1, 2)


def test_what_is_joined_keeps_its_class_or_is_run_alone(joined):
    pandas, torch = pytest.importorskip("pandas"), pytest.importorskip("torch")
    named = pandas.DataFrame({"a": [1.0]})
    named.attrs["of"] = "this caller"
    inputs = [
        *[np.rec.fromrecords([(1, 2.0)], names="a,b") for _ in range(2)],
        *[OrderedDict(a=rows(1.0)) for _ in range(2)],
        *[torch.eye(2).to_sparse() for _ in range(2)],
        *[{"a": rows(1.0), "unknown": float("nan")} for _ in range(2)],
        named,
        pandas.DataFrame({"a": [2.0]}),
    ]
    pool, calls = joined("same", inputs, "inline", filters={"same": Same()})
    results = [call.result(60.0) for call in calls]
    assert list(map(type, results)) == list(map(type, inputs))
    assert [results[0].b[0], results[-2].attrs] == [2.0, named.attrs]
    assert sizes(pool, "same") == (1, 2)  # of the record arrays: of the rest nothing was sent twice


def test_a_chain_is_joined_if_all_of_its_nodes_are(joined):
    pool, calls = joined(["double", "sized"], [rows(1.0)] * 3)
    assert [call.result(60.0).tolist() for call in calls] == [[3]] * 3
    others = [pool.submit(["whole", "double"], rows(1.0)) for _ in range(3)]
    wait(others, 60.0)
    assert sizes(pool, "whole > double") == (0, 0)


def test_a_node_that_does_not_say_that_it_is_rowwise_is_never_joined(joined):
    _, calls = joined("whole", [rows(1.0)] * 3)
    assert [call.result(60.0).tolist() for call in calls] == [[1]] * 3


def test_calls_are_not_joined_once_their_node_is_another_filter(make, gate):
    filters = {"hold": f.Apply(hold), "node": Double()}
    pool = make("inline", 1, filters=filters, batching=soma.Batching())
    pool.submit("hold", gate.call())
    wait_until(lambda: gate.pids)
    calls = [pool.submit("node", rows(n, n), priority=-1) for n in range(3)]
    loading = threading.Thread(target=pool.load, args=[{"node": NotRowwise()}])
    loading.start()
    wait_until(lambda: pool.stats().queued == 4)
    gate.open()
    assert [call.result(60.0).tolist() for call in calls] == [[2, 2]] * 3
    loading.join()


@pytest.mark.nightly
def test_only_the_nodes_that_are_named_are_joined(joined):
    _, calls = joined("sized", [rows(1.0)] * 2, batching=soma.Batching(nodes=["double"]))
    assert [call.result(60.0).tolist() for call in calls] == [[1]] * 2


def test_calls_with_states_of_their_own_are_not_joined(joined):
    pool, calls = joined("center", [])
    calls = [pool.submit("center", rows(1.0), state={"mean": mean}) for mean in (1.0, 2.0)]
    assert [float(call.result(60.0)[0, 0]) for call in calls] == [0.0, -1.0]


def test_joined_calls_use_what_was_learned_before_they_were_submitted(joined):
    pool, calls = joined(
        "center", [rows(5.0), rows(6.0)], before=[lambda pool: pool.fit("center", rows(1.0, 3.0))]
    )
    assert [float(call.result(60.0)[0, 0]) for call in calls] == [3.0, 4.0]
    assert sizes(pool, "center") == (1, 2)


# Failures


def test_a_row_that_fails_is_found_and_fails_alone(joined):
    inputs = [rows(number) for number in range(20)]
    inputs[7] = inputs[13] = rows(-1)
    _, calls = joined("picky", inputs)
    for number, call in enumerate(calls):
        if number in (7, 13):
            with pytest.raises(ValueError, match="minus one") as caught:
                call.result(60.0)
            assert (caught.value.node_id, caught.value.command) == ("picky", "FORWARD")
        else:
            assert call.result(60.0) == [[number]]


@pytest.mark.usefixtures("told_how")
@either
def test_a_row_that_kills_the_worker_costs_its_own_call_alone(joined, transport):
    inputs = [rows(number) for number in range(6)]
    inputs[2] = rows(-2)
    pool, calls = joined("picky", inputs, transport)
    with pytest.raises(soma.WorkerDied) as caught:
        calls.pop(2).result(60.0)
    assert caught.value.exit_code == 2
    assert [float(call.result(60.0)[0, 0]) for call in calls] == [0, 1, 3, 4, 5]
    assert pool.stats().replaced == 2


def test_what_cannot_be_put_together_is_run_apart(joined):
    ragged = [{"a": rows(1.0), "b": None}, {"a": rows(2.0), "b": None}]
    _, calls = joined("sized", ragged)
    assert [call.exception(60.0) for call in calls] == [None, None]


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("fewer", "it returned 1 rows for 2 rows"),
        ("none", "it returned a float without rows for 2 rows"),
        ("columns", r"equally many rows|the result\['a'\] has 2"),
    ],
)
def test_a_result_with_other_rows_is_an_error_that_every_caller_gets(joined, kind, found):
    _, calls = joined("forgetful", [np.array([[kind]], "U10")] * 2)
    errors = [call.exception(60.0) for call in calls]
    assert errors[0] is not errors[1]
    for error in errors:
        assert isinstance(error, soma.RemoteError)
        assert (error.code, error.node_id) == (soma.ErrorCode.FILTER_FAILED, "forgetful")
        with pytest.raises(soma.RemoteError, match=found):
            raise error


@pytest.mark.nightly
def test_an_error_keeps_nothing_of_the_other_calls(joined):
    good, bad = rows(1.0), rows(-1)
    kept = weakref.ref(good)
    _, calls = joined("picky", [good, bad])
    del good
    calls[0].result(60.0)
    error = calls[1].exception(60.0)
    wait_until(lambda: kept() is None)
    assert isinstance(error, ValueError)


# Time


def test_a_call_can_be_cancelled_and_the_others_go_on(joined, note):
    _, calls = joined("napping", [[str(note)]] * 3)
    wait_until(note.exists)
    assert calls[0].cancel()
    with pytest.raises(CancelledError):
        calls[0].result(0)
    assert not any(call.done() for call in calls[1:])
    note.unlink()
    assert [call.result(60.0) for call in calls[1:]] == [["done"], ["done"]]


@pytest.mark.nightly
def test_once_all_have_cancelled_the_worker_is_interrupted(joined):
    pool, calls = joined("picky", [rows(-3)] * 3, interrupt_grace=60.0)
    (before,) = [status.pid for status in pool.status()]
    wait_until(lambda: all(call.running() for call in calls))
    assert all(call.cancel() for call in calls)
    assert pool.forward("process", ("pid",)) == before


def test_each_caller_keeps_its_own_deadline(make, gate):
    pool = make(n=1, filters=FILTERS, batching=soma.Batching(), interrupt_grace=60.0)
    pool.submit("hold", gate.call())
    wait_until(lambda: gate.pids)
    short = pool.submit("picky", rows(-3), deadline=1.5)
    long = [pool.submit("picky", rows(-3), deadline=600.0) for _ in range(2)]
    gate.open()
    wait_until(lambda: long[0].running())
    with pytest.raises(soma.DeadlineExceeded) as caught:
        short.result(60.0)
    assert caught.value.worker_survived
    assert not any(call.done() for call in long)
    assert all(call.cancel() for call in long)


@pytest.mark.nightly
def test_the_timeout_holds_for_all_that_are_joined(joined, long_grace):
    _, calls = joined("picky", [rows(-3)] * 2, timeout=1.0)
    for call in calls:
        with pytest.raises(soma.DeadlineExceeded) as caught:
            call.result(60.0)
        assert caught.value.worker_survived


def test_a_lone_call_waits_for_nobody(make):
    pool = make(n=1, filters=FILTERS, batching=soma.Batching(max_delay=600.0))
    for number in range(3):
        assert pool.forward("double", rows(number)) == [[2 * number]]
    assert sizes(pool, "double") == (0, 0)


def test_under_load_a_batch_waits_for_those_who_called_before(make, gate):
    """The first batch is as large as it may be; the next one waits for its callers."""
    pool = make(n=1, filters=FILTERS, batching=soma.Batching(max_rows=8, max_delay=2.0))
    pool.submit("hold", gate.call())
    wait_until(lambda: gate.pids)
    again: list[Any] = []
    for _ in range(8):
        call = pool.submit("sized", rows(1.0))
        call.add_done_callback(lambda _: again.append(pool.submit("sized", rows(1.0))))
    gate.open()
    wait_until(lambda: len(again) == 8)
    assert [call.result(60.0).tolist() for call in again] == [[8]] * 8


@pytest.mark.nightly
@either
def test_many_callers_get_what_is_theirs_while_workers_die_and_calls_are_cancelled(make, transport):
    pool = make(transport, 2, filters=FILTERS, batching=soma.Batching(max_rows=8))
    draw = random.Random(0)
    for _ in range(2):
        values = [-2, *draw.choices([-1, *range(1, 20)], k=39)]
        draw.shuffle(values)
        calls = [pool.submit("picky", rows(value)) for value in values]
        for call in draw.sample(calls, 8):
            call.cancel()
        for call, value in zip(calls, values, strict=True):
            if call.cancelled():
                continue
            error = call.exception(60.0)
            expected = {-1: soma.RemoteError, -2: soma.WorkerDied}.get(value)
            if expected is None:
                assert error is None
                assert call.result(0) == [[value]]
            else:
                assert isinstance(error, expected)


# Arguments


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_rows": 1}, ValueError, "max_rows is at least 2, got 1"),
        ({"max_rows": 2.5}, TypeError, "max_rows is a whole number, got 2.5"),
        ({"max_delay": -1.0}, ValueError, "max_delay is at least 0 seconds"),
        ({"max_delay": float("inf")}, ValueError, "max_delay is at least 0 seconds, and finite"),
        ({"max_delay": "5"}, TypeError, "max_delay is a number of seconds, got '5'"),
        ({"nodes": 5}, TypeError, "nodes is a collection of node ids, got 5"),
        ({"nodes": "sized"}, TypeError, "nodes is a collection of node ids"),
    ],
)
def test_a_batching_that_cannot_be_says_why(arguments, error, message):
    with pytest.raises(error, match=message):
        soma.Batching(**arguments)


def test_naming_a_node_that_is_not_rowwise_is_refused():
    with pytest.raises(ValueError, match=r"'whole', whose filter NotRowwise .*rowwise=True"):
        soma.WorkerPool(
            "inline",
            1,
            filters={"whole": NotRowwise()},
            batching=soma.Batching(nodes=["whole"]),
        )
