"""The commands: strict, nothing unknown accepted, and every refusal names the field."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.protocol.commands import COMMANDS
from soma_core.protocol.dialects import LineCodec
from soma_core.protocol.parsing import CommandParser, Envelope
from soma_core.wire.json_text import read_json
from soma_core.wire.message import Dialect, Message
from soma_core.wire.pickles import Pickles

PARSER = CommandParser()
CLIENT = {"name": "test", "soma": "1", "python": "3.11.1", "cloudpickle": "3.1"}
MINIMAL: dict[str, dict[str, Any]] = {
    "HELLO": {"protocol": 1, "client": CLIENT},
    "LOAD": {"filters": []},
    "UNLOAD": {"node_ids": ["a"]},
    "LIST": {},
    "FIT": {"node_id": "a"},
    "PARTIAL_FIT": {"node_id": "a"},
    "FORWARD": {"node_id": "a"},
    "CALL_METHOD": {"node_id": "a", "method": "predict"},
    "COMPOSITE_FORWARD": {"node_ids": ["a"]},
    "COMPOSITE_FIT": {"node_ids": ["a"]},
    "BATCHED_FIT": {"node_ids": ["a"]},
    "CONTINUE_FIT": {"fit_id": "fit-1", "node_ids": ["a"]},
    "GET_STATE": {"node_id": "a"},
    "SET_STATE": {"node_id": "a", "state_b64": ""},
    "GET_GRADIENTS": {"node_id": "a"},
    "APPLY_GRADIENTS": {"node_id": "a", "gradients_b64": ""},
    "INTERRUPT": {"command": 1},
    "PING": {},
    "SHUTDOWN": {},
}
REQUIRED = [
    (cmd, field)
    for cmd, fields in MINIMAL.items()
    for field in fields
    if (cmd, field) != ("SET_STATE", "state_b64")
]


def read(text: bytes) -> Any:
    return LineCodec(Pickles()).read(Message(text, (), Dialect.LINE), PARSER.validate)


def parse(cmd: str, **fields: Any) -> Any:
    return read(json.dumps({"cmd": cmd, **fields}).encode())


def refused(text: bytes | dict[str, Any], code: ErrorCode = ErrorCode.INVALID_COMMAND) -> str:
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    with pytest.raises(ProtocolError) as caught:
        read(text)
    assert caught.value.code is code
    return str(caught.value)


def code_of(function: Callable[[], Any]) -> ErrorCode | None:
    """The code with which it refuses; None if it does not."""
    try:
        function()
    except ProtocolError as error:
        return error.code
    return None


def test_every_command_of_the_protocol_is_here_and_nothing_else() -> None:
    assert list(PARSER.models) == list(MINIMAL)
    assert len(COMMANDS) == 19


@pytest.mark.parametrize("cmd", MINIMAL)
def test_a_command_with_its_required_fields_alone_is_valid(cmd: str) -> None:
    command = parse(cmd, **MINIMAL[cmd])
    assert command.cmd == cmd
    assert (command.id, command.events, command.meta) == (None, False, None)


@pytest.mark.parametrize("cmd", MINIMAL)
def test_every_command_accepts_the_common_fields(cmd: str) -> None:
    meta = {"trace": [1, {"deep": None}], "type": "anything"}
    for message_id in (7, 2**80, "seven", "", 0, -1):
        command = parse(cmd, **MINIMAL[cmd], id=message_id, events=True, meta=meta)
        assert (command.id, command.events, command.meta) == (message_id, True, meta)


@pytest.mark.parametrize("cmd", [cmd for cmd in MINIMAL if cmd != "HELLO"])
def test_an_unknown_field_is_refused_by_name_and_the_known_ones_are_listed(cmd: str) -> None:
    text = refused({"cmd": cmd, **MINIMAL[cmd], "surprise": 1})
    assert text.startswith(f"{cmd}: ")
    assert "surprise: there is no such field" in text
    assert "(its fields: id, events, meta" in text


def test_a_hello_of_a_later_version_is_read_all_the_same() -> None:
    command = parse("HELLO", protocol=2, client={**CLIENT, "machine": "x"}, surprise=[1])
    assert (command.protocol, command.client.soma) == (2, "1")
    assert not hasattr(command, "surprise")


@pytest.mark.parametrize(("cmd", "field"), REQUIRED)
def test_a_missing_field_is_named(cmd: str, field: str) -> None:
    fields = {name: value for name, value in MINIMAL[cmd].items() if name != field}
    assert f"{field}: this field is required" in refused({"cmd": cmd, **fields})


def test_set_state_sets_the_object_or_what_it_learned_or_both() -> None:
    text = refused({"cmd": "SET_STATE", "node_id": "a"})
    assert text.startswith("SET_STATE: at least one of state_b64 and fit_state is needed (its")
    command = parse("SET_STATE", node_id="a", fit_state=None)
    assert command.fit_state is None
    assert command.model_fields_set == {"cmd", "node_id", "fit_state"}


@pytest.mark.parametrize("cmd", MINIMAL)
@pytest.mark.parametrize("message_id", [True, 1.0, 1.5, [1], {}], ids=repr)
def test_an_id_is_text_or_an_integer(cmd: str, message_id: Any) -> None:
    assert "id" in refused({"cmd": cmd, **MINIMAL[cmd], "id": message_id})


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("HELLO", {"protocol": 1.0, "client": CLIENT}, "protocol"),
    ("HELLO", {"protocol": "1", "client": CLIENT}, "protocol"),
    ("HELLO", {"protocol": True, "client": CLIENT}, "protocol"),
    ("HELLO", {"protocol": 1, "client": {"name": "x"}}, "client.soma"),
    ("HELLO", {"protocol": 1, "client": None}, "client"),
    ("LOAD", {"filters": {}}, "filters"),
    ("LOAD", {"filters": None}, "filters"),
    ("LOAD", {"filters": [1]}, "filters.0"),
    ("LOAD", {"filters": [{"filter": "x"}]}, "filters.0.id"),
    ("LOAD", {"filters": [{"id": "", "filter": "x"}]}, "filters.0.id"),
    ("LOAD", {"filters": [{"id": 5, "filter": "x"}]}, "filters.0.id"),
    ("LOAD", {"filters": [{"id": "a", "filter": 5}]}, "filters.0.filter"),
    ("LOAD", {"filters": [{"id": "a", "filter": "x", "config": []}]}, "filters.0.config"),
    ("LOAD", {"filters": [{"id": "a", "filter": "x", "trainable": 1}]}, "filters.0.trainable"),
    ("LOAD", {"filters": [{"id": "a", "filter": "x", "trainable": "yes"}]}, "filters.0.trainable"),
    ("LOAD", {"filters": [{"id": "a", "filter": "x", "extra": 1}]}, "filters.0.extra"),
    ("LOAD", {"filters": [{"id": "a"}]}, "pickle_b64 and filter"),
    ("LOAD", {"filters": [{"id": "a", "filter": "x", "pickle_b64": ""}]}, "pickle_b64 and filter"),
    ("LOAD", {"filters": [{"id": "a", "pickle_b64": "", "config": {"x": 1}}]}, "config"),
    ("LOAD", {"filters": [{"id": "a", "pickle_b64": "!"}]}, "pickle_b64"),
    ("LOAD", {"filters": [{"id": "a", "pickle_b64": 5}]}, "pickle_b64"),
    ("LOAD", {"filters": [{"id": "a", "filter": "x"}] * 2}, "repeated: ['a']"),
    ("UNLOAD", {"node_ids": []}, "node_ids"),
    ("UNLOAD", {"node_ids": "a"}, "node_ids"),
    ("UNLOAD", {"node_ids": [1]}, "node_ids.0"),
    ("UNLOAD", {"node_ids": [""]}, "node_ids.0"),
    ("FIT", {"node_id": ""}, "node_id"),
    ("FIT", {"node_id": None}, "node_id"),
    ("FIT", {"node_id": "a", "return_state": 0}, "return_state"),
    ("FIT", {"node_id": "a", "state": {}}, "state"),
    ("FIT", {"node_id": "a", "data": {"type": "Tensor", "data": 1}}, "data"),
    ("FIT", {"node_id": "a", "y": {"type": "Bytes", "data": [300]}}, "y"),
    ("FORWARD", {"node_id": "a", "y": 1}, "y"),
    ("FORWARD", {"node_id": "a", "state": {"$soma": 1}}, "state"),
    ("CALL_METHOD", {"node_id": "a", "method": "fit"}, "method"),
    ("COMPOSITE_FORWARD", {"node_ids": []}, "node_ids"),
    ("COMPOSITE_FORWARD", {"node_ids": ["a"], "states": []}, "states"),
    ("COMPOSITE_FORWARD", {"node_ids": ["a"], "states": "x"}, "states"),
    ("COMPOSITE_FIT", {"node_ids": []}, "node_ids"),
    ("COMPOSITE_FIT", {"node_ids": ["a"], "return_states": None}, "return_states"),
    ("BATCHED_FIT", {"node_ids": []}, "node_ids"),
    *(
        ("BATCHED_FIT", {"node_ids": ["a"], field: wrong}, field)
        for field in ("batch_size", "epochs")
        for wrong in (0, -1, 1.0, 1.5, "32", True, None)
    ),
    *(
        ("BATCHED_FIT", {"node_ids": ["a"], "seed": wrong}, "seed")
        for wrong in (-1, 1.0, "1", True)
    ),
    ("BATCHED_FIT", {"node_ids": ["a"], "shuffle": 1}, "shuffle"),
    ("BATCHED_FIT", {"node_ids": ["a"], "collect": "first"}, "'last' or 'all'"),
    ("BATCHED_FIT", {"node_ids": ["a"], "collect": None}, "collect"),
    ("BATCHED_FIT", {"node_ids": ["a"], "files": {"data": {}}}, "files.data.path: this field is"),
    ("BATCHED_FIT", {"node_ids": ["a"], "files": {"y": {"self": 1}}}, "files.y.self: there is no"),
    ("BATCHED_FIT", {"node_ids": ["a"], "files": {"z": {"path": "x"}}}, "files.z"),
    ("GET_STATE", {"node_id": "a", "format": "pickle"}, "'cloudpickle'"),
    ("SET_STATE", {"node_id": "a", "state_b64": None}, "state_b64"),
    ("SET_STATE", {"node_id": "a", "state_b64": "a"}, "state_b64"),
    ("SET_STATE", {"node_id": "a", "state_b64": "", "format": 1}, "format"),
    ("APPLY_GRADIENTS", {"node_id": "a", "gradients_b64": [1]}, "gradients_b64"),
    ("PING", {"events": None}, "events"),
    ("PING", {"events": 1}, "events"),
    ("PING", {"meta": []}, "meta"),
    ("PING", {"meta": "x"}, "meta"),
]


@pytest.mark.parametrize(("cmd", "fields", "named"), WRONG, ids=lambda item: str(item)[:70])
def test_a_wrong_field_is_named(cmd: str, fields: dict[str, Any], named: str) -> None:
    assert named in refused({"cmd": cmd, **fields})


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"cmd": "LOAD", "filters": [{"filter": "x"}]}, ("filters", 0, "id")),
        ({"cmd": "FORWARD", "node_ids": ["a"]}, ("node_ids",)),  # and not what it stands for
        ({"cmd": "NOPE"}, ("cmd",)),
        ({}, ()),
    ],
)
def test_a_refusal_has_the_place_of_what_is_wrong_and_can_be_seen(fields: Any, where: Any) -> None:
    with pytest.raises(ProtocolError) as caught:
        PARSER.validate(fields)
    assert caught.value.where == where


def test_a_refusal_says_what_came_without_repeating_all_of_it() -> None:
    text = refused({"cmd": "UNLOAD", "node_ids": "x" * 10_000})
    assert "'xxxxx" in text
    assert len(text) < 400


@pytest.mark.parametrize("fields", [{"cmd": 10**5000}, {"cmd": "UNLOAD", "node_ids": 10**5000}])
def test_what_python_cannot_write_is_refused_as_anything_else(fields: Any) -> None:
    with pytest.raises(ProtocolError, match="<int>"):
        PARSER.validate(fields)


def test_a_hundred_mistakes_make_a_message_of_a_few() -> None:
    text = refused({"cmd": "PING", **{f"extra{n}": n for n in range(100)}})
    assert "and 95 more" in text
    text = refused({"cmd": "PING", **{f"extra{n}": n for n in range(5)}})
    assert "extra4: there is no such field (its fields: " in text


def test_text_and_base64_may_come_as_bytes_values_too() -> None:
    command = parse("SET_STATE", node_id="a", state_b64={"type": "Bytes", "data": [1, 2]})
    assert bytes(command.state_b64) == b"\x01\x02"
    assert parse("SET_STATE", node_id="a", state_b64="AQI=").state_b64 == b"\x01\x02"


def test_omitted_and_null_and_empty_states_can_be_told_apart() -> None:
    assert "state" not in parse("FORWARD", node_id="a").model_fields_set
    explicit = parse("FORWARD", node_id="a", state=None)
    assert "state" in explicit.model_fields_set
    assert explicit.state is None
    assert parse("FORWARD", node_id="a", state={"type": "Empty"}).state == {}
    states = {"a": {"type": "Empty"}, "b": None}
    assert parse("COMPOSITE_FORWARD", node_ids=["a"], states=states).states == {"a": {}, "b": None}


@pytest.mark.parametrize(
    ("text", "code", "named"),
    [
        (b"", ErrorCode.MALFORMED, "JSON"),
        (b"{", ErrorCode.MALFORMED, "JSON"),
        (b'{"cmd":"PING"', ErrorCode.MALFORMED, "JSON"),
        (b'{"cmd":"PING"}}', ErrorCode.MALFORMED, "JSON"),
        (b'{"cmd":"PING",}', ErrorCode.MALFORMED, "JSON"),
        (b"{'cmd':'PING'}", ErrorCode.MALFORMED, "JSON"),
        (b"PING", ErrorCode.MALFORMED, "JSON"),
        (b'{"cmd":"PI\xffNG"}', ErrorCode.MALFORMED, "JSON"),
        (b"\xff\xfe", ErrorCode.MALFORMED, "JSON"),
        (b'{"cmd":"\\ud800', ErrorCode.MALFORMED, "JSON"),
        (b"[" * 50_000, ErrorCode.MALFORMED, "recursion"),
        (b"[" * 50_000 + b"]" * 50_000, ErrorCode.MALFORMED, "recursion"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, ErrorCode.MALFORMED, "recursion"),
        (b'{"cmd":"PING","id":' + b"9" * 5000 + b"}", ErrorCode.MALFORMED, "number"),
        (b"[]", ErrorCode.MALFORMED, "list"),
        (b"null", ErrorCode.MALFORMED, "NoneType"),
        (b"5", ErrorCode.MALFORMED, "int"),
        (b'"PING"', ErrorCode.MALFORMED, "str"),
        (b"NaN", ErrorCode.MALFORMED, "float"),
        (b"{}", ErrorCode.INVALID_COMMAND, "cmd: this field is required"),
        (b'{"CMD":"PING"}', ErrorCode.INVALID_COMMAND, "cmd: this field is required"),
        (b'{"cmd":"NOPE"}', ErrorCode.UNKNOWN_COMMAND, "NOPE"),
        (b'{"cmd":"ping"}', ErrorCode.UNKNOWN_COMMAND, "PING"),
        (b'{"cmd":""}', ErrorCode.UNKNOWN_COMMAND, "PING"),
        (b'{"cmd":null}', ErrorCode.UNKNOWN_COMMAND, "PING"),
        (b'{"cmd":["PING"]}', ErrorCode.UNKNOWN_COMMAND, "PING"),
        (b'{"cmd":{}}', ErrorCode.UNKNOWN_COMMAND, "PING"),
    ],
    ids=lambda item: repr(item)[:40],
)
def test_what_is_not_a_command_has_a_code_and_a_reason(
    text: bytes, code: ErrorCode, named: str
) -> None:
    assert named in refused(text, code)


def test_bare_nan_and_infinity_are_read(identical: Any) -> None:
    text = b'{"cmd":"FIT","node_id":"a","data":[NaN,Infinity,-Infinity,1],"y":NaN}'
    command = read(text)
    assert identical(command.data, [float("nan"), float("inf"), -float("inf"), 1])
    assert identical(command.y, float("nan"))


@pytest.mark.parametrize("cmd", MINIMAL)
def test_lone_surrogates_do_not_make_a_command_invalid(cmd: str) -> None:
    text = json.dumps({"cmd": cmd, **MINIMAL[cmd], "meta": {"a": "\ud800"}}).encode()
    assert read(text).meta == {"a": "\ud800"}


def test_bytes_that_are_not_utf8_are_malformed_beside_a_lone_surrogate_too() -> None:
    text = b'{"cmd":"PING","id":8,"meta":{"a\xed\xa0\x80":"\\ud800"}}'
    with pytest.raises(ProtocolError) as caught:
        read(text)
    assert caught.value.code is ErrorCode.MALFORMED


def test_lone_surrogates_in_data_arrive_beside_tags() -> None:
    data = ["\udfff", {"type": "Bytes", "data": [1]}]
    assert parse("FIT", node_id="a", data=data).data == ["\udfff", b"\x01"]


def test_without_a_decoder_data_stays_as_it_came() -> None:
    pickled = {"__pickle_b64__": "not even base64"}
    text = json.dumps({"cmd": "FIT", "node_id": "a", "data": pickled}).encode()
    assert PARSER.check(text).data == pickled


@pytest.mark.parametrize(
    ("parsed", "envelope"),
    [
        ({"id": 5, "cmd": "FIT", "node_id": "a"}, Envelope(5, "FIT", "a")),
        ({"id": "x", "cmd": 5, "node_id": None}, Envelope("x", None, None)),
        ({"id": True}, Envelope()),
        ({"id": 1.0}, Envelope()),
        ({"id": None}, Envelope()),
        ({}, Envelope()),
        ([{"id": 5}], Envelope()),
        (None, Envelope()),
    ],
    ids=str,
)
def test_an_envelope_keeps_what_is_valid_of_any_message(parsed: Any, envelope: Envelope) -> None:
    text = json.dumps(parsed).encode()
    assert Envelope.of(Message(text, (), Dialect.LINE)) == envelope


@given(
    text=st.binary(max_size=60) | st.text(max_size=40).map(lambda t: t.encode("utf-8", "replace"))
)
def test_any_bytes_are_json_or_malformed(text: bytes) -> None:
    assert code_of(lambda: read_json(text)) in (None, ErrorCode.MALFORMED)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(
    cmd=st.sampled_from(list(MINIMAL)) | JSON,
    fields=st.dictionaries(
        st.sampled_from(
            [
                "id",
                "events",
                "meta",
                "node_id",
                "node_ids",
                "data",
                "y",
                "state",
                "states",
                "format",
                "filters",
                "batch_size",
                "state_b64",
                "protocol",
                "client",
                "seed",
                "collect",
            ]
        ),
        JSON,
        max_size=5,
    ),
)
def test_any_fields_make_a_command_or_an_error_with_a_code(cmd: Any, fields: Any) -> None:
    text = json.dumps({"cmd": cmd, **fields}).encode()
    code = code_of(lambda: read(text))
    assert code in (None, ErrorCode.INVALID_COMMAND, ErrorCode.UNKNOWN_COMMAND)
