"""What is written once for a loop is what would be written anew for each call, to the byte."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma_core.client.calls import Call
from soma_core.client.recurring_commands import write_composite_fit, write_forward
from soma_core.wire.codec import FrameEncoder
from soma_core.wire.json_text import write_json
from soma_core.wire.recurring import WITH_ID


class SubArray(np.ndarray):
    """Not a plain array: how it travels is not known by its type and shape."""


class Name(str):
    """Not a plain str either."""


def read_only() -> np.ndarray:
    array = np.zeros(3)
    array.flags.writeable = False
    return array


TYPES = st.sampled_from([*"?bBhHiIlLqQefdgFDGMmSUVO", ">f8", ">i4", [("a", "f4")]])
SHAPES = st.sampled_from([(), (0,), (3,), (2, 0, 3), (2, 3)])
UNUSUAL = [
    np.zeros((3, 4)).T,
    np.zeros(10)[::2],
    np.zeros((1, 5))[:, ::5],
    np.broadcast_to(np.zeros(1), (3,)),
    np.zeros(3).view(SubArray),
    np.ma.zeros(3),
    np.frombuffer(bytearray(17), np.uint8)[1:].view("f8"),
    read_only(),
]
ARRAYS = st.builds(np.zeros, SHAPES, TYPES) | st.sampled_from(UNUSUAL)
IDS = st.sampled_from(["a", "ü", 'a"b\n', "\u2028", "", Name("x"), 5])
LISTENERS = st.sampled_from([None, print])


def as_written_anew(call: Call) -> tuple[bytes, list[bytes]]:
    encoder = FrameEncoder()
    fields = call.fields(encoder)
    fields["id"] = 7
    return write_json(fields), [bytes(memoryview(buffer)) for buffer in encoder.buffers]


def check(call: Call) -> None:
    if call.text is not None:
        buffers = [bytes(memoryview(buffer)) for buffer in call.buffers]
        assert (WITH_ID % (call.text, 7), buffers) == as_written_anew(call)


@given(x=ARRAYS, node_id=IDS, progress=LISTENERS)
def test_a_forward_is_the_same(x: Any, node_id: Any, progress: Any) -> None:
    def build(encoder: FrameEncoder) -> dict[str, Any]:
        return {"node_id": node_id, "data": encoder.encode(x)}

    call = Call("FORWARD", build, progress=progress)
    write_forward(call, node_id, x)
    check(call)


@given(
    x=ARRAYS,
    y=ARRAYS,
    node_ids=st.lists(IDS, max_size=2) | st.just("ab"),
    return_states=st.sampled_from([True, False, 1, np.bool_(True)]),
    progress=LISTENERS,
)
def test_a_composite_fit_is_the_same(
    x: Any, y: Any, node_ids: Any, return_states: Any, progress: Any
) -> None:
    def build(encoder: FrameEncoder) -> dict[str, Any]:
        return {
            "node_ids": list(node_ids),
            "data": encoder.encode(x),
            "y": encoder.encode(y),
            "return_states": return_states,
        }

    call = Call("COMPOSITE_FIT", build, progress=progress)
    write_composite_fit(call, node_ids, x, y, return_states)
    check(call)


@pytest.mark.parametrize(
    "x", [np.zeros((2, 3), "f4"), np.zeros(()), read_only(), np.zeros(10)[::2]], ids=repr
)
def test_the_texts_of_plain_arrays_are_known(x: np.ndarray) -> None:
    forward, fit = Call("FORWARD", None), Call("COMPOSITE_FIT", None)
    write_forward(forward, "a", x)
    write_composite_fit(fit, ["a"], x, np.arange(3), False)
    assert forward.text is not None
    assert fit.text is not None


def test_ids_that_can_be_gone_through_once_are_left_to_whoever_builds_the_command() -> None:
    call, node_ids = Call("COMPOSITE_FIT", None), iter(["a"])
    write_composite_fit(call, node_ids, np.zeros(5, ">f8"), np.zeros(5), False)  # type: ignore[arg-type]
    assert call.text is None
    assert list(node_ids) == ["a"]


def test_a_call_that_is_made_again_keeps_its_deadline_and_is_not_sent_or_settled_yet() -> None:
    call = Call("FORWARD", None, 5.0, "a", ["a"], print, 2.0)
    call.text, call.buffers = b"text", [b"buffer"]
    call.sent, call.settled, call.last_look, call.message_id = False, True, True, 3
    again = call.again()
    for kept in ("cmd", "timeout", "deadline", "node_id", "node_ids", "progress", "text"):
        assert getattr(again, kept) == getattr(call, kept)
    assert (again.stall_timeout, again.buffers) == (2.0, [b"buffer"])
    assert (again.sent, again.settled, again.last_look, again.message_id) == (True, False, False, 0)
