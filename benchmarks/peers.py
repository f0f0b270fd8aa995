"""The contestants: each starts a process, warms it up, and gives a function to call.

Each is written as a careful user of that library would write it. One that is not installed is
reported as such, and stops nothing.
"""

from __future__ import annotations

import base64
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np

import soma_core as soma
from benchmarks.work import STATE, ListWork, Work, compute

Call = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
SEED = Path(__file__).resolve().parents[1].parent / "shared" / "seed" / "daemon.py"


class Unavailable(Exception):
    """A contestant cannot take part here; the text says why."""


@contextmanager
def soma_stdio() -> Iterator[Call]:
    """soma, with a child process."""
    with soma.connect("stdio", filters={"work": Work()}) as worker:
        worker.fit("work", [0.0], return_state=False)
        yield lambda x: worker.forward("work", x)


@contextmanager
def soma_socket() -> Iterator[Call]:
    """soma, with a worker of a daemon."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "s")
        command = [sys.executable, "-P", "-m", "soma_transport_socket", "--path", path]
        daemon = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            with soma.connect("socket", path=path, filters={"work": Work()}) as worker:
                worker.fit("work", [0.0], return_state=False)
                yield lambda x: worker.forward("work", x)
        finally:
            daemon.terminate()
            daemon.wait()


def _answer_pipe(connection: Any) -> None:
    while (x := connection.recv()) is not None:
        connection.send(compute(x, STATE))


@contextmanager
def pipe() -> Iterator[Call]:
    """multiprocessing.Pipe and a forked process: the least that the standard library needs."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_answer_pipe, args=(theirs,))
    process.start()

    def call(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        ours.send(x)
        y: np.ndarray[Any, Any] = ours.recv()
        return y

    yield call
    ours.send(None)
    process.join()


def _answer_shared(connection: Any, name: str, size: int) -> None:
    memory = shared_memory.SharedMemory(name)
    while (length := connection.recv()) is not None:
        x = np.frombuffer(memory.buf, np.float64, length)
        out = np.frombuffer(memory.buf, np.float64, length, offset=size)
        out[:] = compute(x, STATE)
        del x, out
        connection.send(length)
    memory.close()


@contextmanager
def shared_memory_loop() -> Iterator[Call]:
    """A hand-written loop: one block of shared memory, lengths over a pipe, results copied out."""
    size = 256 << 20
    context = multiprocessing.get_context("fork")
    memory = shared_memory.SharedMemory(create=True, size=2 * size)
    ours, theirs = context.Pipe()
    process = context.Process(target=_answer_shared, args=(theirs, memory.name, size))
    process.start()

    def call(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        np.frombuffer(memory.buf, np.float64, len(x))[:] = x
        ours.send(len(x))
        return np.frombuffer(memory.buf, np.float64, ours.recv(), offset=size).copy()

    yield call
    ours.send(None)
    process.join()
    memory.close()
    memory.unlink()


def _compute_with_state(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return compute(x, STATE)


@contextmanager
def process_pool() -> Iterator[Call]:
    """concurrent.futures.ProcessPoolExecutor with one worker."""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda x: pool.submit(_compute_with_state, x).result()


@contextmanager
def loky() -> Iterator[Call]:
    """loky's reusable executor with one worker."""
    try:
        from loky import ProcessPoolExecutor
    except ImportError as error:
        raise Unavailable(f"not installed ({error})") from None
    with ProcessPoolExecutor(max_workers=1) as pool:
        yield lambda x: pool.submit(_compute_with_state, x).result()


@contextmanager
def ray_actor() -> Iterator[Call]:
    """A Ray actor on a local cluster."""
    try:
        import ray
    except ImportError as error:
        raise Unavailable(f"not installed ({error})") from None
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")

    @ray.remote
    class Actor:
        def forward(self, x: Any) -> Any:
            return compute(x, STATE)

    actor = Actor.remote()
    yield lambda x: ray.get(actor.forward.remote(x))
    ray.shutdown()


def _answer_zeromq(address: str) -> None:
    import zmq

    socket = zmq.Context().socket(zmq.REP)
    socket.connect(address)
    while True:
        frames = socket.recv_multipart(copy=False)
        x = pickle.loads(frames[0].buffer, buffers=[frame.buffer for frame in frames[1:]])
        if x is None:
            return
        _send_zeromq(socket, compute(x, STATE))


def _send_zeromq(socket: Any, value: Any) -> None:
    buffers: list[pickle.PickleBuffer] = []
    header = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    socket.send_multipart([header, *(buffer.raw() for buffer in buffers)], copy=False)


@contextmanager
def zeromq() -> Iterator[Call]:
    """pyzmq with pickles whose buffers travel out of band."""
    try:
        import zmq
    except ImportError as error:
        raise Unavailable(f"not installed ({error})") from None
    with tempfile.TemporaryDirectory() as directory:
        address = f"ipc://{directory}/z"
        socket = zmq.Context().socket(zmq.REQ)
        socket.bind(address)
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=_answer_zeromq, args=(address,))
        process.start()

        def call(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            _send_zeromq(socket, x)
            frames = socket.recv_multipart(copy=False)
            y: np.ndarray[Any, Any] = pickle.loads(
                frames[0].buffer, buffers=[frame.buffer for frame in frames[1:]]
            )
            return y

        yield call
        _send_zeromq(socket, None)
        process.join()
        socket.close(linger=0)


@contextmanager
def original() -> Iterator[Call]:
    """The original's daemon, with JSON both ways."""
    if not SEED.exists():
        raise Unavailable(f"{SEED} is not here")
    import cloudpickle

    daemon = subprocess.Popen(
        [sys.executable, str(SEED)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert daemon.stdin is not None
    assert daemon.stdout is not None
    stdin, stdout = daemon.stdin, daemon.stdout

    def ask(**command: Any) -> Any:
        stdin.write(json.dumps(command) + "\n")
        stdin.flush()
        return json.loads(stdout.readline())["result"] if command["cmd"] == "FORWARD" else None

    pickled = base64.b64encode(cloudpickle.dumps(ListWork())).decode()
    ask(cmd="LOAD", filters=[{"id": "work", "pickle_b64": pickled}])
    stdout.readline()
    yield lambda x: np.array(
        ask(
            cmd="FORWARD",
            node_id="work",
            data={"type": "Tensor", "data": {"values": x.tolist(), "shape": [len(x)]}},
            state=STATE,
        )
    )
    stdin.close()
    daemon.wait()


CONTESTANTS: dict[str, Callable[[], Any]] = {
    "soma stdio": soma_stdio,
    "soma socket": soma_socket,
    "multiprocessing.Pipe": pipe,
    "SharedMemory loop": shared_memory_loop,
    "ProcessPoolExecutor": process_pool,
    "loky": loky,
    "Ray actor": ray_actor,
    "pyzmq": zeromq,
    "original daemon": original,
}
