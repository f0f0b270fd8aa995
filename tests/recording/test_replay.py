"""Replaying: the same commands over any transport, and how the replies compare."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from ormsgpack import packb

import soma_core as soma
from soma_core.client.recording import Recorder
from soma_core.client.recording.entries import LeftOut, Section
from soma_core.engine.inline import InlineOptions, InlineTransport
from soma_core.replay.comparing import difference
from soma_core.replay.replaying import Outcome, Verdict, replay
from soma_core.transport import Dialect, Message, TransportOptions
from soma_transport_stdio.client import StdioOptions, StdioTransport

from ..support import filters as f
from ..support import nightly
from .conftest import entries

ROWS = np.array([1.0, 2.0, 6.0])


def inline(section: Section) -> InlineTransport:
    return InlineTransport(InlineOptions())


def stdio(section: Section) -> StdioTransport:
    return StdioTransport(StdioOptions())


def again(path: Path, transport=inline, **arguments) -> list[Outcome]:
    return list(replay(path, transport, **arguments))


def verdicts(outcomes: list[Outcome]) -> list[Verdict]:
    return [outcome.verdict for outcome in outcomes]


def rewrite(path: Path, n: int, change) -> None:
    """Change an entry of a recording."""
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    for line in lines:
        if line.get("n") == n:
            change(line)
            line.pop("map_b64", None)  # the map is made of what is shown
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def everything(connect, file) -> Path:
    """A recording of every command."""
    torch.manual_seed(0)
    filters = {
        "mean": f.Mean(),
        "echo": f.Echo(),
        "net": f.net([[1.0, 2.0]], learning_rate=0.1),
        "fail": f.Fail(),
        "accumulate": f.Accumulate(),
    }
    worker = connect("inline", filters=filters, record=file)
    x, y = np.ones((4, 2), "float32"), np.zeros((4, 1), "float32")
    worker.fit("mean", ROWS)
    worker.forward("mean", [1.0, float("nan")])
    worker.forward("echo", {"t": (1, 2), "i": {1: "object"}, "b": b"bytes", "a": ROWS})
    worker.forward("echo", np.arange(100_000.0))
    worker.composite_forward(["echo", "mean"], ROWS)
    worker.composite_fit(["net"], x, y)
    worker.batched_fit(["net"], x, y, batch_size=2)
    worker.batched_fit(["accumulate"], ROWS, batch_size=2)
    worker.set_state("mean", worker.get_state("mean"))
    worker.set_state("net", worker.get_state("net"))
    worker.fit("net", x, y)
    with pytest.raises(soma.RemoteError):
        worker.forward("fail", ["ValueError", "no"])
    worker.unload(["fail"])
    worker.ping()
    worker.shutdown()
    return file


@pytest.mark.parametrize("transport", [inline, pytest.param(stdio, marks=nightly)])
def test_every_command_run_again_gives_the_same_reply(everything, transport):
    outcomes = again(everything, transport)
    others = [o for o in outcomes if o.verdict is not Verdict.SAME]
    assert [o.detail for o in others] in (
        [],
        ["state_b64: a pickle of other bytes, which is not read"],
    )
    assert len(outcomes) >= 18
    assert (outcomes[1].cmd, outcomes[1].node_ids[:2]) == ("LOAD", ["mean", "echo"])


def test_commands_are_sent_byte_for_byte(connect, file, tmp_path):
    first = connect("inline", filters={"echo": f.Echo()}, record=file)
    first.forward("echo", {"a": ROWS, "n": float("nan")})
    copy = tmp_path / "copy.jsonl"
    recorder = Recorder(copy, "inline", TransportOptions())

    class Recorded(InlineTransport):
        def start(self, timeout=None):
            return recorder.over(super().start(timeout))

    again(file, lambda section: Recorded(InlineOptions()))
    recorder.close()

    def sent(path):
        return [e.message for e in entries(path) if e.n % 2]

    assert sent(copy) == sent(file)


def test_one_command_runs_after_those_that_change_what_it_uses(connect, file):
    worker = connect("inline", filters={"mean": f.Mean()}, record=file)
    worker.fit("mean", ROWS)
    worker.forward("mean", 1)
    worker.ping()
    worker.forward("mean", 2)
    worker.fit("mean", ROWS)
    outcomes = again(file, only=11)
    assert [(o.n, o.cmd) for o in outcomes] == [
        (1, "HELLO"),
        (3, "LOAD"),
        (5, "FIT"),
        (11, "FORWARD"),
    ]
    assert set(verdicts(outcomes)) == {Verdict.SAME}


@pytest.mark.parametrize("n", [2, 99])
def test_an_entry_that_is_no_command_is_told(connect, file, n):
    connect("inline", record=file)
    with pytest.raises(soma.ProtocolError, match=f"no command at entry {n}; its last command is"):
        again(file, only=n)


def test_a_reply_that_differs_says_how(connect, file):
    worker = connect("inline", filters={"mean": f.Mean()}, record=file)
    worker.fit("mean", ROWS)
    worker.forward("mean", ROWS)
    rewrite(file, 6, lambda line: line["message"]["result"].update(mean=4.0))
    outcomes = again(file)
    assert verdicts(outcomes) == ["same", "same", "different", "same"]
    assert outcomes[2].detail == "result.mean: 4.0, now 3.0"


def test_a_command_whose_buffer_was_left_out_does_not_run(connect, file):
    recording = soma.Recording(file, limit=100_000)
    worker = connect("inline", filters={"echo": f.Echo()}, record=recording)
    worker.forward("echo", np.zeros(25_000))
    worker.forward("echo", 1)
    outcomes = again(file)
    assert verdicts(outcomes) == ["same", "same", "not run", "same"]
    assert "200,000 bytes of the command were left out" in outcomes[2].detail


def test_a_death_that_happens_again_is_the_same(connect, file):
    worker = connect("socket", filters={"process": f.Process()}, record=file)
    with pytest.raises(soma.WorkerDied):
        worker.forward("process", ["kill", signal.SIGSEGV])
    outcome = again(file, stdio)[-1]
    assert outcome.verdict is Verdict.SAME
    assert outcome.detail == "the worker was killed by SIGSEGV"


@nightly
def test_another_death_and_no_death_differ(connect, file):
    worker = connect("socket", filters={"process": f.Process()}, record=file)
    with pytest.raises(soma.WorkerDied):
        worker.forward("process", ["leave", 3])
    worker.close()

    def change(to):
        rewrite(file, 5, lambda line: line["message"].update(data=to))
        return again(file, stdio)[-1]

    other, none = change(["leave", 4]), change(["pid"])
    assert (other.verdict, none.verdict) == (Verdict.DIFFERENT, Verdict.DIFFERENT)
    assert "exited with status 3" in other.detail
    assert "now the worker exited with status 4" in other.detail
    assert "now a reply came" in none.detail


@pytest.mark.nightly
def test_after_an_unexpected_death_the_rest_does_not_run(connect, file):
    worker = connect("socket", filters={"process": f.Process()}, record=file)
    worker.forward("process", ["pid"])
    worker.ping()
    rewrite(file, 5, lambda line: line["message"].update(data=["leave", 1]))
    outcomes = again(file, stdio)
    assert verdicts(outcomes) == ["same", "same", "failed", "not run"]
    assert "exited with status 1" in outcomes[3].detail


def test_a_command_without_a_recorded_reply_runs_and_is_judged_by_nobody(connect, file):
    connect("inline", record=file).ping()
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))
    assert verdicts(again(file)) == ["same", "not compared"]


@nightly
def test_a_command_that_takes_too_long_ends_at_its_timeout(connect, file):
    worker = connect("socket", filters={"sleep": f.Sleep()}, record=file)
    worker.forward("sleep", ["naps", 0])
    rewrite(file, 5, lambda line: line["message"].update(data=["deaf", 600]))
    outcome = again(file, stdio, timeout=10)[-1]  # in which a busy machine loads the filter
    assert (outcome.verdict, outcome.detail) == (Verdict.FAILED, "no reply within 10 s")


def test_each_section_gets_a_worker_of_its_own(connect, file):
    worker = connect("inline", filters={"echo": f.Echo()}, record=file)
    worker.forward("echo", 1)
    worker.close()
    once = file.read_bytes()
    later = [json.loads(line) for line in once.splitlines()]
    for line in later[1:]:
        line.update(
            n=line["n"] + 6, **({"command": line["command"] + 6} if "command" in line else {})
        )
    file.write_bytes(once + "".join(json.dumps(line) + "\n" for line in later).encode())
    started = []

    def counted(section):
        started.append(inline(section))
        return started[-1]

    assert set(verdicts(again(file, counted))) == {Verdict.SAME}
    assert len(started) == 2
    assert [o.n for o in again(file, only=11)] == [7, 9, 11]


def test_lines_are_run_as_lines(file):
    file.write_text(
        '{"soma_recording": 2, "time": 0, "soma": "0", "python": "3", "cloudpickle": "3", '
        '"transport": "any"}\n'
        '{"n": 1, "direction": "command", "dialect": "line", "message": {"cmd": "LIST"}}\n'
        '{"n": 2, "direction": "reply", "dialect": "line", "command": 1, "message": {}}\n'
        '{"n": 3, "direction": "command", "dialect": "line", "message": {"cmd": "NO", "id": 1}}\n'
    )
    first, second = again(file, stdio)
    assert first.detail.startswith("ok: (nothing), now True")
    assert (second.verdict, second.detail) == (
        Verdict.NOT_COMPARED,
        "no reply is recorded; now an error came",
    )


def test_what_is_no_recording_is_told(file):
    file.write_text('{"n": 1, "direction": "command", "message": {}}\n')
    with pytest.raises(soma.ProtocolError, match="is not a recording"):
        again(file)


def test_with_pickle_never_nothing_in_the_file_is_unpickled(connect, file):
    connect("inline", filters={"echo": f.Echo()}, record=file)
    outcomes = again(file, lambda section: InlineTransport(InlineOptions(pickle="never")))
    assert outcomes[1].verdict is Verdict.DIFFERENT
    assert "now False" in outcomes[1].detail


# Comparing

TENSOR = b'{"ok":true,"result":{"type":"Tensor","data":{"dtype":"%s","shape":[3],"buffer":0}}}'


def reply(header: bytes, *buffers) -> Message:
    return Message(header, list(buffers), Dialect.LINE)


@pytest.mark.parametrize(
    ("old", "new", "how"),
    [
        (reply(b'{"pid":1,"a":2}'), reply(b'{"pid":2,"a":2}'), None),
        (reply(b'{"a":[1,NaN]}'), reply(b'{"a":[1,NaN]}'), None),
        (reply(b'{"error":"at 0x7f001"}'), reply(b'{"error":"at 0x7f002"}'), None),
        (reply(b'{"a":1}'), reply(b'{"a":1.0}'), "a: 1, now 1.0"),
        (reply(b'{"a":true}'), reply(b'{"a":1}'), "a: True, now 1"),
        (reply(b'{"a":{"b":[1]}}'), reply(b'{"a":{"b":[2]}}'), "a.b[0]: 1, now 2"),
        (reply(b'{"a":[1]}'), reply(b'{"a":[1,2]}'), "length of a: 1, now 2"),
        (reply(b"{}"), reply(b'{"a":null}'), "a: (nothing), now None"),
        (reply(b"{}", b""), reply(b"{}"), "1 buffers, now 0"),
        (reply(b"{}", b"a"), reply(b"{}", b"b"), "buffer 0: other bytes"),
        (reply(b"{}", b"a"), reply(b"{}", b"ab"), "buffer 0: 1 bytes, now 2"),
        (reply(b"{}", LeftOut.of(b"a")), reply(b"{}", b"a"), None),
        (
            reply(b"{}", LeftOut.of(b"a")),
            reply(b"{}", b"b"),
            "buffer 0: another content than that of the buffer that was left out",
        ),
    ],
)
def test_a_difference_says_where_and_what(old, new, how):
    assert difference(old, new) == (how and (how, True))


def test_pickles_that_differ_are_told_and_not_judged():
    header = b'{"result":{"type":"Object","data":{"buffer":0,"buffers":[]}}}'
    told = ("result: a pickle of other bytes, which is not read", False)
    assert difference(reply(header, b"a"), reply(header, b"bc")) == told
    line = b'{"result":{"__pickle_b64__":"%s"}}'
    assert difference(reply(line % b"YQ=="), reply(line % b"Yg==")).certain is False


def test_pickled_states_in_frames_are_not_judged_but_a_missing_one_is():
    state = {"ok": True, "format": "cloudpickle"}
    old, new, gone = (
        Message(packb({**state, **more})) for more in ({"state_b64": b"a"}, {"state_b64": b"b"}, {})
    )
    assert difference(old, new).certain is False
    assert difference(old, gone).certain is True


def test_a_certain_difference_beside_a_pickle_counts():
    header = b'{"result":[{"type":"Object","data":{"buffer":0}},%d]}'
    told = difference(reply(header % 1, b"a"), reply(header % 2, b"b"))
    assert told == ("result[1]: 1, now 2", True)


@pytest.mark.parametrize(
    ("old", "new", "how"),
    [
        ([1, 2, 3], [1, 2, 3.5], "1 of 3 values differ, by at most 0.5"),
        ([1, np.nan, 3], [1, np.nan, 4], "1 of 3 values differ, by at most 1"),
        ([1, 2, 3], [np.nan, 2, 3], "1 of 3 values differ, by at most nan"),
    ],
)
def test_arrays_that_differ_say_in_how_many_values_and_by_how_much(old, new, how):
    header = TENSOR % b"float64"
    told = difference(*(reply(header, np.array(side, float).tobytes()) for side in (old, new)))
    assert told == (f"result (Tensor): {how}", True)


def test_arrays_of_no_numbers_differ_in_their_bytes():
    header = TENSOR % b"V1"
    assert difference(reply(header, b"abc"), reply(header, b"abd")).text.endswith("other bytes")


@pytest.mark.parametrize(
    "command",
    [{"cmd": "FIT", "node_id": 3}, {"cmd": "LOAD", "filters": [1]}, {"cmd": 5}, [1], "text", None],
)
def test_a_command_that_is_none_is_run_all_the_same(file, command):
    section = {"soma_recording": 2, "time": 0, "soma": "0", "python": "3", "cloudpickle": "3"}
    lines = [
        {**section, "transport": "any"},
        {"n": 1, "direction": "command", "message": command},
        {"n": 2, "direction": "reply", "command": 1, "message": {"ok": False}},
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (outcome,) = again(file)
    assert outcome.detail.startswith("error: (nothing), now")
