"""What neighbours in a chain declare fits together, and an error names the edge between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import soma_core as soma
from soma_core.models.chains import ChainNode, check_chain
from soma_core.models.schema import SchemaMismatch

from ..support.filters import Declared, Tripwire, schema

CHAINS = ("COMPOSITE_FORWARD", "COMPOSITE_FIT", "BATCHED_FIT")


def node(node_id: str, takes: Any = None, gives: Any = None, converts: bool = False) -> ChainNode:
    meta = soma.FilterMeta(name=node_id, input_schema=takes, output_schema=gives)
    return ChainNode(node_id, meta, converts)


def edge(gives: Any, takes: Any, *, converts: bool = False) -> list[ChainNode]:
    return [node("a", gives=gives), node("b", takes=takes, converts=converts)]


@pytest.mark.parametrize("cmd", CHAINS)
def test_neighbours_that_cannot_fit_are_refused_before_any_of_them_runs(
    host: Any, refused: Any, cmd: str
) -> None:
    host.load(
        a=Tripwire(gives=schema("Float64", "batch", 8)),
        b=Tripwire(takes=schema("Float64", "batch", 16)),
    )
    with pytest.raises(refused) as caught:
        host.ask(cmd, node_ids=["a", "b"], data=np.zeros((2, 8)))
    assert (caught.value.code, caught.value.node_id) == ("schema_mismatch", "b")
    assert caught.value.type == "SchemaMismatch"
    assert str(caught.value) == (
        "the edge 'a' -> 'b': 'a' returns Float64[batch, 8] and 'b' takes Float64[batch, 16]; "
        "no value fits both"
    )


def test_a_node_that_is_loaded_again_is_compared_anew(host: Any, refused: Any) -> None:
    host.load(a=Declared(gives=schema("Int64", "n")), b=Declared(takes=schema("Float64", "n")))
    command = {"node_ids": ["a", "b"], "data": np.zeros(2)}
    with pytest.raises(refused, match="'a' returns"):
        host.ask("COMPOSITE_FORWARD", **command)
    host.load(a=Declared(gives=schema("Float64", "n")))
    assert host.ask("COMPOSITE_FORWARD", **command)["ok"]


FITTING = [
    edge(schema("Float32", "n", 3), schema("Float32", "rows", 3)),
    edge(schema("Float32", "n", "width"), schema("Float32", "n", 3)),
    edge(schema("Float32", "n", 3), schema("Float32", "n", "width")),
    edge(schema("Float32"), schema("Float32")),
    edge(schema("Float32", 0), schema("Float32", 0)),
    edge(soma.Schema(dtype="Float32"), schema("Float32", "n", 3)),
    edge(schema("Float32", "n"), soma.Schema(dtype="Float32")),
    edge(schema("Json", "n"), schema("Float32", "n")),
    edge(schema("Float32", "n"), soma.Schema(dtype="Json")),
    edge(schema("Float64", "n"), schema("Float32", "n"), converts=True),
    edge(None, schema("Float32", "n")),
    edge(schema("Float32", "n"), None),
    [
        node("a", gives=schema("Bool", "n")),
        node("b"),
        node("c", takes=schema("Int64")),
    ],
]
CLASHING = [
    (edge(schema("Float64", "n"), schema("Float32", "n")), "Float64[n] and 'b' takes Float32[n]"),
    (edge(schema("Int64", "n"), schema("Float32", "n"), converts=True), "Int64[n]"),
    (edge(schema("Float32", "n"), schema("Float32", "n", 1)), "Float32[n] and"),
    (edge(schema("Float32", "n", 1), schema("Float32", "n")), "Float32[n, 1] and"),
    (edge(schema("Float32"), schema("Float32", 0)), "Float32[] and 'b' takes Float32[0]"),
    (edge(schema("Float32", 3), schema("Float32", 4)), "Float32[3] and 'b' takes Float32[4]"),
    (edge(schema("Json", 3), schema("Json", 4)), "Json[3] and 'b' takes Json[4]"),
    (edge(schema("Float32", "n", "n"), schema("Float32", 3, 4)), "(with n=3)"),
    (edge(schema("Float32", 3, 4), schema("Float32", "n", "n")), "(with n=3)"),
]


@pytest.mark.parametrize("chain", FITTING)
def test_declarations_that_some_value_meets_fit(chain: list[ChainNode]) -> None:
    check_chain(chain)


@pytest.mark.parametrize(("chain", "told"), CLASHING)
def test_declarations_that_differ_are_told_with_both(chain: list[ChainNode], told: str) -> None:
    with pytest.raises(SchemaMismatch) as caught:
        check_chain(chain)
    assert str(caught.value).startswith("the edge 'a' -> 'b': 'a' returns ")
    assert told in str(caught.value)


def test_a_name_stands_for_one_length_all_along_the_chain() -> None:
    chain = [
        node("a", gives=schema("Float32", "n", "width")),
        node("b", takes=schema("Float32", "rows", 8), gives=schema("Float32", "rows", 4)),
        node("c", takes=schema("Float32", "n", "other"), gives=schema("Float32", "n", "other")),
        node("d", takes=schema("Float32", "n", "width")),
    ]
    check_chain(chain[:3])
    with pytest.raises(SchemaMismatch, match=r"'c' -> 'd'.*\(with width=8, other=4\)") as caught:
        check_chain(chain)
    assert caught.value.node_id == "d"


def test_names_that_were_found_to_be_one_stay_one() -> None:
    chain = [
        node("a", gives=schema("Float32", "x")),
        node("b", takes=schema("Float32", "y"), gives=schema("Float32", "y")),
        node("c", takes=schema("Float32", 5), gives=schema("Float32", 6)),
        node("d", takes=schema("Float32", "x")),
    ]
    with pytest.raises(SchemaMismatch, match=r"'c' -> 'd'.*x=5"):
        check_chain(chain)


@pytest.mark.parametrize("cmd", CHAINS)
def test_a_value_on_an_edge_is_told_with_both_schemas(host: Any, refused: Any, cmd: str) -> None:
    host.load(
        a=Declared(result=np.zeros((2, 4), "f8")), b=Declared(takes=schema("Float32", "n", 3))
    )
    with pytest.raises(refused) as caught:
        host.ask(cmd, node_ids=["a", "b"], data=1)
    assert (caught.value.code, caught.value.node_id) == ("schema_mismatch", "b")
    assert str(caught.value) == (
        "the input of node 'b' does not match its schema: expected Float32[n, 3], got "
        "Float64[2, 4]; it is on the edge 'a' -> 'b': 'a' declares no output and 'b' "
        "takes Float32[n, 3]"
    )


def test_a_wrong_output_is_told_with_the_node_that_it_was_meant_for(
    host: Any, refused: Any
) -> None:
    host.load(
        a=Declared(gives=schema("Float32", "n"), result=np.zeros(2)),
        b=Declared(takes=schema("Float32", "rows")),
    )
    with pytest.raises(refused) as caught:
        host.ask("COMPOSITE_FORWARD", node_ids=["a", "b"], data=1)
    assert caught.value.node_id == "a"
    assert str(caught.value).startswith("the output of node 'a'")
    assert "got Float64[2]; it is on the edge 'a' -> 'b'" in str(caught.value)
    assert "'b' takes Float32[rows]" in str(caught.value)


def test_what_enters_and_leaves_a_chain_is_on_no_edge(host: Any, refused: Any) -> None:
    host.load(a=Declared(takes=schema("Int64")), b=Declared(gives=schema("Int64")))
    with pytest.raises(refused, match=r"^the input of node 'a'.*got Float64\[\]$"):
        host.ask("COMPOSITE_FORWARD", node_ids=["a", "b"], data=0.5)
    with pytest.raises(refused, match=r"^the output of node 'b'.*got Float64\[\]$"):
        host.ask("COMPOSITE_FORWARD", node_ids=["b"], data=0.5)


def test_a_node_that_comes_twice_is_told_by_its_place(host: Any, refused: Any) -> None:
    host.load(a=Declared(takes=schema("Int64", "n"), result=0.5), b=Declared())
    with pytest.raises(refused, match="'b' -> 'a'"):
        host.ask("COMPOSITE_FORWARD", node_ids=["a", "b", "a"], data=[1])


def test_a_barrier_and_what_is_before_it_are_checked_while_they_are_fitted(
    host: Any, refused: Any
) -> None:
    host.load(
        a=Declared(result=np.zeros((2, 4))),
        b=Declared(takes=schema("Float64", "n", 3), stream_mode="Barrier"),
    )
    with pytest.raises(refused, match=r"got Float64\[2, 4\]; it is on the edge 'a' -> 'b'"):
        host.ask("BATCHED_FIT", node_ids=["a", "b"], data=np.zeros((2, 3)))


class Paired(Declared):
    def forward(self, x: Any, state: Any) -> Any:
        return x, {"aside": 1}


def test_what_stands_beside_an_output_is_not_part_of_its_schema(host: Any, refused: Any) -> None:
    pytest.importorskip("torch")
    declared = {"gives": schema("Float64", "n"), "differentiable": True}
    host.load(a=Paired(**declared), b=Paired(gives=schema("Float64", "n")))
    assert host.ask("FORWARD", node_id="a", data=np.zeros(2))["ok"]
    with pytest.raises(refused, match=r"the output of node 'a'.*got Int64"):
        host.ask("FORWARD", node_id="a", data=np.zeros(2, "i8"))
    with pytest.raises(refused, match="the output of node 'b'"):
        host.ask("FORWARD", node_id="b", data=np.zeros(2))


def test_a_stream_is_compared_across_its_barriers_before_the_first_chunk() -> None:
    filters = {
        "a": Declared(gives=schema("Float64", "n", 8)),
        "b": Declared(takes=schema("Float64", "n", 16), stream_mode="Barrier"),
    }
    with (
        soma.connect("inline", filters=filters) as worker,
        pytest.raises(SchemaMismatch, match="the edge 'a' -> 'b'"),
    ):
        worker.stream(["a", "b"], iter([]))


def test_a_stream_compares_no_nodes_that_stand_apart() -> None:
    filters = {
        "a": Declared(gives=schema("Float64", "n", 8)),
        "b": Declared(),
        "c": Declared(takes=schema("Float64", "n", 16)),
    }
    with soma.connect("inline", filters=filters) as worker:
        assert list(worker.stream(["a", "b", "c"], [])) == []
