"""What comes from the other side may not take memory without bound, nor nest without end."""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from ormsgpack import Ext, packb

import soma_core as soma
from soma_core import ErrorCode
from soma_core.channel.shared_memory import SharedMemory
from soma_core.streams import SocketStream, StreamChannel, StreamLimits
from soma_core.transport import Dialect, Message
from soma_core.wire import frames
from soma_core.wire.line_codec import MAX_NESTING
from soma_core.wire.line_codec import LineDecoder as Decoder
from soma_core.wire.pickles import Pickles
from soma_core.wire.unpacking import Extension, Unpacking, unpack

from .hostile import hostile_worker

LIMITS = StreamLimits(line=10_000, header=10_000, body=100_000)
WRAPPINGS = {
    "lists": ("[", "]", 1),
    "objects": ('{"a":', "}", 1),
    "Json": ('{"type":"Json","data":', "}", 1),
    "scalars": ('{"$soma":"scalar","array":', "}", 1),
    "tuples": ('{"$soma":"tuple","items":[', "]}", 2),
    "spelled dicts": ('{"$soma":"dict","items":[["a",', "]]}", 3),
}


def nested(wrapping: str, levels: int) -> bytes:
    before, after, each = WRAPPINGS[wrapping]
    times = levels // each
    return f'{{"ok":true,"result":{before * times}1{after * times}}}'.encode()


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_reply_that_nests_without_end_is_an_error_and_no_crash(wrapping: str) -> None:
    worker = hostile_worker(lambda _: Message(nested(wrapping, 1_000_000), (), Dialect.LINE))
    with pytest.raises(soma.ProtocolError, match="recursion limit") as caught:
        worker.forward("a", 1)
    assert caught.value.code is ErrorCode.MALFORMED


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_reply_that_nests_as_deep_as_it_may_is_read(wrapping: str) -> None:
    worker = hostile_worker(lambda _: Message(nested(wrapping, MAX_NESTING - 6), (), Dialect.LINE))
    if wrapping == "scalars":
        with pytest.raises(soma.ProtocolError, match="not well formed"):
            worker.forward("a", 1)
    else:
        assert worker.forward("a", 1) is not None


def test_lone_surrogates_are_no_way_around_the_limit() -> None:
    reply = nested("lists", 1_000_000).replace(b'"ok"', b'"\\ud800":1,"ok"')
    with pytest.raises(soma.ProtocolError) as caught:
        hostile_worker(lambda _: Message(reply, (), Dialect.LINE)).forward("a", 1)
    assert caught.value.code is ErrorCode.MALFORMED


TENSORS: dict[str, dict[str, Any]] = {
    "lists by many axes": {"values": [1.0], "shape": [1] * 100_000},
    "many empty lists": {"values": [], "shape": [2**40, 0]},
    "many texts of no bytes": {"b64": "", "dtype": "S0", "shape": [2**40]},
    "many wide texts of no bytes": {"b64": "", "dtype": "U0", "shape": [2**62]},
    "more bytes than came": {"b64": "", "dtype": "float64", "shape": [2**40]},
    "more values than came": {"values": [], "dtype": "float64", "shape": [2**40]},
    "torch, more bytes than came": {
        "b64": "",
        "dtype": "float64",
        "shape": [2**40],
        "container": "torch",
    },
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_few_bytes_do_not_become_a_large_array(name: str) -> None:
    if "torch" in name:
        pytest.importorskip("torch")
    with pytest.raises(soma.ProtocolError) as caught:
        Decoder().decode({"type": "Tensor", "data": TENSORS[name]})
    assert caught.value.code is ErrorCode.INVALID_COMMAND


def test_empty_texts_of_an_ordinary_number_still_travel() -> None:
    tensor = {"b64": "", "dtype": "S0", "shape": [3]}
    assert Decoder().decode({"type": "Tensor", "data": tensor}).tolist() == [b""] * 3


def ext(number: Extension, *content: Any) -> Ext:
    return Ext(number, packb([*content]))


OF_ONE_HASH = [
    Ext(Extension.INT, (number * sys.hash_info.modulus).to_bytes(12, "big", signed=True))
    for number in range(300)
]
EXTENSIONS = {
    "a set of what has one hash": ext(Extension.STDLIB, "set", OF_ONE_HASH),
    "a dict of what has one hash": ext(Extension.MAP, OF_ONE_HASH, [0] * 300),
    "an ordered one": ext(Extension.STDLIB, "OrderedDict", sorted(OF_ONE_HASH * 2, key=id)),
    "a scalar of a number's length": ext(Extension.SCALAR, "float64", 3 * 10**9),
    "scalars of a number's length": ext(Extension.SCALARS, "uint8", 3 * 10**9),
    "a UUID of a number's length": ext(Extension.STDLIB, "UUID", 3 * 10**9),
    "a fraction of a text": ext(Extension.STDLIB, "Fraction", ["1e1000000000"]),
    "a date of what its pickle holds": ext(Extension.STDLIB, "date", [b"\x07\xe4\x01\xff"]),
    "a decimal of a number": ext(Extension.STDLIB, "Decimal", 1.5),
    "tuples of a length that did not come": ext(Extension.RAGGED, [3 * 10**9], [1]),
    "pickles of a number that did not come": ext(Extension.PICKLES, 3 * 10**9, 0, []),
    "a time zone that is a directory": ext(Extension.STDLIB, "time", [0] * 5 + ["Europe"]),
    "a time zone of a long name": ext(Extension.STDLIB, "time", [0] * 5 + ["x" * 5000]),
}


@pytest.mark.parametrize("name", EXTENSIONS)
def test_an_extension_of_a_few_bytes_is_refused_before_it_takes_memory_or_time(name: str) -> None:
    header = packb({"id": 1, "ok": True, "result": EXTENSIONS[name]})
    tracemalloc.start()
    with pytest.raises(soma.ProtocolError, match="is not well formed") as caught:
        unpack(header, [], Pickles(allowed=False))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.code is ErrorCode.INVALID_COMMAND
    assert most < 1 << 20


def test_a_buffer_that_many_lists_of_pickles_name_is_that_of_one() -> None:
    lists = [ext(Extension.PICKLES, 100_000, 0, [])] * 100
    header = packb({"id": 1, "ok": True, "result": lists})
    tracemalloc.start()
    with pytest.raises(soma.ProtocolError, match="is named twice"):
        Unpacking([bytearray(100_000)], Pickles(allowed=False), resolve=False).map(header)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 20


@pytest.mark.parametrize("number", [Extension.TUPLES, Extension.RECORDS])
def test_columns_within_each_other_do_not_stand_for_many_times_their_bytes(number: Any) -> None:
    content: Any = [1] * 10_000
    for _ in range(5):
        content = ext(number, *([["a"]] if number == Extension.RECORDS else []), content)
    header = packb({"id": 1, "ok": True, "result": content})
    tracemalloc.start()
    with pytest.raises(soma.ProtocolError, match="send them one by one"):
        unpack(header, [], Pickles(allowed=False))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 400 * len(header)


@pytest.mark.parametrize("replied_to", [ext(Extension.ARRAY, 0, "int64", [2]), "1", [1], None])
def test_a_reply_whose_id_is_no_number_is_of_nobody(replied_to: Any) -> None:
    header = packb({"id": replied_to, "ok": True})
    worker = hostile_worker(lambda _: Message(header, [bytearray(16)], Dialect.FRAME))
    with pytest.raises(soma.ProtocolError, match="mixed up messages") as caught:
        worker.forward("a", 1)
    assert caught.value.code is ErrorCode.MALFORMED


@pytest.fixture
def ends() -> Iterator[tuple[StreamChannel, socket.socket]]:
    """A channel with small limits, and the socket at its other end."""
    ours, theirs = socket.socketpair()
    channel = StreamChannel(SocketStream(ours), LIMITS)
    yield channel, theirs
    channel.close()
    theirs.close()


def refused(channel: StreamChannel) -> soma.ProtocolError:
    with pytest.raises(soma.ProtocolError) as caught:
        channel.receive(5.0)
    return caught.value


def test_a_line_over_the_limit_is_refused_before_it_is_whole(ends: Any) -> None:
    channel, theirs = ends
    theirs.sendall(b"a" * (LIMITS.line + 1))
    assert refused(channel).code is ErrorCode.TOO_LARGE
    theirs.sendall(b"a" * 100_000 + b"\n{}\n")
    assert channel.receive(5.0).header == b"{}"


@pytest.mark.parametrize(
    ("header_size", "entries", "body_size"),
    [(20_000, 0, 30_000), (10, 1_000, 30_000), (10, 1, 1 << 50), (10, 1, 200_000)],
)
def test_a_frame_is_refused_by_its_preamble_alone(
    ends: Any, header_size: int, entries: int, body_size: int
) -> None:
    channel, theirs = ends
    start = frames.MAGIC + bytes((2, 0, 0))  # of the layout that the module describes
    fields = struct.pack("<8sIIQ", start, header_size, entries, body_size)
    theirs.sendall(fields + zlib.crc32(fields).to_bytes(4, "little"))
    assert refused(channel).code is ErrorCode.TOO_LARGE


def test_a_region_of_shared_memory_over_the_limit_is_refused() -> None:
    wires, sides = socket.socketpair(), socket.socketpair()
    memory = SharedMemory(sides[0], initiate=True, largest=LIMITS.body)
    host = StreamChannel(SocketStream(wires[0]), LIMITS, memory)
    worker = StreamChannel(SocketStream(wires[1]), None, SharedMemory(sides[1], initiate=False))
    try:
        for sender, receiver in ((host, worker), (worker, host), (host, worker)):
            sender.send(Message(b"{}"))
            receiver.receive(5.0)
        worker.send(Message(b"{}", [np.zeros(LIMITS.body, np.uint8).data]))
        assert len(host.receive(5.0).buffers) == 1
        worker.send(Message(b"{}", [np.zeros(10 * LIMITS.body, np.uint8).data]))
        assert refused(host).code is ErrorCode.TOO_LARGE
        worker.send(Message(b"[]"))
        assert host.receive(5.0).header == b"[]"
    finally:
        host.close()
        worker.close()


def test_the_limits_of_a_host_are_an_option_of_its_transport() -> None:
    answer = json.dumps("x" * 20_000)
    script = f"import os; os.read(0, 1); print({answer!r}, flush=True)"
    with pytest.raises(soma.StartFailed, match=r"longer than the limit of 10,000 bytes"):
        soma.connect("stdio", command=["python3", "-c", script], limits={"line": 10_000})


@pytest.fixture
def torrent() -> Iterator[Any]:
    """A channel to whoever sends the same bytes without end; a function begins that."""
    ours, theirs = socket.socketpair()
    channel = StreamChannel(SocketStream(ours))
    senders: list[threading.Thread] = []

    def send(data: bytes) -> StreamChannel:
        def pour() -> None:
            with suppress(OSError):
                while True:
                    theirs.sendall(data)

        senders.append(threading.Thread(target=pour))
        senders[-1].start()
        return channel

    with theirs:
        yield send
        channel.close()
        for sender in senders:
            sender.join()


def test_bytes_without_end_that_are_no_message_do_not_hold_up_a_receive(torrent: Any) -> None:
    channel = torrent(b"\n" * 4096)
    with pytest.raises(TimeoutError):
        channel.receive(0.05)


@pytest.mark.parametrize("id", [None, 1], ids=["of nobody", "of an earlier command"])
def test_announcements_without_end_do_not_hold_up_a_call(id: int | None) -> None:
    stray = {"event": "progress", "cmd": "FORWARD", "data": {}} if id is None else {"ok": True}
    message = Message(packb({**stray, "id": id}))
    worker = hostile_worker(lambda _: message, endless=True)
    with pytest.raises(soma.DeadlineExceeded):
        worker.forward("n", 1, timeout=0.05)


@pytest.mark.parametrize("options", ["cpu", 1, [], None], ids=repr)
def test_options_of_a_tensor_that_are_no_map_are_malformed(options: object) -> None:
    pytest.importorskip("torch")
    tensor = Ext(2, packb([0, "float32", [2], options]))
    reply = Message(packb({"ok": True, "result": tensor}), [bytearray(8)])
    worker = hostile_worker(lambda _: reply)
    with pytest.raises(soma.ProtocolError, match="its options are a map"):
        worker.forward("n", 1)
