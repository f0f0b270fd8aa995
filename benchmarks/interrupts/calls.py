"""What a host is doing when Ctrl-C comes, and how it is known that nothing was lost by it."""

from __future__ import annotations

import random
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

import soma_core as soma

__all__ = ["KINDS", "Kind", "User"]

_SIZES = (1, 1_000, 20_000, 300_000, 8_388_608)  # of float64: up to 64 MiB
_ODDS = (6, 6, 6, 3, 1)
_WORKERS = 2
_TIMEOUT = 120.0  # the machine may have other work

Options = dict[str, Any]
T = TypeVar("T")
H = TypeVar("H", bound=soma.Worker | soma.WorkerPool)


class Learns(soma.Filter):
    """Learns a token and data, and answers with what it learned."""

    def fit(self, x: Any, y: Any = None) -> Any:
        """Learn the first value of the data as the token."""
        return {"token": float(np.asarray(x).flat[0]), "data": x}

    def partial_fit(self, x: Any, y: Any = None, state: Any = None) -> Any:
        """The same."""
        return self.fit(x)

    def forward(self, x: Any, state: Any) -> Any:
        """The token and how many values were learned for None, else the data."""
        return [state["token"], int(np.size(state["data"]))] if x is None else x

    def predict(self, x: Any, state: Any) -> Any:
        """The data, and the token."""
        return [x, state["token"]]


def double(x: Any) -> Any:
    """A function for an executor."""
    return x + x


class User(ABC, Generic[T]):
    """Holds something of soma, uses it until Ctrl-C, and says whether it is as before."""

    def __init__(self, options: Options, chance: random.Random) -> None:
        self.options, self.chance = options, chance
        self.held = self.make()
        self.before = self.pids()

    @abstractmethod
    def make(self) -> T:
        """What is used."""

    @abstractmethod
    def pids(self) -> set[int | None]:
        """The processes behind it."""

    @abstractmethod
    def calls(self) -> list[Callable[[Any], object]]:
        """What is done with it, with some data."""

    def changes(self, call: Callable[[Any], object]) -> bool:
        """Whether a call that is interrupted may cost a process."""
        return False

    @abstractmethod
    def check(self) -> None:
        """Make sure that it is as before."""

    @abstractmethod
    def close(self) -> None:
        """End it."""

    def data(self) -> Any:
        """Data of a random size, with a new token."""
        (size,) = self.chance.choices(_SIZES, _ODDS)
        return np.full(size, self.chance.random())


class _Node(User[H]):
    """One that holds a node, which has learned something."""

    def __init__(self, options: Options, chance: random.Random) -> None:
        super().__init__(options, chance)
        self._directory = tempfile.TemporaryDirectory()
        self._path = Path(self._directory.name) / "checkpoint"
        self._may_know: list[list[float]] = []
        self._learn(np.zeros(3))

    def _learn(self, x: Any) -> None:
        self._may_know.append([float(x[0]), x.size])
        self.held.fit("node", x, timeout=_TIMEOUT)

    def _set(self, x: Any) -> None:
        state = self.held.get_state("node")
        self._may_know.append([float(x[0]), x.size])
        state = replace(state, fit_state={"token": float(x[0]), "data": x})
        self.held.set_state("node", state)

    def _batched(self, x: Any) -> None:
        self._may_know.append([float(x[0]), x.size])
        self.held.batched_fit(["node"], iter([(x, None)]), batch_size=x.size)

    def _forward(self, x: Any) -> None:
        assert np.array_equal(self.held.forward("node", x), x)

    def _forward_list(self, x: Any) -> None:
        many = [x[:20_000]] * 40
        result = self.held.forward("node", many)
        assert all(map(np.array_equal, result, many))

    def _forward_text(self, x: Any) -> None:
        text = "x" * x.size
        assert self.held.forward("node", text) == text

    def _predict(self, x: Any) -> None:
        result, token = self.held.predict("node", x)
        assert np.array_equal(result, x)
        assert any(known[0] == token for known in self._may_know)

    def _stream(self, x: Any) -> None:
        for result in self.held.stream(["node"], iter([x] * 5)):
            assert np.array_equal(result, x)

    def _checkpoint(self, x: Any) -> None:
        self.held.save_checkpoint(self._path)
        self.held.load_checkpoint(self._path)

    def calls(self) -> list[Callable[[Any], object]]:
        return [
            self._forward, self._forward_list, self._forward_text, self._learn, self._set,
            self._batched, self._predict, self._stream,
        ]  # fmt: skip

    def check(self) -> None:
        knows = self.held.forward("node", None, timeout=_TIMEOUT)
        assert knows in self._may_know, f"it knows {knows} of {self._may_know}"
        self._may_know = [knows]
        x = np.arange(20_000.0)
        assert np.array_equal(
            self.held.forward("node", x, timeout=_TIMEOUT),
            x,
        )
        left = [path.name for path in self._path.parent.iterdir() if path != self._path]
        assert not left, f"files are left: {left}"

    def close(self) -> None:
        self.held.shutdown()
        self._directory.cleanup()


class _Worker(_Node[soma.Worker]):
    def make(self) -> soma.Worker:
        return soma.connect(filters={"node": Learns()}, output="devnull", **self.options)

    def pids(self) -> set[int | None]:
        return {self.held.ping(timeout=_TIMEOUT).pid}

    def _load(self, x: Any) -> None:
        self.held.load({"other": Learns()})
        self.held.fit("other", x)
        self.held.unload(["other"])

    def calls(self) -> list[Callable[[Any], object]]:
        return [*super().calls(), self._checkpoint, self._load]


class _Pool(_Node[soma.WorkerPool]):
    def make(self) -> soma.WorkerPool:
        return soma.WorkerPool(
            n=_WORKERS, filters={"node": Learns()}, output="devnull", **self.options
        )

    def pids(self) -> set[int | None]:
        while len(statuses := self.held.status()) < _WORKERS:  # one is being replaced
            time.sleep(0.01)
        return {status.pid for status in statuses}

    def _map(self, x: Any) -> None:
        assert all(np.array_equal(result, x) for result in self.held.map("node", [x] * 6))

    def _submit(self, x: Any) -> None:
        assert np.array_equal(self.held.submit("node", x).result(), x)

    def calls(self) -> list[Callable[[Any], object]]:
        return [*super().calls(), self._map, self._submit]

    def changes(self, call: Callable[[Any], object]) -> bool:
        return call in (self._learn, self._set, self._batched)

    def check(self) -> None:
        super().check()
        knows = {tuple(self.held.forward("node", None, timeout=_TIMEOUT)) for _ in range(6)}
        assert len(knows) == 1, f"its workers know different things: {knows}"


class _Executor(User[soma.Executor]):
    def make(self) -> soma.Executor:
        transport = self.options.get("transport", "stdio")
        rest = {name: value for name, value in self.options.items() if name != "transport"}
        return soma.Executor(_WORKERS, transport=transport, output="devnull", **rest)

    def pids(self) -> set[int | None]:
        return set()

    def _submit(self, x: Any) -> None:
        assert np.array_equal(self.held.submit(double, x).result(), 2 * x)

    def _map(self, x: Any) -> None:
        assert all(np.array_equal(result, 2 * x) for result in self.held.map(double, [x] * 6))

    def calls(self) -> list[Callable[[Any], object]]:
        return [self._submit, self._map]

    def check(self) -> None:
        assert self.held.submit(double, 4).result(_TIMEOUT) == 8
        assert self.held.stats().replaced == 0, "a worker was replaced"

    def close(self) -> None:
        self.held.shutdown()


class _Ends(User[None]):
    """Starts a worker or pool, uses it and ends it: whenever Ctrl-C comes, nothing is left."""

    def make(self) -> None:
        return None

    def pids(self) -> set[int | None]:
        return set()

    def _worker(self, x: Any) -> None:
        worker = soma.connect(filters={"node": Learns()}, output="devnull", **self.options)
        with suppress_later(worker.close):
            worker.forward("node", x)

    def _pool(self, x: Any) -> None:
        pool = soma.WorkerPool(
            n=_WORKERS, filters={"node": Learns()}, output="devnull", **self.options
        )
        with suppress_later(pool.close):
            pool.forward("node", x)

    def calls(self) -> list[Callable[[Any], object]]:
        return [self._worker, self._pool]

    def check(self) -> None:
        return None

    def close(self) -> None:
        return None


@contextmanager
def suppress_later(close: Callable[[], object]) -> Iterator[None]:
    """Close at the end, and once more if Ctrl-C came meanwhile, as a careful program does."""
    try:
        yield
        close()
    finally:
        close()


Kind = type[User[Any]]

KINDS: dict[str, Kind] = {
    "worker": _Worker,
    "pool": _Pool,
    "executor": _Executor,
    "start and close": _Ends,
}
