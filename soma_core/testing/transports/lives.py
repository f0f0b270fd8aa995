"""Clauses of a transport's life: its contract, deadlines, interrupts, and how it is closed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from soma_core.channel.contract import Transport, TransportOptions
from soma_core.client.worker import Worker
from soma_core.errors import (
    ChannelClosed,
    DeadlineExceeded,
    ErrorCode,
    RemoteError,
    WorkerDied,
)
from soma_core.protocol.versions import PROTOCOL_VERSION
from soma_core.testing.clauses import covers
from soma_core.testing.suite import within
from soma_core.testing.transports.base import START, TransportSuite, end, runs
from soma_core.testing.transports.probes import PROBES, harms_its_process
from soma_core.testing.trials import GRACE
from soma_core.testing.wire import Wire


class LifeClauses(TransportSuite):
    """A transport does what its contract says, from its start to its stop."""

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
            probe = PROBES.get(capability)
            here = worker.ping().pid == os.getpid()
            if probe is None or (here and harms_its_process(capability)):
                continue
            transport = make()
            try:
                has_it = probe(transport, self.patience)
            finally:
                end(transport)
            assert not has_it, (
                f"lacks names {capability.name}, but {capability.value}: take it out of lacks"
            )

    # Deadlines and interrupts

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

    @covers("interrupts.ctrl-c")
    def test_ctrl_c_ends_the_call_alone(self, worker: Worker) -> None:
        if threading.current_thread() is not threading.main_thread():
            pytest.skip("Ctrl-C is heard on the main thread alone")
        pid = worker.ping().pid

        def press() -> None:
            if self._soon(lambda: worker.status().command == "FORWARD"):
                time.sleep(0.2)
                os.kill(os.getpid(), signal.SIGINT)

        presser = threading.Thread(target=press)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            presser.start()
            with pytest.raises(KeyboardInterrupt):
                worker.forward("actions", ["sleep", 15.0])
            presser.join()
        finally:
            signal.signal(signal.SIGINT, before)
        assert worker.ping().pid == pid

    @covers("interrupts.handler")
    def test_what_a_signal_handler_raises_ends_the_call_as_it_is(self, worker: Worker) -> None:
        pid = worker.ping().pid
        # The first is also how a wait ends, and the second how a channel does.
        for raised in (TimeoutError("of the handler"), ConnectionResetError("of the handler")):
            # Without interrupts, too, the command ends before the engine would be ended.
            caught = self._raised_by(raised, lambda: worker.forward("actions", ["sleep", 1.2]))
            assert caught is raised
        assert worker.ping().pid == pid

    def _raised_by(self, raised: Exception, call: Callable[[], Any]) -> BaseException | None:
        """What a call raises in whose midst a signal handler raises something."""
        if threading.current_thread() is not threading.main_thread():
            pytest.skip("signals are handled on the main thread alone")

        def ring(*_: object) -> None:
            raise raised

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.15)
        try:
            call()
        except Exception as error:
            return error
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, before)
        return None

    @covers("interrupts.message")
    def test_a_message_interrupts_the_command_that_it_names(self, own_wire: Wire) -> None:
        client = {"name": "kit", "soma": "", "python": "", "cloudpickle": ""}
        hello = own_wire.ask("HELLO", protocol=PROTOCOL_VERSION, client=client, interrupts="wire")
        if "interrupts" not in hello["features"]:
            pytest.skip("HELLO names no feature interrupts")
        own_wire.send("FORWARD", node_id="actions", data=["sleep", 0.4], id=1)
        own_wire.send("INTERRUPT", command="another", id=2)
        assert [own_wire.fields()["ok"] for _ in range(2)] == [True, True]
        own_wire.send("FORWARD", node_id="actions", data=["sleep", 15.0], id=3)
        replies = self._interrupted(own_wire, 3)
        assert (replies[0]["id"], replies[0].get("code")) == (3, "interrupted")
        assert [(reply["id"], reply["ok"]) for reply in replies[1:]] == [(4, True)] * len(
            replies[1:]
        )
        assert own_wire.ask("PING")["pid"] == hello["pid"]

    def _interrupted(self, wire: Wire, command: int) -> list[dict[str, Any]]:
        """Interrupt a command until it ends, as hosts do: its reply, and those to INTERRUPT."""
        replies: list[dict[str, Any]] = []
        sent, end = 0, time.monotonic() + self.patience
        while not replies and time.monotonic() < end:
            wire.send("INTERRUPT", command=command, id=command + 1)
            sent += 1
            with suppress(TimeoutError):
                replies.append(wire.fields(0.2))
        return replies + [wire.fields() for _ in range(sent)]

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
        assert self._soon(lambda: not runs(pid)), f"the engine's process {pid} still runs"

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
        assert self._soon(lambda: not runs(pid)), f"the engine's process {pid} still runs"

    @covers("close.clean")
    def test_a_closed_engine_runs_exit_handlers(self, own_worker: Worker, tmp_path: Path) -> None:
        path = tmp_path / "at_exit"
        own_worker.forward("actions", ["at_exit", str(path)])
        own_worker.close()
        assert self._soon(path.exists), "the exit handler of a filter did not run"

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
        again = Wire(fresh.start(START), self.patience)
        assert again.ask("PING")["incarnation"] != first
        assert fresh.poll() is None
