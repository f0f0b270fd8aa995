import base64
import json
import pickle

import pytest

PING = '{"cmd": "PING"}\n'


def _validate(soma, *lines, options=()):
    result = soma("validate", "-", *options, stdin="\n".join(lines) + "\n")
    return result.exit_code, result.stdout.splitlines(), result.stderr.strip()


def _forward(data) -> str:
    return json.dumps({"cmd": "FORWARD", "node_id": "a", "data": data})


def test_good_commands_are_counted_on_stderr_and_nothing_else_is_said(soma):
    assert _validate(soma, '{"cmd": "PING"}', '{"cmd": "LIST", "id": 3}') == (
        0,
        [],
        "2 messages, none bad",
    )


def test_a_file_is_read_like_stdin(soma, tmp_path):
    path = tmp_path / "session.jsonl"
    path.write_text(PING + '{"cmd": "PINGG"}\n')
    result = soma("validate", path)
    assert result.exit_code == 1
    assert result.stdout.startswith("line 2: unknown command: PINGG")


def test_a_file_that_is_not_there_is_an_error(soma, tmp_path):
    result = soma("validate", tmp_path / "nowhere.jsonl")
    assert result.exit_code == 1
    assert "nowhere.jsonl: No such file" in result.stderr.replace("\n", "")


def test_blank_lines_count_as_lines_but_not_as_messages(soma):
    status, shown, summary = _validate(soma, "", "  ", '{"cmd": "PING"}', "", '{"cmd": 1}')
    assert status == 1
    assert [line.partition(":")[0] for line in shown] == ["line 5"]
    assert summary == "2 messages, 1 bad"


@pytest.mark.parametrize(
    ("line", "reasons"),
    [
        ('{"cmd": "PING"', ["invalid JSON"]),
        ("[1, 2]", ["a message is a JSON object", "list"]),
        ("{}", ["cmd: this field is required"]),
        ('{"cmd": "FIT", "data": 1}', ["FIT: node_id: this field is required"]),
        ('{"cmd": "FIT", "node_id": "a", "dta": 1}', ["dta: there is no such field"]),
        ('{"cmd": "FIT", "node_id": 7}', ["node_id: input should be a valid string, got 7"]),
        ('{"cmd": "BATCHED_FIT", "node_ids": []}', ["node_ids: "]),
        ('{"cmd": "BATCHED_FIT", "node_ids": ["a"], "batch_size": 0}', ["batch_size: ", "got 0"]),
        ('{"cmd": "LOAD", "filters": [{"id": "a"}]}', ["filters.0: exactly one of pickle_b64"]),
        ('{"cmd": "COMPOSITE_FORWARD", "node_ids": ["a"], "states": 1}', ["states: ", "got int"]),
        ("[" * 50_000, ["invalid JSON"]),
    ],
)
def test_a_bad_command_is_reported_with_field_and_reason(soma, line, reasons):
    status, shown, _ = _validate(soma, PING, line)
    assert status == 1
    assert len(shown) == 1
    assert [reason for reason in reasons if reason not in shown[0]] == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"type": "Tensor", "data": {"shape": [2], "values": [1.0]}}, "needs 2 values, got 1"),
        ({"type": "Tensor", "data": {"shape": [2]}}, "exactly one of values and b64"),
        ({"type": "Tensor", "data": {"shape": [1], "dtype": "f9", "values": [1]}}, "dtype 'f9'"),
        ({"x": [{"type": "Bytes", "data": [256]}]}, "numbers from 0 to 255"),
        ({"type": "Text", "data": 5}, "the data of a Text is a string"),
        ({"__pickle_b64__": "not base64!"}, "not valid base64"),
        ({"$soma": "float", "value": "huge"}, "value is one of nan, inf and -inf"),
        ({"$soma": "surprise"}, "unknown tag $soma"),
    ],
)
def test_a_bad_tag_in_the_data_is_reported_with_its_field(soma, data, reason):
    status, shown, _ = _validate(soma, _forward(data))
    assert status == 1
    assert shown[0].startswith("line 1: FORWARD: data: ")
    assert reason in shown[0]


@pytest.mark.parametrize(
    "data",
    [
        None,
        {"type": "Tensor", "data": {"shape": [2], "values": [1.0, None]}},
        {"type": "Json", "data": {"type": "Empty"}},
        {"type": "Tensor", "data": {"shape": [1], "dtype": "uint8", "b64": "AA=="}},
        {
            "type": "Tensor",
            "data": {"shape": [1], "dtype": "bfloat16", "container": "torch", "b64": "AAA="},
        },
        {"type": "a user's own", "data": 3},
    ],
)
def test_well_formed_data_is_good(soma, data):
    assert _validate(soma, _forward(data))[0] == 0


def test_the_place_of_bad_base64_in_a_list_is_reported(soma):
    filters = [{"id": "a", "filter": "x"}, {"id": "b", "pickle_b64": "???"}]
    _, shown, _ = _validate(soma, json.dumps({"cmd": "LOAD", "filters": filters}))
    assert shown[0].startswith("line 1: LOAD: filters.1.pickle_b64: not valid base64")


def test_pickles_are_never_read(soma, tmp_path):
    trap = tmp_path / "sprung"
    pickled = base64.b64encode(pickle.dumps(_Trap(str(trap)))).decode()
    lines = [
        _forward({"__pickle_b64__": pickled}),
        _forward({"type": "Object", "data": {"b64": pickled}}),
        json.dumps({"cmd": "LOAD", "filters": [{"id": "a", "pickle_b64": pickled}]}),
    ]
    assert _validate(soma, *lines)[0] == 0
    assert not trap.exists()


class _Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_bytes_that_are_no_utf8_are_one_bad_line(soma):
    result = soma("validate", "-", stdin=b'{"cmd": "\xff"}\n{"cmd": "PING"}\n')
    assert result.exit_code == 1
    assert result.stdout.startswith("line 1: invalid JSON")
    assert "2 messages, 1 bad" in result.stderr


def test_a_recording_is_refused_with_what_to_do(soma):
    status, shown, error = _validate(soma, '{"soma_recording":2}', '{"n":1,"message":{}}')
    assert (status, shown) == (1, [])
    assert "soma replay runs it" in error


def test_a_byte_order_mark_and_carriage_returns_are_no_fault(soma):
    assert soma("validate", "-", stdin=b'\xef\xbb\xbf{"cmd": "PING"}\r\n').exit_code == 0


def test_replies_and_events_are_checked_on_request(soma):
    status, _, summary = _validate(
        soma,
        '{"ok": true, "result": {"type": "Tensor", "data": {"shape": [1], "values": [1]}}}',
        '{"ok": false, "error": "no", "code": "unknown_node", "type": null, "cmd": "FIT"}',
        '{"event": "progress", "cmd": "FIT", "data": {"epoch": 1}}',
        '{"ok": true}',
        options=["--replies"],
    )
    assert (status, summary) == (0, "4 messages, none bad")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("3", "a reply is a JSON object, got int"),
        ("{}", "ok: this field is required"),
        ('{"ok": 1}', "ok: true or false is expected, got 1"),
        ('{"ok": false, "error": "no"}', "ErrorReply: code: this field is required"),
        ('{"ok": false, "error": "no", "code": "odd"}', "code: "),
        ('{"ok": true, "pid": "1", "incarnation": "a"}', "PingReply: pid: "),
        ('{"event": "party", "cmd": "FIT", "data": {}}', "Event: event: "),
        ('{"ok": true, "result": {"type": "Bytes", "data": [-1]}}', "result: "),
    ],
)
def test_a_bad_reply_is_reported_with_field_and_reason(soma, line, reason):
    status, shown, _ = _validate(soma, line, options=["--replies"])
    assert status == 1
    assert reason in shown[0]
