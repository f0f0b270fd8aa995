"""The cache's price: ``python -m benchmarks.cache`` compares a hit with reading the same bytes.

What is read is the file in which the cache keeps the result, through the page cache, into memory
of its own, by ``np.fromfile``: with the large pages that numpy asks for, that is the fastest way. A
hit hashes the input, and finds, reads and checks the result. "In the engine" is what the cache
itself costs; "through stdio" is a call of a host, in which input and result travel as well. Rounds
are interleaved, and the medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import soma_core as soma
from soma_core.benchmarking import size_name
from soma_core.execution import Forward, Node
from soma_core.serve import Responder
from soma_core.tooling import installed_plugins

Calls = dict[str, Callable[[], Any]]


class Doubled(soma.Filter):
    """As large a result as its input."""

    def forward(self, x: Any, state: Any) -> Any:
        return x * 2


class Summed(soma.Filter):
    """A number of an array."""

    def forward(self, x: Any, state: Any) -> Any:
        return float(x.sum())


class Filled(soma.Filter):
    """An array of a number."""

    size: int

    def forward(self, x: Any, state: Any) -> Any:
        return np.full(self.size, x)


@contextmanager
def engine(directory: Path, **filters: soma.Filter) -> Iterator[Any]:
    """An engine of this process with the cache in front of it."""
    from soma_cache.plugin import Caching
    from soma_cache.settings import CacheSettings

    plugins = installed_plugins()
    plugins.register("measured cache", Caching(CacheSettings(directory)))
    made = Responder().engine
    made.nodes.add(Node(name, node) for name, node in filters.items())
    yield made


def contestants(directory: Path, size: int, running: ExitStack) -> Calls:
    """What is measured, each warm: a hit is one."""
    x = np.random.default_rng(0).random(size // 8)
    filters = {"double": Doubled(), "sum": Summed(), "fill": Filled(size=x.size)}
    environments = {"": {}, ", hit": {"SOMA_CACHE_DIR": str(directory / "worker")}}
    workers = {
        name: running.enter_context(soma.connect("stdio", filters=filters, env=environment))
        for name, environment in environments.items()
    }
    here = running.enter_context(engine(directory / "engine", **filters))

    def execute(node_id: str, data: Any) -> Callable[[], Any]:
        command = Forward(cmd="FORWARD", node_id=node_id, data=data)
        return lambda: here.execute(command)

    doubled = execute("double", x)
    assert np.array_equal(doubled().result, x * 2)
    (kept,) = (directory / "engine").rglob("*.val")
    calls: Calls = {
        "reading": lambda: np.fromfile(kept, np.uint8),
        "in the engine: a hit": doubled,
        "in the engine: a hit whose result is a number": execute("sum", x),
        "in the engine: a hit whose input is a number": execute("fill", 1.0),
    }
    for name, worker in workers.items():
        calls[f"through stdio: x * 2{name}"] = lambda worker=worker: worker.forward("double", x)
    for call in calls.values():
        call()
    assert workers[", hit"].status().plugins["cache"]["misses"] == 1
    return calls


def measure(calls: Calls, rounds: int) -> dict[str, float]:
    """The median seconds of each call."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            result = call()
            taken[name].append(time.perf_counter() - started)
            del result
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser("python -m benchmarks.cache", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", type=int, default=64 << 20, help="bytes of the array")
    parser.add_argument("--dir", help="where to keep the results meanwhile")
    options = parser.parse_args()
    if find_spec("soma_cache") is None:
        sys.exit("this measures soma-cache, which is not installed: pip install soma-cache")
    with tempfile.TemporaryDirectory(dir=options.dir) as directory, ExitStack() as running:
        calls = contestants(Path(directory), options.size, running)
        medians = measure(calls, options.rounds)
    print(f"| {size_name(options.size)} | ms | times reading |\n|---|---|---|")
    for name, seconds in medians.items():
        print(f"| {name} | {seconds * 1e3:.1f} | {seconds / medians['reading']:.2f} |")


if __name__ == "__main__":
    main()
