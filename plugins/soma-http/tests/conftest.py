"""Shared by the tests: a server that runs in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

for _module in ("httpx", "prometheus_client", "starlette", "uvicorn", "websockets"):
    pytest.importorskip(_module, reason=f"{_module} is not installed; make http has all")

TOKEN = "a-token-that-nobody-guesses"
TRUSTING = """
[server]
port = 0
tokens = "tokens.txt"
pickle = "clients may run any code as this user"
[workers]
most = 16
"""


class Client:
    """Asks an application without a server; each request has an event loop of its own."""

    def __init__(
        self, app: Any, base_url: str = "http://127.0.0.1:8000", root_path: str = ""
    ) -> None:
        self._app, self._url, self._root_path = app, base_url, root_path

    def request(self, method: str, path: str, **options: Any) -> Any:
        import httpx

        async def ask() -> Any:
            transport = httpx.ASGITransport(self._app, root_path=self._root_path)
            async with httpx.AsyncClient(transport=transport, base_url=self._url) as client:
                return await client.request(method, path, **options)

        return asyncio.run(ask())

    def get(self, path: str, **options: Any) -> Any:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> Any:
        return self.request("POST", path, **options)


@contextmanager
def serving(
    directory: Path, config: str, arguments: Sequence[str] = (), **environment: str
) -> Iterator[str]:
    """A server with a configuration, for the time of the context; yields its URL."""
    (directory / "tokens.txt").write_text(f"# of the tests\n{TOKEN}\n")
    path = directory / "models.toml"
    path.write_text(config)
    program = "import sys; from soma_http.server.command import run; sys.exit(run(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "--config", str(path), *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            said = json.loads(line)["message"] if "json" in arguments else line
            if found := re.search(r"listening at (\S+)", said):
                break
        else:
            raise AssertionError(f"the server ended with {process.wait()}")
        yield found[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20.0) == 0
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stderr.close()


@pytest.fixture(scope="session")
def trusting_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that lets clients send pickles."""
    log = ("--log-format", "json")  # of which each line is an object
    with serving(tmp_path_factory.mktemp("http"), TRUSTING, log) as url:
        yield url
