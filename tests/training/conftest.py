"""Workers over each transport, and data to learn from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import soma_core as soma

from ..support import TRANSPORTS, gate_runs


@pytest.fixture(scope="session", params=gate_runs("inline", of=TRANSPORTS))
def warm(request) -> Iterator[soma.Worker]:
    """One worker of each transport for all tests; most of them need torch."""
    options = request.getfixturevalue("with_torch") if request.param == "socket" else {}
    with soma.connect(request.param, **options) as connected:
        yield connected


@pytest.fixture
def worker(warm: soma.Worker) -> Iterator[soma.Worker]:
    """A worker without nodes, over each transport."""
    yield warm
    if warm.node_ids:
        warm.unload(warm.node_ids)


@pytest.fixture
def inline() -> Iterator[soma.Worker]:
    """A worker in this process."""
    with soma.connect("inline") as connected:
        yield connected


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray]:
    """Seventy rows of five numbers, and a target of one."""
    draw = np.random.default_rng(7)
    x = draw.normal(size=(70, 5)).astype("f4")
    y = (x @ draw.normal(size=(5, 1))).astype("f4") + np.float32(0.5)
    return x, y
