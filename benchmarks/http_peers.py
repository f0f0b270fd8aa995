"""Models over REST, beside LitServe and MLServer: ``python -m benchmarks.http_peers``.

Each server has one worker with the same estimator of scikit-learn (64 numbers in, one of ten
classes out), joins up to 64 requests that wait up to 2 ms, and is asked by the same 64 callers for
the same row, as JSON and as bytes: binary here, base64 in JSON there. They take turns. Each peer
runs in an environment of its own, whose interpreter is named: ``--litserve PYTHON --mlserver
PYTHON``; ``make http-peers`` makes both. Processor time is that of all processes of a server.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.http import CALLERS, infer_request, learned, load, post, serving, wait_until_ready
from soma_core.benchmarking import time_name

__all__ = ["Contestant", "compare"]

ESTIMATOR = """
import numpy as np
from sklearn.linear_model import LogisticRegression
data = np.load("learned.npz")
estimator = LogisticRegression().fit(data["x"], data["y"])
"""
LITSERVE = """
import base64, sys
import litserve, numpy as np

class Api(litserve.LitAPI):
    def setup(self, device):
        space = {}
        exec(open("estimator.py").read(), space)
        self.estimator = space["estimator"]
    def decode_request(self, request):
        x = request["x"]
        return np.frombuffer(base64.b64decode(x)) if isinstance(x, str) else np.array(x)
    def batch(self, inputs):
        return np.stack(inputs)
    def predict(self, x):
        return self.estimator.predict(x)
    def unbatch(self, output):
        return list(output)
    def encode_response(self, output):
        return {"y": int(output)}

if __name__ == "__main__":
    server = litserve.LitServer(
        Api(max_batch_size=64, batch_timeout=0.002), accelerator="cpu", workers_per_device=1,
        fast_queue=True,
    )
    port = int(sys.argv[1])
    server.run(port=port, host="127.0.0.1", log_level="error", generate_client_file=False)
"""
MLSERVER = """
import numpy as np
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceResponse

class Model(MLModel):
    async def load(self):
        space = {}
        exec(open("estimator.py").read(), space)
        self.estimator = space["estimator"]
        return True
    async def predict(self, payload):
        given = payload.inputs[0]
        if given.datatype == "BYTES":
            x = np.stack([np.frombuffer(one) for one in Base64Codec.decode_input(given)])
        else:
            x = NumpyCodec.decode_input(given)
        output = NumpyCodec.encode_output("y", self.estimator.predict(x))
        return InferenceResponse(model_name=self.name, outputs=[output])
"""


@dataclass
class Contestant:
    """A server that is asked.

    Attributes:
        name: What it is called.
        port: Where it listens.
        request: What it is asked.
        process: Its first process.
        rates: Requests a second, by round.
        times: Seconds of all requests.
        cpu: Seconds of processor time of one request, by round.
    """

    name: str
    port: int
    request: bytes
    process: psutil.Process
    rates: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def ask(self, seconds: float) -> None:
        """One round."""
        before = self._cpu()
        times = asyncio.run(load(self.port, self.request, seconds))
        self.times += times
        self.rates.append(len(times) / seconds)
        self.cpu.append((self._cpu() - before) / len(times))

    def _cpu(self) -> float:
        processes = [self.process, *self.process.children(recursive=True)]
        return sum(sum(process.cpu_times()[:2]) for process in processes)


@contextmanager
def _running(command: list[str], directory: Path, port: int, ready: bytes) -> Iterator[int]:
    """A peer, from when it answers; yields its process id."""
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=directory, stdout=log, stderr=log, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 90.0
            while not _answers(port, ready):
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"{command[0]} does not serve: {(directory / 'log').read_text()}")
                time.sleep(0.2)
            yield process.pid
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _answers(port: int, path: bytes) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 5.0) as connection:
            connection.sendall(b"GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n" % path)
            return b" 200 " in connection.recv(100)
    except OSError:
        return False


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        found = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in found]


def _coded_row() -> str:
    """A row as bytes, as far as JSON can have them: the peers take no others over REST."""
    return base64.b64encode(learned()[0][0].tobytes()).decode()


def _posted(path: str, asked: object) -> bytes:
    return post(path, json.dumps(asked).encode(), {"Content-Type": "application/json"})


@contextmanager
def _litserve(python: str, directory: Path) -> Iterator[list[Contestant]]:
    [port] = _free_ports(1)
    (directory / "server.py").write_text(LITSERVE)
    command = [python, "server.py", str(port)]
    with _running(command, directory, port, b"/health") as pid:
        process = psutil.Process(pid)
        row = learned()[0][0].tolist()
        yield [
            Contestant("LitServe, JSON", port, _posted("/predict", {"x": row}), process),
            Contestant("LitServe, base64", port, _posted("/predict", {"x": _coded_row()}), process),
        ]


@contextmanager
def _mlserver(python: str, directory: Path) -> Iterator[list[Contestant]]:
    port, grpc, metrics = _free_ports(3)
    (directory / "model.py").write_text(MLSERVER)
    settings = {"http_port": port, "grpc_port": grpc, "metrics_port": metrics, "debug": False}
    (directory / "settings.json").write_text(
        json.dumps({**settings, "host": "127.0.0.1", "parallel_workers": 1})
    )
    model = {"name": "batched", "implementation": "model.Model"}
    batching = {"max_batch_size": 64, "max_batch_time": 0.002}
    (directory / "model-settings.json").write_text(json.dumps({**model, **batching}))
    command = [str(Path(python).with_name("mlserver")), "start", "."]
    with _running(command, directory, port, b"/v2/models/batched/ready") as pid:
        process = psutil.Process(pid)
        one = {"name": "x", "shape": [1], "datatype": "BYTES", "data": [_coded_row()]}
        coded = {"inputs": [{**one, "parameters": {"content_type": "base64"}}]}
        yield [
            Contestant("MLServer, JSON", port, infer_request("batched", binary=False), process),
            Contestant(
                "MLServer, base64", port, _posted("/v2/models/batched/infer", coded), process
            ),
        ]


@contextmanager
def _soma() -> Iterator[list[Contestant]]:
    with serving() as (url, pid):
        wait_until_ready(url)
        port, process = int(url.rpartition(":")[2]), psutil.Process(pid)
        yield [
            Contestant(f"soma, {kind}", port, infer_request("batched", binary=binary), process)
            for kind, binary in (("JSON", False), ("binary", True))
        ]


def compare(litserve: str | None, mlserver: str | None, seconds: float, rounds: int) -> None:
    """Print what each does."""
    with ExitStack() as stack:
        contestants = stack.enter_context(_soma())
        for python, start in ((litserve, _litserve), (mlserver, _mlserver)):
            if python is None:
                continue
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            (directory / "estimator.py").write_text(ESTIMATOR)
            _save(directory / "learned.npz")
            contestants += stack.enter_context(start(str(Path(python).absolute()), directory))
        for one in contestants:
            one.ask(seconds / 4)
            one.rates, one.times, one.cpu = [], [], []
        for _ in range(rounds):
            for one in contestants:
                one.ask(seconds)
    print(f"| {CALLERS} callers | rows a second | p50 | p99 | processor time of a row |")
    print("| --- " * 5 + "|")
    for one in contestants:
        times = sorted(one.times)
        p50, p99 = (time_name(times[int(len(times) * share)]) for share in (0.5, 0.99))
        rate, cpu = statistics.median(one.rates), time_name(statistics.median(one.cpu))
        print(f"| {one.name} | {rate:,.0f} | {p50} | {p99} | {cpu} |")


def _save(path: Path) -> None:
    import numpy as np

    x, y = learned()
    np.savez(path, x=x, y=y)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser("python -m benchmarks.http_peers", description=__doc__)
    parser.add_argument("--litserve", metavar="PYTHON")
    parser.add_argument("--mlserver", metavar="PYTHON")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    compare(options.litserve, options.mlserver, options.seconds, options.rounds)


if __name__ == "__main__":
    main()
