"""Whether a transport has what ``lacks`` lists. KILL and LOCAL cannot be seen from outside."""

from __future__ import annotations

import os
import select
import signal
import time
import warnings
from collections.abc import Callable
from contextlib import suppress

from soma_core.channel.contract import Transport
from soma_core.channel.deadline import Deadline
from soma_core.client.worker import Worker
from soma_core.errors import DeadlineExceeded, WorkerDied
from soma_core.testing.clauses import Capability
from soma_core.testing.filters import Actions
from soma_core.testing.transports.base import START, runs
from soma_core.testing.wire import Wire
from soma_core.wire.message import Dialect


def _carries_lines(transport: Transport, patience: float) -> bool:
    wire = Wire(transport.start(START), patience / 4)
    try:
        wire.send("PING", Dialect.LINE)
        return wire.receive().dialect is Dialect.LINE
    except Exception:
        return False


def _isolates(transport: Transport, patience: float) -> bool:
    return bool(Wire(transport.start(START), patience).ask("PING")["pid"] != os.getpid())


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


def children_left_by_a_death(transport: Transport, patience: float) -> list[int]:
    """Kill an engine whose filter has started processes.

    Returns:
        Those that still run a while later; they are killed.
    """
    with Worker(transport, timeout=patience) as worker:
        worker.load({"actions": Actions()})
        started = worker.forward("actions", ["start_children"])
        with suppress(WorkerDied):
            worker.forward("actions", ["die", int(signal.SIGKILL)])
        deadline = Deadline.after(patience / 4)
        while any(map(runs, started)) and not deadline.over():
            time.sleep(0.02)
    left = [pid for pid in started if runs(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return left


def pids_of_a_killed_host(make: Callable[[], Transport], patience: float) -> list[int]:
    """Fork a host, and kill it while its engine runs a command.

    Returns:
        The engine, and the processes that its filter has started.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads that the child does not need
        host = os.fork()
    if host == 0:
        try:
            _be_killed(make, patience, writing)
        finally:
            os._exit(1)
    os.close(writing)
    try:
        with open(reading, "rb") as pipe:
            told = pipe.readline() if select.select([pipe], [], [], START + patience)[0] else b""
    finally:
        os.kill(host, signal.SIGKILL)
        os.waitpid(host, 0)
    assert told, "a forked host could not use the transport"
    return [int(pid) for pid in told.split()]


def _be_killed(make: Callable[[], Transport], patience: float, writing: int) -> None:
    worker = Worker(make(), timeout=patience)
    worker.load({"actions": Actions()})
    pids = [worker.ping().pid, *worker.forward("actions", ["start_children"])]
    os.write(writing, " ".join(map(str, pids)).encode() + b"\n")
    worker.forward("actions", ["sleep", 60.0], timeout=None)


def _ends_children(transport: Transport, patience: float) -> bool:
    return not children_left_by_a_death(transport, patience)


PROBES: dict[Capability, Callable[[Transport, float], bool]] = {
    Capability.LINES: _carries_lines,
    Capability.ISOLATION: _isolates,
    Capability.INTERRUPTS: _interrupts,
    Capability.CHILDREN: _ends_children,
    Capability.EXIT_STATUS: _returns_status,
    Capability.DIAGNOSTICS: _returns_stderr,
}


def harms_its_process(capability: Capability) -> bool:
    """Whether its probe does so, which must not be this one."""
    return PROBES.get(capability) not in (None, _isolates, _carries_lines)
