"""Arrays ride Ray's object store: mapped on both sides, writable, and nobody else's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from .conftest import FAR, HERE


def in_object_store(array: np.ndarray) -> bool:
    address = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(side, 16) for side in line.split()[0].split("-"))
        if start <= address < end:
            return "plasma" in line
    return False


class Look:
    """Says where its input lies, and writes into it."""

    def forward(self, x, state):
        where = in_object_store(x)
        x += 1
        return {"in store": where, "x": x}


class Keep:
    """Keeps each input, and returns all that it has."""

    def __init__(self):
        self.kept = []

    def forward(self, x, state):
        self.kept.append(x)
        return [float(array.sum()) for array in self.kept]


@pytest.fixture(scope="module", params=[HERE, FAR], ids=["here", "far"])
def worker(request, ray):
    from soma_transport_ray import RayOptions, RayTransport

    from soma_core.client.worker import Worker

    with Worker(RayTransport(RayOptions(resources=request.param)), timeout=30.0) as worker:
        worker.load({"look": Look(), "keep": Keep()})
        yield worker


def test_a_large_array_lies_in_the_object_store_on_both_sides(worker):
    x = np.zeros(1 << 20)
    result = worker.forward("look", x)
    assert result["in store"] is True
    assert in_object_store(result["x"])
    assert result["x"].flags.writeable
    assert result["x"].sum() == x.size
    assert x.sum() == 0


def test_a_result_can_be_written_to_and_outlives_further_calls(worker):
    first = worker.forward("look", np.zeros(1 << 20))["x"]
    first *= 5
    for _ in range(10):
        worker.forward("look", np.zeros(1 << 20))
    assert (first == 5).all()


def test_a_filter_may_keep_its_inputs(worker):
    kept = [worker.forward("keep", np.full(1 << 18, number)) for number in range(6)][-1]
    assert kept == [number * float(1 << 18) for number in range(6)]


def test_what_a_host_drops_is_free_in_the_store(worker):
    for _ in range(12):  # more than the store holds
        worker.forward("look", np.zeros(4 << 20))
    assert worker.forward("look", np.zeros(4 << 20))["in store"] is True
