"""States with a lie in them, tried in processes of their own, where a crash shows as a signal.

::

    python -m tests.hostile_states --count 10000            # every estimator
    python -m tests.hostile_states --count 50 --start 31337 SVC KMeans
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import resource
import signal
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from soma_filters_sklearn import estimators
from soma_filters_sklearn.catalogue import MODULES
from soma_filters_sklearn.outputs import OUTPUTS
from soma_filters_sklearn.spelling import construct

from .samples import PICKLED, sample_of

NAMES = [name for names in MODULES.values() for name in names if name not in PICKLED]
SECONDS = 20  # of the CPU that one lie may take
MEMORY = 4 * 2**30  # more than any honest state needs

_NUMBERS = (0, 1, -1, 2, 3, 7, 255, 256, 1000, 10**6, 2**31 - 1, -(2**31), 2**40, 2**63 - 1)
_REALS = (0.0, -1.0, 0.5, 1e300, -1e300, float("nan"), float("inf"), 1e6, 300.0)
_DTYPES = ("f8", "f4", "i8", "i4", "u4", "u1", "?", "c16", "U3", ">f8")


@dataclass(frozen=True)
class Crash:
    """A lie that ended the process.

    Attributes:
        name: The estimator.
        seed: What the lie was made from.
        signal: Which signal ended the process.
    """

    name: str
    seed: int
    signal: int


class Subject:
    """An estimator, what it learned, and all that can be asked of it.

    Args:
        name: Of the estimator.
        config: Its configuration.
        x: The samples.
        y: The targets.
    """

    def __init__(self, name: str, config: dict[str, Any], x: Any, y: Any) -> None:
        self.name, self.x, self.y = name, x, y
        kind = getattr(estimators, name)
        self.nodes = {"auto": kind(**config)}
        fitted = construct(f"sklearn.{name}", config)
        for output in OUTPUTS:
            if hasattr(kind.estimator_class, output):
                with contextlib.suppress(Exception):
                    self.nodes[output] = kind(**config, output=output)
        del fitted
        self.state = self.nodes["auto"].fit(x, y)

    def lie(self, seed: int) -> None:
        """Change the state, and ask everything of it; errors are right, and pass."""
        state = changed(self.state, np.random.default_rng(seed))
        for node in self.nodes.values():
            with contextlib.suppress(Exception, SystemExit):
                node.forward(copy.copy(self.x), state)
        node = self.nodes["auto"]
        with contextlib.suppress(Exception, SystemExit):
            node.partial_fit(copy.copy(self.x), self.y, state)


def changed(state: Any, random: np.random.Generator) -> Any:
    """A copy of a state in which one to three things are something else."""
    state = copy.deepcopy(state)
    for _ in range(random.integers(1, 4)):
        places = list(_places(state))
        holder, key = places[random.integers(len(places))]
        with contextlib.suppress(Exception):  # what cannot be changed so stays
            holder[key] = _other(holder[key], places, random)
    return state


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a state: what holds it, and under which key."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        yield value, key
        if isinstance(item, dict | list):
            yield from _places(item)


def _other(value: Any, places: list[tuple[Any, Any]], random: np.random.Generator) -> Any:
    """Something else in the place of a value: mostly of its kind."""
    if random.random() < 0.1:  # something from elsewhere
        holder, key = places[random.integers(len(places))]
        return copy.deepcopy(holder[key])
    if isinstance(value, np.ndarray):
        return _other_array(value, random)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return int(random.choice([*_NUMBERS, value + 1, value - 1, value * 2]))
    if isinstance(value, float):
        return float(random.choice(_REALS))
    if isinstance(value, list):
        return _other_list(value, random)
    return random.choice([None, 0, "", "nonsense"]) if random.random() < 0.5 else value


def _other_list(value: list[Any], random: np.random.Generator) -> list[Any]:
    ways = [value + value, value[:-1], value[1:], value[::-1], [], value * 50]
    return ways[random.integers(len(ways))]


def _other_array(value: np.ndarray[Any, Any], random: np.random.Generator) -> Any:
    if random.random() < 0.6 and value.size:
        return _other_numbers(value.copy(), random)
    axis = int(random.integers(value.ndim)) if value.ndim else 0
    ways = [
        lambda: value.astype(random.choice(_DTYPES)),
        lambda: value.reshape(-1),
        lambda: value.T.copy(),
        lambda: value[..., None],
        lambda: np.concatenate([value, value], axis),
        lambda: np.repeat(value, 40, axis),
        lambda: np.delete(value, 0, axis),
        lambda: np.zeros((0,) * value.ndim, value.dtype),
        lambda: np.zeros(value.shape, value.dtype),
        lambda: value[:1] if value.ndim else value,
    ]
    return ways[random.integers(len(ways))]()


def _other_numbers(value: np.ndarray[Any, Any], random: np.random.Generator) -> Any:
    if value.dtype.names:
        field = random.choice(value.dtype.names)
        value[field] = _other_numbers(value[field].copy(), random)
        return value
    flat = value.reshape(-1)
    index = random.integers(len(flat), size=int(random.integers(1, len(flat) + 1)))
    with np.errstate(all="ignore"):
        if value.dtype.kind in "iu":
            chosen = random.choice(np.array(_NUMBERS), size=len(index))
            flat[index] = chosen.astype(value.dtype)
        elif value.dtype.kind == "f":
            flat[index] = random.choice(np.array(_REALS), size=len(index))
        else:
            flat[index] = flat[random.integers(len(flat))]
    return value


def crashes(subject: Subject, seeds: range) -> Iterator[Crash]:
    """Try lies one after the other, in as few processes as that takes."""
    start = seeds.start
    while start < seeds.stop:
        last, status = _tried(subject, range(start, seeds.stop))
        if not os.WIFSIGNALED(status):
            return
        yield Crash(subject.name, last, os.WTERMSIG(status))
        start = last + 1


def _tried(subject: Subject, seeds: range) -> tuple[int, int]:
    """The seed that a process began last, and how the process ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _try_all(subject, seeds, writer)
    os.close(writer)
    with open(reader, "rb") as told:
        last = told.read()
    _, status = os.waitpid(child, 0)
    return int.from_bytes(last[-8:], "big"), status


def _try_all(subject: Subject, seeds: range, writer: int) -> None:
    """In the child: never returns."""
    with open(os.devnull, "wb") as silent:
        os.dup2(silent.fileno(), 1)
        os.dup2(silent.fileno(), 2)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    warnings.simplefilter("ignore")
    try:
        for seed in seeds:
            os.write(writer, seed.to_bytes(8, "big"))
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            subject.lie(seed)
    finally:
        os._exit(0)


def subjects(names: list[str]) -> Iterator[Subject]:
    """The estimators, each with the sample that the tests of all estimators use, and variants."""
    for name in names:
        sample = sample_of(name)
        yield _subject(name, sample.config, sample.x, sample.y)
    for name, config, x, y in _variants():
        if name in names:
            yield _subject(name, config, x, y)


def _subject(name: str, config: dict[str, Any], x: Any, y: Any) -> Subject:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Subject(name, config, x, y)


def _variants() -> Iterator[tuple[str, dict[str, Any], Any, Any]]:
    """Configurations that hand something else to compiled code than the samples do."""
    x = np.abs(np.random.default_rng(7).normal(size=(40, 4))) + 0.1
    few, kinds = np.floor(x * 3), np.arange(40) % 3
    dense = {"sparse_output": False, "handle_unknown": "ignore"}
    average = {"average": True, "random_state": 0}
    yield "SVC", {"probability": True}, sparse.csr_matrix(x), kinds
    yield "SVC", {"kernel": "precomputed"}, x @ x.T, kinds
    yield "SVC", {"kernel": "poly"}, x, kinds
    yield "OneClassSVM", {}, sparse.csr_matrix(x), None
    yield "GradientBoostingClassifier", {"n_estimators": 3}, x, kinds
    yield "GradientBoostingClassifier", {"n_estimators": 3}, sparse.csr_matrix(x), kinds
    begun = {"n_estimators": 3, "init": "sklearn.LogisticRegression"}
    yield "GradientBoostingClassifier", begun, x, kinds
    yield "HistGradientBoostingClassifier", {"max_iter": 3, "min_samples_leaf": 2}, x, kinds
    yield (
        "HistGradientBoostingRegressor",
        {"max_iter": 3, "min_samples_leaf": 2, "categorical_features": [0, 2]},
        few,
        x[:, 0],
    )
    yield "OneHotEncoder", {**dense, "min_frequency": 4}, few, None
    yield "OneHotEncoder", {"sparse_output": False, "drop": "first"}, few, None
    yield "KBinsDiscretizer", {"encode": "onehot-dense", "quantile_method": "linear"}, x, None
    for algorithm in ("brute", "kd_tree", "ball_tree"):
        yield "KNeighborsClassifier", {"algorithm": algorithm}, x, kinds
        yield "RadiusNeighborsClassifier", {"algorithm": algorithm, "radius": 9.0}, x, kinds
    yield "KNeighborsClassifier", {"algorithm": "brute"}, sparse.csr_matrix(x), kinds
    yield "SGDClassifier", average, x, kinds
    yield "SGDClassifier", average, x, kinds > 1
    yield "SGDRegressor", average, x, x[:, 0]
    yield "SplineTransformer", {"sparse_output": True}, x, None
    yield "RandomForestClassifier", {"n_estimators": 3}, sparse.csr_matrix(x), kinds
    yield "BaggingClassifier", {"n_estimators": 3, "max_features": 0.5}, x, kinds
    yield "RandomForestRegressor", {"n_estimators": 3}, x, np.stack([x[:, 0], x[:, 1]], axis=1)


def main() -> None:
    """Print each crash, and how many lies were tried."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--count", type=int, default=1000, help="lies for each estimator")
    parser.add_argument("--start", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # some estimators are deprecated
    found = tried = 0
    for subject in subjects(options.names):
        seeds = range(options.start, options.start + options.count)
        tried += len(seeds)
        for crash in crashes(subject, seeds):
            found += 1
            ended = signal.Signals(crash.signal).name
            sys.stdout.write(f"{crash.name} {crash.seed}: {ended}\n")
    sys.stdout.write(f"{found} crashes of {tried} lies\n")
    sys.exit(found > 0)


if __name__ == "__main__":
    main()
