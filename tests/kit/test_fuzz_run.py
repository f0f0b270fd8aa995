"""A fuzz run notices a daemon that answers too little, too much, or in the wrong dialect."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest
from ormsgpack import packb

from soma_core.testing import FuzzRun, Mutant, Mutator
from soma_core.transport import Dialect
from soma_core.wire import frames

REFUSAL = b'{"ok":false,"code":"malformed"}'
FRAME = frames.write_frame(packb(json.loads(REFUSAL)), [])
MUTANTS = [Mutant(b"x%d\n" % number, Dialect.LINE) for number in range(5)]


def daemon(answer: Callable[[bytes], bytes]) -> Callable[[], socket.socket]:
    """A daemon that answers PING and LOAD rightly, and any other line by a function."""

    def serve(connection: socket.socket) -> None:
        with suppress(ConnectionError), connection, connection.makefile("rwb") as stream:
            for line in stream:
                known = line.startswith(b'{"cmd":') and json.loads(line)
                reply = known and json.dumps({"ok": True, "id": known["id"]}).encode() + b"\n"
                stream.write(reply or answer(line))
                stream.flush()

    def connect() -> socket.socket:
        ours, theirs = socket.socketpair()
        threading.Thread(target=serve, args=[theirs], daemon=True).start()
        return ours

    return connect


def failures(answer: Callable[[bytes], bytes]) -> list[str]:
    fuzz_run = FuzzRun(daemon(answer))
    fuzz_run.send(MUTANTS)
    fuzz_run.close()
    return fuzz_run.failures


def test_a_daemon_that_answers_each_message_once_gets_no_complaint() -> None:
    assert failures(lambda line: REFUSAL + b"\n") == []


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (b"", "there was no reply at all"),
        (2 * (REFUSAL + b"\n"), "instead of the next reply"),
        (FRAME, "the reply is a frame"),
        (b'{"what":1}\n', "this is not a reply"),
        (b'{"ok":true,"result":NaN}\n', "a bare NaN"),
        (b"what\n", "Expecting value"),
    ],
)
def test_a_daemon_that_answers_one_message_wrongly_gets_one_complaint(reply, failure) -> None:
    (found,) = failures(lambda line: reply if line == b"x2\n" else REFUSAL + b"\n")
    assert failure in found
    assert "x2" in found


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (b"", "ended without the reply"),
        (REFUSAL + b"\nmore", "something comes after"),
        (FRAME, "the reply is a frame"),
    ],
)
def test_a_wrong_end_of_a_stream_gets_a_complaint(reply, failure) -> None:
    fuzz_run = FuzzRun(daemon(lambda line: reply))
    fuzz_run.send_closing(Mutant(b"cut off", Dialect.LINE, closes=True))
    assert failure in fuzz_run.failures[0]


@pytest.mark.parametrize("dialect", list(Dialect))
def test_the_same_seed_makes_the_same_mutants(dialect) -> None:
    first, second = (list(Mutator(5).mutants(dialect, 200)) for _ in range(2))
    assert first == second
    assert len(set(first)) > 150


def test_a_mutated_line_is_one_line_and_not_blank() -> None:
    for mutant in Mutator(6).mutants(Dialect.LINE, 3000):
        assert mutant.data.count(b"\n") == 1
        assert mutant.data.endswith(b"\n")
        assert mutant.data.strip()


def test_a_mutated_frame_declares_the_length_that_it_has_or_is_a_line() -> None:
    kinds = set()
    for mutant in Mutator(7).mutants(Dialect.FRAME, 3000):
        kinds.add(mutant.dialect)
        if mutant.dialect is Dialect.FRAME:
            start = frames.read_preamble(mutant.data)
            assert frames.PREAMBLE_SIZE + start.body_size == len(mutant.data)
    assert kinds == set(Dialect)
