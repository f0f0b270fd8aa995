"""The kinds of ends: each starts a worker whose filter holds much, and ends it in one way."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import soma_core as soma
from benchmarks.ends.holding import Holds
from benchmarks.faults.sites import TRANSPORTS, Site

__all__ = ["KINDS", "Kind"]

_START = 300.0  # seconds; the machine may have other work
_TIMEOUT = 300.0


@dataclass(frozen=True)
class Kind:
    """One way in which a worker ends.

    Attributes:
        name: What happens.
        happen: Makes it happen once, at a site and over a transport.
        transports: Those over which it can.
    """

    name: str
    happen: Callable[[Site, str], None]
    transports: tuple[str, ...]


KINDS: dict[str, Kind] = {}


def kind(name: str, transports: tuple[str, ...] = TRANSPORTS) -> Callable[..., Any]:
    def add(happen: Callable[[Site, str], None]) -> Callable[[Site, str], None]:
        KINDS[name] = Kind(name, happen, transports)
        return happen

    return add


Names = Literal["all", "memory", "none"]
"""What of a filter's own that has a name is gone after an end: what a process tidies up itself is
left by one that is killed, and shared memory by a host that is killed with its whole group."""


def _orders(
    place: Site, then: str = "return", *, names: Names = "all", pool: bool = False
) -> dict[str, Any]:
    """What the filter is to do; it notes in a new file that it has come so far."""
    note = place.notes / f"{place.names}{uuid.uuid4().hex}"
    return {"note": str(note), "then": then, "names": names, "pool": pool}


def _holding(place: Site, transport: str, *, pool: bool = False, **options: Any) -> soma.Worker:
    worker = place.connect(
        transport, filters={"holds": Holds()}, output="devnull", timeout=_TIMEOUT, **options
    )
    worker.forward("holds", _orders(place, pool=pool))
    return worker


def _until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + _START
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.02)


# The host ends its worker


@kind("close()")
def _close(place: Site, transport: str) -> None:
    _holding(place, transport).close()


@kind("shutdown()")
def _shutdown(place: Site, transport: str) -> None:
    _holding(place, transport).shutdown()


@kind("a with block that raises")
def _with_block(place: Site, transport: str) -> None:
    with suppress(ZeroDivisionError), _holding(place, transport):
        raise ZeroDivisionError


@kind("close() under asyncio")
def _close_async(place: Site, transport: str) -> None:
    async def use() -> None:
        options = place.options(transport)
        async with soma.connect_async(
            transport, filters={"holds": Holds()}, output="devnull", **options
        ) as worker:
            await worker.forward("holds", _orders(place), timeout=_TIMEOUT)

    asyncio.run(use())


@kind("close() with a multiprocessing.Pool inside")
def _close_pool_inside(place: Site, transport: str) -> None:
    _holding(place, transport, pool=True).close()


@kind("close() during a call")
def _close_during_a_call(place: Site, transport: str) -> None:
    worker = _holding(place, transport)
    orders = _orders(place, "sleep")

    def call() -> None:
        with suppress(soma.ChannelClosed):
            worker.forward("holds", orders)

    calling = threading.Thread(target=call)
    calling.start()
    _until(Path(orders["note"]).exists, "the call did not begin")
    worker.close()
    calling.join(_TIMEOUT)


@kind("nobody holds the worker any more")
def _drop(place: Site, transport: str) -> None:
    _holding(place, transport)


@kind("nobody holds the pool any more")
def _drop_pool(place: Site, transport: str) -> None:
    pool = soma.WorkerPool(
        transport, 1, filters={"holds": Holds()}, output="devnull", **place.options(transport)
    )
    pool.forward("holds", _orders(place), timeout=_TIMEOUT)


@kind("unload()")
def _unload(place: Site, transport: str) -> None:
    with _holding(place, transport) as worker:
        worker.unload(["holds"])
        assert worker.node_ids == []


@kind("recycling in a pool")
def _recycle(place: Site, transport: str) -> None:
    with soma.WorkerPool(
        transport, 1, filters={"holds": Holds()}, recycle_after=1, output="devnull",
        timeout=_TIMEOUT, **place.options(transport),
    ) as pool:  # fmt: skip
        for _ in range(2):
            pool.forward("holds", _orders(place))


@kind("a deadline that ends the worker")
def _deadline(place: Site, transport: str) -> None:
    options: dict[str, Any] = {"interrupt_grace": 0.2}
    with place.connect(
        transport, filters={"holds": Holds()}, output="devnull", **options
    ) as worker:
        orders = _orders(place, "sleep_deaf", names="memory")
        with suppress(soma.DeadlineExceeded):
            worker.forward("holds", orders, timeout=0.5)


# The worker ends


@kind("SIGKILL of the worker")
def _kill_worker(place: Site, transport: str) -> None:
    with place.connect(transport, filters={"holds": Holds()}, output="devnull") as worker:
        worker.forward("holds", _orders(place, names="memory"), timeout=_TIMEOUT)
        os.kill(worker.ping().pid, signal.SIGKILL)
        with suppress(soma.WorkerDied):
            worker.forward("holds", _orders(place, names="memory"), timeout=_TIMEOUT)


@kind("the worker exits")
def _worker_exits(place: Site, transport: str) -> None:
    with (
        suppress(soma.WorkerDied),
        place.connect(transport, filters={"holds": Holds()}, output="devnull") as worker,
    ):
        worker.forward("holds", _orders(place, "exit", names="memory"), timeout=_TIMEOUT)


# The host ends


def _host(
    place: Site, transport: str, *, names: Names, number: int | None = None, how: str = "returns"
) -> None:
    """Run a host until it ends by itself, or a signal ends it while its worker is in a call."""
    orders = _orders(place)
    if names != "all" and transport == "socket":
        names = "all"  # the daemon has the worker end by itself
    command = [sys.executable, "-m", "benchmarks.ends.host", transport, str(place.path)]
    command += [orders["note"], "return" if number is None else "sleep"]
    command += [names, how]
    host = subprocess.Popen(command, env=place.environment, stderr=subprocess.DEVNULL)
    try:
        if number is not None:
            _until(Path(orders["note"]).exists, "the host did not come to its call")
            host.send_signal(number)
        host.wait(_TIMEOUT)
    finally:
        host.kill()
        host.wait()


@kind("a script that never closes")
def _never_closes(place: Site, transport: str) -> None:
    _host(place, transport, names="all")


@kind("a script that raises")
def _raises(place: Site, transport: str) -> None:
    _host(place, transport, names="all", how="raises")


@kind("SIGINT of the host")
def _interrupt_host(place: Site, transport: str) -> None:
    _host(place, transport, names="all", number=signal.SIGINT)


@kind("SIGTERM of the host")
def _terminate_host(place: Site, transport: str) -> None:
    _host(place, transport, names="none", number=signal.SIGTERM)


@kind("SIGKILL of the host")
def _kill_host(place: Site, transport: str) -> None:
    _host(place, transport, names="none", number=signal.SIGKILL)


@kind("os._exit() of the host")
def _exit_host(place: Site, transport: str) -> None:
    _host(place, transport, names="none", how="exits")


# The daemon, and what it keeps


@kind("a session that is shut down", ("socket",))
def _stop_session(place: Site, transport: str) -> None:
    name = uuid.uuid4().hex[:8]
    _holding(place, transport, session=name).close()
    place.connect(transport, session=name).shutdown()


@kind("SIGTERM of the daemon", ("socket",))
def _terminate_daemon(place: Site, transport: str) -> None:
    _end_daemon(place, signal.SIGTERM, names="all")


@kind("SIGKILL of the daemon", ("socket",))
def _kill_daemon(place: Site, transport: str) -> None:
    _end_daemon(place, signal.SIGKILL, names="none")


def _end_daemon(place: Site, number: int, *, names: Names) -> None:
    path = place.notes / uuid.uuid4().hex[:8]
    daemon = place.start_daemon(path)
    try:
        with soma.connect(
            "socket", path=path, filters={"holds": Holds()}, output="devnull"
        ) as worker:
            worker.forward("holds", _orders(place, names=names), timeout=_TIMEOUT)
            daemon.send_signal(number)
            daemon.wait(_TIMEOUT)
    finally:
        daemon.kill()
        daemon.wait()
    if number == signal.SIGKILL:
        path.unlink()  # which the next daemon at this place would do
    assert not path.exists()
