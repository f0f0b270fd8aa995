"""A few hundred streams of the fuzzer, and that it would find what it looks for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from soma_core.wire import codec
from soma_core.wire.parser import MessageParser
from soma_core.wire.recurring import RecurringHeaders

from . import target
from .found import load, save
from .inputs import Input, Inputs
from .target import Failure, run

ROOT = Path(__file__).resolve().parents[2]
SEED = int(os.environ.get("SOMA_FUZZ_SEED", "1"))


@pytest.mark.parametrize("seed", range(SEED, SEED + 4))
def test_every_message_of_any_stream_gets_one_sound_reply(seed: int, tmp_path: Path) -> None:
    inputs = Inputs(seed)
    for _ in range(100):
        given = inputs.draw()
        try:
            if run(given):
                inputs.keep(given)
        except Failure as failure:
            again = f"python -m tests.fuzz --reproduce {save(given, tmp_path)}"
            raise AssertionError(f"{failure}; to run it again: {again}") from failure


def finds(seed: int) -> str:
    """Fuzz until something is found, and return what."""
    inputs = Inputs(seed)
    for _ in range(400):
        try:
            run(inputs.draw())
        except Failure as failure:
            return str(failure)
    raise AssertionError("nothing was found")


def test_a_frame_that_is_skipped_to_the_wrong_place_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    skip = MessageParser._skip
    monkeypatch.setattr(MessageParser, "_skip", lambda parser, left: skip(parser, left - 1))
    assert "the reference" in finds(3)


@pytest.mark.parametrize(
    ("happens", "told"),
    [
        (lambda: 1 / 0, "division by zero"),
        (lambda: np.empty(60_000_000, np.uint8), "of memory"),
        (lambda: codec._invalid("\ud800").never, "no attribute"),
    ],
)
def test_an_unexpected_exception_and_a_large_allocation_are_found(
    monkeypatch: pytest.MonkeyPatch, happens: object, told: str
) -> None:
    tensor = codec.Decoder._tensor

    def wrong(decoder: codec.Decoder, data: object) -> object:
        happens()  # type: ignore[operator]
        return tensor(decoder, data)

    monkeypatch.setitem(codec._TAGGED, "Tensor", wrong)
    assert told in finds(3)


def test_the_same_seed_draws_the_same_streams() -> None:
    one, other = Inputs(7), Inputs(7)
    assert [one.draw() for _ in range(50)] == [other.draw() for _ in range(50)]
    assert Inputs(8).draw() != Inputs(7).draw()


def test_what_was_found_is_read_back_from_its_file(tmp_path: Path) -> None:
    given = Input(b"\x93SOMA\n\n{}", (1, 1, 4))
    assert load(save(given, tmp_path)) == given


def test_the_command_fuzzes_for_a_time_and_runs_a_file_again(tmp_path: Path) -> None:
    path = save(Input(b'{"cmd":"PING"}\n'), tmp_path)
    for arguments, tells in (
        (["--minutes", "0.02", "--seed", "5", "--out", str(tmp_path)], "seed 5: "),
        (["--reproduce", str(path)], f"{path}: sound"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz", *arguments],
            cwd=ROOT, capture_output=True, text=True, timeout=100,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert tells in done.stdout


@pytest.fixture
def built_anew() -> Iterator[None]:
    """What the target builds once is built in this test alone: it keeps what is patched here."""
    for built in (target._responder, target._parser):
        built.cache_clear()
    yield
    for built in (target._responder, target._parser):
        built.cache_clear()


@pytest.mark.usefixtures("built_anew")
def test_a_header_that_is_taken_for_another_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    recognise = RecurringHeaders.recognise

    def careless(headers, header, buffers):
        return recognise(headers, header.rpartition(b',"id":')[0] + b',"id":7}', buffers)

    monkeypatch.setattr(RecurringHeaders, "recognise", careless)
    assert "came back as 7" in finds(5)


@pytest.mark.usefixtures("built_anew")
def test_a_header_that_is_recognised_wrongly_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    recognise = RecurringHeaders.recognise

    def careless(headers, header, buffers):
        recognised = recognise(headers, header, buffers)
        if recognised is not None and "data" in recognised[1]:
            recognised[1]["data"] = None
        return recognised

    monkeypatch.setattr(RecurringHeaders, "recognise", careless)
    assert "recognised as" in finds(5)
