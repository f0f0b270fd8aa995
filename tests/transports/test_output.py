"""What a filter prints is shown by the host, and cannot hold up anybody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import soma_core as soma
from soma_core.channel.printed import LineCutter
from soma_core.transport import OutputLine, OutputPump
from soma_transport_socket import SocketTransport

from ..support import (
    both,
    descriptors,
    nightly,
    run_python,
    short_directory,
    socket_daemon,
    wait_until,
)
from ..support import filters as f

PRINTS = f.Apply(lambda x, s: print(x))  # noqa: T201
RAW = f.Apply(lambda x, s: f.os.write(2, x) and None)


@both
def test_what_was_printed_is_on_the_hosts_stderr_before_the_call_returns(
    connect, transport, capsys
):
    worker = connect(transport, filters={"prints": PRINTS})
    worker.forward("prints", "one\ntwo")
    mark = f"[worker {worker.ping().pid}, prints]"
    assert capsys.readouterr().err == f"{mark} one\n{mark} two\n"


@both
def test_stdout_stderr_and_children_print_in_their_order(connect, transport):
    def speaks(x, state):
        print("out")  # noqa: T201
        f.sys.stderr.write("err\n")
        f.subprocess.run(["echo", "child"])
        f.os.write(1, b"fd 1\n")
        f.os.write(2, b"fd 2\n")

    lines: list[str] = []
    worker = connect(transport, filters={"speaks": f.Apply(speaks)}, output=lines.append)
    worker.forward("speaks", None)
    assert lines == ["out", "err", "child", "fd 1", "fd 2"]


@both
def test_a_line_knows_its_worker_and_its_node(connect, transport):
    lines: list[OutputLine] = []
    worker = connect(transport, filters={"prints": PRINTS}, output=lines.append)
    worker.forward("prints", "hello")
    (line,) = lines
    assert (line.worker, line.node_id) == (f"worker {worker.ping().pid}", "prints")


@both
def test_output_goes_to_the_log_if_asked(connect, transport, caplog, capsys):
    caplog.set_level("INFO", "soma.worker")
    worker = connect(transport, filters={"prints": PRINTS}, output="log")
    worker.forward("prints", "hello")
    (record,) = caplog.records
    assert record.name == "soma.worker"
    assert record.getMessage().endswith(", prints] hello")
    assert capsys.readouterr().err == ""


@both
def test_output_is_added_to_a_file_if_asked(connect, transport, tmp_path, capsys):
    path = tmp_path / "output.log"
    path.write_text("before\n")
    worker = connect(transport, filters={"prints": PRINTS}, output=str(path))
    worker.forward("prints", "hello")
    before, line = path.read_text().splitlines()
    assert before == "before"
    assert line.endswith(", prints] hello")
    assert capsys.readouterr().err == ""


@both
def test_output_is_thrown_away_if_asked_but_for_the_last_words_of_the_dead(
    connect, transport, capsys
):
    dies = f.Apply(lambda x, s: (print("farewell", flush=True), f.os._exit(3)))  # noqa: T201
    worker = connect(transport, filters={"dies": dies}, output="devnull")
    with pytest.raises(soma.WorkerDied) as caught:
        worker.forward("dies", None)
    assert "farewell" in caught.value.stderr
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("output", ["sterr", 5, None])
def test_another_output_is_refused_with_what_is_expected(output):
    with pytest.raises(
        ValueError, match=r"'stderr', 'log', 'devnull', a path .* got " + repr(output)
    ):
        soma.connect("stdio", output=output)


def test_a_file_that_cannot_be_written_is_a_failed_start(tmp_path):
    with pytest.raises(soma.StartFailed, match=r"no_such_directory.* No such file"):
        soma.connect("stdio", output=tmp_path / "no_such_directory" / "log")


@both
def test_what_has_no_newline_is_shown_when_the_call_ends(connect, transport):
    lines: list[str] = []
    worker = connect(transport, filters={"raw": RAW}, output=lines.append)
    worker.forward("raw", b"loss: ")
    assert lines == ["loss: "]


@both
def test_of_a_progress_bar_the_last_state_is_shown(connect, transport):
    def counts(x, state):
        for n in range(x):
            f.os.write(2, b"\r%d/%d" % (n + 1, x))
        f.os.write(2, b"\n")

    lines: list[str] = []
    worker = connect(transport, filters={"counts": f.Apply(counts)}, output=lines.append)
    worker.forward("counts", 500)
    assert lines == ["500/500"]


@pytest.mark.nightly
def test_a_death_after_a_progress_bar_is_told_with_its_last_state(connect):
    def counts(x, state):
        for n in range(800):
            f.os.write(2, b"\r%d/800" % (n + 1) + b"#" * 40)
        f.os.kill(f.os.getpid(), 9)

    worker = connect("stdio", filters={"counts": f.Apply(counts)})
    with pytest.raises(soma.WorkerDied) as caught:
        worker.forward("counts", None)
    assert caught.value.stderr == "800/800" + "#" * 40


def test_a_death_is_told_with_a_bounded_number_of_the_last_lines(connect):
    def shouts(x, state):
        for n in range(1000):
            f.os.write(2, b"%d " % n + b"x" * 5000 + b"\n")
        f.os.kill(f.os.getpid(), 9)

    worker = connect("stdio", filters={"shouts": f.Apply(shouts)}, output="devnull")
    with pytest.raises(soma.WorkerDied) as caught:
        worker.forward("shouts", None)
    assert "999 x" in caught.value.stderr
    assert len(str(caught.value)) < 10_000


@both
def test_nothing_that_is_printed_at_the_very_end_is_lost(connect, transport):
    def leaves(x, state):
        __import__("atexit").register(lambda: print("at exit"))  # noqa: T201
        print("without a newline", end="")  # noqa: T201

    lines: list[str] = []
    worker = connect(transport, filters={"leaves": f.Apply(leaves)}, output=lines.append)
    worker.forward("leaves", None)
    worker.close()
    assert "".join(lines) == "without a newlineat exit"


def test_what_is_printed_between_calls_is_shown_too(connect):
    def begins(x, state):
        f.subprocess.Popen(["sh", "-c", "read line < $0; echo later", x])

    with short_directory() as directory:
        fifo = directory / "fifo"
        os.mkfifo(fifo)
        lines: list[str] = []
        worker = connect("stdio", filters={"begins": f.Apply(begins)}, output=lines.append)
        worker.forward("begins", str(fifo))
        assert lines == []
        fifo.write_text("go\n")
        wait_until(lambda: lines == ["later"])


def test_a_function_that_raises_is_reported_once_and_called_again(connect, capsys):
    lines: list[str] = []

    def raises(line: str) -> None:
        lines.append(line)
        if len(lines) < 3:
            raise ConnectionError("the log server is away")

    worker = connect("stdio", filters={"prints": PRINTS}, output=raises)
    for n in range(4):
        worker.forward("prints", n)
    assert lines == ["0", "1", "2", "3"]
    said = capsys.readouterr().err
    assert said.count("could not be shown (ConnectionError: the log server is away)") == 1


@nightly
def test_a_function_that_never_returns_holds_up_no_worker(connect, tmp_path):
    """It is called on a thread of its own where the worker prints in the middle of a call."""
    called, released = tmp_path / "called", threading.Event()
    lines: list[str] = []

    def blocks(line: str) -> None:
        lines.append(line)
        called.touch()
        released.wait(60.0)

    def shouts(x, state):
        print("first", flush=True)  # noqa: T201
        while not f.os.path.exists(x):
            f.time.sleep(0.001)
        for _ in range(10_000):
            f.os.write(1, b"x" * 999 + b"\n")
        return "done"

    worker = connect("stdio", filters={"shouts": f.Apply(shouts)}, output=blocks)
    try:
        assert worker.forward("shouts", str(called), timeout=30.0) == "done"
        assert lines == ["first"]
    finally:
        released.set()
    worker.close()
    notices = [line for line in lines if "lines are missing here" in line]
    assert len(notices) == 1
    assert lines[-1] == "x" * 999
    assert int(notices[0].split()[0].lstrip("(")) + len(lines) - 2 == 10_000


def test_a_slow_function_gets_every_line(connect):
    lines: list[str] = []

    def shouts(x, state):
        for n in range(20_000):
            f.os.write(1, b"%d " % n + b"x" * 500 + b"\n")

    def slow(line: str) -> None:
        lines.append(line)
        sum(range(2000))

    worker = connect("stdio", filters={"shouts": f.Apply(shouts)}, output=slow)
    worker.forward("shouts", None)
    worker.close()
    assert [line.split()[0] for line in lines] == [str(n) for n in range(20_000)]


@pytest.mark.nightly
def test_a_host_without_stderr_is_not_troubled(tmp_path):
    source = """if True:
        import os, sys
        import soma_core as soma
        class Prints(soma.Filter):
            def forward(self, x, state): print("hello"); return x
        if __name__ == "__main__":
            sys.stderr = None
            with soma.connect("stdio", filters={"prints": Prints()}) as worker:
                print(worker.forward("prints", 1))
    """
    assert run_python(source, directory=tmp_path).stdout == "1\n"


@pytest.mark.nightly
@both
def test_neither_threads_nor_descriptors_are_left(connect, transport):
    worker = connect(transport, filters={"prints": PRINTS}, output="devnull")
    worker.close()
    before, threads = descriptors(), set(threading.enumerate())
    worker = connect(transport, filters={"prints": PRINTS}, output="devnull")
    worker.forward("prints", "hello")
    worker.close()
    wait_until(lambda: len(descriptors()) <= len(before) and set(threading.enumerate()) <= threads)


# Sessions


needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sessions need Linux")


@needs_linux
def test_in_a_session_what_is_printed_goes_to_the_client_whose_command_runs(connect):
    one: list[str] = []
    other: list[str] = []
    first = connect("socket", session="s", filters={"prints": PRINTS}, output=one.append)
    second = connect("socket", session="s", output=other.append)
    for n in range(3):
        first.forward("prints", f"first {n}")
        second.forward("prints", f"second {n}")
    first.shutdown()
    assert one == ["first 0", "first 1", "first 2"]
    assert other == ["second 0", "second 1", "second 2"]


@pytest.fixture
def own(tmp_path):
    """A daemon of the test's own; what it writes is in the file ``log``."""
    with (
        (tmp_path / "log").open("w") as log,
        short_directory() as directory,
        socket_daemon(directory / "s", stderr=log) as daemon,
    ):
        daemon.log = tmp_path / "log"
        yield daemon


@pytest.mark.nightly
@needs_linux
def test_what_a_client_started_prints_in_the_daemons_log_once_it_has_left(connect, own, tmp_path):
    def begins(x, state):
        f.subprocess.Popen(["sh", "-c", "read line < $0; echo later; touch $0.done", x])

    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    lines: list[str] = []
    options = {"path": own.path, "session": "s"}
    client = connect("socket", **options, filters={"b": f.Apply(begins)}, output=lines.append)
    client.forward("b", str(fifo))
    client.close()
    fifo.write_text("go\n")
    wait_until(lambda: "[session s] later\n" in own.log.read_text())
    assert (tmp_path / "fifo.done").exists()
    assert lines == []


STOPPED = """
import sys
import soma_core as soma
class Shouts(soma.Filter):
    def forward(self, x, state):
        import os, time
        while not os.path.exists(x):
            time.sleep(0.001)
        for _ in range(2000):
            os.write(1, b"x" * 999 + b"\\n")
class Echo(soma.Filter):
    def forward(self, x, state):
        return x
if __name__ == "__main__":
    filters = {"shouts": Shouts(), "echo": Echo()}
    options = {"path": sys.argv[1], "session": "s", "output": "devnull"}
    worker = soma.connect("socket", filters=filters, **options)
    print("ready", flush=True)
    sys.stdin.readline()
    worker.forward("shouts", sys.argv[2])
"""


@nightly
@needs_linux
def test_a_client_that_does_not_read_holds_up_nobody_else(connect, own, tmp_path):
    script = tmp_path / "stopped.py"
    script.write_text(STOPPED)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [sys.executable, str(script), str(own.path), str(tmp_path / "go")]
    with subprocess.Popen(command, **pipes, text=True) as stopped:
        assert stopped.stdout.readline() == "ready\n"
        other = connect("socket", path=own.path, session="s")
        stopped.stdin.write("\n")
        stopped.stdin.flush()
        wait_until(lambda: a_forward_runs(own), what="the command that shouts")
        stopped.send_signal(signal.SIGSTOP)
        (tmp_path / "go").touch()
        try:
            assert other.forward("echo", 1, timeout=60.0) == 1
        finally:
            stopped.kill()


def a_forward_runs(daemon) -> bool:
    return any(entry.command == "FORWARD" for entry in SocketTransport.sessions(daemon.path))


# The parts


@given(st.lists(st.text(alphabet="ab\né", max_size=8)))
def test_lines_are_the_same_however_they_come(texts):
    data = "".join(texts).encode()
    pieces = [data[n : n + 3] for n in range(0, len(data), 3)]
    cutter = LineCutter()
    lines = [line for piece in pieces for line in cutter.feed(piece)] + cutter.finish()
    assert "\n".join(lines) == data.decode().removesuffix("\n")


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"10%\r20%\r100%\n", ["100%"]),
        (b"10%\r20%\r\n", ["20%"]),
        (b"\r10%\r20%", ["20%"]),
        (b"bar\r      \rdone\n", ["done"]),
        (b"bar\r      \r", []),
        (b"outer 0\n\rin 1\x1b[A\n\rin 2\x1b[A\router 1\n", ["outer 0", "outer 1"]),
        (b"outer 0\n\rin 1\x1b[A\n\rin 2\x1b[A", ["outer 0", "in 2"]),
        (b"\n\n", ["", ""]),
        (b"\xff\n", ["\ufffd"]),
    ],
)
def test_carriage_returns_are_folded_to_what_is_seen_last(printed, shown):
    cutter = LineCutter()
    by_byte = [line for n in range(len(printed)) for line in cutter.feed(printed[n : n + 1])]
    assert by_byte + cutter.finish() == shown


def test_an_endless_line_is_cut_between_characters_and_takes_bounded_memory():
    cutter = LineCutter()
    lines = [line for _ in range(100) for line in cutter.feed("é".encode() * 5000)]
    assert len("".join(cutter.peek())) < 10_000
    assert "".join(lines + cutter.finish()) == "é" * 500_000


def test_a_pump_reads_any_process(tmp_path):
    lines: list[str] = []
    pump = OutputPump(lines.append)
    child = subprocess.Popen(["echo", "hello"], stdout=pump.writing)
    pump.start("echo")
    child.wait()
    pump.finish(20.0)
    assert lines == ["hello"]
    assert pump.tail() == "hello"


@pytest.mark.nightly
def test_a_relative_path_is_taken_from_where_the_option_was_given(connect, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    worker = connect("stdio", filters={"prints": PRINTS}, output="./worker.log")
    monkeypatch.chdir("/")
    worker.forward("prints", "hello")
    assert "hello" in Path(tmp_path / "worker.log").read_text()
