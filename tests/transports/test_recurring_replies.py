"""What is written once for a loop's replies is what would be written anew, to the byte."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from soma_filters_torch.filters import MLP

import soma_core as soma
from soma_core.engine.recurring_replies import composite_fit_reply, forward_reply
from soma_core.protocol.fields import encode_fields
from soma_core.protocol.replies import CompositeFitReply, ForwardReply, Reply
from soma_core.transport import Message
from soma_core.wire.codec import FrameEncoder
from soma_core.wire.json_text import write_json

COMPLEX = torch.zeros(3, dtype=torch.complex64)
TYPES = st.sampled_from(
    [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
)
SHAPES = st.sampled_from([(), (0,), (3,), (2, 0, 3), (64, 10)])
UNUSUAL = [
    torch.zeros(3, 4).T,
    torch.zeros(10)[::2],
    torch.zeros(1).expand(3),
    torch.zeros(3, requires_grad=True),
    torch.zeros(3).to_sparse(),
    COMPLEX,
    COMPLEX.conj(),
    COMPLEX.imag,
    torch.nn.Parameter(torch.zeros(2)),
    np.zeros(3),
    None,
    [1.0],
]
RESULTS = st.builds(lambda shape, dtype: torch.zeros(shape, dtype=dtype), SHAPES, TYPES)
LOSSES = st.floats() | st.sampled_from([None, 1, True])
IDS = st.integers(-5, 10**20) | st.sampled_from(["7", None, True])


def as_written_anew(reply: Reply, message_id: Any) -> tuple[bytes, list[bytes]]:
    encoder = FrameEncoder()
    wire = {**encode_fields(reply, encoder), "id": message_id}
    return write_json(wire), [bytes(memoryview(buffer)) for buffer in encoder.buffers]


def content(message: Message) -> tuple[bytes, list[bytes]]:
    return message.header, [bytes(memoryview(buffer)) for buffer in message.buffers]


@given(RESULTS | st.sampled_from(UNUSUAL), LOSSES, IDS)
def test_the_reply_to_a_training_step_is_the_same(result: Any, loss: Any, message_id: Any) -> None:
    reply = composite_fit_reply(result, loss, message_id)
    if reply is not None:
        anew = CompositeFitReply.of(result=result, loss=loss, states={})
        assert content(reply) == as_written_anew(anew, message_id)


@given(st.sampled_from([np.zeros((3, 4)).T, np.zeros(10)[::2], np.zeros(()), np.arange(3)]))
def test_the_reply_to_a_forward_is_the_same(result: np.ndarray) -> None:
    reply = forward_reply(result, 7)
    assert reply is not None
    assert content(reply) == as_written_anew(ForwardReply.of(result=result), 7)


def test_the_text_around_a_plain_tensor_is_known() -> None:
    assert composite_fit_reply(torch.zeros(2, 3), 0.5, 7) is not None


@pytest.mark.parametrize("result", [torch.zeros(3).to_sparse(), np.zeros(3), None], ids=repr)
def test_what_is_no_plain_tensor_is_left_to_the_encoder(result: Any) -> None:
    assert composite_fit_reply(result, 0.5, 7) is None


def test_the_reply_to_a_training_step_that_recurs_is_not_parsed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = np.ones((4, 3), np.float32), np.array([0, 1, 0, 1])
    network = MLP(sizes=[3, 2], loss="cross_entropy", seed=0)
    with soma.connect("inline", filters={"net": network}) as worker:
        losses = [worker.composite_fit(["net"], x, y, return_states=False).loss for _ in range(3)]
        conversation = worker._incarnations.conversation
        monkeypatch.setattr(conversation, "_read", lambda _: pytest.fail("it was parsed"))
        last = worker.composite_fit(["net"], x, y, return_states=False)
    assert last.loss is not None
    assert 0.0 < last.loss < min(loss for loss in losses if loss is not None)
    assert last.result.shape == (4, 2)
    assert (last.states, last.fit_states) == ({}, {})
