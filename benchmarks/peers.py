"""The peers: others who have the work done in another process.

Each is written as a careful user of that library would write it. One that is not installed is
reported as such, and stops nothing.
"""

from __future__ import annotations

import base64
import json
import multiprocessing
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np

from soma_core.benchmarking import BASELINE, Contestant, TimedCall, Unavailable, builtin
from soma_core.benchmarking.work import STATE, compute

SEED = Path(__file__).resolve().parents[1].parent / "shared" / "seed" / "daemon.py"


def _answer_shared(connection: Any, name: str, size: int) -> None:
    memory = shared_memory.SharedMemory(name)
    while True:
        length = int.from_bytes(connection.recv_bytes(), "little")
        x = np.frombuffer(memory.buf, np.float64, length)
        out = np.frombuffer(memory.buf, np.float64, length, offset=size)
        out[:] = compute(x, STATE)
        del x, out
        connection.send_bytes(b".")


@contextmanager
def shared_memory_loop() -> Iterator[TimedCall]:
    """A hand-written loop: one block of shared memory, lengths over a pipe, results copied out."""
    size = 256 << 20
    context = multiprocessing.get_context("fork")
    memory = shared_memory.SharedMemory(create=True, size=2 * size)
    ours, theirs = context.Pipe()
    process = context.Process(target=_answer_shared, args=(theirs, memory.name, size), daemon=True)
    process.start()

    def call(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        np.frombuffer(memory.buf, np.float64, len(x))[:] = x
        ours.send_bytes(len(x).to_bytes(8, "little"))
        ours.recv_bytes()
        return np.frombuffer(memory.buf, np.float64, len(x), offset=size).copy()

    try:
        yield call
    finally:
        process.terminate()
        process.join()
        memory.close()
        memory.unlink()


def _compute_with_state(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return compute(x, STATE)


@contextmanager
def process_pool() -> Iterator[TimedCall]:
    """concurrent.futures.ProcessPoolExecutor with one worker."""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda x: pool.submit(_compute_with_state, x).result()


@contextmanager
def loky() -> Iterator[TimedCall]:
    """loky's reusable executor with one worker."""
    try:
        from loky import ProcessPoolExecutor
    except ImportError as error:
        raise Unavailable(f"not installed ({error})") from None
    with ProcessPoolExecutor(max_workers=1) as pool:
        yield lambda x: pool.submit(_compute_with_state, x).result()


@contextmanager
def ray_cluster() -> Iterator[Any]:
    """A local cluster, without what a program that measures does not look at."""
    try:
        import ray
    except ImportError as error:
        raise Unavailable(f"not installed ({error})") from None
    ours = not ray.is_initialized()  # soma's own transport over Ray may have been faster
    if ours:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


@contextmanager
def ray_actor(ray: Any) -> Iterator[TimedCall]:
    """A Ray actor; large arrays cross in its object store, and come back without a copy."""

    @ray.remote
    class Actor:
        def forward(self, x: Any) -> Any:
            return compute(x, STATE)

    actor = Actor.remote()
    yield lambda x: ray.get(actor.forward.remote(x))


def _answer_zeromq(address: str) -> None:
    import zmq

    socket = zmq.Context().socket(zmq.PAIR)
    socket.connect(address)
    while True:
        _send_zeromq(socket, compute(_receive_zeromq(socket), STATE))


def _send_zeromq(socket: Any, value: Any) -> None:
    buffers: list[pickle.PickleBuffer] = []
    header = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    socket.send_multipart([header, *(buffer.raw() for buffer in buffers)], copy=False)


def _receive_zeromq(socket: Any) -> np.ndarray[Any, Any]:
    frames = socket.recv_multipart(copy=False)
    x: np.ndarray[Any, Any] = pickle.loads(
        frames[0].buffer, buffers=[frame.buffer for frame in frames[1:]]
    )
    return x


@contextmanager
def zeromq() -> Iterator[TimedCall]:
    """pyzmq with pickles whose buffers travel out of band."""
    try:
        import zmq
    except ImportError as error:
        raise Unavailable(f"not installed ({error})") from None
    with tempfile.TemporaryDirectory() as directory:
        address = f"ipc://{directory}/z"
        context = zmq.Context()
        socket = context.socket(zmq.PAIR)
        socket.bind(address)
        process = multiprocessing.get_context("spawn").Process(
            target=_answer_zeromq, args=(address,), daemon=True
        )
        process.start()

        def call(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            _send_zeromq(socket, x)
            return _receive_zeromq(socket)

        try:
            yield call
        finally:
            process.terminate()
            process.join()
            context.destroy(linger=0)


class ListWork:
    """The work for the original's daemon, which hands lists to its filters."""

    def fit(self, x: Any, y: Any = None) -> dict[str, float]:
        return STATE

    def forward(self, x: list[float], state: Any) -> list[float]:
        return [value * state["factor"] for value in x]


@contextmanager
def original() -> Iterator[TimedCall]:
    """The original's daemon, with JSON both ways."""
    if not SEED.exists():
        raise Unavailable(f"{SEED} is not here")
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the daemon cannot import it
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

    def call(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        data = {"type": "Tensor", "data": {"values": x.tolist(), "shape": [len(x)]}}
        return np.array(ask(cmd="FORWARD", node_id="work", data=data, state=STATE))

    try:
        yield call
    finally:
        stdin.close()
        daemon.terminate()
        daemon.wait()
        stdout.close()


def contestants() -> dict[str, Contestant]:
    """The built-in ones and the peers; those that fork first, while there are no threads."""
    mine = builtin()
    peers = {name: Contestant(lambda _, start=start: start()) for name, start in _PEERS.items()}
    return {
        BASELINE: mine.pop(BASELINE),
        "SharedMemory loop": peers.pop("SharedMemory loop"),
        **mine,
        **peers,
        "Ray actor": Contestant(ray_actor, ray_cluster),
    }


_PEERS: dict[str, Callable[[], AbstractContextManager[TimedCall]]] = {
    "SharedMemory loop": shared_memory_loop,
    "ProcessPoolExecutor": process_pool,
    "loky": loky,
    "pyzmq": zeromq,
    "original daemon": original,
}
