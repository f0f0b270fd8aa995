"""Clauses of deaths and what is left: an engine that dies, what filters do, and leaks."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from soma_core.channel.contract import Transport
from soma_core.client.worker import Worker
from soma_core.errors import (
    ChannelClosed,
    ErrorCode,
    ProtocolError,
    RemoteError,
    WorkerDied,
)
from soma_core.testing.clauses import Capability, covers
from soma_core.testing.faults import Fault, Moment
from soma_core.testing.filters import Echo, Mean
from soma_core.testing.leftovers import OpenResources
from soma_core.testing.suite import within
from soma_core.testing.transports.base import TransportSuite, children, runs
from soma_core.testing.transports.probes import children_left_by_a_death, pids_of_a_killed_host
from soma_core.testing.trials import inject
from soma_core.testing.wire import Wire

_REPORTED = 0.15  # the part of the patience in which a death is reported
_MIB = 1 << 20
_MORE_THAN_ANY_BUFFER = 48 * _MIB
_NOT_SHARED = 40_000  # bytes of an array that travels with its message, not in shared memory
_ARRAYS = _MORE_THAN_ANY_BUFFER // _NOT_SHARED
_FAULTS = [  # of those that no other clause covers, what a filter may do anywhere
    Fault.RAISE, Fault.OS_EXIT, Fault.SEGFAULT, Fault.TERMINATE, Fault.FORK_AND_DIE,
    Fault.HANG_IN_PYTHON,
]  # fmt: skip


def _arrays() -> list[np.ndarray]:
    return [np.ones(_NOT_SHARED, np.uint8) for _ in range(_ARRAYS)]


class DeathClauses(TransportSuite):
    """A death is reported, no filter breaks the wire, and nothing is left behind."""

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
        assert self._soon(lambda: not runs(pid)), "it was killed, and still runs"
        with pytest.raises(WorkerDied):
            own_worker.ping(timeout=self._prompt)

    @covers("death.mid-request")
    def test_a_death_while_a_message_is_sent_closes_the_channel(self, own_wire: Wire) -> None:
        pid = own_wire.ask("PING")["pid"]
        own_wire.send("FORWARD", node_id="actions", data=["sleep", 30.0])
        killer = threading.Timer(0.3, os.kill, (pid, signal.SIGKILL))
        killer.start()

        def exchange() -> None:
            own_wire.send("FORWARD", node_id="echo", data=_arrays())
            own_wire.receive()

        with pytest.raises(ChannelClosed):
            within(self.patience + self._prompt, exchange, "a send to an engine that was killed")
        killer.join()

    @covers("timeouts.send")
    def test_a_send_ends_in_time_if_the_engine_takes_nothing(self, own_wire: Wire) -> None:
        own_wire.send("FORWARD", node_id="actions", data=["sleep", 8.0])
        impatient = Wire(own_wire.channel, patience=0.3)

        def send() -> None:
            with suppress(TimeoutError):  # a channel may also keep what it cannot send yet
                impatient.send("FORWARD", node_id="echo", data=_arrays())

        within(self._prompt, send, "send() with a timeout of 0.3 s")

    @covers("death.mid-reply")
    def test_a_reply_that_was_cut_off_is_never_received(self, own_wire: Wire) -> None:
        pid = own_wire.ask("PING")["pid"]
        own_wire.send("FORWARD", node_id="actions", data=["die_later", 1.0, _ARRAYS, _NOT_SHARED])
        assert self._soon(lambda: not runs(pid), after=1.0), "it was killed, and still runs"

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

    @covers("hygiene.output")
    def test_the_host_keeps_little_of_what_a_filter_prints(
        self, fresh: Transport, own_worker: Worker
    ) -> None:
        assert own_worker.forward("actions", ["print_much", 32 * _MIB]) == "printed"
        kept = len(fresh.diagnostics())
        assert kept <= _MIB, f"diagnostics() has {kept:,} characters"
        assert own_worker.forward("echo", 1) == 1

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
        before = set(children())
        self._use_and_close(make)
        assert self._soon(lambda: set(children()) <= before), (
            f"still running: {sorted(set(children()) - before)}"
        )

    @covers("leaks.grandchildren")
    def test_what_a_filter_started_ends_with_an_engine_that_dies(
        self, make: Callable[[], Transport]
    ) -> None:
        left = children_left_by_a_death(make(), self.patience)
        assert left == [], f"still running: {left}"

    @covers("leaks.host")
    def test_what_runs_ends_when_the_host_is_killed(self, make: Callable[[], Transport]) -> None:
        pids = pids_of_a_killed_host(make, self.patience)
        gone = self._soon(lambda: not any(map(runs, pids)))
        left = [pid for pid in pids if runs(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert gone, f"still running: {left}"

    def _use_and_close(self, make: Callable[[], Transport]) -> None:
        with Worker(make(), timeout=self.patience) as worker:
            worker.load({"echo": Echo()})
            assert len(worker.forward("echo", np.zeros(_MIB, "u1"))) == _MIB
