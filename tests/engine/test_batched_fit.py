"""BATCHED_FIT: which rows each batch has, what accumulates, what comes back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import PrivateAttr

import soma_core as soma
from soma_core.engine.training.batches import Batches, join_outputs

COUNTS = [0, 1, 31, 32, 33, 1023]


class Rows:
    """Keeps the rows of each fit; its output is its input."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.targets: list[Any] = []

    def fit(self, x: Any, y: Any = None) -> Any:
        self.seen.append(x)
        self.targets.append(y)
        return {"batch": len(self.seen), "rows": len(x) if hasattr(x, "__len__") else None}

    def forward(self, x: Any, state: Any) -> Any:
        return x


class Sum:
    def fit(self, x: Any, y: Any = None) -> Any:
        raise AssertionError("partial_fit is there")

    def partial_fit(self, x: Any, y: Any, state: Any) -> Any:
        return {"sum": state.get("sum", 0) + sum(x), "calls": state.get("calls", 0) + 1}

    def forward(self, x: Any, state: Any) -> Any:
        return [state["sum"]] * len(x)


class Share(Sum):
    def initial_state(self, y: Any) -> Any:
        return {"sum": -100, "of": len(y)}

    def partial_fit(self, x: Any, y: Any, state: Any) -> Any:
        return {"sum": state["sum"] + sum(x), "of": state["of"]}


class Confused(Sum):
    def initial_state(self, y: Any) -> Any:
        raise ValueError(f"no targets: {y}")


def rows_of(host: Any, **fields: Any) -> tuple[Rows, dict[str, Any]]:
    rows = Rows()
    host.put(a=rows)
    return rows, host.ask("BATCHED_FIT", node_ids=["a"], **fields)


def make(kind: str, count: int) -> Any:
    numbers = np.arange(count * 2, dtype="f4").reshape(count, 2)
    if kind == "tensor":
        return pytest.importorskip("torch").as_tensor(numbers)
    return {"list": numbers.tolist(), "tuple": tuple(numbers.tolist()), "array": numbers}[kind]


def listed(rows: Any) -> list[Any]:
    return rows.tolist() if hasattr(rows, "tolist") else list(rows)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", ["list", "tuple", "array", "tensor"])
def test_batches_have_32_rows_but_for_the_last_and_cover_all_in_order(
    host: Any, kind: str, count: int
) -> None:
    data, y = make(kind, count), list(range(count))
    rows, reply = rows_of(host, data=data, y=y)
    sizes = [len(batch) for batch in rows.seen]
    assert sizes == ([32] * (count // 32) + [count % 32] * (count % 32 > 0) or [0])
    assert {type(batch) for batch in rows.seen} == {type(data)}
    assert [row for batch in rows.seen for row in listed(batch)] == listed(data)
    assert [target for batch in rows.targets for target in batch] == y
    assert listed(reply["result"]) == listed(rows.seen[-1])
    assert reply["states"] == {"a": {"batch": len(sizes), "rows": sizes[-1]}}
    assert reply["losses"] == []


@pytest.mark.parametrize("count", COUNTS)
def test_a_dict_is_cut_column_by_column_and_what_has_no_rows_is_given_whole(
    host: Any, count: int
) -> None:
    data = {"x": np.arange(count), "names": [str(n) for n in range(count)], "unit": "m", "k": 3}
    y = {"t": np.arange(count), "weight": 0.5}
    rows, _ = rows_of(host, data=data, y=y, batch_size=10)
    assert all((batch["unit"], batch["k"]) == ("m", 3) for batch in rows.seen)
    assert all(target["weight"] == 0.5 for target in rows.targets)
    assert [n for batch in rows.seen for n in batch["x"]] == list(range(count))
    assert [n for batch in rows.seen for n in batch["names"]] == data["names"]
    assert [n for target in rows.targets for n in target["t"]] == list(range(count))


def test_columns_within_columns_are_not_lost(host: Any) -> None:
    data = {"outer": {"inner": [1, 2, 3]}}
    rows, _ = rows_of(host, data=data, batch_size=2)
    assert [n for batch in rows.seen for n in batch["outer"]["inner"]] == [1, 2, 3]


def test_a_data_frame_is_cut_by_rows(host: Any) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"n": range(5), "t": list("abcde")}, index=[5, 4, 3, 2, 1])
    rows, reply = rows_of(host, data=table, batch_size=2, collect="all", shuffle=True, seed=1)
    assert sorted(len(batch) for batch in rows.seen) == [1, 2, 2]
    assert reply["result"].equals(table)


@pytest.mark.parametrize(
    ("data", "y"),
    [
        ([1, 2, 3], [1, 2]),
        ([1], []),
        (np.zeros((3, 2)), np.zeros((2, 3))),
        ({"a": [1, 2], "b": [1]}, None),
        ({"a": [1, 2]}, {"t": [1, 2, 3]}),
        ([1, 2], {"t": np.zeros(1)}),
    ],
    ids=str,
)
def test_columns_of_different_length_are_refused_before_anything_runs(
    host: Any, refused: Any, data: Any, y: Any
) -> None:
    rows = Rows()
    host.put(a=rows)
    with pytest.raises(refused, match=r"equally many rows; .* has ") as caught:
        host.ask("BATCHED_FIT", node_ids=["a"], data=data, y=y)
    assert caught.value.code == "invalid_command"
    assert rows.seen == []


@pytest.mark.parametrize(
    "data", [5, "text", None, b"raw", 1.5, {"a": 5}, {}, np.float32(1)], ids=repr
)
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("collect", ["last", "all"])
def test_data_without_rows_makes_one_batch_per_epoch(
    host: Any, data: Any, shuffle: bool, collect: str
) -> None:
    rows, reply = rows_of(host, data=data, shuffle=shuffle, collect=collect, epochs=2, seed=0)
    assert rows.seen == [data, data]
    assert reply["result"] == data


@pytest.mark.parametrize("kind", ["list", "array", "tensor"])
def test_a_shuffle_is_repeatable_by_its_seed_and_differs_between_epochs(
    host: Any, kind: str
) -> None:
    def orders(seed: int | None) -> list[Any]:
        fields = {"data": make(kind, 50), "y": list(range(50)), "batch_size": 7, "epochs": 2}
        rows, _ = rows_of(host, shuffle=True, seed=seed, **fields)
        targets = [target for batch in rows.targets for target in batch]
        pairs = zip((row for batch in rows.seen for row in listed(batch)), targets, strict=True)
        assert all(row[0] == 2 * target for row, target in pairs)  # rows stay with their targets
        assert sorted(targets[:50]) == sorted(targets[50:]) == list(range(50))
        return targets

    first = orders(3)
    assert first == orders(3)
    assert first != orders(4)
    assert first[:50] != first[50:]
    assert first[:50] != list(range(50))
    assert orders(None) != orders(None)


@pytest.mark.parametrize("count", COUNTS[1:])
@pytest.mark.parametrize("kind", ["list", "tuple", "array", "tensor"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_all_outputs_are_collected_in_the_order_sent(
    host: Any, kind: str, count: int, shuffle: bool
) -> None:
    data = make(kind, count)
    _, reply = rows_of(host, data=data, collect="all", shuffle=shuffle, seed=5, epochs=2)
    assert listed(reply["result"]) == listed(data)
    assert type(reply["result"]) is type(data)


@pytest.mark.parametrize("kind", ["list", "array"])
def test_collecting_all_of_nothing_is_nothing(host: Any, kind: str) -> None:
    for shuffle in (False, True):
        _, reply = rows_of(host, data=make(kind, 0), collect="all", shuffle=shuffle)
        assert len(reply["result"]) == 0


def test_an_output_that_has_not_one_row_per_input_row_cannot_be_collected(
    host: Any, refused: Any
) -> None:
    class Collapses(Rows):
        def forward(self, x: Any, state: Any) -> Any:
            return x[:1]

    host.load(a=Collapses())
    data = list(range(10))
    assert host.ask("BATCHED_FIT", node_ids=["a"], data=data, batch_size=4)["result"] == [8]
    with pytest.raises(refused, match="one output row for each input row") as caught:
        host.ask("BATCHED_FIT", node_ids=["a"], data=data, batch_size=4, collect="all")
    assert caught.value.code == "filter_failed"


def test_a_plain_object_is_fitted_on_each_batch_and_its_last_state_stands(host: Any) -> None:
    rows, reply = rows_of(host, data=[1, 2, 3, 4, 5], batch_size=2, epochs=2)
    assert rows.seen == [[1, 2], [3, 4], [5]] * 2
    assert reply["states"] == {"a": {"batch": 6, "rows": 1}}
    assert host.node("a").state == {"batch": 6, "rows": 1}


def test_partial_fit_accumulates_over_batches_and_epochs_from_an_empty_state(host: Any) -> None:
    host.load(a=Sum())
    for _ in range(2):  # a second command starts anew
        reply = host.ask("BATCHED_FIT", node_ids=["a"], data=[1, 2, 3], batch_size=2, epochs=2)
        assert reply["states"] == {"a": {"sum": 12, "calls": 4}}
    assert reply["result"] == [12]


def test_the_state_before_the_first_batch_may_be_made_of_all_the_targets(host: Any) -> None:
    host.put(a=Share())
    command = {"data": [1, 2, 3], "y": [7, 8, 9], "batch_size": 2, "epochs": 2}
    reply = host.ask("BATCHED_FIT", node_ids=["a"], **command)
    assert reply["states"] == {"a": {"sum": -88, "of": 3}}


def test_a_state_before_the_first_batch_that_cannot_be_made_is_told(
    host: Any, refused: Any
) -> None:
    host.put(a=Confused())
    with pytest.raises(refused, match="no targets: None"):
        host.ask("BATCHED_FIT", node_ids=["a"], data=[1])


def test_a_chain_passes_batches_on_and_returns_every_state(host: Any) -> None:
    host.load(a=Rows(), b=Sum())
    host.load(trainable=False, c=Rows())
    reply = host.ask("BATCHED_FIT", node_ids=["a", "b", "c"], data=[1, 2, 3], batch_size=2)
    assert reply["states"] == {
        "a": {"batch": 2, "rows": 1},
        "b": {"sum": 6, "calls": 2},
        "c": {},
    }
    assert reply["result"] == [6]


def test_states_stay_in_the_worker_when_they_are_not_wanted(host: Any) -> None:
    _, reply = rows_of(host, data=[1], return_states=False)
    assert reply["states"] == {}
    assert host.node("a").state["batch"] == 1


def test_each_batch_is_reported_when_it_was_asked_for(host: Any) -> None:
    host.load(a=Rows())
    command = {"node_ids": ["a"], "data": [1, 2, 3], "batch_size": 2, "epochs": 2}
    host.ask("BATCHED_FIT", **command)
    assert host.events == []
    host.ask("BATCHED_FIT", events=True, **command)
    reports = [event["data"] for event in host.events]
    assert [(r["epoch"], r["batch"]) for r in reports] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert all(r["epochs"] == 2 and r["batches"] == 2 and r["loss"] is None for r in reports)


def net() -> Any:
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.linear = torch.nn.Linear(2, 1)
            self.optimizer = torch.optim.SGD(self.parameters(), lr=0.01)

        def fit(self, x: Any, y: Any = None) -> Any:
            return {}

        def forward(self, x: Any, state: Any = None) -> Any:
            return self.linear(x)

    return Net()


def data(count: int) -> tuple[Any, Any]:
    generator = np.random.default_rng(0)
    return generator.normal(size=(count, 2)).astype("f4"), generator.normal(size=(count, 1)).astype(
        "f4"
    )


@pytest.mark.parametrize("count", [1, 32, 33, 70])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_module_is_trained_as_by_a_loop_in_this_process(
    host: Any, count: int, shuffle: bool
) -> None:
    torch = pytest.importorskip("torch")
    host.load(net=net())
    x, y = data(count)
    fields = {"epochs": 3, "shuffle": shuffle, "seed": 9, "collect": "all"}
    reply = host.ask("BATCHED_FIT", node_ids=["net"], data=x, y=y, **fields)
    local, order, losses = net(), np.random.default_rng(9), []
    for _ in range(3):
        rows = order.permutation(count) if shuffle else np.arange(count)
        total, outputs = 0.0, np.zeros((count, 1), "f4")
        for start in range(0, count, 32):
            batch = rows[start : start + 32]
            out = local(torch.as_tensor(x[batch]))
            loss = torch.nn.functional.mse_loss(out, torch.as_tensor(y[batch]))
            local.optimizer.zero_grad()
            loss.backward()
            local.optimizer.step()
            total += loss.item() * len(batch)
            outputs[batch] = out.detach().numpy()
        losses.append(total / count)
    assert reply["losses"] == losses
    assert reply["result"].tobytes() == outputs.tobytes()
    trained = host.node("net").obj.state_dict()
    assert all(torch.equal(trained[key], value) for key, value in local.state_dict().items())


def test_filters_trained_by_their_own_optimizers_are_told_the_loss_of_each_epoch(
    host: Any,
) -> None:
    pytest.importorskip("torch")

    class Told(soma.Filter):
        _net: Any = PrivateAttr(default_factory=net)
        _losses: list[float] = PrivateAttr(default_factory=list)

        @property
        def optimizer(self) -> Any:
            return self._net.optimizer

        def meta(self) -> Any:
            return super().meta().replace(differentiable=True)

        def forward(self, x: Any, state: Any) -> Any:
            return self._net(x)

        def on_epoch_end(self, loss: float) -> None:
            self._losses.append(loss)

        @property
        def told(self) -> list[float]:
            return self._losses

    host.load(net=Told())
    x, y = data(40)
    command = {"node_ids": ["net"], "data": x, "y": y, "epochs": 2}
    losses = host.ask("BATCHED_FIT", **command)["losses"]
    assert host.node("net").obj.told == losses
    host.ask("BATCHED_FIT", **command, optimizer={"name": "SGD", "lr": 0.1})
    assert host.node("net").obj.told == losses


def test_a_module_that_is_no_filter_is_told_the_loss_of_each_epoch_too(host: Any) -> None:
    torch = pytest.importorskip("torch")

    class Told(torch.nn.Linear):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__(4, 1)
            self.optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
            self.told: list[float] = []

        def forward(self, x: Any, state: Any = None) -> Any:
            return super().forward(x)

        def on_epoch_end(self, loss: float) -> None:
            self.told.append(loss)
            self.optimizer.param_groups[0]["lr"] /= 2

    host.load(net=Told())
    x, y = np.ones((6, 4), "f4"), np.ones((6, 1), "f4")
    done = host.ask("BATCHED_FIT", node_ids=["net"], data=x, y=y, epochs=3)
    assert host.node("net").obj.told == done["losses"]
    assert done["history"]["lr"] == [0.5, 0.25, 0.125]


def test_data_without_rows_has_a_loss_too(host: Any) -> None:
    torch = pytest.importorskip("torch")

    class Factor(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = torch.nn.Parameter(torch.tensor(1.0))

        def forward(self, x: Any, state: Any = None) -> Any:
            return x * self.factor

    host.load(a=Factor())
    assert host.ask("COMPOSITE_FIT", node_ids=["a"], data=3.0, y=6.0)["loss"] == 9.0
    for shuffle in (False, True):
        reply = host.ask("BATCHED_FIT", node_ids=["a"], data=3.0, y=6.0, shuffle=shuffle)
        assert reply["losses"] == [9.0]


def test_rows_of_targets_are_cut_even_when_the_data_has_none(host: Any) -> None:
    rows, _ = rows_of(host, data="prompt", y=[1, 2, 3], batch_size=2)
    assert rows.seen == ["prompt", "prompt"]
    assert rows.targets == [[1, 2], [3]]


@given(
    count=st.integers(0, 40),
    size=st.integers(1, 50),
    seed=st.none() | st.integers(0, 5),
    as_array=st.booleans(),
)
def test_any_batches_put_together_are_the_data(
    count: int, size: int, seed: int | None, as_array: bool
) -> None:
    rows: Any = np.arange(count) if as_array else list(range(count))
    order = None if seed is None else np.random.default_rng(seed)
    parts = [(where, x) for where, x, _ in Batches(rows, None, size).epoch(order)]
    assert len(parts) == max(1, math.ceil(count / size))
    assert sum(len(x) for _, x in parts) == count
    assert listed(join_outputs(parts)) == list(range(count))


def test_gradients_of_parameters_that_fit_builds_anew_are_those_of_the_last_batch(
    host: Any,
) -> None:
    torch = pytest.importorskip("torch")

    class Rebuilt(torch.nn.Module):
        def fit(self, x: Any, y: Any = None) -> Any:
            if len(list(self.children())) == 0 or x[0][0] == 1.0:
                self.linear = torch.nn.Linear(1, 1)
                torch.nn.init.ones_(self.linear.weight)
                torch.nn.init.zeros_(self.linear.bias)
            return {}

        def forward(self, x: Any, state: Any = None) -> Any:
            return self.linear(x)

    host.put(net=Rebuilt())
    x, y = [[0.0], [1.0], [2.0]], [[0.0], [0.0], [0.0]]
    host.ask("BATCHED_FIT", node_ids=["net"], data=x, y=y, batch_size=1)
    assert host.node("net").obj.linear.weight.grad.item() == 8.0
