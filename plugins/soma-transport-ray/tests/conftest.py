"""Shared by the tests: a small Ray cluster of two nodes, to which this process is connected."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from soma_transport_ray import RayOptions, RayTransport

import soma_core as soma
from soma_core.client.worker import Worker

STORE = 200 << 20  # bytes of each node's object store
QUIET = {"log_to_driver": False, "configure_logging": False}
HERE, FAR = {"here": 0.001}, {"far": 0.001}  # the resources that tell the two nodes apart


def pytest_configure() -> None:
    """Whoever runs the tests in the background has them start with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Two nodes on this machine; this process is on the first. Skips where Ray is not installed."""
    pytest.importorskip("ray", reason="Ray is not installed; make ray tests with one of its own")
    from ray.cluster_utils import Cluster

    shares = {"num_cpus": 4, "object_store_memory": STORE}
    head = {**shares, "resources": {"here": 1}}
    cluster = Cluster(initialize_head=True, connect=False, head_node_args=head)
    try:
        cluster.add_node(**shares, resources={"far": 1, "gpu": 1})
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture(scope="session")
def ray(cluster: Any) -> Iterator[Any]:
    """Ray, connected to the cluster."""
    import ray

    ray.init(cluster.address, **QUIET)
    try:
        yield ray
    finally:
        ray.shutdown()


@pytest.fixture
def start(ray: Any) -> Iterator[Callable[..., Worker]]:
    """Starts a worker with filters and options of the transport; it is closed after the test."""
    workers = []

    def start(filters: Any = None, **options: Any) -> Worker:
        given = {key: options.pop(key) for key in ("restart", "timeout") if key in options}
        worker = soma.Worker(RayTransport(RayOptions(**options)), **{"timeout": 30.0, **given})
        workers.append(worker)
        if filters:
            worker.load(filters)
        return worker

    yield start
    for worker in workers:
        worker.close()
