import sys

import pytest


@pytest.fixture
def pigeon(install, tmp_path):
    (tmp_path / "site" / "pigeon_transport.py").write_text(
        "from soma_core.transport import Transport\n"
        "class Pigeon(Transport):\n"
        "    @classmethod\n"
        "    def serve(cls, arguments):\n"
        "        print(arguments)\n"
        "        return 7\n"
        "class Mute(Transport):\n"
        "    pass\n"
    )
    install(
        "pigeons", "soma.transports", pigeon="pigeon_transport:Pigeon", mute="pigeon_transport:Mute"
    )
    yield
    sys.modules.pop("pigeon_transport", None)


def test_a_daemon_gets_the_arguments_as_they_are_and_its_status_is_ours(soma, pigeon):
    result = soma("serve", "pigeon", "--path", "/a b", "-v", "--help")
    assert result.exit_code == 7
    assert result.stdout == "['--path', '/a b', '-v', '--help']\n"


def test_a_transport_without_a_daemon_is_an_error(soma, pigeon):
    result = soma("serve", "mute")
    assert result.exit_code == 1
    assert "the transport 'mute' has no daemon" in result.stderr


def test_an_unknown_transport_is_an_error_that_names_close_ones(soma):
    result = soma("serve", "sockett")
    assert result.exit_code == 1
    assert "did you mean 'socket'" in result.stderr


def test_help_before_the_name_is_that_of_serve(soma):
    result = soma("serve", "--help")
    assert result.exit_code == 0
    assert "TRANSPORT" in result.stdout.upper()
