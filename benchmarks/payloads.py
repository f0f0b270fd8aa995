"""What a call costs by its payload: soma beside a Connection to a started process and other peers.

``python -m benchmarks.payloads`` starts each contestant several times, since the place of a
process in memory changes what a call costs, and alternates between them within each round. It
prints, for each payload, the median time of a round trip as a multiple of the Connection's.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

import soma_core as soma
from benchmarks.peers import SEED
from soma_core.benchmarking import Unavailable

Call = Callable[[Any], Any]


class Place(NamedTuple):
    x: float
    y: float


RECORD = {"id": 7, "name": "a name", "score": 0.25, "tags": ["x", "y"], "ok": True, "note": None}
FLOATS = [float(n) / 7 for n in range(1000)]
PAYLOADS: dict[str, Any] = {
    "array of 10": np.arange(10.0),
    "array of 8 KiB": np.arange(1024.0),
    "array of 32 x 128 float32": np.ones((32, 128), np.float32),
    "float": 1.5,
    "short text": "a short text",
    "10 floats": FLOATS[:10],
    "record of 6 fields": RECORD,
    "bytes of 10 KiB": bytes(10_240),
    "text of 8 KiB": "a" * 8192,
    "1,000 floats": FLOATS,
    "1,000 ints": list(range(1000)),
    "64 texts": [f"text number {n} of some length" for n in range(64)],
    "100,000 ints": list(range(100_000)),
    "200 records": [{**RECORD, "id": n} for n in range(200)],
    "50 rows of 20 floats": [FLOATS[n : n + 20] for n in range(50)],
    "nested with an array": {"meta": RECORD, "rows": [FLOATS[:10]] * 3, "x": np.ones(100)},
    "100 tuples": [(n, f"t{n}", n / 3) for n in range(100)],
    "50 numpy scalars": [np.float64(n) for n in range(50)],
    "200 records with tuples": [{"id": n, "box": (n, 2, 3.5, 4)} for n in range(200)],
    "200 datetimes": [datetime(2026, 1, 1, n % 24) for n in range(200)],
    "200 named tuples": [Place(n, n / 2) for n in range(200)],
    "1,000 numbers by number": {n: n / 3 for n in range(1000)},
    "(x, y) arrays": (np.ones((32, 16)), np.arange(32)),
    "dict of arrays": {"x": np.ones((32, 16)), "y": np.arange(32), "w": np.ones(32)},
    "array of 1 MiB": np.ones(1 << 17),
}
_LONG = frozenset({"100,000 ints", "array of 1 MiB"})
_ORIGINAL_CARRIES = frozenset({"float", "short text", "10 floats", "record of 6 fields"})


class Echo(soma.Filter):
    """Returns its input."""

    def forward(self, x: Any, state: Any) -> Any:
        return x


_OBSERVER = """
from soma_core import hookimpl

@hookimpl
def soma_command_finished(command, seconds, error):
    pass
"""


def _echo(connection: Any) -> None:
    while True:
        connection.send(connection.recv())


@contextmanager
def started_process() -> Iterator[Call]:
    """A Connection to a process that was started, not forked: it shares no memory pages."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_echo, args=(there,), daemon=True)
    process.start()

    def call(x: Any) -> Any:
        here.send(x)
        return here.recv()

    yield call
    process.kill()
    process.join()


@contextmanager
def over_stdio() -> Iterator[Call]:
    """soma, over stdio."""
    with soma.connect("stdio", filters={"echo": Echo()}) as worker:
        yield lambda x: worker.forward("echo", x)


@contextmanager
def observed() -> Iterator[Call]:
    """soma over stdio, with a plugin installed in the worker that observes every command."""
    with TemporaryDirectory() as folder:
        installed = Path(folder, "observer-1.dist-info")
        installed.mkdir()
        Path(folder, "observer.py").write_text(_OBSERVER)
        (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: observer\nVersion: 1\n")
        (installed / "entry_points.txt").write_text("[soma.plugins]\nobserver = observer\n")
        path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
        with soma.connect("stdio", env={"PYTHONPATH": path}, filters={"e": Echo()}) as worker:
            yield lambda x: worker.forward("e", x)


@contextmanager
def over_loky() -> Iterator[Call]:
    """loky's executor of one process."""
    try:
        from loky import get_reusable_executor
    except ImportError as error:
        raise Unavailable("loky is not installed: pip install '.[peers]'") from error
    executor = get_reusable_executor(max_workers=1, timeout=600)
    yield lambda x: executor.submit(_same, x).result()
    executor.shutdown(wait=True, kill_workers=True)


def _same(x: Any) -> Any:
    return x


_ZEROMQ = """
import pickle, sys, zmq
socket = zmq.Context().socket(zmq.REP)
socket.connect(sys.argv[1])
while True:
    parts = socket.recv_multipart(copy=False)
    x = pickle.loads(parts[0], buffers=[part.buffer for part in parts[1:]])
    buffers = []
    data = pickle.dumps(x, 5, buffer_callback=buffers.append)
    socket.send_multipart([data, *(buffer.raw() for buffer in buffers)], copy=False)
"""


@contextmanager
def over_zeromq() -> Iterator[Call]:
    """pyzmq with pickle 5, buffers out of band."""
    try:
        import zmq
    except ImportError as error:
        raise Unavailable("pyzmq is not installed: pip install '.[peers]'") from error
    import pickle

    socket = zmq.Context().socket(zmq.REQ)
    address = f"ipc:///tmp/soma-payloads-{os.getpid()}-{time.monotonic_ns()}"
    socket.bind(address)
    process = subprocess.Popen([sys.executable, "-c", _ZEROMQ, address])

    def call(x: Any) -> Any:
        buffers: list[Any] = []
        data = pickle.dumps(x, 5, buffer_callback=buffers.append)
        socket.send_multipart([data, *(buffer.raw() for buffer in buffers)], copy=False)
        parts = socket.recv_multipart(copy=False)
        return pickle.loads(parts[0], buffers=[part.buffer for part in parts[1:]])

    yield call
    process.kill()
    process.wait()
    socket.close(0)


@contextmanager
def _lines(command: list[str], node: str) -> Iterator[Call]:
    """A daemon that is written lines of JSON."""
    import base64

    import cloudpickle

    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None

    def ask(**fields: Any) -> Any:
        process.stdin.write(json.dumps(fields).encode() + b"\n")
        process.stdin.flush()
        reply = json.loads(process.stdout.readline())
        assert reply["ok"], reply
        return reply

    pickled = base64.b64encode(cloudpickle.dumps(_PlainEcho())).decode()
    ask(cmd="LOAD", filters=[{"id": node, "pickle_b64": pickled}])
    yield lambda x: ask(cmd="FORWARD", node_id=node, data=x, state={})["result"]
    process.kill()
    process.wait()


class _PlainEcho:
    def fit(self, x: Any, y: Any = None) -> Any:
        return {}

    def forward(self, x: Any, state: Any) -> Any:
        return x


def original() -> AbstractContextManager[Call]:
    """The original's daemon, over its lines."""
    if not SEED.exists():
        raise Unavailable(f"the original's daemon is not at {SEED}")
    return _lines([sys.executable, str(SEED)], "echo")


def lines() -> AbstractContextManager[Call]:
    """soma's daemon, over the same lines."""
    return _lines([sys.executable, "-P", "-m", "soma_transport_stdio"], "echo")


CONTESTANTS: dict[str, Callable[[], AbstractContextManager[Call]]] = {
    "Connection": started_process,
    "soma": over_stdio,
    "soma, observed": observed,
    "pyzmq, pickle 5": over_zeromq,
    "loky": over_loky,
    "original, lines": original,
    "soma, lines": lines,
}


def carries(contestant: str, payload: str) -> bool:
    """Whether a contestant takes part in a payload."""
    return "lines" not in contestant or payload in _ORIGINAL_CARRIES


def round_trip(call: Call, payload: Any, count: int) -> float:
    """The median time of some calls, in seconds."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        call(payload)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def launch(names: list[str], payloads: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """One launch of each contestant: the median of its rounds, by payload and contestant."""
    with ExitStack() as stack:
        calls = {}
        for name in names:
            try:
                calls[name] = stack.enter_context(CONTESTANTS[name]())
            except Unavailable as reason:
                print(f"  {name} does not take part: {reason}", file=sys.stderr)
        found: dict[str, dict[str, float]] = {}
        for payload in payloads:
            content, count = PAYLOADS[payload], 12 if payload in _LONG else 200
            taking_part = {n: c for n, c in calls.items() if carries(n, payload)}
            for call in taking_part.values():
                round_trip(call, content, count // 4)
            rows: dict[str, list[float]] = {name: [] for name in taking_part}
            for _ in range(rounds):
                for name, call in taking_part.items():
                    rows[name].append(round_trip(call, content, count))
            found[payload] = {name: min(row) for name, row in rows.items()}
        return found


def main() -> None:
    """Measure and print a table; ``--json FILE`` keeps the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--launches", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--two-cpus", action="store_true", help="do not pin all to one CPU")
    parser.add_argument("--only", nargs="*", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--payloads", nargs="*", default=list(PAYLOADS), choices=list(PAYLOADS))
    parser.add_argument("--json", help="where to write the medians, in seconds")
    arguments = parser.parse_args()
    if not arguments.two_cpus:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    names = ["Connection", *(name for name in arguments.only if name != "Connection")]
    launches = []
    for number in range(arguments.launches):
        print(f"launch {number + 1} of {arguments.launches}", file=sys.stderr)
        launches.append(launch(names, arguments.payloads, arguments.rounds))
    _report(names, arguments.payloads, launches)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(launches, file)


def _report(
    names: list[str], payloads: list[str], launches: list[dict[str, dict[str, float]]]
) -> None:
    """Times of the Connection's, the median over the launches."""
    width = max(map(len, payloads)) + 2
    print(f"{'payload':<{width}}{'Connection':>12}" + "".join(f"{n:>17}" for n in names[1:]))
    for payload in payloads:
        base = statistics.median(launch[payload]["Connection"] for launch in launches)
        cells = []
        for name in names[1:]:
            ratios = [
                launch[payload][name] / launch[payload]["Connection"]
                for launch in launches
                if name in launch[payload]
            ]
            cells.append(f"{statistics.median(ratios):.2f}" if ratios else "")
        row = "".join(f"{cell:>17}" for cell in cells)
        print(f"{payload:<{width}}{base * 1e6:>9.0f} us{row}")


if __name__ == "__main__":
    main()
