"""The service of the documentation answers, joins, gives up, and ends well."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from ..support import is_running, wait_until

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "service"


def free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Service:
    """The service in a process of its own."""

    def __init__(self) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "uvicorn", "--app-dir", str(FOLDER), "app:app"]
        options = ["--port", str(self.port), "--log-level", "warning"]
        self.process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)

    def end(self):
        """End it, if it has not ended by itself."""
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()

    def get(self, path, body=None):
        """The status and the JSON of an answer; (0, None) where nobody answers."""
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", data, 20) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)
        except OSError:
            return 0, None


@pytest.fixture
def service():
    service = Service()
    try:
        wait_until(lambda: service.get("/ready")[0] == 200)
        yield service
    finally:
        service.end()


def test_it_serves_many_clients_survives_a_dead_worker_and_ends_at_sigterm(service):
    rows = [[0.1, 0.2, 0.3, 0.4]] * 2
    assert service.get("/health") == (200, {"healthy": True})
    status, answer = service.get("/predict", {"rows": rows})
    assert status == 200
    assert len(answer["classes"]) == 2
    for wrong in ({}, {"rows": [[1.0]]}, {"rows": "x"}, []):
        assert service.get("/predict", wrong)[0] == 422

    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(service.get, ["/predict"] * 200, [{"rows": rows}] * 200))
    assert answers == [(200, answer)] * 200

    killed, _ = service.get("/ready")[1]["workers"]
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: service.get("/stats")[1]["replaced"] == 1)
    assert service.get("/predict", {"rows": rows}) == (200, answer)

    pids = service.get("/ready")[1]["workers"]
    service.process.terminate()
    assert service.process.wait(20) in (0, -signal.SIGTERM)
    wait_until(lambda: not any(map(is_running, pids)))


@pytest.mark.nightly
def test_a_client_that_hangs_up_leaves_a_service_that_serves(service):
    rows = [[0.1, 0.2, 0.3, 0.4]]
    body = json.dumps({"rows": rows * 50_000}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for sent in [head + body] * 5 + [head + body[:1000]] * 5:
        with closing(socket.create_connection(("127.0.0.1", service.port))) as client:
            client.sendall(sent)
    wait_until(lambda: service.get("/stats")[1]["running"] == 0)
    assert service.get("/predict", {"rows": rows})[0] == 200
    service.process.terminate()
    assert "Traceback" not in service.process.stderr.read()
