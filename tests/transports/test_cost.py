"""What a call costs in Python functions: the same for every payload of plain data."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import soma_core as soma
from soma_core.engine.serving import Responder
from soma_core.plugins.catalog import Catalog
from soma_core.plugins.manager import PluginSet
from soma_core.protocol.commands import Forward
from soma_core.protocol.dialects import FrameCodec
from soma_core.streams import SocketStream, StreamChannel
from soma_core.testing import Echo
from soma_core.wire.pickles import Pickles

MOST_CALLS = 40
RECORD = {"id": 7, "name": "a", "score": 0.5, "tags": ["x"], "ok": True, "note": None}
# An array costs some eight, a list of what MessagePack has not some fifty, and one within that some
# thirty more, however long they are.
MORE = {
    "an array": 8,
    "two arrays": 22,
    "arrays by name": 16,
    "nested with an array": 8,
    "100 tuples": 50,
    "100 tuples of several lengths": 50,
    "100 tuples of tuples": 84,
    "100 records with tuples": 70,
    "100 tuples by name": 70,
    "100 numbers by number": 30,
    "50 numpy scalars": 54,
}
PAYLOADS: dict[str, Any] = {
    "a float": 1.5,
    "a short text": "text",
    "10 floats": [0.5] * 10,
    "a record": RECORD,
    "bytes": bytes(10_240),
    "1,000 ints": list(range(1000)),
    "64 texts": ["some text"] * 64,
    "200 records": [RECORD] * 200,
    "50 rows": [[0.5] * 20] * 50,
    "100 tuples": [(1, "a")] * 100,
    "100 tuples of several lengths": [(1,) * n for n in range(100)],
    "100 tuples of tuples": [((1, "a"), (2.0,))] * 100,
    "100 records with tuples": [{"id": 1, "box": (1, 2, 3, 4)}] * 100,
    "100 tuples by name": {str(n): (n, 0.5) for n in range(100)},
    "100 numbers by number": dict.fromkeys(range(100), 0.5),
    "50 numpy scalars": [np.float64(0.5)] * 50,
    "an array": np.arange(10.0),
    "two arrays": (np.ones(10), np.zeros(3)),
    "arrays by name": {"x": np.ones(10), "y": np.zeros(3)},
    "nested with an array": {"a": [RECORD, {"b": np.ones(3)}]},
}


def most_calls(name: str) -> int:
    return MOST_CALLS + MORE.get(name, 0)


def calls_of(step: Callable[[], Any]) -> int:
    """How many Python functions a step calls; a collection of garbage may call some too."""
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        step()
    finally:
        sys.setprofile(None)
    return count


@pytest.fixture(scope="module")
def worker():
    with soma.connect("stdio", filters={"echo": Echo()}) as worker:
        yield worker


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_forward_of_any_plain_data_takes_few_functions_in_the_host(worker, name):
    payload = PAYLOADS[name]
    worker.forward("echo", payload)
    counts = [calls_of(lambda: worker.forward("echo", payload)) for _ in range(3)]
    assert min(counts) <= most_calls(name)


@pytest.fixture(scope="module")
def no_plugins() -> PluginSet:
    return PluginSet(Catalog("soma.no_such_group", "plugin"), {})


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_forward_of_any_plain_data_takes_few_functions_in_the_worker(
    no_plugins, name, monkeypatch
):
    monkeypatch.delitem(sys.modules, "torch", raising=False)  # as in a worker without it
    host, here = socket.socketpair()
    channel, other = StreamChannel(SocketStream(here)), StreamChannel(SocketStream(host))
    responder = Responder(plugins=no_plugins)
    loaded = FrameCodec(Pickles()).write(
        {"cmd": "LOAD", "filters": [{"id": "echo", "pickle_b64": Pickles().dump(Echo())}]}, Forward
    )
    responder.respond(loaded, other.send)
    command = {"cmd": "FORWARD", "node_id": "echo", "data": PAYLOADS[name], "id": 1}

    def serve() -> None:
        channel.send(responder.respond(channel.receive(), channel.send))

    counts = []
    for _ in range(3):
        other.send(FrameCodec(Pickles()).write(dict(command), Forward))
        counts.append(calls_of(serve))
        other.receive()
    channel.close()
    other.close()
    assert min(counts) <= most_calls(name)


def test_a_command_that_no_plugin_takes_part_in_takes_no_detour(no_plugins):
    class Observes:
        @staticmethod
        @soma.hookimpl(commands={"FIT"})
        def soma_command_finished(command: Any) -> None:
            raise AssertionError("called")

    plugins = PluginSet(Catalog("soma.no_such_group", "plugin"), {})
    plugins.register("observes fits", Observes)
    assert plugins.observing("FORWARD", frozenset()) == []
    assert len(plugins.observing("FIT", frozenset())) == 1
