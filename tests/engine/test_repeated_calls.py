"""A FORWARD that is sent again and again is answered as if each were the first."""

from __future__ import annotations

import json
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch

from soma_core import DataType, FilterMeta, Fixed, Schema
from soma_core.serve import Responder
from soma_core.transport import Dialect, Message
from soma_core.wire.codec import FrameEncoder
from soma_core.wire.recurring import WITH_ID, text_before_id

from ..support import filters as f

ROW = Schema(dtype=DataType.FLOAT64, shape=(Fixed(3),))


class Counts:
    """Returns what it is told to return, from its state."""

    def forward(self, x, state):
        return x + state["plus"]

    def fit(self, x, y=None):
        return {"plus": x}


class Checked:
    def forward(self, x, state):
        return x * 2.0

    def meta(self):
        return FilterMeta(name="checked", kind="Trainable", input_schema=ROW, output_schema=ROW)


def returns(value):
    return f.Apply(lambda x, state: value)


def fails(x, state):
    raise LookupError("no such thing")


FILTERS = {
    "sum": Counts(),
    "checked": Checked(),
    "fortran": returns(np.asfortranarray(np.arange(6.0).reshape(2, 3))),
    "objects": returns(np.array([1, "two"], dtype=object)),
    "big-endian": returns(np.arange(3, dtype=">i4")),
    "empty": returns(np.zeros((0, 3))),
    "number": returns(np.float32(1.5)),
    "pair": returns((np.ones(2), {"a": 1})),
    "none": returns(None),
    "tensor": returns(torch.arange(3)),
    "fails": f.Apply(fails),
    "not-loaded": None,
}


def responder() -> Responder:
    made = Responder()
    encoder = FrameEncoder()
    loaded = [
        {"id": name, "pickle_b64": encoder.binary(cloudpickle.dumps(filter))}
        for name, filter in FILTERS.items()
        if filter is not None
    ]
    told = answer(made, {"cmd": "LOAD", "filters": loaded}, 1, encoder.buffers)[0]
    assert told["ok"], told
    assert answer(made, {"cmd": "FIT", "node_id": "sum", "data": 2.0}, 2)[0]["ok"]
    return made


def answer(to: Responder, fields, message_id, buffers=(), dialect=Dialect.FRAME):
    header = WITH_ID % (text_before_id(fields), message_id)
    copies = [bytearray(buffer) for buffer in buffers]
    reply = to.respond(Message(header, copies, dialect), lambda event: None)
    told: dict[str, Any] = json.loads(reply.header)
    told.pop("traceback", None)
    return told, [bytes(buffer) for buffer in reply.buffers], reply.dialect


@pytest.mark.parametrize("node_id", FILTERS)
@pytest.mark.parametrize("shape", [(3,), (1, 3), (4,)])
def test_the_reply_to_a_repeated_frame_is_that_to_a_first(node_id, shape):
    again = responder()
    for message_id in range(10, 15):
        encoder = FrameEncoder()
        x = np.full(shape, float(message_id))
        fields = {"cmd": "FORWARD", "node_id": node_id, "data": encoder.encode(x)}
        first = answer(responder(), fields, message_id, encoder.buffers)
        assert answer(again, fields, message_id, encoder.buffers) == first
        assert first[0]["id"] == message_id


@pytest.mark.parametrize("node_id", ["sum", "checked", "none", "fails", "not-loaded"])
@pytest.mark.parametrize("data", [1, 2.5, True])
def test_the_reply_to_a_repeated_line_is_that_to_a_first(node_id, data):
    again = responder()
    for message_id in range(10, 15):
        fields = {"cmd": "FORWARD", "node_id": node_id, "data": data}
        first = answer(responder(), fields, message_id, dialect=Dialect.LINE)
        assert answer(again, fields, message_id, dialect=Dialect.LINE) == first
        assert first[2] is Dialect.LINE


def test_what_was_learned_between_two_calls_is_used_by_the_second():
    engine = responder()
    for plus in range(10, 16):
        assert answer(engine, {"cmd": "FIT", "node_id": "sum", "data": plus}, 3)[0]["ok"]
        told, _, _ = answer(engine, {"cmd": "FORWARD", "node_id": "sum", "data": 1}, plus)
        assert told == {"ok": True, "result": plus + 1, "id": plus}


def test_whoever_watches_is_told_of_every_repeated_call():
    seen: list[tuple[str, str | None]] = []
    engine = Responder(watch=lambda command, node_id: seen.append((command, node_id)))
    for message_id in range(1, 5):
        answer(engine, {"cmd": "FORWARD", "node_id": "a", "data": 1}, message_id)
    assert seen == [("FORWARD", "a")] * 4
