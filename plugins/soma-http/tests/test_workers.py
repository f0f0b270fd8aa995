"""Workers over HTTP: values, pickles, interrupts, prints and ends, with few processes."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
from soma_http import HttpOptions, HttpTransport
from soma_http.client import transport
from websockets.sync.client import connect as open_websocket

import soma_core as soma
from soma_core.configuration import check_file
from soma_core.testing.filters import Actions, Echo
from soma_core.testing.wire import Wire

from .conftest import TOKEN, serving

CONFIG = """
[server]
port = 0
tokens = "tokens.txt"
[workers]
most = 2
threads = 1
allow_modules = ["soma_core.testing.filters"]
"""
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("http"), CONFIG) as url:
        yield url


@pytest.fixture(scope="module")
def lines(url):
    """A WebSocket that speaks lines, as a browser would."""
    address = f"{url.replace('http', 'ws', 1)}/workers"
    with open_websocket(address, additional_headers=BEARER) as websocket:
        yield websocket


def request(url: str, method: str, path: str) -> tuple[int, bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10.0)
    try:
        connection.request(method, path, headers=BEARER)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def ask(websocket, text: str) -> dict:
    websocket.send(text)
    return json.loads(websocket.recv(30.0))


def test_a_url_that_is_not_that_of_the_server_says_so(trusting_server):
    with pytest.raises(soma.StartFailed, match="404, no worker is at /nothing/workers"):
        soma.connect("http", url=f"{trusting_server}/nothing", token=TOKEN)


def test_a_server_that_then_speaks_something_else_is_no_start(trusting_server, monkeypatch):
    shaken = transport.shake_hands
    monkeypatch.setattr(transport, "shake_hands", lambda *given: (shaken(*given)[0], b"<html>"))
    with pytest.raises(soma.StartFailed, match="what came is no WebSocket"):
        soma.connect("http", url=trusting_server, token=TOKEN)


def test_text_messages_are_lines(lines):
    assert ask(lines, '{"cmd":\n"PING",\n"id":7}')["id"] == 7
    assert ask(lines, "hello")["code"] == "malformed"


def test_pickles_are_refused_unless_the_operator_allows_them(lines):
    refused = ask(lines, '{"cmd": "LOAD", "filters": [{"id": "x", "pickle_b64": "gASVAAAA"}]}')
    assert refused["code"] == "pickle_refused"


def test_a_worker_is_used_and_ended_over_http(url, lines):
    with soma.connect("http", url=url, token=TOKEN, timeout=30.0) as worker:
        pid = worker.ping().pid
        with pytest.raises(soma.StartFailed, match="503, as many workers run as may"):
            soma.connect("http", url=url, token=TOKEN)
        worker.interrupt()  # nothing runs, and nothing happens
        assert worker.ping().pid == pid
        with pytest.raises(soma.SomaError, match="pickle"):
            worker.load({"echo": Echo(), "actions": Actions()})


def test_a_message_that_the_server_does_not_take_costs_its_call_alone(worker):
    pid = worker.ping().pid
    with pytest.raises(soma.ProtocolError, match="the server takes 67,108,864") as caught:
        worker.forward("echo", np.zeros(9 << 20))
    assert caught.value.code == "too_large"
    assert worker.ping().pid == pid


def test_a_wrong_token_is_said_to_be_wrong(url):
    with pytest.raises(soma.StartFailed, match="401, a token is wanted"):
        soma.connect("http", url=url, token="not the token")


def test_a_binary_message_that_is_no_frame_ends_the_connection(url, lines):
    address = f"{url.replace('http', 'ws', 1)}/workers"
    with open_websocket(address, additional_headers=BEARER) as websocket:
        websocket.send(b"\x93SOMA\x02")
        with pytest.raises(Exception, match="one whole frame"):
            websocket.recv(30.0)
        worker = websocket.response.headers["soma-worker"]
    status, body = request(url, "DELETE", f"/workers/{worker}")
    assert (status, json.loads(body)["ended"]) == (200, True)


def test_nothing_is_known_of_a_worker_that_never_was(url):
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/interrupt")):
        assert request(url, method, f"/workers/0123{path}")[0] == 404


@pytest.fixture(scope="module")
def worker(trusting_server):
    filters = {"echo": Echo(), "actions": Actions()}
    options = {"url": trusting_server, "token": TOKEN, "trust_server": True}
    with soma.connect("http", filters=filters, timeout=30.0, **options) as worker:
        yield worker


def test_arrays_of_any_size_arrive_writable_both_ways(worker):
    for size in (0, 10, 1 << 20, 3 << 20):
        array = np.arange(size, dtype="f4")
        result = worker.forward("echo", array)
        assert np.array_equal(result, array)
        assert result.flags.writeable


def test_a_client_names_no_file_of_the_server(worker, tmp_path):
    path = tmp_path / "secret.npy"
    np.save(path, np.arange(4.0))
    for named in (path, tmp_path / "absent.npy"):
        with pytest.raises(soma.RemoteError, match="SOMA_DATA_FILES=never"):
            worker.batched_fit(["echo"], soma.DataFile(named))


class ReadsFile(soma.Filter):
    path: str

    def on_load(self):
        check_file(self.path)

    def forward(self, x, state):
        return x


def test_the_settings_of_a_filter_name_no_file_of_the_server(worker):
    with pytest.raises(soma.RemoteError, match="SOMA_FILTER_FILES=never"):
        worker.load({"reads": ReadsFile(path="/etc/hostname")})


def test_an_interrupted_command_leaves_the_worker_alive(worker):
    pid = worker.ping().pid
    with pytest.raises(soma.DeadlineExceeded) as caught:
        worker.forward("actions", ["sleep", 20.0], timeout=0.3)
    assert caught.value.worker_survived
    assert worker.ping().pid == pid


def test_what_a_filter_prints_is_shown_before_the_call_returns(worker, capfd):
    worker.forward("actions", ["print", "seen over http\n"])
    assert "seen over http" in capfd.readouterr().err


def test_what_runs_for_a_client_that_is_gone_is_interrupted(trusting_server):
    transport = HttpTransport(HttpOptions(url=trusting_server, token=TOKEN, trust_server=True))
    wire = Wire(transport.start(30.0))
    try:
        wire.load(actions=Actions())
        pid = wire.ask("PING")["pid"]
        wire.send("FORWARD", node_id="actions", data=["sleep", 60.0], events=True)
        wire.channel.close()
        deadline = time.monotonic() + 4.0  # less than the grace, after which it would be killed
        while psutil.pid_exists(pid):
            assert time.monotonic() < deadline, "the worker still runs"
            time.sleep(0.02)
    finally:
        transport.stop(0.0)


def test_a_death_is_reported_with_its_signal_and_last_words(worker):
    with pytest.raises(soma.WorkerDied, match="my last words") as caught:
        worker.forward("actions", ["die", 9, "my last words\n"])
    assert caught.value.signal == "SIGKILL"
