"""TransportConformance: every clause that a transport must meet, as tests to inherit."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, ClassVar

import numpy as np
import psutil
import pytest
from pydantic import ValidationError

from soma_core.channel.contract import Transport, TransportOptions
from soma_core.client.connect import transport_maker
from soma_core.client.worker import Worker
from soma_core.errors import (
    ChannelClosed,
    DeadlineExceeded,
    ErrorCode,
    ProtocolError,
    RemoteError,
    SomaError,
    WorkerDied,
)
from soma_core.testing.clauses import TRANSPORT_CLAUSES, Capability, Clause, covers
from soma_core.testing.faults import Fault, Moment
from soma_core.testing.filters import Actions, Echo, Mean
from soma_core.testing.leftovers import OpenResources
from soma_core.testing.samples import SIZES, VALUES, difference
from soma_core.testing.suite import ConformanceSuite, within
from soma_core.testing.trials import GRACE, inject
from soma_core.testing.wire import Wire
from soma_core.wire.message import Dialect, Message

__all__ = ["TransportConformance"]

_START = 60.0  # seconds that a start may take, which is mostly imports
_REPORTED = 0.15  # the part of the patience in which a death is reported
_MIB = 1 << 20
_MORE_THAN_ANY_BUFFER = 48 * _MIB
_NOT_SHARED = 40_000  # bytes of an array that travels with its message, not in shared memory
_ARRAYS = _MORE_THAN_ANY_BUFFER // _NOT_SHARED
_FAULTS = [  # of those that no other clause covers, what a filter may do anywhere
    Fault.RAISE, Fault.OS_EXIT, Fault.SEGFAULT, Fault.TERMINATE, Fault.FORK_AND_DIE,
    Fault.HANG_IN_PYTHON,
]  # fmt: skip
_COMMANDS: dict[str, tuple[dict[str, Any], bool]] = {  # the fields, and whether it succeeds
    "LIST": ({}, True),
    "FIT": ({"node_id": "mean", "data": np.arange(4.0)}, True),
    "PARTIAL_FIT": ({"node_id": "mean", "data": np.arange(4.0)}, False),
    "FORWARD": ({"node_id": "mean", "data": np.arange(4.0)}, True),
    "CALL_METHOD": ({"node_id": "mean", "method": "predict", "data": np.arange(4.0)}, False),
    "COMPOSITE_FORWARD": ({"node_ids": ["mean", "echo"], "data": np.arange(4.0)}, True),
    "COMPOSITE_FIT": ({"node_ids": ["mean", "echo"], "data": np.arange(4.0)}, True),
    "BATCHED_FIT": ({"node_ids": ["mean"], "data": np.arange(4.0), "batch_size": 3}, True),
    "CONTINUE_FIT": ({"node_ids": ["mean"], "fit_id": "of no fit"}, False),
    "GET_STATE": ({"node_id": "mean", "format": "value"}, True),
    "SET_STATE": ({"node_id": "mean", "state_b64": "e30=", "format": "value"}, True),
    "GET_GRADIENTS": ({"node_id": "mean"}, False),
    "APPLY_GRADIENTS": ({"node_id": "mean", "gradients_b64": "AAAA"}, False),
    "PING": ({}, True),
}


class _Warm:
    """A worker and a wire that the tests of a class share; a broken one is replaced."""

    def __init__(self, make: Callable[[], Transport], patience: float) -> None:
        self._make = make
        self._patience = patience
        self._worker: Worker | None = None
        self._wire: Wire | None = None
        self._wired: Transport | None = None

    def worker(self) -> Worker:
        if self._worker is None or not _answers(self._worker, self._patience):
            self.close_worker()
            self._worker = Worker(self._make(), timeout=self._patience)
            self._worker.load({"echo": Echo(), "actions": Actions()})
        return self._worker

    def wire(self) -> Wire:
        if self._wire is None or not self._wire.in_step():
            self.close_wire()
            self._wired = self._make()
            self._wire = Wire(self._wired.start(_START), self._patience)
            self._wire.load(echo=Echo(), actions=Actions(), mean=Mean())
        return self._wire

    def close_worker(self) -> None:
        if self._worker is not None:
            with suppress(Exception):  # a clause of its own checks whether it raises
                self._worker.close()
            self._worker = None

    def close_wire(self) -> None:
        if self._wired is not None:
            _end(self._wired)
            self._wire = self._wired = None


def _answers(worker: Worker, timeout: float) -> bool:
    try:
        worker.ping(timeout=timeout)
    except (SomaError, OSError):
        return False
    return True


def _end(transport: Transport) -> None:
    with suppress(Exception):  # a clause of its own checks whether it raises
        transport.stop(0.0)


def _no_daemon() -> AbstractContextManager[dict[str, Any]]:
    return nullcontext({})


class TransportConformance(ConformanceSuite):
    """What a transport must do, as tests: subclass it in a test module.

    ::

        class TestTcp(TransportConformance):
            transport = TcpTransport
            lacks = {Capability.INTERRUPTS: "no signal crosses TCP"}
            daemon = staticmethod(tcp_daemon)  # a context manager that yields {"port": ...}

    Where the options come from a fixture, override the class-scoped fixture ``options`` instead.

    Attributes:
        transport: The class, or the name under which it is installed.
        daemon: Returns a context manager that yields the options, for the time in which the
            tests run: where a daemon is needed, it runs for so long.
        lacks: What it does without, with the reason. Clauses that need it are skipped, and one
            clause asserts that it is really lacking.
        patience: Seconds after which what did not come counts as lost; what needs no computing
            gets a quarter of it. Raise it for a slow link.
    """

    clauses: ClassVar[Mapping[str, Clause]] = TRANSPORT_CLAUSES
    transport: ClassVar[str | type[Transport]]
    daemon: ClassVar[Callable[[], AbstractContextManager[dict[str, Any]]]] = staticmethod(
        _no_daemon
    )
    patience: ClassVar[float] = 20.0

    @pytest.fixture(scope="class")
    @classmethod
    def options(cls) -> Iterator[dict[str, Any]]:
        """The options of the transport: those that ``daemon`` yields."""
        with cls.daemon() as options:
            yield options

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, options: dict[str, Any]) -> Callable[[], Transport]:
        """Makes a transport that is not started; nobody ends it."""
        transport = cls.transport
        if isinstance(transport, str):
            return transport_maker(transport, dict(options))
        return lambda: transport(transport.Options(**options))

    @pytest.fixture(scope="class")
    @classmethod
    def _warm(cls, make: Callable[[], Transport]) -> Iterator[_Warm]:
        warm = _Warm(make, cls.patience)
        yield warm
        warm.close_worker()
        warm.close_wire()

    @pytest.fixture
    def worker(self, _warm: _Warm) -> Worker:
        """A worker with the nodes ``echo`` and ``actions`` that other tests use as well."""
        return _warm.worker()

    @pytest.fixture
    def wire(self, _warm: _Warm) -> Wire:
        """A wire with the nodes ``echo``, ``actions`` and ``mean`` that other tests use as well."""
        return _warm.wire()

    @pytest.fixture
    def fresh(self, make: Callable[[], Transport]) -> Iterator[Transport]:
        """A transport of this test's own, not started; it is ended afterwards."""
        transport = make()
        yield transport
        _end(transport)

    @pytest.fixture
    def own_wire(self, fresh: Transport) -> Wire:
        """A wire of this test's own, over ``fresh``."""
        wire = Wire(fresh.start(_START), self.patience)
        wire.load(echo=Echo(), actions=Actions())
        return wire

    @pytest.fixture
    def own_worker(self, fresh: Transport) -> Iterator[Worker]:
        """A worker of this test's own, over ``fresh``."""
        worker = Worker(fresh, timeout=self.patience)
        worker.load({"echo": Echo(), "actions": Actions()})
        yield worker
        with suppress(Exception):  # a clause of its own checks whether it raises
            worker.close()

    # The contract

    @covers("contract.options")
    def test_options_forbid_what_they_do_not_know(self, fresh: Transport) -> None:
        options = type(fresh).Options
        assert issubclass(options, TransportOptions)
        assert isinstance(type(fresh).name, str)
        assert isinstance(fresh.options, options)
        given = fresh.options.model_dump(exclude_unset=True)
        with pytest.raises(ValidationError, match="no_such_option"):
            options.model_validate({**given, "no_such_option": 1})

    @covers("contract.before-start")
    def test_nothing_but_start_needs_a_started_engine(self, fresh: Transport) -> None:
        assert isinstance(fresh.diagnostics(), str)
        fresh.poll()
        fresh.interrupt()
        fresh.stop(0.0)

    @covers("contract.poll")
    def test_poll_returns_whether_the_engine_runs(self, fresh: Transport, own_wire: Wire) -> None:
        assert fresh.poll() is None
        assert own_wire.in_step()
        assert fresh.poll() is None
        fresh.stop(1.0)
        assert self._soon(lambda: fresh.poll() is not None), "poll() is None after stop()"

    @covers("contract.lacks")
    def test_what_lacks_lists_is_really_lacking(
        self, make: Callable[[], Transport], worker: Worker
    ) -> None:
        for capability in self.lacks:
            probe = _PROBES.get(capability)
            harms_its_process = probe not in (None, _isolates, _carries_lines)
            if probe is None or (harms_its_process and worker.ping().pid == os.getpid()):
                continue
            transport = make()
            try:
                has_it = probe(transport, self.patience)
            finally:
                _end(transport)
            assert not has_it, (
                f"lacks names {capability.name}, but {capability.value}: take it out of lacks"
            )

    # Order and boundaries

    @covers("order.commands")
    def test_commands_are_answered_in_the_order_in_which_they_were_sent(self, wire: Wire) -> None:
        for number in range(50):
            wire.send("FORWARD", node_id="echo", data=number, id=number)
        replies = [wire.fields() for _ in range(50)]
        assert [reply["id"] for reply in replies] == list(range(50))
        assert [reply["result"] for reply in replies] == list(range(50))

    @covers("order.events")
    def test_the_events_of_a_command_come_before_its_reply(self, wire: Wire) -> None:
        wire.send("FORWARD", node_id="actions", data=["report", 3], events=True, id="e")
        messages = [wire.fields() for _ in range(4)]
        assert [message.get("event") for message in messages] == ["progress"] * 3 + [None]
        assert [message["data"]["number"] for message in messages[:3]] == [0, 1, 2]
        assert messages[3]["result"] == "reported"
        assert wire.in_step()

    @covers("boundaries.buffers")
    def test_a_buffer_of_any_size_arrives_whole(self, wire: Wire) -> None:
        for size in SIZES:
            data = _pattern(size)
            reply = wire.ask("FORWARD", node_id="echo", data=data, id=size)
            assert reply["id"] == size
            assert np.array_equal(reply["result"], data), f"a buffer of {size} bytes"

    @covers("boundaries.headers")
    def test_a_header_of_any_size_arrives_whole(self, wire: Wire) -> None:
        for dialect in self._dialects():
            for size in SIZES:
                reply = wire.ask("FORWARD", dialect, node_id="echo", data="x" * size, id=size)
                assert reply["id"] == size
                assert len(reply["result"]) == size, f"a header with a text of {size} bytes"

    @covers("boundaries.many-buffers")
    def test_many_buffers_in_one_message_stay_apart(self, wire: Wire) -> None:
        data = [_pattern(size % 7 * size) for size in range(300)]
        result = wire.ask("FORWARD", node_id="echo", data=data)["result"]
        assert [len(array) for array in result] == [len(array) for array in data]
        assert all(np.array_equal(*pair) for pair in zip(result, data, strict=True))

    @covers("boundaries.content")
    def test_bytes_that_look_like_the_edge_of_a_message_are_content(self, wire: Wire) -> None:
        tricky = b'\x93SOMA\x01\n{"cmd":"SHUTDOWN"}\n\0\r\n\xff'
        array = np.frombuffer(tricky, np.uint8)
        text = '\n{"cmd":"SHUTDOWN"}\n\u2028'
        for data in (tricky, array, tricky * 3000, [tricky, b"\n"], text):
            for dialect in self._dialects():
                reply = wire.ask("FORWARD", dialect, node_id="echo", data=data)
                result = reply["result"]
                assert not difference(result, data)
        assert wire.in_step()

    @covers("boundaries.malformed")
    def test_a_message_that_is_no_command_gets_one_error_reply(self, wire: Wire) -> None:
        for header in (b"hello", b"[1]", b"{}", b'{"cmd":"NO_SUCH"}', b'{"cmd":"PING","x":1}'):
            wire.channel.send(Message(header), self.patience)
            reply = wire.fields()
            assert reply["ok"] is False
            assert reply["code"] in set(ErrorCode)
        assert wire.in_step()

    # Buffers

    @covers("buffers.writable")
    def test_the_buffers_of_a_received_message_are_writable(self, wire: Wire) -> None:
        for size in (1, 1000, _MIB):
            wire.send("FORWARD", node_id="echo", data=_pattern(size))
            message = wire.receive()
            assert message.buffers
            for buffer in message.buffers:
                view = memoryview(buffer)
                assert not view.readonly, f"a buffer of {view.nbytes} bytes"
        reply = wire.ask("FORWARD", node_id="actions", data=["overwrite", _pattern(_MIB)])
        assert reply.get("result") is True, reply

    @covers("buffers.apart")
    def test_neither_side_sees_what_the_other_does_to_its_memory(self, wire: Wire) -> None:
        for size in (1000, _MIB):
            data = _pattern(size)
            wire.send("FORWARD", node_id="echo", data=data)
            data[...] = 0
            assert np.array_equal(wire.fields()["result"], _pattern(size)), "kept after send()"
            data = _pattern(size)
            wire.ask("FORWARD", node_id="actions", data=["overwrite", data])
            assert np.array_equal(data, _pattern(size)), "the filter wrote into the host's array"

    # Dialects

    @covers("dialects.frames")
    def test_a_frame_is_answered_by_a_frame(self, wire: Wire) -> None:
        wire.send("PING")
        assert wire.receive().dialect is Dialect.FRAME

    @covers("dialects.lines")
    def test_a_line_is_answered_by_a_line(self, wire: Wire) -> None:
        for dialect in (Dialect.LINE, Dialect.FRAME, Dialect.LINE, Dialect.LINE, Dialect.FRAME):
            wire.send("PING", dialect)
            reply = wire.receive()
            assert reply.dialect is Dialect.LINE or dialect is not Dialect.LINE

    def _dialects(self) -> list[Dialect]:
        lines = [] if Capability.LINES in self.lacks else [Dialect.LINE]
        return [Dialect.FRAME, *lines]

    # Timeouts

    @covers("timeouts.receive")
    def test_receive_raises_timeout_error_when_its_time_is_over(self, wire: Wire) -> None:
        for timeout in (0.0, 0.1):
            with pytest.raises(TimeoutError):
                within(self._prompt, lambda t=timeout: wire.receive(t), f"receive({timeout})")  # type: ignore[misc]
        assert wire.in_step()

    @covers("timeouts.reuse")
    def test_a_reply_that_comes_after_a_timeout_is_received_later(self, wire: Wire) -> None:
        wire.send("FORWARD", node_id="actions", data=["sleep", 1.0], id="late")
        for _ in range(3):
            with pytest.raises(TimeoutError):
                wire.receive(0.05)
        reply = wire.fields()
        assert (reply["id"], reply["result"]) == ("late", "slept")
        assert wire.in_step()

    @covers("timeouts.deadline")
    def test_a_call_ends_by_its_deadline(self, worker: Worker) -> None:
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded) as caught:
            worker.forward("actions", ["sleep", 8.0], timeout=0.3)
        assert time.monotonic() - begun < 0.3 + GRACE + 1.0
        if caught.value.worker_survived:
            assert worker.forward("echo", 1) == 1
        else:
            with pytest.raises(WorkerDied):
                worker.forward("echo", 1)

    @covers("interrupts.survive")
    def test_an_interrupted_command_is_an_error_reply(self, worker: Worker) -> None:
        pid = worker.ping().pid
        stop = threading.Event()

        def interrupt() -> None:
            while not stop.wait(0.1):
                worker.interrupt()

        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            with pytest.raises(RemoteError) as caught:
                worker.forward("actions", ["sleep", 15.0])
        finally:
            stop.set()
            thread.join()
        assert caught.value.code is ErrorCode.INTERRUPTED
        assert worker.ping().pid == pid

    # Closing

    @covers("close.idempotent")
    def test_closing_and_stopping_twice_does_nothing(
        self, fresh: Transport, own_wire: Wire
    ) -> None:
        for _ in range(2):
            own_wire.channel.close()
        for _ in range(2):
            within(self._prompt, lambda: fresh.stop(1.0), "stop()")

    @covers("close.closed")
    def test_a_closed_channel_neither_sends_nor_receives(self, own_wire: Wire) -> None:
        assert own_wire.channel.closed is False
        own_wire.channel.close()
        assert own_wire.channel.closed is True
        with pytest.raises(ChannelClosed):
            within(self._prompt, lambda: own_wire.send("PING"), "send() of a closed channel")
        with pytest.raises(ChannelClosed):
            within(self._prompt, own_wire.receive, "receive() of a closed channel")

    @covers("close.other-thread")
    def test_closing_from_another_thread_ends_a_receive(self, own_wire: Wire) -> None:
        own_wire.send("FORWARD", node_id="actions", data=["sleep", 3.0])
        closer = threading.Timer(0.2, own_wire.channel.close)
        closer.start()
        try:
            with pytest.raises(ChannelClosed):
                within(2.5, lambda: own_wire.receive(60.0), "receive() of a channel being closed")
        finally:
            closer.join()

    @covers("close.ends-engine")
    def test_the_process_of_the_engine_is_gone_after_stop(
        self, fresh: Transport, own_wire: Wire
    ) -> None:
        pid = own_wire.ask("PING")["pid"]
        own_wire.channel.close()
        fresh.stop(2.0)
        assert self._soon(lambda: not _runs(pid)), f"the engine's process {pid} still runs"

    @covers("close.ends-stuck-engine")
    def test_stop_ends_an_engine_that_ignores_signals(
        self, fresh: Transport, own_wire: Wire
    ) -> None:
        pid = own_wire.ask("PING")["pid"]
        action = ["ignore_signals_and_sleep", 30.0]
        own_wire.send("FORWARD", node_id="actions", data=action, events=True)
        assert own_wire.fields().get("event") == "progress"  # it ignores them by now
        own_wire.channel.close()
        within(self._prompt, lambda: fresh.stop(0.2), "stop(0.2)")
        assert self._soon(lambda: not _runs(pid)), f"the engine's process {pid} still runs"

    @covers("close.shutdown")
    def test_shutdown_is_answered_and_ends_the_channel(self, own_wire: Wire) -> None:
        assert own_wire.ask("SHUTDOWN", id="last") == {"ok": True, "id": "last"}
        with pytest.raises(ChannelClosed):
            within(self._prompt, own_wire.receive, "receive() after SHUTDOWN")

    @covers("close.start-again")
    def test_start_after_stop_reaches_another_engine(
        self, fresh: Transport, own_wire: Wire
    ) -> None:
        first = own_wire.ask("PING")["incarnation"]
        own_wire.channel.close()
        fresh.stop(1.0)
        again = Wire(fresh.start(_START), self.patience)
        assert again.ask("PING")["incarnation"] != first
        assert fresh.poll() is None

    # Deaths

    @covers("death.during-call")
    def test_a_death_during_a_call_is_reported(self, own_worker: Worker) -> None:
        begun = time.monotonic()
        with pytest.raises(WorkerDied) as caught:
            own_worker.forward("actions", ["die", int(signal.SIGKILL)])
        assert time.monotonic() - begun < self.patience * _REPORTED
        assert (caught.value.command, caught.value.node_id) == ("FORWARD", "actions")
        with pytest.raises(WorkerDied):
            own_worker.ping(timeout=self._prompt)

    @covers("death.idle")
    def test_a_death_between_calls_is_reported_by_the_next(self, own_worker: Worker) -> None:
        pid = own_worker.ping().pid
        os.kill(pid, signal.SIGKILL)
        assert self._soon(lambda: not _runs(pid)), "it was killed, and still runs"
        with pytest.raises(WorkerDied):
            own_worker.ping(timeout=self._prompt)

    @covers("death.mid-request")
    def test_a_death_while_a_message_is_sent_closes_the_channel(self, own_wire: Wire) -> None:
        pid = own_wire.ask("PING")["pid"]
        own_wire.send("FORWARD", node_id="actions", data=["sleep", 30.0])
        killer = threading.Timer(0.3, os.kill, (pid, signal.SIGKILL))
        killer.start()
        arrays = [np.ones(_NOT_SHARED, np.uint8) for _ in range(_ARRAYS)]

        def exchange() -> None:
            own_wire.send("FORWARD", node_id="echo", data=arrays)
            own_wire.receive()

        with pytest.raises(ChannelClosed):
            within(self.patience + self._prompt, exchange, "a send to an engine that was killed")
        killer.join()

    @covers("death.mid-reply")
    def test_a_reply_that_was_cut_off_is_never_received(self, own_wire: Wire) -> None:
        pid = own_wire.ask("PING")["pid"]
        own_wire.send("FORWARD", node_id="actions", data=["die_later", 1.0, _ARRAYS, _NOT_SHARED])
        assert self._soon(lambda: not _runs(pid), after=1.0), "it was killed, and still runs"

        def result() -> Any:
            try:
                return own_wire.fields()["result"]
            except ProtocolError:  # the rest of a message that was cut off; then the end
                return own_wire.fields()

        try:
            what = "receive() from an engine that was killed"
            whole = within(self.patience + self._prompt, result, what)
        except ChannelClosed:
            return
        assert sum(map(len, whole)) == _ARRAYS * _NOT_SHARED  # something between us had it all

    @covers("death.status")
    def test_the_signal_that_ended_the_engine_is_named(self, own_worker: Worker) -> None:
        with pytest.raises(WorkerDied, match="SIGKILL") as caught:
            own_worker.forward("actions", ["die", int(signal.SIGKILL)])
        assert (caught.value.signal, caught.value.exit_code) == ("SIGKILL", None)

    @covers("death.stderr")
    def test_the_last_words_of_the_engine_are_shown(self, own_worker: Worker) -> None:
        with pytest.raises(WorkerDied, match="my last words"):
            own_worker.forward("actions", ["die", int(signal.SIGKILL), "my last words\n"])

    # Hygiene

    @covers("hygiene.stdout")
    def test_what_a_filter_prints_cannot_get_among_the_replies(self, worker: Worker) -> None:
        for text in ("hello\n", '{"ok":true}\n', "no end of line", "x" * 10_000):
            assert worker.forward("actions", ["print", text]) == "printed"
        assert worker.forward("echo", 1) == 1

    @covers("hygiene.stdin")
    def test_a_filter_that_reads_stdin_cannot_take_a_command(self, own_wire: Wire) -> None:
        own_wire.send("FORWARD", node_id="actions", data=["read_stdin"], id="reads")
        with suppress(TimeoutError):  # it reads by now, and takes what comes
            own_wire.receive(0.4)
        own_wire.send("PING", id="next")
        if own_wire.fields()["id"] == "next":
            return
        assert own_wire.fields()["id"] == "next"

    @covers("hygiene.exit")
    def test_sys_exit_in_a_filter_is_an_error_reply(self, worker: Worker) -> None:
        with pytest.raises(RemoteError) as caught:
            worker.forward("actions", ["exit"])
        assert caught.value.code is ErrorCode.FILTER_FAILED
        assert worker.forward("echo", 1) == 1

    @covers("hygiene.cwd")
    def test_a_directory_that_is_gone_does_no_harm(self, own_worker: Worker) -> None:
        assert own_worker.forward("actions", ["lose_directory"]) == "lost"
        assert own_worker.forward("echo", 1) == 1
        own_worker.load({"mean": Mean()})

    # Commands and values

    @covers("commands.all")
    def test_every_command_gets_its_reply(self, wire: Wire) -> None:
        for dialect in self._dialects():
            for cmd, (fields, succeeds) in _COMMANDS.items():
                reply = wire.ask(cmd, dialect, id=cmd, **fields)
                assert (reply["id"], reply["ok"]) == (cmd, succeeds), reply
            wire.load(other=Echo())
            assert wire.ask("UNLOAD", dialect, node_ids=["other"])["ok"] is True

    @covers("values.all")
    def test_every_kind_of_value_arrives_as_what_was_sent(self, worker: Worker) -> None:
        wrong = {
            name: text
            for name, value in VALUES.items()
            if (text := difference(worker.forward("echo", value), value))
        }
        assert wrong == {}

    # Faults and leaks

    @covers("faults.all")
    def test_every_fault_ends_its_call_in_time(self, make: Callable[[], Transport]) -> None:
        wrong = {}
        worker: Worker | None = None
        try:
            for fault in self._faults():
                if worker is None:
                    worker = Worker(make(), timeout=self.patience)
                trial = inject(worker, fault, Moment.FORWARD)
                if trial.end not in fault.ends or trial.late:
                    wrong[fault.name] = str(trial)
                if not trial.worker_survived or fault.name in wrong:
                    worker.close()
                    worker = None
        finally:
            if worker is not None:
                worker.close()
        assert wrong == {}

    def _faults(self) -> list[Fault]:
        """Those whose process this transport can end."""
        if {Capability.KILL, Capability.EXIT_STATUS}.isdisjoint(self.lacks):
            return _FAULTS
        return [
            fault for fault in _FAULTS if fault not in (Fault.FORK_AND_DIE, Fault.HANG_IN_PYTHON)
        ]

    @covers("leaks.descriptors")
    def test_closed_workers_leave_no_descriptor(self, make: Callable[[], Transport]) -> None:
        self._use_and_close(make)  # what is opened once stays
        before = OpenResources.of()
        for _ in range(2):
            self._use_and_close(make)
        after = before.wait_until_released(self._prompt)
        assert not after.exceeds(before), f"{after} after two workers, {before} before"

    @covers("leaks.processes")
    def test_closed_workers_leave_no_child_process(self, make: Callable[[], Transport]) -> None:
        before = set(_children())
        self._use_and_close(make)
        assert self._soon(lambda: set(_children()) <= before), (
            f"still running: {sorted(set(_children()) - before)}"
        )

    @property
    def _prompt(self) -> float:
        """Seconds in which what needs no computing must be done."""
        return self.patience / 4

    def _soon(self, condition: Callable[[], bool], after: float = 0.0) -> bool:
        deadline = time.monotonic() + after + self._prompt
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def _use_and_close(self, make: Callable[[], Transport]) -> None:
        with Worker(make(), timeout=self.patience) as worker:
            worker.load({"echo": Echo()})
            assert len(worker.forward("echo", np.zeros(_MIB, "u1"))) == _MIB


def _pattern(size: int) -> np.ndarray[Any, Any]:
    return np.arange(size, dtype="<u4").astype("u1")


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _children() -> list[int]:
    return [child.pid for child in psutil.Process().children(recursive=True) if _runs(child.pid)]


# Whether a transport has what ``lacks`` lists. KILL and LOCAL cannot be seen from outside.


def _carries_lines(transport: Transport, patience: float) -> bool:
    wire = Wire(transport.start(_START), patience / 4)
    try:
        wire.send("PING", Dialect.LINE)
        return wire.receive().dialect is Dialect.LINE
    except Exception:
        return False


def _isolates(transport: Transport, patience: float) -> bool:
    return bool(Wire(transport.start(_START), patience).ask("PING")["pid"] != os.getpid())


def _interrupts(transport: Transport, patience: float) -> bool:
    with Worker(transport, timeout=patience) as worker:
        worker.load({"actions": Actions()})
        try:
            worker.forward("actions", ["sleep", 4.0], timeout=0.2)
        except DeadlineExceeded as error:
            return error.worker_survived
    return False


def _death(transport: Transport, patience: float) -> WorkerDied | None:
    with Worker(transport, timeout=patience) as worker:
        worker.load({"actions": Actions()})
        try:
            worker.forward("actions", ["die", int(signal.SIGKILL), "words"])
        except WorkerDied as error:
            return error
    return None


def _returns_status(transport: Transport, patience: float) -> bool:
    death = _death(transport, patience)
    return death is not None and death.signal == "SIGKILL"


def _returns_stderr(transport: Transport, patience: float) -> bool:
    death = _death(transport, patience)
    return death is not None and "words" in death.stderr


_PROBES: dict[Capability, Callable[[Transport, float], bool]] = {
    Capability.LINES: _carries_lines,
    Capability.ISOLATION: _isolates,
    Capability.INTERRUPTS: _interrupts,
    Capability.EXIT_STATUS: _returns_status,
    Capability.DIAGNOSTICS: _returns_stderr,
}
