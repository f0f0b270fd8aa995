"""The wire as others see it: by hand, over pipes and sockets, well formed and not."""

from __future__ import annotations

import base64
import json
import re
import select
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from typing import Any

import cloudpickle
import pytest
from ormsgpack import Ext, packb

from soma_core.errors import ErrorCode, RemoteError
from soma_core.serve import serve
from soma_core.streams import SocketStream, StreamChannel, StreamLimits
from soma_core.wire import frames
from soma_core.wire.frames import EntryKind, TableEntry
from soma_core.wire.readable import readable

from ..support import PROCESSES, wait_until_gone
from ..support import filters as f

PING = b'{"cmd":"PING"}\n'


class Wire:
    """A connection to a daemon, on which bytes are written and read as they are."""

    def __init__(self, connection: socket.socket, process: subprocess.Popen | None = None) -> None:
        self.connection, self.process = connection, process
        self._pending = b""

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def end(self) -> None:
        """Say that nothing more will be sent."""
        self.connection.shutdown(socket.SHUT_WR)

    def _more(self, timeout: float = 30.0) -> bool:
        if not select.select([self.connection], [], [], timeout)[0]:
            raise TimeoutError(f"nothing came; pending {self._pending[:200]!r}")
        try:
            data = self.connection.recv(1 << 16)
        except ConnectionResetError:
            return False
        self._pending += data
        return bool(data)

    def line(self) -> dict[str, Any]:
        """The next reply, which must be a line."""
        while b"\n" not in self._pending:
            if not self._more():
                raise EOFError(self._pending)
        line, _, self._pending = self._pending.partition(b"\n")
        assert not line.startswith(b"\x93")
        return json.loads(line)

    def frame(self) -> tuple[dict[str, Any], list[bytes]]:
        """The next reply, which must be a frame."""
        start = frames.read_preamble(self._take(frames.PREAMBLE_SIZE))
        header = self._take(start.header_size)
        entries = frames.read_table(self._take(start.table_size), start.inline_size)
        return readable(header), [self._take(size) for _, _, _, size in entries]

    def either(self) -> dict[str, Any]:
        """The next reply, in either dialect."""
        first = self._take(1)
        self._pending = first + self._pending
        return self.frame()[0] if first == frames.MAGIC[:1] else self.line()

    def in_step(self) -> bool:
        """Whether everything that was sent has had its one reply."""
        try:
            return not self._pending and self.ask("PING", id="in step").get("id") == "in step"
        except (OSError, EOFError, ValueError, AssertionError):
            return False

    def _take(self, size: int) -> bytes:
        while len(self._pending) < size:
            if not self._more():
                raise EOFError(self._pending)
        taken, self._pending = self._pending[:size], self._pending[size:]
        return taken

    def at_end(self) -> bool:
        """Whether the stream is at its end, with nothing left to read."""
        while not self._pending and self._more():
            pass
        return not self._pending

    def ask(self, cmd: str, **fields: Any) -> dict[str, Any]:
        self.send(json.dumps({"cmd": cmd, **fields}).encode() + b"\n")
        return self.line()

    def load(self, **objects: Any) -> None:
        specs = [
            {"id": name, "pickle_b64": base64.b64encode(cloudpickle.dumps(obj)).decode()}
            for name, obj in objects.items()
        ]
        reply = self.ask("LOAD", filters=specs)
        assert reply["ok"], reply

    def close(self) -> None:
        self.connection.close()
        if self.process is not None:
            self.process.wait(20.0)


def frame(fields: Any, buffers: tuple[bytes, ...] = ()) -> bytes:
    header = fields if isinstance(fields, bytes) else packb(fields)
    entries = [TableEntry(EntryKind.INLINE, 0, 0, len(buffer)) for buffer in buffers]
    return frames.write_frame(header, entries) + b"".join(buffers)


def preamble(header_size: int, entries: int, body_size: int, version: int = 2) -> bytes:
    """A sound preamble, whatever it promises."""
    fields = struct.pack("<5sBHIIQ", frames.MAGIC, version, 0, header_size, entries, body_size)
    return fields + struct.pack("<I", zlib.crc32(fields))


def _open(request: pytest.FixtureRequest, transport: str, *arguments: str) -> Wire:
    """A wire to a daemon: a child on a socket pair, or the socket daemon."""
    if transport == "socket":
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(request.getfixturevalue("shared_socket_daemon").path))
        return Wire(connection)
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", "soma_transport_stdio", *arguments]
        return Wire(ours, subprocess.Popen(command, stdin=theirs, stdout=theirs))


@pytest.fixture
def open_wire(request):
    """Opens wires that no other test uses."""
    wires = []

    def start(transport: str, *arguments: str) -> Wire:
        wires.append(_open(request, transport, *arguments))
        return wires[-1]

    yield start
    for wire in wires:
        wire.close()


@pytest.fixture(scope="module")
def _warm_wires():
    wires: dict[str, Wire] = {}
    yield wires
    for wire in wires.values():
        wire.close()


@pytest.fixture(params=PROCESSES)
def warm_wire(request, _warm_wires):
    """A wire that tests share, with a node ``echo``; each leaves it in step."""
    if request.param not in _warm_wires:
        wire = _warm_wires[request.param] = _open(request, request.param)
        wire.load(echo=f.Echo())
    wire = _warm_wires[request.param]
    yield wire
    if not wire.in_step():
        _warm_wires.pop(request.param).close()
        pytest.fail("the daemon did not send exactly one reply to each message")


# Lines


def shell(text: str) -> list[dict[str, Any]]:
    command = f"{text} | {sys.executable} -m soma_transport_stdio"
    done = subprocess.run(command, shell=True, capture_output=True, timeout=60, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_shell_pipe_is_a_host():
    replies = shell(r"""printf '{"cmd":"PING","id":1}\n{"cmd":"LIST","id":"two"}\n'""")
    assert [(reply["ok"], reply["id"]) for reply in replies] == [(True, 1), (True, "two")]


def test_a_last_line_without_a_newline_is_answered():
    assert [reply["ok"] for reply in shell(r"""printf '{"cmd":"PING"}\n{"cmd":"PING"}'""")] == [
        True,
        True,
    ]


def test_an_empty_input_gets_nothing():
    assert shell("printf ''") == []
    assert shell(r"printf '\n\n  \n'") == []


def test_a_file_is_a_host(tmp_path):
    source = tmp_path / "commands.jsonl"
    source.write_bytes(PING + b'{"cmd":"SHUTDOWN"}\n' + PING)
    with source.open() as stdin, (tmp_path / "replies").open("w+b") as stdout:
        command = [sys.executable, "-m", "soma_transport_stdio"]
        done = subprocess.run(command, stdin=stdin, stdout=stdout, timeout=60)
        stdout.seek(0)
        replies = stdout.read().splitlines()
    assert (done.returncode, len(replies)) == (0, 2)


@pytest.mark.parametrize("transport", PROCESSES)
def test_the_end_of_input_finishes_what_was_sent(open_wire, transport):
    wire = open_wire(transport)
    wire.load(slow=f.Apply(lambda x, state: f.time.sleep(0.2) or x))
    for number in range(3):
        wire.send(
            json.dumps({"cmd": "FORWARD", "node_id": "slow", "data": number}).encode() + b"\n"
        )
    wire.end()
    assert [wire.line()["result"] for _ in range(3)] == [0, 1, 2]
    assert wire.at_end()
    if wire.process is not None:
        assert wire.process.wait(20.0) == 0


@pytest.mark.parametrize("transport", PROCESSES)
def test_shutdown_is_answered_and_ends_the_stream(open_wire, transport):
    wire = open_wire(transport)
    wire.send(b'{"cmd":"SHUTDOWN","id":"last"}\n' + PING)
    assert wire.line() == {"ok": True, "id": "last"}
    assert wire.at_end()
    if wire.process is not None:
        assert wire.process.wait(20.0) == 0


@pytest.mark.parametrize(
    "line",
    [
        b'{"cmd":"PING"}\r\n',
        b'  \t{"cmd":"PING"}  \n',
        b'\xef\xbb\xbf{"cmd":"PING"}\n',
        b'\n\r\n \t \n{"cmd":"PING"}\n\n',
        b'{"cmd":"PING","meta":{"a":NaN,"b":Infinity}}\n',
        b'{\r"cmd"\t:\r"PING" }\r\r\n',
        '{"cmd":"PING","id":"\u2028\x85"}\n'.encode(),
        b'{"cmd":"PING","id":null}\n',
    ],
    ids=["CRLF", "blanks", "BOM", "blank lines", "NaN", "CR inside", "line separators", "null id"],
)
def test_lines_are_read_as_people_write_them(warm_wire, line):
    warm_wire.send(line)
    assert warm_wire.line()["ok"] is True
    assert warm_wire.ask("PING", id=7)["id"] == 7


def test_replies_come_in_order(warm_wire):
    commands = [
        {"cmd": "FORWARD", "node_id": "echo", "data": number, "id": number} for number in range(200)
    ]
    warm_wire.send(b"".join(json.dumps(command).encode() + b"\n" for command in commands))
    replies = [warm_wire.line() for _ in commands]
    assert [(reply["id"], reply["result"]) for reply in replies] == [(n, n) for n in range(200)]


def test_bytes_may_come_one_by_one(warm_wire):
    for byte in b'{"cmd":"PING","id":1}\n' + frame({"cmd": "PING", "id": 2}):
        warm_wire.send(bytes([byte]))
    assert warm_wire.line()["id"] == 1
    assert warm_wire.frame()[0]["id"] == 2


def test_nan_comes_in_bare_and_goes_out_tagged(warm_wire):
    warm_wire.send(b'{"cmd":"FORWARD","node_id":"echo","data":[NaN,-Infinity,1.0]}\n')
    assert warm_wire.line()["result"] == [
        {"$soma": "float", "value": "nan"},
        {"$soma": "float", "value": "-inf"},
        1.0,
    ]


@pytest.mark.parametrize("message_id", [0, -1, 2**63, "", "é", "a" * 1000])
def test_ids_are_echoed(warm_wire, message_id):
    assert warm_wire.ask("PING", id=message_id)["id"] == message_id
    failed = warm_wire.ask("FORWARD", node_id="nobody", id=message_id)
    assert (failed["ok"], failed["id"]) == (False, message_id)
    invalid = warm_wire.ask("FORWARD", node=1, id=message_id)
    assert (invalid["ok"], invalid["id"]) == (False, message_id)


def test_events_come_before_the_reply_and_only_when_asked_for(warm_wire):
    warm_wire.load(report=f.Report())
    warm_wire.send(b'{"cmd":"FIT","node_id":"report","data":2,"events":true,"id":"e"}\n')
    first, second, reply = (warm_wire.line() for _ in range(3))
    assert [first["data"]["epoch"], second["data"]["epoch"]] == [1, 2]
    assert {first["event"], first["cmd"], first["id"]} == {"progress", "FIT", "e"}
    assert reply["ok"] is True
    assert "event" not in warm_wire.ask("FIT", node_id="report", data=2)


# Bad input: one error reply each, and the next good message works

DEEP = b"[" * 50_000

BAD: dict[str, tuple[bytes, str, str]] = {
    "truncated JSON": (b'{"cmd":"PING"', "malformed", "invalid JSON"),
    "no JSON": (b"hello", "malformed", "invalid JSON"),
    "two objects": (b'{"cmd":"PING"}{"cmd":"PING"}', "malformed", "invalid JSON"),
    "an array": (b'[{"cmd":"PING"}]', "malformed", "object"),
    "a number": (b"3", "malformed", "object"),
    "null": (b"null", "malformed", "object"),
    "a string": (b'"PING"', "malformed", "object"),
    "no UTF-8": (b'{"cmd":"PING","id":"\xff"}', "malformed", "invalid JSON"),
    "only non-UTF-8": (b"\xff\xfe\x00", "malformed", "invalid JSON"),
    "the start of a frame, then a line": (b'\x93SOM{"cmd":"PING"}', "malformed", "invalid JSON"),
    "a frame's first byte, then a line": (b'\x93{"cmd":"PING"}', "malformed", "invalid JSON"),
    "a NUL": (b'{"cmd":"PING"}\x00', "malformed", "invalid JSON"),
    "deep nesting": (b'{"cmd":"PING","meta":{"a":' + DEEP, "malformed", "recursion"),
    "deep nesting that ends": (
        b'{"cmd":"FORWARD","node_id":"echo","data":' + DEEP + b"]" * 50_000 + b"}",
        "malformed",
        "recursion",
    ),
    "deep nesting with an escape": (
        b'{"cmd":"FORWARD","node_id":"\\ud800","data":' + DEEP + b"]" * 50_000 + b"}",
        "malformed",
        "",
    ),
    "no cmd": (b"{}", "invalid_command", "cmd"),
    "a cmd of another type": (b'{"cmd":3}', "unknown_command", "3"),
    "a cmd of null": (b'{"cmd":null}', "unknown_command", "None|null"),
    "a cmd that is an object": (b'{"cmd":{}}', "unknown_command", ""),
    "an unknown command": (b'{"cmd":"FITT"}', "unknown_command", "FITT"),
    "a command in lower case": (b'{"cmd":"ping"}', "unknown_command", "ping"),
    "an unknown field": (b'{"cmd":"PING","colour":1}', "invalid_command", "colour"),
    "a missing field": (b'{"cmd":"FIT","data":1}', "invalid_command", "node_id"),
    "an id of another type": (b'{"cmd":"PING","id":1.5}', "invalid_command", "id"),
    "an id that is a bool": (b'{"cmd":"PING","id":true}', "invalid_command", "id"),
    "a node_id of another type": (b'{"cmd":"FIT","node_id":1}', "invalid_command", "node_id"),
    "an empty node_id": (b'{"cmd":"FIT","node_id":""}', "invalid_command", "node_id"),
    "events of another type": (b'{"cmd":"PING","events":1}', "invalid_command", "events"),
    "no node_ids": (b'{"cmd":"COMPOSITE_FIT","node_ids":[]}', "invalid_command", "node_ids"),
    "node_ids that is a string": (
        b'{"cmd":"COMPOSITE_FORWARD","node_ids":"echo"}',
        "invalid_command",
        "node_ids",
    ),
    "states that is a list": (
        b'{"cmd":"COMPOSITE_FORWARD","node_ids":["echo"],"states":[]}',
        "invalid_command",
        "states",
    ),
    "a batch_size of 0": (
        b'{"cmd":"BATCHED_FIT","node_ids":["echo"],"data":[1],"batch_size":0}',
        "invalid_command",
        "batch_size",
    ),
    "a batch_size below 0": (
        b'{"cmd":"BATCHED_FIT","node_ids":["echo"],"data":[1],"batch_size":-3}',
        "invalid_command",
        "batch_size",
    ),
    "a batch_size that is no integer": (
        b'{"cmd":"BATCHED_FIT","node_ids":["echo"],"data":[1],"batch_size":2.0}',
        "invalid_command",
        "batch_size",
    ),
    "bad base64 of a filter": (
        b'{"cmd":"LOAD","filters":[{"id":"a","pickle_b64":"%%%"}]}',
        "invalid_command",
        "base64",
    ),
    "bad base64 in data": (
        b'{"cmd":"FORWARD","node_id":"echo","data":{"__pickle_b64__":"a"}}',
        "invalid_command",
        "base64",
    ),
    "base64 of another type": (
        b'{"cmd":"SET_STATE","node_id":"echo","state_b64":3}',
        "invalid_command",
        "base64|state_b64",
    ),
    "a pickle that is none": (
        b'{"cmd":"LOAD","filters":[{"id":"a","pickle_b64":"AAAA"}]}',
        "load_failed",
        "'a'",
    ),
    "a pickle of what is no filter": (
        b'{"cmd":"LOAD","filters":[{"id":"a","pickle_b64":"gARLAy4="}]}',
        "load_failed",
        "forward",
    ),
    "neither pickle nor name": (
        b'{"cmd":"LOAD","filters":[{"id":"a"}]}',
        "invalid_command",
        "pickle_b64",
    ),
    "an id twice": (
        b'{"cmd":"LOAD","filters":[{"id":"a","filter":"x"},{"id":"a","filter":"x"}]}',
        "invalid_command",
        "repeated",
    ),
    "an unknown filter": (
        b'{"cmd":"LOAD","filters":[{"id":"a","filter":"no.such"}]}',
        "unknown_filter",
        "no.such",
    ),
    "a Tensor that lacks values": (
        b'{"cmd":"FORWARD","node_id":"echo","data":{"type":"Tensor","data":{"values":[1,2,3],'
        b'"shape":[2,2]}}}',
        "invalid_command",
        "Tensor|shape",
    ),
    "a Tensor of a negative shape": (
        b'{"cmd":"FORWARD","node_id":"echo","data":{"type":"Tensor","data":{"values":[],'
        b'"shape":[-1]}}}',
        "invalid_command",
        "shape",
    ),
    "a Tensor that lacks bytes": (
        b'{"cmd":"FORWARD","node_id":"echo","data":{"type":"Tensor","data":{"b64":"AAAA",'
        b'"dtype":"float64","shape":[1]}}}',
        "invalid_command",
        "bytes",
    ),
    "a Tensor of no such dtype": (
        b'{"cmd":"FORWARD","node_id":"echo","data":{"type":"Tensor","data":{"values":[1],'
        b'"dtype":"float7","shape":[1]}}}',
        "invalid_command",
        "float7",
    ),
    "a Tensor of objects": (
        b'{"cmd":"FORWARD","node_id":"echo","data":{"type":"Tensor","data":{"values":[1],'
        b'"dtype":"object","shape":[1]}}}',
        "invalid_command",
        "object",
    ),
    "a Tensor that refers to a buffer": (
        b'{"cmd":"FORWARD","node_id":"echo","data":{"type":"Tensor","data":{"buffer":0,'
        b'"dtype":"float64","shape":[1]}}}',
        "invalid_command",
        "buffer",
    ),
    "Bytes beyond 255": (
        b'{"cmd":"FORWARD","node_id":"echo","data":{"type":"Bytes","data":[256]}}',
        "invalid_command",
        "255",
    ),
    "an unknown tag": (
        b'{"cmd":"FORWARD","node_id":"echo","data":{"$soma":"what"}}',
        "invalid_command",
        "what",
    ),
    "a tag that lacks its content": (
        b'{"cmd":"FORWARD","node_id":"echo","data":{"$soma":"dict"}}',
        "invalid_command",
        "dict",
    ),
    "a tag that is no text": (
        b'{"cmd":"FORWARD","node_id":"echo","data":{"$soma":[]}}',
        "invalid_command",
        "soma",
    ),
    "a tag with keys that cannot be keys": (
        b'{"cmd":"FORWARD","node_id":"echo","data":{"$soma":"dict","items":[[[],1]]}}',
        "invalid_command",
        "dict",
    ),
    "an unknown node": (b'{"cmd":"FORWARD","node_id":"nobody"}', "unknown_node", "'echo'"),
    "a state that is none": (
        b'{"cmd":"SET_STATE","node_id":"echo","state_b64":"AAAA"}',
        "invalid_state",
        "echo",
    ),
    "gradients for what has no parameters": (
        b'{"cmd":"APPLY_GRADIENTS","node_id":"echo","gradients_b64":"AAAA"}',
        "invalid_state|no_gradients",
        "parameters",
    ),
    "an unknown format": (
        b'{"cmd":"GET_STATE","node_id":"echo","format":"yaml"}',
        "invalid_command",
        "format",
    ),
    "a HELLO without a client": (b'{"cmd":"HELLO","protocol":1}', "invalid_command", "client"),
    "a HELLO of another protocol": (
        b'{"cmd":"HELLO","protocol":99,"client":{"name":"a","soma":"1","python":"3.11.0",'
        b'"cloudpickle":"3.0.0"}}',
        "incompatible",
        "99",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_error_reply_and_the_next_message_works(warm_wire, name):
    line, code, text = BAD[name]
    warm_wire.send(line + b'\n{"cmd":"PING","id":"next"}\n')
    reply = warm_wire.line()
    assert reply["ok"] is False, reply
    assert re.search(f"^({code})$", reply["code"]), reply
    assert re.search(text, reply["error"]), reply["error"]
    assert len(reply["error"]) < 2000
    following = warm_wire.line()
    assert (following["ok"], following.get("id")) == (True, "next")


def test_a_pickle_that_raises_is_an_error_reply(warm_wire):
    class Explodes:
        def __reduce__(self):
            return (eval, ("1 / 0",))

    class Leaves:
        def __reduce__(self):
            return (sys.exit, (3,))

    for obj in (Explodes(), Leaves()):
        data = base64.b64encode(cloudpickle.dumps(obj)).decode()
        reply = warm_wire.ask("LOAD", filters=[{"id": "a", "pickle_b64": data}])
        assert (reply["ok"], reply["code"]) == (False, "load_failed"), reply
        reply = warm_wire.ask("FORWARD", node_id="echo", data={"__pickle_b64__": data})
        assert reply["ok"] is False
        assert warm_wire.ask("PING")["ok"] is True


def test_pickles_are_refused_where_pickle_is_off(open_wire):
    wire = open_wire("stdio", "--pickle=never")
    reply = wire.ask("LOAD", filters=[{"id": "a", "pickle_b64": "gARLAy4="}])
    assert (reply["ok"], reply["code"]) == (False, "pickle_refused")
    reply = wire.ask("FORWARD", node_id="a", data={"__pickle_b64__": "gARLAy4="})
    assert (reply["ok"], reply["code"]) == (False, "pickle_refused")
    reply = wire.ask("FORWARD", node_id="a", data={"type": "Object", "data": [128, 4, 78, 46]})
    assert (reply["ok"], reply["code"]) == (False, "pickle_refused")
    client = {"name": "a", "soma": "1", "python": "2.7", "cloudpickle": "0.1"}
    assert wire.ask("HELLO", protocol=1, client=client)["pickle"] == "never"


# Frames


def test_a_frame_is_answered_by_a_frame_and_a_line_by_a_line(warm_wire):
    warm_wire.send(frame({"cmd": "PING", "id": 1}) + PING + frame({"cmd": "PING", "id": 3}))
    assert warm_wire.frame()[0]["id"] == 1
    assert warm_wire.line()["ok"] is True
    assert warm_wire.frame()[0]["id"] == 3


def test_buffers_of_a_frame_come_back_as_buffers(warm_wire):
    payload = struct.pack("<3d", 1.0, 2.0, 3.0)
    data = Ext(1, packb([0, "float64", [3]]))
    warm_wire.send(frame({"cmd": "FORWARD", "node_id": "echo", "data": data}, (payload,)))
    reply, buffers = warm_wire.frame()
    assert reply["result"]["data"]["shape"] == [3]
    assert buffers[reply["result"]["data"]["buffer"]] == payload


def test_an_error_to_a_frame_is_a_frame(warm_wire):
    warm_wire.send(frame({"cmd": "FORWARD", "node_id": "nobody", "id": 4}))
    reply, _ = warm_wire.frame()
    assert (reply["ok"], reply["id"], reply["code"]) == (False, 4, "unknown_node")
    warm_wire.send(frame(b"\xc1 is never used"))
    reply, _ = warm_wire.frame()
    assert (reply["ok"], reply["code"]) == (False, "malformed")


def lying_frame(header: bytes, entries: list[TableEntry], rest: bytes) -> bytes:
    """A frame with a sound preamble and a table of the test's choice."""
    table = b"".join(struct.pack("<IIQQ", *entry) for entry in entries)
    body_size = len(header) + len(table) + len(rest)
    return preamble(len(header), len(entries), body_size) + header + table + rest


def _inline(size: int) -> TableEntry:
    return TableEntry(EntryKind.INLINE, 0, 0, size)


_PING = b'{"cmd":"PING"}'
LIES = {
    "a table that promises too much": lying_frame(_PING, [_inline(100)], b"1234"),
    "a table that promises too little": lying_frame(_PING, [_inline(1)], b"1234"),
    "a table of huge numbers": lying_frame(_PING, [_inline(2**64 - 1), _inline(5)], b"1234"),
    "an entry of no known kind": lying_frame(_PING, [TableEntry(77, 0, 0, 0)], b""),
    "shared memory that nobody shares": lying_frame(_PING, [TableEntry(1, 0, 0, 8)], b""),
    "shared memory beside inline": lying_frame(
        _PING, [TableEntry(1, 9, 9, 8), _inline(4)], b"1234"
    ),
    "a newline in what is skipped": lying_frame(_PING, [_inline(9)], b"\n" + _PING + b"\n"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_frame_that_lies_gets_one_error_reply_and_is_skipped(warm_wire, name):
    warm_wire.send(LIES[name] + b'{"cmd":"PING","id":"next"}\n')
    reply = warm_wire.either()
    assert (reply["ok"], reply["code"]) == (False, "malformed")
    assert warm_wire.line()["id"] == "next"


def test_the_refusal_of_a_frame_is_a_frame(warm_wire):
    for refused in (LIES["a table that promises too much"], preamble(1000, 0, 4) + b"1234"):
        warm_wire.send(refused)
        assert warm_wire.frame()[0]["ok"] is False


def test_a_frame_whose_header_is_longer_than_its_body_is_refused(warm_wire):
    warm_wire.send(preamble(1000, 0, 4) + b"1234" + PING)
    reply = warm_wire.either()
    assert (reply["ok"], reply["code"]) == (False, "malformed")
    assert warm_wire.line()["ok"] is True


@pytest.mark.parametrize("kind", [EntryKind.OFFER, EntryKind.ACCEPT, EntryKind.RETIRE])
def test_offers_of_shared_memory_without_proof_are_ignored(warm_wire, kind):
    entries = [TableEntry(kind, 3, 1, 1), _inline(8)]
    array = Ext(1, packb([0, "uint8", [8]]))
    command = packb({"cmd": "FORWARD", "node_id": "echo", "data": array})
    warm_wire.send(lying_frame(command, entries, b"12345678"))
    reply, buffers = warm_wire.frame()
    assert reply["ok"] is True
    assert buffers == [b"12345678"]


def _damaged() -> bytes:
    good = bytearray(frame({"cmd": "PING"}))
    good[12] ^= 1
    return bytes(good)


def _of_another_version() -> bytes:
    return preamble(2, 0, 2, version=9) + b"{}"


@pytest.mark.parametrize("transport", PROCESSES)
@pytest.mark.parametrize("make", [_damaged, _of_another_version], ids=["checksum", "version"])
def test_an_unsound_preamble_gets_one_reply_and_the_channel_closes(open_wire, transport, make):
    wire = open_wire(transport)
    wire.send(make() + PING)
    reply = wire.either()
    assert (reply["ok"], reply["code"]) == (False, "malformed")
    assert wire.at_end()


@pytest.mark.parametrize("transport", PROCESSES)
@pytest.mark.parametrize("length", [5, 20, 30, -1])
def test_a_frame_that_is_cut_off_gets_one_reply(open_wire, transport, length):
    wire = open_wire(transport)
    wire.send(PING + frame({"cmd": "PING"}, (b"12345678",))[:length])
    wire.end()
    assert wire.line()["ok"] is True
    reply = wire.either()
    assert (reply["ok"], reply["code"]) == (False, "malformed")
    assert wire.at_end()


# Limits, which are too large to reach over a real daemon


@pytest.fixture
def limited():
    """A served stream with small limits."""
    ours, theirs = socket.socketpair()
    limits = StreamLimits(line=1000, header=500, body=2000)
    channel = StreamChannel(SocketStream(theirs), limits)
    thread = threading.Thread(target=serve, args=[channel], kwargs={"limits": limits})
    thread.start()
    wire = Wire(ours)
    yield wire
    wire.close()
    thread.join(20.0)
    assert not thread.is_alive()


def test_a_limit_of_connect_holds_on_both_sides_and_the_error_names_it(connect):
    worker = connect("stdio", filters={"echo": f.Echo()}, limits={"header": 40_000})
    assert worker.forward("echo", "a" * 10_000) == "a" * 10_000
    for data in ("a" * 45_000, list(range(100_000))):  # inline, and in shared memory
        with pytest.raises(RemoteError, match="'header'") as caught:
            worker.forward("echo", data)
        assert caught.value.code is ErrorCode.TOO_LARGE
    assert worker.ping().pid


@pytest.mark.parametrize("length", [1001, 100_000])
def test_a_line_over_the_limit_is_skipped_to_its_end(limited, length):
    limited.send(b"a" * length + b'\n{"cmd":"PING","id":"next"}\n')
    reply = limited.line()
    assert (reply["ok"], reply["code"]) == (False, "too_large")
    assert "1,000" in reply["error"]
    assert limited.line()["id"] == "next"


def test_a_line_at_the_limit_is_read(limited):
    line = b'{"cmd":"PING","id":"at the limit"}'
    limited.send(line.ljust(1000) + b"\n")
    assert limited.line()["id"] == "at the limit"


def test_a_line_over_the_limit_without_an_end_is_told_at_once(limited):
    limited.send(b"a" * 5000)
    assert limited.line()["code"] == "too_large"
    limited.send(b"b" * 5000 + b"\n" + PING)
    assert limited.line()["ok"] is True


def test_a_frame_over_a_limit_is_skipped_to_its_end(limited):
    limited.send(frame({"cmd": "PING", "meta": {"a": "a" * 600}}) + PING)
    assert limited.either()["code"] == "too_large"
    assert limited.line()["ok"] is True
    limited.send(frame({"cmd": "PING"}, (bytes(2000),)) + PING)
    assert limited.either()["code"] == "too_large"
    assert limited.line()["ok"] is True


def test_a_frame_of_very_many_buffers_is_refused_before_they_are_read(limited):
    limited.send(preamble(2, 2**32 - 1, 2**40))
    assert limited.either()["code"] == "too_large"


def test_hello_tells_the_limits(limited):
    client = {
        "name": "a",
        "soma": "",
        "python": ".".join(map(str, sys.version_info[:3])),
        "cloudpickle": cloudpickle.__version__,
    }
    reply = limited.ask("HELLO", protocol=1, client=client)
    assert reply["limits"] == {"line": 1000, "header": 500, "nesting": 200}


@pytest.mark.parametrize("transport", PROCESSES)
def test_a_host_that_goes_away_without_reading_does_not_hang_the_worker(open_wire, transport):
    wire = open_wire(transport)
    wire.load(big=f.Apply(lambda x, state: "a" * 10_000_000))
    pid = wire.ask("PING")["pid"]
    wire.send(b'{"cmd":"FORWARD","node_id":"big"}\n')
    wire.connection.close()
    begun = time.monotonic()
    if wire.process is not None:
        wire.process.wait(20.0)
    wait_until_gone(pid)
    assert time.monotonic() - begun < 20.0
