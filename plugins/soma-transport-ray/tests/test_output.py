"""What a filter prints, logs and warns is seen on the host, wherever its engine runs."""

from __future__ import annotations

import logging
import signal
import warnings
from pathlib import Path

import pytest

import soma_core as soma
from soma_core.testing import Actions

from .conftest import FAR, HERE

WHERE = pytest.mark.parametrize("resources", [HERE, FAR], ids=["here", "far"])


class Chatty:
    """Prints, logs and warns what it is given; at the end of its process it prints once more."""

    def on_load(self):
        import atexit

        atexit.register(print, "the end")

    def forward(self, x, state):
        import os

        print("printed", x)  # noqa: T201 - what it is about
        logging.getLogger("chatty").error("logged %s", x)
        warnings.warn(f"warned {x}", stacklevel=1)
        os.write(2, f"written {x}\n".encode())
        return x


class Waits:
    """Prints, and then waits until there is a file."""

    def __init__(self, path):
        self.path = path

    def forward(self, x, state):
        import os
        import time

        print("begun")  # noqa: T201 - what it is about
        while not os.path.exists(self.path):
            time.sleep(0.01)
        return x


class Dies(Actions):
    """Prints before it does what it is told."""

    def forward(self, x, state):
        print("last words")  # noqa: T201 - what it is about
        return super().forward(x, state)


@WHERE
def test_it_has_been_seen_when_the_call_returns(start, resources, caplog):
    lines = []
    worker = start({"chatty": Chatty()}, resources=resources, output=lines.append)
    with pytest.warns(UserWarning, match="warned 3"):
        worker.forward("chatty", 3)
    assert sorted(lines) == ["printed 3", "written 3"]
    assert {line.node_id for line in lines} == {"chatty"}
    assert caplog.messages == ["logged 3"]
    worker.close()
    if resources == HERE:  # elsewhere nobody can read it any more
        assert lines[2:] == ["the end"]


@WHERE
def test_it_is_seen_while_the_command_runs(start, tmp_path, resources):
    gate = tmp_path / "gate"
    worker = start(
        {"waits": Waits(str(gate))}, resources=resources, output=lambda line: gate.touch()
    )
    assert worker.forward("waits", 1) == 1


@WHERE
def test_the_last_words_of_a_worker_that_dies_are_seen(start, resources, tmp_path):
    path = tmp_path / "printed.log"
    worker = start({"dies": Dies()}, resources=resources, output=str(path))
    with pytest.raises(soma.WorkerDied, match="last words"):
        worker.forward("dies", ["die", int(signal.SIGKILL)])
    assert "last words" in Path(path).read_text()


def test_each_client_of_a_session_sees_what_its_own_commands_print(start):
    lines = [], []
    options = {"session": "talks", "resources": HERE}
    first = start({"chatty": Chatty()}, output=lines[0].append, **options)
    second = start(output=lines[1].append, **options)
    for number, client in enumerate([first, second, first]):
        with pytest.warns(UserWarning, match="warned"):
            client.forward("chatty", number)
    assert sorted(lines[0]) == ["printed 0", "printed 2", "written 0", "written 2"]
    assert sorted(lines[1]) == ["printed 1", "written 1"]
    first.shutdown()
    assert lines[0][4:] == ["the end"]
