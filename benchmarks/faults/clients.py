"""Many clients of one socket daemon at once: each gets what is its own, and none starves."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import numpy as np

import soma_core as soma
from benchmarks.faults.sites import Site, site
from benchmarks.table import Row, none_of
from soma_core.testing import Fault, Faulty, Moment

_CRASHING = 8  # one client of so many loses its worker again and again
_TOGETHER = 300.0
_LONGEST_WAIT = 10.0


class Personal:
    """Learns who it belongs to, in its state and in its process."""

    def fit(self, x: Any, y: Any = None) -> Any:
        os.environ["SOMA_OWNER"] = str(x)
        return {"owner": x}

    def forward(self, x: Any, state: Any) -> Any:
        return state["owner"], os.environ["SOMA_OWNER"], os.getpid(), x


class _Client:
    """One client: calls as fast as it can, and keeps what it saw."""

    def __init__(self, number: int, place: Site, together: threading.Barrier) -> None:
        self.number = number
        self.crashes = number % _CRASHING == 0
        self.calls = 0
        self.longest = 0.0
        self.pids: set[int] = set()
        self.complaints: list[str] = []
        self._place, self._together = place, together

    def live(self, seconds: float) -> None:
        """Connect, wait for the others, and call until the time is over."""
        try:
            worker = self._connect()
        except BaseException as error:
            self.complaints.append(f"client {self.number} did not get a worker: {error!r}")
            self._together.abort()
            return
        try:
            self._together.wait(_TOGETHER)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                begun = time.monotonic()
                self._call(worker)
                self.longest = max(self.longest, time.monotonic() - begun)
                if self.crashes and self.calls % 50 == 0:
                    worker = self._crash(worker)
        except BaseException as error:
            self.complaints.append(f"client {self.number}: {error!r}")
        finally:
            worker.close()

    def _connect(self) -> soma.Worker:
        worker = self._place.connect(
            "socket", filters={"personal": Personal()}, timeout=60.0, start_timeout=_TOGETHER
        )
        worker.fit("personal", self.number)
        self.pids.add(worker.ping().pid)
        return worker

    def _call(self, worker: soma.Worker) -> None:
        self.calls += 1
        sent = np.full(20_000 if self.calls % 10 == 0 else 10, self.number)
        owner, in_process, pid, came = worker.forward("personal", sent)
        mine = (owner, in_process) == (self.number, str(self.number)) and pid in self.pids
        if not mine or not np.array_equal(came, sent):
            self.complaints.append(f"client {self.number} got {owner}, {in_process}, {came[:3]}")

    def _crash(self, worker: soma.Worker) -> soma.Worker:
        worker.load({"faulty": Faulty(Fault.SEGFAULT, Moment.FORWARD)})
        try:
            worker.forward("faulty", 1)
            self.complaints.append(f"client {self.number}: a crash was not told")
        except soma.WorkerDied:
            pass  # as it must
        worker.close()
        return self._connect()


def run(count: int, seconds: float) -> list[Row]:
    """Let so many clients call at once for so long."""
    with site() as place:
        together = threading.Barrier(count)
        clients = [_Client(number, place, together) for number in range(count)]
        threads = [threading.Thread(target=client.live, args=[seconds]) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        left = place.leftovers() + place.stop()
    complaints = [text for client in clients for text in client.complaints]
    pids = [pid for client in clients for pid in client.pids]
    if len(set(pids)) != len(pids):
        complaints.append("two clients had one process")
    steady = [client for client in clients if not client.crashes]
    fewest, most = min(c.calls for c in steady), max(c.calls for c in steady)
    longest = max(client.longest for client in clients)
    total = sum(client.calls for client in clients)
    size = f"{count} clients, {total:,} calls in {seconds:g} s, {len(pids)} workers"
    fair = bool(fewest * 10 >= most and longest < _LONGEST_WAIT)
    return [
        none_of("of many clients at once, results of another, or none", complaints, size),
        Row(
            "of many clients at once, the slowest against the fastest",
            "none starved",
            f"{fewest:,} calls against {most:,}; the longest took {longest:.2f} s",
            size,
            fair,
        ),
        none_of("processes, descriptors, files left after them", left, size),
    ]
