"""What comes back from a chain is of the kind that was sent, as from a node alone."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import soma_core as soma
from soma_core.serve import Responder
from soma_core.transport import Dialect, Message

torch = pytest.importorskip("torch")
pytest.importorskip("soma_filters_torch")

X, Y = np.ones((4, 3), "f4"), np.ones((4, 2), "f4")
KINDS = {"array": X, "float64": X.astype("f8"), "tensor": torch.ones(4, 3), "list": X.tolist()}
CALLS = {
    "composite_forward": lambda worker, x: worker.composite_forward(["net"], x),
    "composite_fit": lambda worker, x: worker.composite_fit(["net"], x, Y).result,
    "without targets": lambda worker, x: worker.composite_fit(["net"], x).result,
    "batched_fit": lambda worker, x: worker.batched_fit(["net"], x, Y, collect="all").result,
    "last batch": lambda worker, x: worker.batched_fit(["net"], x, Y, batch_size=3).result,
}
NET = ("torch.MLP", {"sizes": [3, 2], "seed": 0})


class Tensors(soma.Filter):
    def forward(self, x: Any, state: Any) -> Any:
        return torch.from_numpy(x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", CALLS)
def test_a_chain_gives_what_its_node_alone_gives(worker: Any, kind: str, call: str) -> None:
    worker.load({"net": NET})
    alone = worker.forward("net", KINDS[kind])
    out = CALLS[call](worker, KINDS[kind])
    assert type(out) is type(alone)
    assert getattr(out, "dtype", None) == getattr(alone, "dtype", None)
    if call == "composite_forward":
        assert np.array_equal(np.asarray(out), np.asarray(alone))


def test_columns_and_what_stands_beside_an_output_are_arrays_too(inline: Any) -> None:
    class Sides(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, x: Any, state: Any = None) -> Any:
            return {"sum": x["a"] + x["b"] * self.weight, "all": [x["a"], "text"]}

    inline.load({"sides": Sides()})
    out = inline.composite_forward(["sides"], {"a": X, "b": X})
    assert type(out["sum"]) is type(out["all"][0]) is np.ndarray
    assert out["all"][1] == "text"


def test_a_chain_of_plain_filters_gives_what_they_give(inline: Any) -> None:
    inline.load({"tensors": Tensors()})
    assert isinstance(inline.composite_forward(["tensors"], X), torch.Tensor)


@pytest.mark.parametrize("cmd", ["COMPOSITE_FORWARD", "COMPOSITE_FIT"])
def test_hosts_that_send_lines_get_nested_lists_as_from_the_original(cmd: str) -> None:
    responder = Responder()

    def ask(**fields: Any) -> Any:
        message = Message(json.dumps(fields).encode(), (), Dialect.LINE)
        return json.loads(responder.respond(message, lambda event: None).header)

    assert ask(cmd="LOAD", filters=[{"id": "net", "filter": NET[0], "config": NET[1]}])["ok"]
    arrays = {
        "data": {
            "type": "Tensor",
            "data": {"dtype": "float32", "values": [1.0] * 6, "shape": [2, 3]},
        },
        "y": [[1.0, 1.0]] * 2,
    }
    for data in ({"data": [[1.0] * 3] * 2, "y": arrays["y"]}, arrays):
        result = ask(
            cmd=cmd,
            node_ids=["net"],
            **(data if cmd == "COMPOSITE_FIT" else {"data": data["data"]}),
        )
        assert [len(row) for row in result["result"]] == [2, 2]
