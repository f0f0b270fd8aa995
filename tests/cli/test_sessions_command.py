"""``soma sessions``: listing and ending what clients share."""

import json
import sys

import pytest

from soma_core.client.connect import connect

from ..support import short_directory, socket_daemon

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sessions need Linux")


@pytest.fixture
def daemon():
    with short_directory() as directory, socket_daemon(directory / "soma.sock") as started:
        yield started


@pytest.mark.nightly
def test_sessions_are_listed_and_ended_by_name(soma, daemon):
    with connect("socket", path=daemon.path, session="warm") as worker:
        (listed,) = json.loads(soma("sessions", "--path", daemon.path, "--json").stdout)
        assert (listed["name"], listed["clients"]) == ("warm", 1)
        assert listed["pid"] == worker.ping().pid
        table = soma("sessions", "list", "--path", daemon.path).stdout
        assert table.splitlines()[0].split() == ["session", "pid", "clients", "memory", "runs"]
        assert table.splitlines()[1].split()[:3] == ["warm", str(listed["pid"]), "1"]
    ended = soma("sessions", "--path", daemon.path, "stop", "warm")
    assert ended.exit_code == 0
    assert "the session warm has ended" in ended.stderr
    assert "there are no sessions" in soma("sessions", "--path", daemon.path).stderr


@pytest.mark.parametrize("name", ["absent", "not a name"])
def test_a_session_that_is_not_there_cannot_be_ended(soma, daemon, name):
    result = soma("sessions", "stop", name, "--path", daemon.path)
    assert result.exit_code == 1
    assert name in result.stderr
    assert "Traceback" not in result.stderr


def test_without_a_daemon_the_command_to_start_one_is_reported(soma, tmp_path):
    result = soma("sessions", "--path", tmp_path / "s")
    assert result.exit_code == 1
    assert "soma serve socket --path" in result.stderr


def test_a_transport_without_sessions_is_an_error(soma):
    result = soma("sessions", "--transport", "stdio")
    assert result.exit_code == 1
    assert "the transport 'stdio' has no sessions" in result.stderr
