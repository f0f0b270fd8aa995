"""Filters for the suites. They travel by value: no worker can import this module."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np

import soma_core as soma
from soma_core import progress


def note_and_sleep(path):
    """Write a file, and sleep until somebody interrupts."""
    with open(path, "w"):
        pass
    while True:
        time.sleep(0.01)


class Apply:
    """Calls a function that the test chose."""

    def __init__(self, forward: Any, fit: Any = None) -> None:
        self._forward, self._fit = forward, fit

    def fit(self, x, y=None):
        return self._fit(x, y) if self._fit else {}

    def forward(self, x, state):
        return self._forward(x, state)


class Echo:
    def fit(self, x, y=None):
        return x

    def forward(self, x, state):
        return x


def schema(dtype: str, *shape: int | str) -> soma.Schema:
    """A schema whose axes are lengths and names."""
    axes = [soma.Fixed(axis) if isinstance(axis, int) else soma.Dynamic(axis) for axis in shape]
    return soma.Schema(dtype=dtype, shape=tuple(axes))


class Declared(soma.Filter):
    """Returns what it is told to, whatever it declares."""

    takes: Any = None
    gives: Any = None
    result: Any = None
    differentiable: bool = False
    stream_mode: str = "FixedState"

    def meta(self) -> soma.FilterMeta:
        return (
            super()
            .meta()
            .replace(
                input_schema=self.takes,
                output_schema=self.gives,
                differentiable=self.differentiable,
                stream_mode=self.stream_mode,
            )
        )

    def fit(self, x: Any, y: Any = None) -> Any:
        return {}

    def forward(self, x: Any, state: Any) -> Any:
        return x if self.result is None else self.result


class Tripwire(Declared):
    """Fails the test if it is run."""

    def fit(self, x: Any, y: Any = None) -> Any:
        raise AssertionError("user code ran")

    def forward(self, x: Any, state: Any) -> Any:
        raise AssertionError("user code ran")


class Received:
    """Returns a pickle of its input, so that the host sees what came and not what went back."""

    def fit(self, x, y=None):
        return {}

    def forward(self, x, state):
        import cloudpickle

        return cloudpickle.dumps((x, getattr(getattr(x, "flags", None), "writeable", None)))


class Keep:
    """Keeps its input, and gives the same object away again."""

    def __init__(self) -> None:
        self.kept: Any = None

    def fit(self, x, y=None):
        self.kept = x
        return {}

    def forward(self, x, state):
        return self.kept


class Spoil:
    """Overwrites its input."""

    def fit(self, x, y=None):
        return {}

    def forward(self, x, state):
        x[...] = 0
        return


class Mean(soma.Filter):
    """Learns a mean and subtracts it."""

    scale: float = 1.0

    def fit(self, x, y=None):
        return {"mean": float(np.mean(x))}

    def forward(self, x, state):
        return (np.asarray(x) - state["mean"]) * self.scale


class Scale(soma.Filter):
    factor: float = 2.0

    def forward(self, x, state):
        return x * self.factor


class Accumulate:
    """Counts rows from batch to batch."""

    def fit(self, x, y=None):
        return {"rows": len(x)}

    def partial_fit(self, x, y, state):
        return {"rows": state.get("rows", 0) + len(x)}

    def forward(self, x, state):
        return x


class Report:
    def fit(self, x, y=None):
        for epoch in range(1, x + 1):
            progress.report(epoch=epoch, epochs=x)
        return {}

    def forward(self, x, state):
        return x


class Fail:
    """Raises what it is named."""

    def fit(self, x, y=None):
        return {}

    def forward(self, x, state):
        name, text = x
        raise vars(__import__("builtins"))[name](text)


class Odd(Exception):
    """No built-in exception."""


class FailOddly:
    def fit(self, x, y=None):
        return {}

    def forward(self, x, state):
        raise Odd(x)


class Slow(Exception):
    """Passes time when it is told of."""

    @property
    def told(self):
        time.sleep(self.args[0])

    def __str__(self):
        time.sleep(self.args[0])
        return "slow"


class Sleep:
    """Passes time in the way that its input names: ``("naps", 60.0)``.

    A third element is the path of a file: it is written as soon as the sleep has begun, as
    evidence that the worker runs it, and loops, naps and deaf sleeps end once it is removed.
    """

    def fit(self, x, y=None):
        return self.forward(x, {})

    def forward(self, x, state):
        how, seconds, *notes = x
        end = time.monotonic() + seconds
        if how == "deaf":
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for note in notes:
            with open(note, "w"):
                pass

        def over():
            return time.monotonic() >= end or not all(map(os.path.exists, notes))

        if how == "call":
            time.sleep(seconds)
        elif how == "error":
            raise Slow(seconds)
        elif how == "loop":
            while not over():
                pass
        elif how in ("naps", "deaf"):
            while not over():
                time.sleep(0.01)
        elif how == "stubborn":
            while time.monotonic() < end:
                try:
                    time.sleep(end - time.monotonic())
                except BaseException:
                    continue
        return "done"


class Process:
    """Does to its process what its input names."""

    def fit(self, x, y=None):
        return {}

    def forward(self, x, state):
        return getattr(self, x[0])(*x[1:])

    def kill(self, number):
        os.kill(os.getpid(), number)
        time.sleep(60)

    def complain_and_kill(self, text, number):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
        return self.kill(number)

    def leave(self, status):
        os._exit(status)

    def grandchild(self):
        """Leaves a process behind that holds whatever it inherited, in this process group."""
        return subprocess.Popen(["sleep", "600"]).pid

    def forked_grandchild(self):
        """Forks: the child holds every descriptor, the wire among them."""
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
            os._exit(0)
        return pid

    def forked_grandchild_of_another_session(self):
        """As above, and it has left this process group when this returns."""
        gone, leaving = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.close(leaving)
            os.close(gone)
            time.sleep(600)
            os._exit(0)
        os.close(leaving)
        os.read(gone, 1)
        os.close(gone)
        return pid

    def escaped_grandchild(self):
        """Leaves a process behind by which nothing tells that it came from here."""
        return subprocess.Popen(["sleep", "600"], env={}, start_new_session=True).pid

    def pid(self):
        return os.getpid()

    def descriptors(self):
        return len(os.listdir("/proc/self/fd"))


@dataclasses.dataclass
class Point:
    x: float
    y: float


def saved(content: Any) -> bytes:
    """What ``torch.save`` writes."""
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def loaded(data: bytes) -> Any:
    import torch

    return torch.load(io.BytesIO(data), weights_only=True)


def net(weight: list[list[float]], *, learning_rate: float | None = None) -> Any:
    """A linear layer as a filter, with an optimizer if a learning rate is given."""
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor(weight))
            self.bias = torch.nn.Parameter(torch.zeros(len(weight)))
            if learning_rate is not None:
                self.optimizer = torch.optim.SGD(self.parameters(), lr=learning_rate)

        def fit(self, x, y=None):
            return {}

        def forward(self, x, state=None):
            x = x if isinstance(x, torch.Tensor) else torch.tensor(x, dtype=torch.float32)
            return torch.nn.functional.linear(x, self.weight, self.bias)

    return Net()


class Threads:
    """Leaves things running."""

    @staticmethod
    def start(daemon):
        import threading

        threading.Thread(target=time.sleep, args=[600], daemon=daemon).start()

    @staticmethod
    def start_printing():
        import threading

        def work():
            while True:
                print("noise")  # noqa: T201 - what it is about
                time.sleep(0.001)

        threading.Thread(target=work).start()

    @staticmethod
    def start_pool():
        from concurrent.futures import ThreadPoolExecutor

        Threads.pool = ThreadPoolExecutor()
        Threads.pool.submit(time.sleep, 600)

    @staticmethod
    def start_process():
        import multiprocessing

        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=[600])
        process.start()
        return process.pid
