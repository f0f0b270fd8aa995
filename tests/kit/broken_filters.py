"""Filters that break one clause each; see test_broken.py."""

from __future__ import annotations

import itertools
import os
import random
import threading
from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic import ConfigDict, PrivateAttr

import soma_core as soma
from soma_core.testing import FilterConformance
from soma_core.testing.filters import HashOf

COUNTER = itertools.count()


class Good(soma.Filter):
    """What the others break."""

    factor: Any = 2.0

    def fit(self, x, y=None):
        return {"mean": x.mean(axis=0)}

    def forward(self, x, state):
        return (x - state["mean"]) * 2.0


@pytest.fixture(scope="module")
def one_worker():
    with soma.connect("stdio", timeout=60.0, filters={"hash": HashOf()}) as worker:
        yield worker


class Suite(FilterConformance):
    filter: ClassVar[type[soma.Filter]]
    breaks: ClassVar[str]

    @pytest.fixture
    def worker(self, one_worker):
        """One for all of them, since a start takes longer than all else."""
        return one_worker

    def build(self):
        return self.filter(factor=3.0)

    def data(self):
        return np.arange(12.0).reshape(6, 2)


class TestChangesItsMind(Suite):
    breaks = "meta.valid"

    class filter(Good):  # noqa: N801
        def meta(self):
            return super().meta().replace(name=f"filter {next(COUNTER)}")


class TestPromisesIntegersOnceItIsFitted(Suite):
    breaks = "meta.schemas"

    class filter(Good):  # noqa: N801
        _promised: str = PrivateAttr(default="Float64")

        def fit(self, x, y=None):
            self._promised = "Int64"
            return super().fit(x, y)

        def meta(self):
            promised = soma.Schema(dtype=self._promised, shape=None)
            return super().meta().replace(output_schema=promised)


class TestForgetsAField(Suite):
    breaks = "config.round-trip"

    class filter(Good):  # noqa: N801
        def model_dump_json(self, **options):
            return "{}"


class TestTakesAnyField(Suite):
    breaks = "config.strict"

    class filter(Good):  # noqa: N801
        model_config = ConfigDict(extra="ignore")


class TestCountsInItsConfiguration(Suite):
    breaks = "config.hash"

    class filter(Good):  # noqa: N801
        runs: int = 0

        def fit(self, x, y=None):
            self.runs += 1
            return super().fit(x, y)


class TestHashesWhereItIs(Suite):
    breaks = "config.hash-elsewhere"

    class filter(Good):  # noqa: N801
        def config_hash(self):
            return f"{os.getpid():064x}"


class TestForgetsItselfOnceItIsFitted(Suite):
    breaks = "pickling"

    class filter(Good):  # noqa: N801
        _scale: float = PrivateAttr(default=2.0)
        _fitted: bool = PrivateAttr(default=False)

        def fit(self, x, y=None):
            self._fitted = True
            return super().fit(x, y)

        def forward(self, x, state):
            return (x - state["mean"]) * self._scale

        def __getstate__(self):
            state = super().__getstate__()
            private = {"_scale": 1.0, "_fitted": True}
            return {**state, "__pydantic_private__": private} if self._fitted else state


class TestSubtractsTheMeanOfItsBatch(Suite):
    breaks = "forward.rowwise"

    class filter(Good):  # noqa: N801
        def meta(self):
            return super().meta().replace(rowwise=True)

        def forward(self, x, state):
            return x - x.mean(axis=0)


class TestWritesIntoItsInput(Suite):
    breaks = "forward.input-kept"

    class filter(Good):  # noqa: N801
        def forward(self, x, state):
            out = super().forward(x, state)
            x[...] = 0
            return out


class TestWritesIntoItsState(Suite):
    breaks = "forward.state-kept"

    class filter(Good):  # noqa: N801
        def forward(self, x, state):
            out = super().forward(x, state)
            state["seen"] = True
            return out


class TestDrifts(Suite):
    breaks = "forward.pure"

    class filter(Good):  # noqa: N801
        _runs: int = PrivateAttr(default=0)

        def forward(self, x, state):
            self._runs += 1
            return super().forward(x, state) + (self._runs > 1)


class TestRollsDice(Suite):
    breaks = "forward.deterministic"

    class filter(Good):  # noqa: N801
        def forward(self, x, state):
            return super().forward(x, state) + random.random()


class TestScalesItsTrainingData(Suite):
    breaks = "fit.input-kept"

    class filter(Good):  # noqa: N801
        def fit(self, x, y=None):
            state = super().fit(x, y)
            x -= state["mean"]
            return state


class TestLearnsOntoItself(Suite):
    breaks = "fit.state-returned"

    class filter(Good):  # noqa: N801
        _mean: Any = PrivateAttr(default=0.0)

        def fit(self, x, y=None):
            self._mean = x.mean(axis=0)
            return {"learned": True}

        def forward(self, x, state):
            return x - self._mean


class TestLearnsWhatLinesCannotTell(Suite):
    breaks = "state.round-trip"

    class filter(Good):  # noqa: N801
        def fit(self, x, y=None):
            return {**super().fit(x, y), "count": np.float32(len(x))}

        def forward(self, x, state):
            return super().forward(x, state) + (type(state["count"]) is not np.float32)


class TestKeepsALockInItsState(Suite):
    breaks = "state.fetched"
    with_it = ("forward.state-kept", "batches")

    class filter(Good):  # noqa: N801
        def forward(self, x, state):
            state["lock"] = threading.Lock()
            return super().forward(x, state)


class TestNeedsAllRows(Suite):
    breaks = "batches"

    class filter(Good):  # noqa: N801
        def fit(self, x, y=None):
            if len(x) < 6:
                raise ValueError("too few rows")
            return super().fit(x, y)


class TestRunsAtHomeOnly(Suite):
    breaks = "worker"

    class filter(Good):  # noqa: N801
        _home: int = PrivateAttr(default_factory=os.getpid)

        def forward(self, x, state):
            return super().forward(x, state) + (os.getpid() != self._home)


del Suite
