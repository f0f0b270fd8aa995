"""Headers that recur: known by their text, and read as if they had come for the first time."""

import json
import math
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.protocol.parsing import CommandParser
from soma_core.wire import recurring
from soma_core.wire.codec import FrameEncoder
from soma_core.wire.json_text import read_json, write_json
from soma_core.wire.pickles import Pickles
from soma_core.wire.recurring import (
    WITH_ID,
    WITH_LOSS_AND_ID,
    RecurringHeaders,
    text_before_id,
    text_before_loss,
)

PICKLES = Pickles()


def message(fields: dict[str, Any], message_id: Any = 1) -> tuple[bytes, list[Any]]:
    """A command as our client writes it, and its buffers as they arrive."""
    encoder = FrameEncoder()
    wire = {
        name: encoder.encode(value) if name in ("data", "y", "state") else value
        for name, value in fields.items()
    }
    header = WITH_ID % (text_before_id(wire), message_id)
    return header, [bytearray(buffer) for buffer in encoder.buffers]


def read(parser: CommandParser, header: bytes, buffers: list[Any], pickles: Pickles) -> Any:
    recognised = parser.recognise(header, buffers)
    return parser.read(header, buffers, pickles, recognised)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and same(one.numpy(), other.numpy())
    if isinstance(one, np.ndarray):
        return type(one) is type(other) and one.dtype == other.dtype and np.array_equal(one, other)
    return type(one) is type(other) and bool(one == other)


names = st.text(min_size=1, max_size=8)
plain = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
lengths = st.lists(st.integers(0, 4), max_size=3)
dtypes = st.sampled_from(["float64", "float32", "int16", "bool", "uint8"])
arrays = st.builds(lambda shape, dtype: np.ones(shape, dtype), lengths, dtypes)
inputs = plain | arrays | arrays.map(torch.from_numpy)
commands = st.one_of(
    st.fixed_dictionaries({"cmd": st.just("FORWARD"), "node_id": names, "data": inputs}),
    st.fixed_dictionaries(
        {"cmd": st.just("FORWARD"), "node_id": names, "data": inputs, "state": inputs}
    ),
    st.fixed_dictionaries(
        {
            "cmd": st.just("COMPOSITE_FIT"),
            "node_ids": st.lists(names, min_size=1, max_size=3),
            "data": inputs,
            "y": inputs,
            "return_states": st.booleans(),
        }
    ),
)


@given(commands, st.lists(st.integers(-(10**20), 10**20), min_size=4, max_size=4))
def test_a_command_that_recurs_is_read_as_if_it_were_new(fields, ids):
    warm = CommandParser()
    for message_id in ids:
        header, buffers = message(fields, message_id)
        known = read(warm, header, [buffer.copy() for buffer in buffers], PICKLES)
        new = read(CommandParser(), header, buffers, PICKLES)
        assert type(known) is type(new)
        assert known.model_fields_set == new.model_fields_set
        assert known.__dict__.keys() == new.__dict__.keys()
        assert all(same(known.__dict__[name], new.__dict__[name]) for name in new.__dict__)
        assert known.model_copy().id == message_id


@pytest.fixture
def warm() -> CommandParser:
    """A parser that has seen a FORWARD of ten floats."""
    parser = CommandParser()
    for message_id in (1, 2, 3):
        read(parser, *message(FORWARD, message_id), PICKLES)
    return parser


FORWARD = {"cmd": "FORWARD", "node_id": "a", "data": np.arange(10.0)}


def test_what_recurs_is_not_validated_again(warm, monkeypatch):
    monkeypatch.setattr(warm, "parse", lambda *_: pytest.fail("it was parsed"))
    command = read(warm, *message(FORWARD, 4), PICKLES)
    assert command.id == 4
    assert np.array_equal(command.data, FORWARD["data"])
    assert command.data.flags.writeable


def test_a_tensor_that_recurs_is_not_validated_again(monkeypatch):
    parser = CommandParser()
    fields = {"cmd": "FORWARD", "node_id": "a", "data": torch.ones(2, 3)}
    for message_id in (1, 2, 3):
        read(parser, *message(fields, message_id), PICKLES)
    monkeypatch.setattr(parser, "parse", lambda *_: pytest.fail("it was parsed"))
    data = read(parser, *message(fields, 4), PICKLES).data
    assert torch.equal(data, torch.ones(2, 3))


def test_what_cannot_recur_is_looked_at_twice_and_no_more(monkeypatch):
    learned = []
    learn = RecurringHeaders.learn
    monkeypatch.setattr(
        RecurringHeaders, "learn", lambda *args: learned.append(args[1]) or learn(*args)
    )
    parser = CommandParser()
    fields = {"cmd": "FORWARD", "node_id": "a", "data": {"x": np.ones(3)}}
    for message_id in range(1, 8):
        read(parser, *message(fields, message_id), PICKLES)
    assert len(learned) == 1


def test_no_two_commands_share_an_object():
    parser = CommandParser()
    fields = {"cmd": "COMPOSITE_FORWARD", "node_ids": ["a", "b"], "data": np.ones(3)}
    before = [read(parser, *message(fields, message_id), PICKLES) for message_id in range(1, 6)]
    before[-2].node_ids.append("c")
    before[-2].data[:] = 0.0
    before[-2].model_fields_set.clear()
    last = read(parser, *message(fields, 9), PICKLES)
    assert last.node_ids == ["a", "b"]
    assert last.data.tolist() == [1.0, 1.0, 1.0]
    assert "data" in last.model_fields_set


@pytest.mark.parametrize("buffers", [[], [bytearray(72)], [bytearray(81)], [bytearray()]])
def test_buffers_that_do_not_fit_a_known_header_are_refused_as_ever(warm, buffers):
    header, _ = message(FORWARD, 5)
    with pytest.raises(ProtocolError) as caught:
        read(warm, header, buffers, PICKLES)
    with pytest.raises(ProtocolError) as expected:
        read(CommandParser(), header, buffers, PICKLES)
    assert (caught.value.code, str(caught.value)) == (expected.value.code, str(expected.value))


@pytest.mark.parametrize("spelling", ["07", "+7", " 7 ", "7_0", "7.0", "1e1", '"7"', "null", "7}"])
def test_an_id_after_a_known_header_is_read_as_json_and_nothing_else(warm, spelling):
    header, buffers = message(FORWARD, 5)
    header = header.removesuffix(b"5}") + spelling.encode() + b"}"
    outcomes = []
    for parser in (warm, CommandParser()):
        try:
            outcomes.append(read(parser, header, buffers, PICKLES).id)
        except ProtocolError as error:
            outcomes.append((error.code, str(error)))
    assert outcomes[0] == outcomes[1]


def test_a_text_that_came_in_a_buffer_is_read_from_each_buffer():
    parser = CommandParser()
    data = {"type": "Object", "data": {"buffer": 0, "buffers": []}}
    before = text_before_id({"cmd": "FORWARD", "node_id": "a", "data": data})
    for number in range(1, 6):
        buffers = [bytearray(cloudpickle.dumps(f"text {number}"))]
        assert read(parser, WITH_ID % (before, number), buffers, PICKLES).data == f"text {number}"


def test_pickles_are_refused_however_often_they_come():
    parser = CommandParser()
    never = Pickles(allowed=False)
    data = {"type": "Object", "data": {"buffer": 0, "buffers": []}}
    before = text_before_id({"cmd": "FORWARD", "node_id": "a", "data": data})
    for number in range(1, 5):
        with pytest.raises(ProtocolError) as caught:
            read(parser, WITH_ID % (before, number), [bytearray(cloudpickle.dumps(1))], never)
        assert caught.value.code is ErrorCode.PICKLE_REFUSED


@pytest.mark.parametrize("data", [[np.ones(2)], {"a": np.ones(2)}, (np.ones(2), "text")])
def test_arrays_within_other_data_arrive_however_often_they_come(data):
    parser = CommandParser()
    fields = {"cmd": "FORWARD", "node_id": "a", "data": data}
    for message_id in range(1, 5):
        command = read(parser, *message(fields, message_id), PICKLES)
        assert type(command.data) is type(data)
        assert repr(command.data) == repr(data)


def test_only_so_many_headers_are_kept(monkeypatch):
    monkeypatch.setattr(recurring, "_MOST_KNOWN", 3)
    headers: RecurringHeaders[None] = RecurringHeaders()
    for number in range(10):
        fields = {"n": number}
        header = WITH_ID % (text_before_id(fields), 1)
        assert not headers.recurs(header)
        assert headers.recurs(header)
        headers.learn(header, json.loads(header), json.loads(header), None)
        assert headers.recognise(header, ()) == (None, {"n": number, "id": 1})
    assert headers.recognise(WITH_ID % (text_before_id({"n": 0}), 1), ()) is None


def test_a_long_header_is_not_kept():
    headers: RecurringHeaders[None] = RecurringHeaders()
    header = WITH_ID % (text_before_id({"text": "x" * 2000}), 1)
    assert not headers.recurs(header)
    assert not headers.recurs(header)


TRAINED = text_before_loss({"ok": True, "result": None, "states": {}})


def knows(loss: str) -> RecurringHeaders[None]:
    """What has learned the reply of a training step with such a loss."""
    headers: RecurringHeaders[None] = RecurringHeaders()
    header = WITH_LOSS_AND_ID % (TRAINED, loss.encode(), 1)
    headers.recurs(header)
    if headers.recurs(header):
        fields = read_json(header)
        headers.learn(header, fields, fields, None)
    return headers


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(finite, finite, st.integers(-(10**20), 10**20))
def test_a_loss_that_differs_is_read_as_if_its_header_were_new(first, loss, message_id):
    header = WITH_LOSS_AND_ID % (TRAINED, write_json(loss), message_id)
    recognised = knows(write_json(first).decode()).recognise(header, [])
    if recognised is not None:
        fields = recognised[1]
        assert fields == read_json(header)
        assert math.copysign(1.0, fields["loss"]) == math.copysign(1.0, loss)
        assert type(fields["loss"]) is float


def test_a_loss_that_differs_is_no_new_header():
    headers = knows("0.5")
    for loss in ("0.25", "-0.0", "1.5e-7", "1.5e+300", "12345.678"):
        recognised = headers.recognise(WITH_LOSS_AND_ID % (TRAINED, loss.encode(), 7), [])
        assert recognised is not None
        assert recognised[1]["loss"] == float(loss)
        assert recognised[1]["id"] == 7


NO_FRACTIONS = (
    *("", "5", "1e5", "+0.5", ".5", "5.", "00.5", "0.5.5", " 0.5", "0_0.5", "0x1.8p1"),
    *("NaN", "Infinity", "null", '"0.5"', "\u0660.\u0665"),
    *("0.5}", "0.5,", '0.5,"loss":', '0.5,"id":7'),
)


@pytest.mark.parametrize("spelling", NO_FRACTIONS)
def test_a_loss_after_a_known_header_is_a_fraction_in_json_or_left_to_the_parser(spelling):
    header = WITH_LOSS_AND_ID % (TRAINED, spelling.encode(), 7)
    assert knows("0.5").recognise(header, []) is None


@pytest.mark.parametrize("header", [b'{"ok":true,"loss":0.5', b',"loss":0.5,"id":7}', b"0.5"])
def test_what_only_ends_like_a_known_header_is_not_known(header):
    assert knows("0.5").recognise(header, []) is None


@pytest.mark.parametrize("data", [{}, ["x"]], ids=repr)
def test_what_a_filter_does_to_its_input_does_not_show_in_the_next_one(data):
    parser = CommandParser()
    fields = {"cmd": "FORWARD", "node_id": "a", "data": data}
    for message_id in range(1, 7):
        came = read(parser, *message(fields, message_id), PICKLES).data
        assert came == data
        came.update(touched=1) if isinstance(came, dict) else came.append("touched")


def test_a_header_that_is_much_longer_than_a_known_one_is_left_to_the_parser():
    digits = "1" * 5000 + ".0"
    assert knows("0.5").recognise(WITH_LOSS_AND_ID % (TRAINED, digits.encode(), 7), []) is None


def test_no_two_replies_share_an_empty_dict():
    headers = knows("0.5")
    header = WITH_LOSS_AND_ID % (TRAINED, b"0.5", 7)
    one, other = headers.recognise(header, []), headers.recognise(header, [])
    assert one is not None
    assert other is not None
    one[1]["states"]["node"] = b"state"
    assert other[1]["states"] == {}
