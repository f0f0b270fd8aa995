"""Status and ping: whether a daemon answers, and what it has; neither starts a worker."""

from __future__ import annotations

import time
from pathlib import Path

from rich.filesize import decimal
from rich.text import Text

from soma_core.channel.contract import DaemonInfo, WorkerInfo
from soma_core.cli.console import AsJson, note, print_json, print_table, table
from soma_core.cli.daemons import AtPath, Over, offered

__all__ = ["ping", "status"]


def status(path: AtPath = None, transport: Over = "socket", as_json: AsJson = False) -> None:
    """Show a daemon and your workers there: sessions, and those of single clients."""
    found = _ask(transport, path)
    if as_json:
        workers = [worker._asdict() for worker in found.workers]
        print_json({**found._asdict(), "workers": workers})
        return
    note(
        f"process {found.pid}, soma {found.soma}, up {_duration(found.seconds)}, "
        f"{decimal(found.memory)}"
    )
    if not found.workers:
        note("there are no workers")
        return
    rows = table("pid", "session", "clients", "up", "memory", "runs")
    for worker in found.workers:
        rows.add_row(
            str(worker.pid),
            Text(worker.session or "-"),
            str(worker.clients),
            _duration(worker.seconds),
            decimal(worker.memory),
            Text(_activity(worker)),
        )
    print_table(rows)


def ping(path: AtPath = None, transport: Over = "socket") -> None:
    """Ask a daemon whether it is there: status 0 if it answers, 1 if not."""
    begun = time.perf_counter()
    found = _ask(transport, path)
    took = (time.perf_counter() - begun) * 1000
    note(f"process {found.pid} answered in {took:.1f} ms; workers: {len(found.workers)}")


def _ask(transport: str, path: Path | None) -> DaemonInfo:
    asked: DaemonInfo = offered(transport, "status", "daemon that can be asked")(path)
    return asked


def _activity(worker: WorkerInfo) -> str:
    if worker.command is None:
        return "nothing" if worker.session else "its client knows"
    return worker.command if worker.node_id is None else f"{worker.command} of {worker.node_id}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.0f} min" if minutes < 90 else f"{hours:.1f} h"
