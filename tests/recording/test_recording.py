"""Recording a worker: what is written, and that it never breaks a call."""

from __future__ import annotations

import logging
import os
import signal
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import soma_core as soma
from soma_core.client.recording.entries import Direction, LeftOut, Section, message_fields
from soma_core.client.recording.recorder import Recorder
from soma_core.replay.reading import read_calls, read_recording

from ..support import TRANSPORTS, either, gate_runs, wait_until
from ..support import filters as f
from .conftest import entries, notes

ROWS = np.array([1.0, 2.0, 6.0])


@pytest.mark.parametrize("transport", gate_runs("inline", "socket", of=TRANSPORTS))
def test_every_command_and_every_reply_is_written(connect, file, transport):
    worker = connect(transport, filters={"mean": f.Mean()}, record=file)
    worker.fit("mean", ROWS)
    worker.forward("mean", ROWS)
    commands = [message_fields(e.message) for e in entries(file)[::2]]
    replies = [message_fields(e.message) for e in entries(file)[1::2]]
    assert [command["cmd"] for command in commands] == ["HELLO", "LOAD", "FIT", "FORWARD"]
    assert [reply["id"] for reply in replies] == [command["id"] for command in commands]
    assert entries(file)[4].message.buffers == [ROWS.tobytes()]
    assert entries(file)[-1].message.buffers == [(ROWS - 3.0).tobytes()]


def test_an_entry_is_in_the_file_as_soon_as_the_call_returns(connect, file):
    worker = connect("inline", filters={"echo": f.Echo()}, record=str(file))
    for n in range(3):
        worker.forward("echo", n)
        assert message_fields(entries(file)[-1].message)["result"] == n


@pytest.mark.parametrize("transport", gate_runs("inline", "socket", of=TRANSPORTS))
def test_large_arrays_are_written_as_the_filter_saw_them(connect, file, transport):
    worker = connect(transport, filters={"spoil": f.Spoil(), "echo": f.Echo()}, record=file)
    sent = np.arange(300_000.0)
    worker.forward("spoil", sent)
    received = worker.forward("echo", sent)
    received[:] = 0
    large = [b for e in entries(file) for b in e.message.buffers if len(b) == sent.nbytes]
    assert large == [sent.tobytes()] * 3


def test_events_are_written_and_belong_to_their_command(connect, file):
    worker = connect("inline", filters={"report": f.Report()}, record=file)
    worker.fit("report", 2, progress=lambda event: None)
    command, *events, reply = entries(file)[4:]
    assert [event.direction for event in events] == [Direction.EVENT] * 2
    assert {entry.command for entry in (*events, reply)} == {command.n}


def test_numbers_grow_by_one_and_a_reply_names_its_command(connect, file):
    connect("inline", filters={"echo": f.Echo()}, record=file).ping()
    assert [entry.n for entry in entries(file)] == list(range(1, 7))
    assert [entry.command for entry in entries(file)] == [1, 1, 3, 3, 5, 5]


def test_the_first_line_says_who_wrote_it_over_what(connect, file):
    connect("stdio", record=file, cwd="/")
    section = next(iter(read_recording(file)))
    assert isinstance(section, Section)
    assert section.transport == "stdio"
    assert section.python == ".".join(map(str, sys.version_info[:3]))
    assert section.options == {"cwd": "/"}


def test_secrets_in_the_options_are_not_written(connect, file):
    python = [sys.executable, "-m", "soma_transport_stdio"]
    connect("stdio", record=file, env={"API": "sesame"}, command=["env", "U=x://me:pw@h", *python])
    options = next(iter(read_recording(file))).options
    assert options["env"] == {"API": "(not recorded)"}
    assert options["command"][:2] == ["env", "U=x://(not recorded)@h"]
    assert b"sesame" not in file.read_bytes()


def test_only_the_owner_can_read_the_file(connect, file):
    before = os.umask(0)
    try:
        connect("inline", record=file)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


# What was there before


def test_the_recording_before_is_kept_beside_it(connect, file):
    for n in range(3):
        worker = connect("inline", filters={"echo": f.Echo()}, record=file)
        worker.forward("echo", n)
        worker.close()
    before = file.with_name("flight.jsonl.1")
    results = [message_fields(entries(p)[-1].message)["result"] for p in (before, file)]
    assert results == [1, 2]
    assert sorted(file.parent.iterdir()) == [file, before]


@pytest.mark.parametrize("last", [None, 5])
@pytest.mark.parametrize("name", ["flight.jsonl", "flight.jsonl.1"])
def test_a_file_that_is_no_recording_is_left_as_it_is(connect, file, name, last):
    precious = file.with_name(name)
    precious.write_text("precious")
    with pytest.raises(ValueError, match=r"exists and is not a recording; it was left as it is"):
        connect("inline", record=soma.Recording(file, last=last))
    assert precious.read_text() == "precious"
    assert list(file.parent.iterdir()) == [precious]


def test_a_symbolic_link_is_not_followed(connect, file, tmp_path):
    (tmp_path / "target").touch()
    file.symlink_to(tmp_path / "target")
    with pytest.raises(ValueError, match="symbolic link"):
        connect("inline", record=file)


def test_what_is_no_file_is_refused_at_once(connect, file):
    os.mkfifo(file)
    with pytest.raises(ValueError, match="not a recording"):
        connect("inline", record=file)


def test_a_directory_that_is_missing_is_told(connect, tmp_path):
    with pytest.raises(ValueError, match=r"cannot write .*No such file or directory"):
        connect("inline", record=tmp_path / "missing" / "flight.jsonl")


def test_two_workers_cannot_write_one_file(connect, file):
    first = connect("inline", record=file)
    with pytest.raises(ValueError, match="is being written for another worker"):
        connect("inline", record=file)
    first.ping()
    assert len(entries(file)) == 4


def test_a_worker_that_did_not_start_leaves_the_file_free(connect, file):
    for _ in range(2):
        with pytest.raises(soma.StartFailed):
            connect("stdio", record=file, python="/nonexistent")
    connect("inline", record=file)


@pytest.mark.parametrize("arguments", [{"last": 0}, {"limit": 0}])
def test_amounts_below_one_are_refused(file, arguments):
    with pytest.raises(ValueError, match="is at least 1, got 0"):
        soma.Recording(file, **arguments)


# Errors name the entry


@pytest.mark.parametrize("transport", gate_runs("inline", "socket", of=TRANSPORTS))
def test_a_failed_command_names_the_file_and_the_entry(connect, file, transport):
    worker = connect(transport, filters={"fail": f.Fail()}, record=file)
    with pytest.raises(ValueError, match="no") as caught:
        worker.forward("fail", ["ValueError", "no"])
    n = entries(file)[-2].n
    expected = f"recorded as entry {n} of {file}; soma replay {file} --only {n}"
    assert notes(caught.value).endswith(expected)


@either
def test_a_death_names_the_entry_and_is_an_entry_itself(connect, file, transport):
    worker = connect(transport, filters={"process": f.Process()}, record=file)
    with pytest.raises(soma.WorkerDied) as caught:
        worker.forward("process", ["kill", signal.SIGKILL])
    assert "recorded as entry 5 of" in notes(caught.value)
    with pytest.raises(soma.WorkerDied):
        worker.ping()
    command, failure = entries(file)[4:]
    assert (command.n, failure.command) == (5, 5)
    assert failure.direction is Direction.FAILURE
    told = message_fields(failure.message)
    assert told["type"] == "WorkerDied"
    assert "SIGKILL" in told["error"]


def test_a_deadline_names_the_entry(connect, file, long_grace):
    worker = connect("socket", filters={"sleep": f.Sleep()}, record=file)
    with pytest.raises(soma.DeadlineExceeded) as caught:
        worker.forward("sleep", ["naps", 60], timeout=0.2)
    assert "recorded as entry 5 of" in notes(caught.value)
    kinds = [entry.direction for entry in entries(file)[4:]]
    assert kinds == [Direction.COMMAND, Direction.REPLY, Direction.FAILURE]


def test_threads_that_share_a_worker_are_each_told_their_own_entry(connect, file):
    worker = connect("socket", filters={"fail": f.Fail()}, record=file)

    def fail(text):
        with pytest.raises(soma.RemoteError) as caught:
            worker.forward("fail", ["ValueError", text])
        return text, int(notes(caught.value).rpartition(" ")[2])

    with ThreadPoolExecutor(8) as threads:
        told = list(threads.map(fail, (f"failure {number}" for number in range(80))))
    by_number = {entry.n: message_fields(entry.message) for entry in entries(file)}
    assert [by_number[n]["data"][1] for _, n in told] == [text for text, _ in told]


def test_what_was_never_sent_names_no_entry(connect, file):
    worker = connect("inline", filters={"echo": f.Echo()}, record=file)
    worker.forward("echo", 1)
    with pytest.raises(soma.ProtocolError) as caught:
        worker.forward("echo", [threading.Lock()])
    assert notes(caught.value) == ""


def test_a_path_with_a_space_is_quoted_for_the_shell(connect, tmp_path):
    worker = connect("inline", filters={"fail": f.Fail()}, record=tmp_path / "my flight")
    with pytest.raises(soma.RemoteError) as caught:
        worker.forward("fail", ["ValueError", "no"])
    assert f"soma replay '{tmp_path}/my flight' --only 5" in notes(caught.value)


def test_without_record_errors_name_nothing(connect):
    worker = connect("inline", filters={"fail": f.Fail()})
    with pytest.raises(soma.RemoteError) as caught:
        worker.forward("fail", ["ValueError", "no"])
    assert "recorded" not in notes(caught.value)


# The ring


def commands(path: Path) -> list[str]:
    return [call.cmd for call in read_calls(path)]


def test_a_ring_writes_nothing_while_all_is_well(connect, file):
    worker = connect("inline", filters={"echo": f.Echo()}, record=soma.Recording(file, last=3))
    for n in range(10):
        worker.forward("echo", n)
    worker.close()
    assert not file.exists()


def test_a_ring_is_written_when_a_command_fails_with_what_the_last_ones_build_on(connect, file):
    filters = {"mean": f.Mean(), "fail": f.Fail()}
    worker = connect("inline", filters=filters, record=soma.Recording(file, last=3))
    worker.fit("mean", ROWS + 1)
    worker.fit("mean", ROWS)
    for n in range(10):
        worker.forward("mean", n)
    with pytest.raises(soma.RemoteError) as caught:
        worker.forward("fail", ["ValueError", "no"])
    assert commands(file) == ["LOAD", "FIT", *["FORWARD"] * 3]
    kept = [e.n for e in entries(file) if e.direction is Direction.COMMAND]
    assert kept == [3, 7, 25, 27, 29]
    assert "recorded as entry 29 of" in notes(caught.value)


def test_a_second_failure_adds_what_came_since(connect, file):
    worker = connect("inline", filters={"fail": f.Fail()}, record=soma.Recording(file, last=3))
    for _ in range(2):
        worker.ping()
        with pytest.raises(soma.RemoteError):
            worker.forward("fail", ["ValueError", "no"])
    assert commands(file) == ["HELLO", "LOAD", "PING", "FORWARD", "PING", "FORWARD"]


def test_a_ring_forgets_filters_that_were_unloaded_or_replaced(connect, file):
    worker = connect("inline", record=soma.Recording(file, last=1))
    for _ in range(3):
        worker.load({"echo": f.Echo()})
    worker.load({"other": f.Echo()})
    worker.unload(["other"])
    with pytest.raises(soma.RemoteError):
        worker.forward("nobody", 1)
    assert commands(file) == ["LOAD", "FORWARD"]


@either
def test_a_ring_is_written_when_the_worker_dies(connect, file, transport):
    recording = soma.Recording(file, last=1)
    worker = connect(transport, filters={"process": f.Process()}, record=recording)
    with pytest.raises(soma.WorkerDied):
        worker.forward("process", ["leave", 3])
    assert commands(file) == ["LOAD", "FORWARD"]
    assert entries(file)[-1].direction is Direction.FAILURE


def test_a_ring_is_written_when_a_deadline_passes(connect, file):
    worker = connect("socket", filters={"sleep": f.Sleep()}, record=soma.Recording(file, last=1))
    with pytest.raises(soma.DeadlineExceeded):
        worker.forward("sleep", ["naps", 60], timeout=0.2)
    assert commands(file) == ["LOAD", "FORWARD"]


def test_a_load_that_is_repeated_by_value_is_no_failure(connect, file, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text(
        "class Echo:\n"
        "    def fit(self, x, y=None): return {}\n"
        "    def forward(self, x, state): return x\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_here

    recording = soma.Recording(file, last=9)
    worker = connect("stdio", filters={"echo": only_here.Echo()}, record=recording)
    assert worker.forward("echo", 1) == 1
    assert not file.exists()


def test_a_ring_copies_what_passes_through_it(connect, file):
    filters = {"echo": f.Echo(), "fail": f.Fail()}
    worker = connect("inline", filters=filters, record=soma.Recording(file, last=9))
    sent = np.ones(4)
    worker.forward("echo", sent)[:] = 7
    sent[:] = 9
    with pytest.raises(soma.RemoteError):
        worker.forward("fail", ["ValueError", "no"])
    assert [e.message.buffers for e in entries(file)[4:6]] == [[np.ones(4).tobytes()]] * 2


def test_a_ring_stays_within_its_limit(connect, file):
    filters = {"echo": f.Echo(), "fail": f.Fail()}
    recording = soma.Recording(file, last=1000, limit=100_000)
    worker = connect("inline", filters=filters, record=recording)
    for _ in range(50):
        worker.forward("echo", np.zeros(1_250))
    with pytest.raises(soma.RemoteError):
        worker.forward("fail", ["ValueError", "no"])
    assert 5 < len(entries(file)) < 20
    assert file.stat().st_size <= 100_000


# Bounds and accidents


def test_large_buffers_that_do_not_fit_are_noted_with_size_and_hash(connect, file):
    worker = connect(
        "inline", filters={"echo": f.Echo()}, record=soma.Recording(file, limit=100_000)
    )
    worker.forward("echo", np.zeros(25_000))
    worker.forward("echo", np.ones(1))
    large, _, small, _ = entries(file)[4:]
    assert large.message.buffers == [LeftOut.of(bytes(200_000))]
    assert small.message.buffers == [np.ones(1).tobytes()]


def test_a_recording_that_is_full_ends_with_a_warning_and_the_calls_go_on(connect, file, caplog):
    worker = connect(
        "inline", filters={"echo": f.Echo()}, record=soma.Recording(file, limit=20_000)
    )
    with caplog.at_level(logging.WARNING, "soma.recording"):
        for n in range(200):
            assert worker.forward("echo", n) == n
    assert file.stat().st_size <= 20_000
    (record,) = caplog.records
    assert "has reached its limit of 20,000 bytes" in record.getMessage()
    assert len(entries(file)) > 10


def test_a_full_disk_ends_the_recording_between_two_entries_and_not_the_calls(file):
    script = f"""
import logging, resource, signal, sys
import soma_core as soma

class Echo:
    def fit(self, x, y=None): return x
    def forward(self, x, state): return x

logging.basicConfig(stream=sys.stdout, format="%(message)s")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
worker = soma.connect("inline", filters={{"echo": Echo()}}, record={str(file)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
for n in range(200):
    assert worker.forward("echo", n) == n
worker.close()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the worker goes on: OSError") == 1
    assert file.read_bytes().endswith(b"}\n")
    assert len(entries(file)) > 10


@pytest.mark.nightly
def test_a_host_that_is_killed_leaves_every_finished_entry(file):
    script = f"""
import soma_core as soma
worker = soma.connect("inline", record={str(file)!r})
while True:
    worker.ping()
"""
    host = subprocess.Popen([sys.executable, "-c", script])
    try:
        wait_until(lambda: file.exists() and file.stat().st_size > 50_000)
    finally:
        host.kill()
        host.wait()
    numbers = [entry.n for entry in entries(file)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 100


def test_a_last_line_that_was_cut_off_is_passed_over(connect, file):
    connect("inline", record=file).ping()
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    assert [entry.n for entry in entries(file)] == [1, 2, 3]


def test_a_damaged_line_is_named(connect, file):
    connect("inline", record=file).ping()
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join((*lines[:2], b"damage\n", *lines[2:])))
    with pytest.raises(soma.ProtocolError, match=r"flight\.jsonl, line 3: invalid JSON"):
        entries(file)


def test_ctrl_c_while_a_reply_is_recorded_loses_no_reply(connect, file, monkeypatch):
    worker = connect("socket", filters={"echo": f.Echo()}, record=file)
    received = Recorder.received

    def interrupted(recorder, message):
        monkeypatch.setattr(Recorder, "received", received)
        received(recorder, message)
        raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "received", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker.forward("echo", 1)
    assert worker.forward("echo", 2) == 2


def test_a_forked_child_leaves_the_recording_to_its_parent(connect, file):
    worker = connect("inline", filters={"echo": f.Echo()}, record=file)
    size = file.stat().st_size
    child = os.fork()
    if child == 0:
        worker.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert file.stat().st_size == size
    assert worker.forward("echo", 1) == 1
    assert len(entries(file)) == 6


def test_reading_unpickles_nothing(file, tmp_path):
    script = f"""
import sys
import soma_core as soma

class Trap:
    def __reduce__(self): return (open, ({str(tmp_path / "sprung")!r}, "x"))

class Echo:
    def fit(self, x, y=None): return x
    def forward(self, x, state): return 0

worker = soma.connect("inline", filters={{"echo": Echo()}}, record={str(file)!r})
worker.forward("echo", [{{1: Trap()}}])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (tmp_path / "sprung").unlink()
    assert commands(file) == ["HELLO", "LOAD", "FORWARD"]
    assert not (tmp_path / "sprung").exists()


def test_gradients_alone_do_not_push_out_what_was_fitted(connect, file):
    filters = {"net": f.net([[1.0, 2.0]]), "fail": f.Fail()}
    worker = connect("inline", filters=filters, record=soma.Recording(file, last=2))
    worker.set_state("net", worker.get_state("net"))
    worker.compute_gradients(["net"], np.ones((1, 2), "f4"), np.ones((1, 1), "f4"))
    for _ in range(4):
        worker.forward("net", np.ones((1, 2), "f4"))
    with pytest.raises(soma.RemoteError):
        worker.forward("fail", ["ValueError", "no"])
    assert "SET_STATE" in commands(file)
