"""Training: what the demo does with one worker, the same whatever the transport."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console

from soma_core.cli.curve import Curve
from soma_core.cli.demo.digits import Digits
from soma_core.client.connect import connect
from soma_core.client.progress.display import ProgressDisplay
from soma_core.client.progress.watch import each_of
from soma_core.client.worker import Worker
from soma_core.errors import WorkerDied
from soma_core.progress import Listener, Report

_HIDDEN = 256
_MEASURING = 0.5  # seconds

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""The environment of a worker: so small a network is quickest, and the same anywhere, on one."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Place:
    """Where a worker is started: a transport and its options."""

    transport: str
    options: dict[str, Any]

    def connect(self, epochs: int) -> Worker:
        """A worker that has the filters of the demo, and has learned nothing."""
        return connect(self.transport, filters=_filters(epochs), **self.options)


def _filters(epochs: int) -> dict[str, Any]:
    network = {
        "sizes": [64, _HIDDEN, 10],
        "activation": "relu",
        "dropout": 0.3,
        "loss": "cross_entropy",
        "optimizer": "Adam",
        "lr": 1e-3,
        "epochs": epochs,
        "batch_size": 64,
        "shuffle": True,
        "seed": 0,
        "output": "softmax",
    }
    return {"scale": ("sklearn.StandardScaler", {}), "mlp": ("torch.MLP", network)}


@dataclass(frozen=True)
class TrainingRun:
    """How it went over one transport.

    Attributes:
        transport: Its name.
        pid: The worker's process.
        start_up: Seconds until the worker had loaded the filters, imports included.
        calls: How many small FORWARD calls a second it answered.
        curve: The losses of the network.
        output: For each test image, the probability of each digit.
    """

    transport: str
    pid: int
    start_up: float
    calls: float
    curve: Curve
    output: Array

    @property
    def predicted(self) -> Array:
        """The digits that were read."""
        read: Array = self.output.argmax(axis=1)
        return read


def run_training(place: Place, digits: Digits, epochs: int, console: Console) -> TrainingRun:
    """Start a worker, train it, test it, measure it, and end it.

    Raises:
        SomaError: The worker did not come up, or failed.
    """
    started = time.perf_counter()
    with place.connect(epochs) as worker:
        loaded = time.perf_counter()
        curve = Curve(f"MLP over {place.transport}")
        _train(worker, digits, console, curve.title, curve)
        output = worker.forward("mlp", worker.forward("scale", digits.x_test))
        return TrainingRun(
            transport=place.transport,
            pid=worker.ping().pid,
            start_up=loaded - started,
            calls=_calls_per_second(worker, digits.x_test[:1]),
            curve=curve,
            output=output,
        )


def kill_half_way(place: Place, digits: Digits, epochs: int, console: Console) -> WorkerDied | None:
    """Train a new worker, kill it when half of its epochs are done, and give the host's error."""
    with place.connect(epochs) as worker:
        pid = worker.ping().pid

        def kill_when_due(report: Report) -> None:
            if 2 * report["epoch"] >= epochs:
                with suppress(ProcessLookupError):  # it is dead, and the last reports still come
                    os.kill(pid, signal.SIGKILL)

        try:
            _train(worker, digits, console, f"MLP in process {pid}", kill_when_due)
            worker.ping()  # it had been quicker than the signal
        except WorkerDied as death:
            return death
    return None


def _train(
    worker: Worker,
    digits: Digits,
    console: Console,
    title: str,
    watch: Listener,
) -> None:
    """Fit the scaler on all images, then the network on what the scaler makes of them.

    FIT and not BATCHED_FIT: that would fit the scaler anew on each batch.
    """
    worker.fit("scale", digits.x_train, return_state=False)
    scaled = worker.forward("scale", digits.x_train)
    with ProgressDisplay(console, title, len(scaled)) as shown:
        on_report = each_of(shown, watch)
        worker.fit("mlp", scaled, digits.y_train, return_state=False, progress=on_report)


def _calls_per_second(worker: Worker, row: Array) -> float:
    """How often a second one row goes to the worker, through the scaler, and back."""
    worker.forward("scale", row)
    calls, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < _MEASURING:
        worker.forward("scale", row)
        calls += 1
    return calls / elapsed
