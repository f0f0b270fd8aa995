"""Other users: let in by an explicit list alone, and then never with pickles."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import soma_core as soma
from soma_core.errors import StartFailed
from soma_transport_socket import address
from soma_transport_socket.daemon.peers import Peers

from ..support import gate_runs, run_python, short_directory, socket_daemon
from .conftest import Watched

STRANGER = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")

BECOME = f"""
with soma.connect("inline", pickle="never", filters={{"echo": ("watched.Echo", {{}})}}) as worker:
    worker.forward("echo", 1)  # imports what a user without access to it could not
import soma_transport_socket.client, soma_core.channel.shared_memory, traceback
os.setgroups([]); os.setgid({STRANGER}); os.setuid({STRANGER})
"""


@pytest.fixture
def stranger(watched: Watched, tmp_path: Path) -> Callable[..., str]:
    """Runs a script as a host of another user, which connects by ``connect(**options)``."""

    def run(script: str, path: Path, **options: Any) -> str:
        beginning = (
            "import functools, os\nimport numpy as np\nimport soma_core as soma\n"
            f"{BECOME}\nconnect = functools.partial(soma.connect, 'socket', path={str(path)!r}, "
            f"**{options!r})\n"
        )
        done = run_python(beginning + script, directory=tmp_path, env=watched.environment)
        return done.stdout

    return run


@pytest.fixture
def reachable() -> Any:
    """A directory that other users may enter, and where they may not write."""
    with short_directory() as directory:
        directory.chmod(0o755)
        yield directory


@pytest.mark.nightly
@as_root
def test_a_user_who_is_let_in_gets_typed_values_and_no_pickles(
    reachable: Path, stranger: Any, watched: Watched
) -> None:
    path = reachable / "for-others" / "soma.sock"
    script = """
with connect(filters={"echo": ("watched.Echo", {}), "odd": ("watched.Odd", {})}) as worker:
    print(worker.forward("echo", [1, b"2"]), worker.forward("echo", np.ones(100_000)).sum())
    for call in (
        lambda: worker.forward("odd", 1),
        lambda: worker.forward("echo", slice(1, 2)),
        lambda: worker.get_state("echo", format="cloudpickle"),
    ):
        try:
            call()
        except (soma.RemoteError, soma.ProtocolError) as error:
            print(error.code)
"""
    arguments = ("--allow-uid", str(STRANGER))
    with socket_daemon(path, *arguments, env=watched.environment):
        said = stranger(script, path, owner=os.getuid(), pickle="never").splitlines()
    assert said == ["[1, b'2'] 100000.0", *["pickle_refused"] * 3]
    assert watched.unpickled == []


OPENINGS = [
    b"",
    b'\x93SOMR{"op":"connect"}\n',
    b'\x93SOMR{"op":"connect","pickle":"same-user"}\n',
]


@as_root
@pytest.mark.parametrize(
    "opening",
    gate_runs(OPENINGS[-1], of=OPENINGS),
    ids=["no request", "no policy", "pickles wanted"],
)
def test_pickles_are_off_for_another_user_whatever_the_connection_asks_for(
    reachable: Path, stranger: Any, watched: Watched, opening: bytes
) -> None:
    path = reachable / "soma.sock"
    script = f"""
import base64, json, pickle, socket
class Evil:
    def __reduce__(self):
        return os.mkdir, ("{reachable}/executed",)
client = socket.socket(socket.AF_UNIX)
client.settimeout(30)
client.connect({str(path)!r})
stream = client.makefile("rwb")
def ask(line):
    stream.write(line)
    stream.flush()
    return json.loads(stream.readline())
if {opening!r}:
    assert ask({opening!r})["ok"]
versions = {{"name": "a", "soma": "", "python": "", "cloudpickle": ""}}
print(ask(json.dumps({{"cmd": "HELLO", "protocol": 1, "client": versions}}).encode() + b"\\n")["pickle"])
b64 = base64.b64encode(pickle.dumps(Evil())).decode()
print(ask(json.dumps({{"cmd": "LOAD", "filters": [{{"id": "a", "pickle_b64": b64}}]}}).encode() + b"\\n")["code"])
"""  # noqa: E501
    with socket_daemon(path, "--allow-uid", str(STRANGER), env=watched.environment):
        assert stranger(script, path) == "never\npickle_refused\n"
    assert not (reachable / "executed").exists()
    assert watched.unpickled == []


@pytest.mark.nightly
@as_root
def test_another_user_who_is_not_on_the_list_is_refused(
    reachable: Path, stranger: Any, watched: Watched
) -> None:
    path = reachable / "soma.sock"
    script = """
try:
    connect()
except soma.StartFailed as error:
    print(error)
"""
    with socket_daemon(path, "--allow-uid", "12345", env=watched.environment):
        said = stranger(script, path, owner=os.getuid(), pickle="never")
    assert "nobody else" in said
    assert "user 12345, without pickles" in said


@pytest.mark.nightly
@as_root
def test_the_daemons_own_user_keeps_pickles_beside_others(reachable: Path) -> None:
    path = reachable / "soma.sock"
    with (
        socket_daemon(path, "--allow-uid", str(STRANGER)),
        soma.connect("socket", path=path, filters={"echo": Echoes()}) as worker,
    ):
        assert worker.forward("echo", slice(1, 2)) == slice(1, 2)


class Echoes:
    def fit(self, x: Any, y: Any = None) -> Any:
        return {}

    def forward(self, x: Any, state: Any) -> Any:
        return x


@as_root
def test_a_host_does_not_use_another_users_daemon_unasked(reachable: Path, stranger: Any) -> None:
    path = reachable / "soma.sock"
    script = """
try:
    connect()
except soma.StartFailed as error:
    print(error)
"""
    with socket_daemon(path, "--allow-uid", str(STRANGER)):
        said = stranger(script, path, pickle="never")
    assert "belongs to user 0, not to you" in said
    assert "owner=0 and pickle='never'" in said


def test_another_users_daemon_needs_pickles_off() -> None:
    with pytest.raises(ValueError, match="connect with pickle='never'"):
        soma.connect("socket", path="/nowhere", owner=os.getuid() + 1)


def modes(path: Path) -> tuple[int, int]:
    return stat.S_IMODE(path.parent.stat().st_mode), stat.S_IMODE(path.stat().st_mode)


def test_the_modes_let_others_in_only_where_there_are_any() -> None:
    with short_directory() as directory:
        for others, expected in ((False, (0o700, 0o600)), (True, (0o711, 0o666))):
            path = directory / str(others) / "soma.sock"
            before = os.umask(0o077)
            try:
                with address.bind(path, for_others=others)[0]:
                    assert modes(path) == expected
            finally:
                os.umask(before)


def test_a_directory_that_others_cannot_enter_is_told_with_what_to_do() -> None:
    with (
        short_directory() as directory,
        pytest.raises(StartFailed, match=f"chmod o\\+x {directory}"),
    ):
        address.bind(directory / "soma.sock", for_others=True)


@as_root
def test_a_directory_by_a_link_of_another_user_is_not_used() -> None:
    with short_directory() as directory:
        (directory / "real").mkdir(mode=0o700)
        (directory / "link").symlink_to(directory / "real")
        os.lchown(directory / "link", STRANGER, STRANGER)
        with pytest.raises(StartFailed, match="other users may replace"):
            address.bind(directory / "link" / "soma.sock")


def test_who_is_served_and_how_is_told_by_the_uid_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = Peers([7])
    left, right = socket.socketpair()
    with left, right:
        for uid, served, policy in (
            (os.getuid(), True, "same-user"),
            (7, True, "never"),
            (8, False, "never"),
        ):
            monkeypatch.setattr(address, "peer_uid", lambda _, uid=uid: uid)
            assert (peers.serves(left), peers.policy(left, ["same-user"])) == (served, policy)
            assert peers.policy(left, ["same-user", "never"]) == "never"

        def gone(_: Any) -> int:
            raise OSError("not connected")

        monkeypatch.setattr(address, "peer_uid", gone)
        assert not peers.serves(left)


def test_the_command_says_what_it_takes() -> None:
    command = [sys.executable, "-m", "soma_transport_socket", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "--allow-uid UID" in said
    assert "always without pickles" in " ".join(said.split())
