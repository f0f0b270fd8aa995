"""INTERRUPT as a message: for hosts that no signal leads from to the worker."""

from __future__ import annotations

import asyncio
import base64
import json
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

import cloudpickle
import pytest

import soma_core as soma

from ..support import filters as f
from ..support import nightly, short_directory, socket_daemon, wait_until

HELLO = {
    "cmd": "HELLO", "id": 0, "protocol": 1, "interrupts": "wire",
    "client": {"name": "by hand", "soma": "", "python": "", "cloudpickle": ""},
}  # fmt: skip
PYTHON = [sys.executable, "-P", "-m", "soma_transport_stdio"]
LAUNCHER = ["sh", "-c", '"$0" "$@"; exit $?', *PYTHON]  # the shell waits, and hands no signal on


class Host:
    """A host that writes lines and reads lines."""

    def __init__(self, writing: BinaryIO, reading: BinaryIO) -> None:
        self._writing, self._reading = writing, reading
        assert "interrupts" in self.ask(HELLO)["features"]

    def say(self, *messages: dict[str, Any]) -> None:
        self._writing.write(b"".join(json.dumps(one).encode() + b"\n" for one in messages))
        self._writing.flush()

    def heard(self) -> dict[str, Any]:
        return json.loads(self._reading.readline())

    def interrupt(self, command: int) -> list[tuple[int, str]]:
        """Interrupt a command until it ends: how it ended, and what became of one INTERRUPT."""
        sent = 0
        while True:
            self.say(interrupt(command + 1, command))
            sent += 1
            if select.select([self._reading], [], [], 0.2)[0]:
                ended, *taken = [outcome(self.heard()) for _ in range(1 + sent)]
                assert len(set(taken)) == 1
                return [ended, taken[0]]

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        self.say(message)
        return self.heard()

    def load(self) -> None:
        pickle_b64 = base64.b64encode(cloudpickle.dumps(f.Sleep())).decode()
        spec = {"id": "sleep", "pickle_b64": pickle_b64}
        assert self.ask({"cmd": "LOAD", "filters": [spec]})["ok"]


def sleep(message_id: int, seconds: float = 60.0, *note: Any) -> dict[str, Any]:
    data = ["call", seconds, *map(str, note)]
    return {"cmd": "FORWARD", "id": message_id, "node_id": "sleep", "data": data}


def interrupt(message_id: int, command: Any) -> dict[str, Any]:
    return {"cmd": "INTERRUPT", "id": message_id, "command": command}


def outcome(reply: dict[str, Any]) -> tuple[Any, str]:
    return reply["id"], reply.get("code", "ok")


@pytest.fixture(scope="module")
def piped() -> Iterator[Host]:
    """A host over plain pipes."""
    process = subprocess.Popen(PYTHON, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    host = Host(process.stdin, process.stdout)
    host.load()
    yield host
    process.stdin.close()
    assert process.wait(20.0) == 0
    process.stdout.close()


def test_it_ends_the_command_that_runs(piped, note):
    piped.say(sleep(1, 60.0, note))
    wait_until(note.exists)
    assert piped.interrupt(1) == [(1, "interrupted"), (2, "ok")]


def test_it_ends_a_command_that_has_not_begun_and_none_before_or_behind_it(piped):
    piped.say(sleep(1, 0.05), sleep(2), interrupt(3, 2), {"cmd": "PING", "id": 4})
    heard = [outcome(piped.heard()) for _ in range(4)]
    assert heard == [(1, "ok"), (2, "interrupted"), (3, "ok"), (4, "ok")]


def test_it_does_nothing_to_a_command_that_is_over_or_has_its_id_later(piped):
    assert outcome(piped.ask(sleep(1, 0.0))) == (1, "ok")
    piped.say(interrupt(2, 1), sleep(1, 0.05))
    assert [outcome(piped.heard()) for _ in range(2)] == [(2, "ok"), (1, "ok")]


@pytest.fixture(scope="module")
def clients() -> Iterator[tuple[Host, Host]]:
    """Two clients of one session of the socket daemon."""
    with short_directory() as directory, socket_daemon(directory / "s") as daemon:
        connections = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        hosts = []
        for connection in connections:
            connection.settimeout(60.0)
            connection.connect(str(daemon.path))
            connection.sendall(b'\x93SOMR{"op": "connect", "session": "shared"}\n')
            reading, writing = connection.makefile("rb"), connection.makefile("wb")
            assert json.loads(reading.readline())["ok"]
            hosts.append(Host(writing, reading))
        hosts[0].load()
        yield hosts[0], hosts[1]
        for connection in connections:
            connection.close()


def test_in_a_session_it_ends_the_command_of_its_own_client(clients, note):
    one, other = clients
    one.say(sleep(1, 60.0, note))
    wait_until(note.exists)
    other.say(interrupt(2, 1))  # no command of its own has this id
    other.say(sleep(3), interrupt(4, 3))  # it waits for the other client's
    heard = [outcome(other.heard()) for _ in range(3)]
    assert heard == [(2, "ok"), (3, "interrupted"), (4, "ok")]
    assert one.interrupt(1) == [(1, "interrupted"), (2, "ok")]
    assert outcome(other.ask({"cmd": "PING", "id": 6})) == (6, "ok")


@pytest.mark.nightly
def test_our_client_sends_it_through_a_launcher(note):
    with soma.connect("stdio", command=LAUNCHER, filters={"sleep": f.Sleep()}) as worker:
        pid = worker.ping().pid
        with pytest.raises(soma.DeadlineExceeded) as caught:
            worker.forward("sleep", ["call", 60.0], timeout=0.2)
        assert caught.value.worker_survived
        thread = threading.Thread(target=lambda: wait_until(note.exists) and worker.interrupt())
        thread.start()
        with pytest.raises(soma.RemoteError) as interrupted:
            worker.forward("sleep", ["call", 60.0, str(note)])
        thread.join()
        assert interrupted.value.code == "interrupted"
        assert worker.ping().pid == pid


@nightly
def test_our_awaiting_client_sends_it_too():
    async def calls() -> None:
        filters = {"sleep": f.Sleep()}
        async with soma.connect_async("stdio", command=LAUNCHER, filters=filters) as worker:
            pid = (await worker.ping()).pid
            with pytest.raises(soma.DeadlineExceeded) as caught:
                await worker.forward("sleep", ["call", 60.0], timeout=0.2)
            assert caught.value.worker_survived
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(worker.forward("sleep", ["call", 60.0]), 0.2)
            assert (await worker.ping()).pid == pid

    asyncio.run(calls())
