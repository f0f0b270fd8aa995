"""A long run of mixed commands: memory and descriptors stay flat."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

import soma_core as soma
from benchmarks.faults.sites import TRANSPORTS, Site, site
from benchmarks.table import Row
from soma_core.testing import Echo, Fault, Faulty, Moment

_SAMPLES = 200
_MIB = 1 << 20
_GROWTH, _SLACK = 1.05, 4 * _MIB
# Shared memory keeps up to 16 regions each way for reuse, and large calls that overlap by chance
# may add one late: a descriptor of ours, and one of the other end's.
_REGION = 2


@dataclass(frozen=True)
class _Sample:
    """What a process held at one moment."""

    memory: int
    descriptors: int

    @classmethod
    def of(cls, process: psutil.Process) -> _Sample:
        return cls(process.memory_info().rss, process.num_fds())


def run(count: int, seed: int) -> list[Row]:
    """Make so many calls over each transport, half each."""
    rows = []
    with site() as place:
        for transport in TRANSPORTS:
            rows.append(_soak(place, transport, count // 2, seed))
        left = place.leftovers() + place.stop()
    rows[-1].complaints += left
    rows[-1].kept = rows[-1].kept and not left
    return rows


def _soak(place: Site, transport: str, count: int, seed: int) -> Row:
    with place.connect(transport, timeout=60.0) as worker:
        worker.load({"echo": Echo(), "other": Echo(), "faulty": _faulty()})
        processes = {"host": psutil.Process(), "worker": psutil.Process(worker.ping().pid)}
        if transport == "socket":
            processes["daemon"] = psutil.Process(place.daemon.pid)
        samples: dict[str, list[_Sample]] = {name: [] for name in processes}
        mixture = _Mixture(worker, seed)
        step = max(1, count // _SAMPLES)
        for number in range(count):
            mixture.call()
            if number % step == step - 1:
                for name, process in processes.items():
                    samples[name].append(_Sample.of(process))
    tells = [_compare(name, taken) for name, taken in samples.items()]
    return Row(
        f"memory and descriptors over a long run, {transport}, last tenth against first",
        "flat",
        "; ".join(text for text, _ in tells),
        f"{count:,} mixed calls",
        all(flat for _, flat in tells) and not mixture.wrong,
        mixture.wrong,
    )


def _compare(name: str, samples: list[_Sample]) -> tuple[str, bool]:
    tenth = max(1, len(samples) // 10)
    first, last = samples[:tenth], samples[-tenth:]
    memory = [float(np.median([sample.memory for sample in part])) for part in (first, last)]
    descriptors = [max(sample.descriptors for sample in part) for part in (first, last)]
    flat = memory[1] <= memory[0] * _GROWTH + _SLACK and descriptors[1] <= descriptors[0] + _REGION
    text = (
        f"{name} {memory[0] / _MIB:.1f} to {memory[1] / _MIB:.1f} MiB, "
        f"{descriptors[0]} to {descriptors[1]} fds"
    )
    return text, flat


def _faulty() -> Faulty:
    return Faulty(Fault.RAISE, Moment.FORWARD)


class _Mixture:
    """Calls of every kind, with results that are checked."""

    def __init__(self, worker: soma.Worker, seed: int) -> None:
        self.wrong: list[str] = []
        self._worker = worker
        self._chance = random.Random(seed)
        self._kinds: list[Callable[[], Any]] = [
            *[self._small] * 6, *[self._array] * 4, self._large, self._fit, self._chain,
            self._batches, self._state, self._fail, self._unknown, self._load, worker.ping,
        ]  # fmt: skip

    def call(self) -> None:
        """Make one call."""
        self._chance.choice(self._kinds)()

    def _expect(self, came: Any, wanted: Any) -> None:
        if not np.array_equal(came, wanted):
            self.wrong.append(f"{str(wanted)[:100]} came back as {str(came)[:100]}")

    def _small(self) -> None:
        sent = [self._chance.random(), "text", None]
        came = self._worker.forward("echo", sent)
        if came != sent:
            self.wrong.append(f"{sent} came back as {came}")

    def _array(self) -> None:
        self._echo(np.full(self._chance.randrange(1, 3000), self._chance.random()))

    def _large(self) -> None:
        self._echo(np.full(self._chance.randrange(10_000, 60_000), self._chance.random()))

    def _echo(self, sent: np.ndarray[Any, Any]) -> None:
        self._expect(self._worker.forward("echo", sent), sent)

    def _fit(self) -> None:
        sent = np.arange(self._chance.randrange(100))
        self._expect(self._worker.fit("echo", sent)["learned"], sent)

    def _chain(self) -> None:
        sent = np.full(10, self._chance.random())
        self._expect(self._worker.composite_forward(["echo", "other"], sent), sent)

    def _batches(self) -> None:
        sent = np.full((8, 2), self._chance.random())
        came = self._worker.batched_fit(["echo"], sent, batch_size=4, collect="all")
        self._expect(came.result, sent)

    def _state(self) -> None:
        self._worker.set_state("other", self._worker.get_state("other"))

    def _fail(self) -> None:
        self._fails(lambda: self._worker.forward("faulty", 1), soma.ErrorCode.FILTER_FAILED)

    def _unknown(self) -> None:
        self._fails(lambda: self._worker.forward("nobody", 1), soma.ErrorCode.UNKNOWN_NODE)

    def _fails(self, call: Callable[[], Any], code: soma.ErrorCode) -> None:
        try:
            call()
            self.wrong.append("a failure was not told")
        except soma.RemoteError as error:
            if error.code is not code:
                self.wrong.append(f"{error!r} has the code {error.code}")

    def _load(self) -> None:
        self._worker.load({"brief": Echo()})
        self._worker.unload(["brief"])
