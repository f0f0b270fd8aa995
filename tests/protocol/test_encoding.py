"""A host that speaks lines may have arrays and bytes as base64 instead of numbers."""

from __future__ import annotations

import base64
import json
from typing import Any

import cloudpickle
import pytest

from soma_core.serve import Responder
from soma_core.testing import Echo
from soma_core.transport import Dialect, Message

FLOATS = {"type": "Tensor", "data": {"dtype": "float32", "shape": [2], "values": [1.0, 2.5]}}
B64 = base64.b64encode(bytes.fromhex("0000803f00002040")).decode()


@pytest.fixture(scope="module")
def ask() -> Any:
    """Sends a command to an engine that has ``echo``, as a line; returns the reply."""
    responder = Responder()

    def asked(**command: Any) -> dict[str, Any]:
        line = Message(json.dumps(command).encode(), (), Dialect.LINE)
        reply: dict[str, Any] = json.loads(responder.respond(line, lambda event: None).header)
        return reply

    pickled = base64.b64encode(cloudpickle.dumps(Echo())).decode()
    assert asked(cmd="LOAD", filters=[{"id": "echo", "pickle_b64": pickled}])["ok"]
    return asked


def forward(ask: Any, data: Any, **more: Any) -> Any:
    return ask(cmd="FORWARD", node_id="echo", data=data, **more)["result"]


def test_arrays_come_as_base64_where_a_command_asks_for_it(ask):
    dense = forward(ask, FLOATS, encoding="b64")
    assert dense == {"type": "Tensor", "data": {"b64": B64, "dtype": "float32", "shape": [2]}}
    assert forward(ask, dense) == FLOATS


def test_the_next_command_has_numbers_again(ask):
    forward(ask, FLOATS, encoding="b64")
    assert forward(ask, FLOATS) == FLOATS


def test_bytes_come_as_base64_too(ask):
    data = {"type": "Bytes", "data": [0, 255]}
    assert forward(ask, data, encoding="b64") == {"type": "Bytes", "data": {"b64": "AP8="}}
    assert forward(ask, data) == data


def test_tensors_of_a_composite_come_as_base64_instead_of_nested_lists(ask):
    pytest.importorskip("torch")
    torch = {"type": "Tensor", "data": {**FLOATS["data"], "container": "torch"}}
    command = {"cmd": "COMPOSITE_FORWARD", "node_ids": ["echo"], "data": torch}
    assert ask(**command)["result"] == [1.0, 2.5]
    assert ask(**command, encoding="b64")["result"]["data"] == {
        "dtype": "float32",
        "container": "torch",
        "shape": [2],
        "b64": B64,
    }


def test_another_encoding_is_refused_with_those_that_there_are(ask):
    reply = ask(cmd="PING", encoding="hex")
    assert reply["code"] == "invalid_command"
    assert "encoding" in reply["error"]
    assert "'b64'" in reply["error"]
