"""The death of a node is the death of its engines, told as such; and a host's death is theirs."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

import soma_core as soma
from soma_core.testing import Actions, Mean

from .conftest import STORE


@pytest.fixture
def doomed(cluster, ray):
    """A third node, with a resource of this name, which may die during the test."""
    node = cluster.add_node(num_cpus=1, object_store_memory=STORE, resources={"doomed": 1})
    yield node
    if node in cluster.list_all_nodes():
        cluster.remove_node(node, allow_graceful=False)


def test_the_death_of_a_node_ends_the_call_that_runs_there(cluster, doomed, start):
    from concurrent.futures import ThreadPoolExecutor

    worker = start({"actions": Actions()}, resources={"doomed": 0.001})
    with ThreadPoolExecutor() as threads:
        call = threads.submit(worker.forward, "actions", ["sleep", 60.0], timeout=40.0)
        while worker.status().command is None:
            pass
        cluster.remove_node(doomed, allow_graceful=False)
        with pytest.raises(soma.WorkerDied):
            call.result()


def test_a_worker_of_a_dead_node_is_restarted_on_another(cluster, doomed, start):
    ours = {"resources": {}, "restart": "on-crash"}
    worker = start({"mean": Mean()}, **ours | {"resources": {"doomed": 0.001}})
    worker.fit("mean", [1.0, 3.0])
    first = worker.ping()
    cluster.remove_node(doomed, allow_graceful=False)
    cluster.add_node(num_cpus=1, object_store_memory=STORE, resources={"doomed": 1})
    with pytest.raises(soma.WorkerDied):  # nothing tells of it before something is sent
        worker.forward("mean", [2.0])
    assert worker.forward("mean", [2.0])[0] == 0.0
    assert worker.ping() != first


HOST = """
import sys
from soma_core.client.worker import Worker
from soma_transport_ray import RayOptions, RayTransport

worker = Worker(RayTransport(RayOptions(address=sys.argv[1])))
print("engine", worker.ping().pid, flush=True)
sys.stdin.read()
"""


def test_an_engine_ends_with_its_host(cluster):
    command = [sys.executable, "-c", HOST, cluster.address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as host:
        said = next(
            line for line in host.stdout if line.startswith(b"engine ")
        )  # as Ray prints too
        engine = psutil.Process(int(said.split()[1]))
        host.kill()
    assert psutil.wait_procs([engine], timeout=20.0)[1] == []
