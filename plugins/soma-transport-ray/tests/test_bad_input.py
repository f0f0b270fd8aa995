"""What is wrong is said in time: clusters, versions and resources that do not fit, a lost head."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from soma_transport_ray import RayOptions, RayTransport

import soma_core as soma

from .conftest import HERE, STORE

ray = pytest.importorskip("ray", reason="Ray is not installed; make ray tests with one of its own")


def test_resources_that_no_node_has_are_named_by_the_start_timeout(ray):
    with pytest.raises(soma.StartFailed, match="no node of the Ray cluster has") as caught:
        soma.connect("ray", resources={"tpu": 4}, start_timeout=1.0)
    assert "tpu 4" in str(caught.value)
    assert "far 1" in str(caught.value)


def test_resources_that_are_taken_are_told_from_those_that_nobody_has(ray):
    with (
        soma.connect("ray", resources={"gpu": 1}),
        pytest.raises(soma.StartFailed, match="did not start in time: it needs gpu 1"),
    ):
        soma.connect("ray", resources={"gpu": 1}, start_timeout=1.0)


def test_a_start_that_is_stopped_from_another_thread_ends(ray):
    transport = RayTransport(RayOptions(resources={"tpu": 1}))
    with ThreadPoolExecutor() as threads:
        starting = threads.submit(transport.start, None)
        while not starting.done():
            transport.stop(0.0)
        with pytest.raises(soma.StartFailed, match="was stopped"):
            starting.result()


def test_another_cluster_than_that_of_this_process_is_refused(ray):
    with pytest.raises(soma.StartFailed, match=r"call ray.shutdown\(\) before"):
        soma.connect("ray", address="203.0.113.1:6379")


def test_a_forked_child_is_refused_where_ray_would_wait_for_ever(ray):
    soma.connect("ray", resources=HERE).close()
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            soma.connect("ray", resources=HERE)
        except soma.StartFailed as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    with open(reading), open(writing, "w"):
        assert b"was forked" in os.read(reading, 1000)


def test_what_ray_does_not_accept_is_said(ray):
    with pytest.raises(soma.StartFailed, match="Ray does not accept the engine"):
        soma.connect("ray", num_gpus=1.5)


def test_a_node_without_what_the_engine_needs_is_said(ray):
    variables = {"env_vars": {"PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere"}}
    with pytest.raises(soma.StartFailed):
        soma.connect("ray", runtime_env=variables, start_timeout=5.0)


HOST = """
import json, os, signal, sys, threading
import ray
import soma_core as soma
from soma_core.testing import Actions, Echo
from soma_transport_ray import cluster

arguments = json.loads(sys.argv[1])
{before}
try:
    with soma.connect("ray", **arguments) as worker:
        {during}
except soma.SomaError as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


def host(before="", during="pass", **arguments):
    """A host of its own, since a process has one connection to Ray; what its error was."""
    source = HOST.format(before=before, during=during)
    command = [sys.executable, "-c", source, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100.0)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_an_address_at_which_nobody_listens_is_said_at_once():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    kind, text = host(address=f"127.0.0.1:{port}", start_timeout=10.0)
    assert kind == "StartFailed"
    assert f"no Ray cluster answers at 127.0.0.1:{port}" in text


@pytest.mark.parametrize(("what", "index"), [("Python", 1), ("Ray", 0)])
def test_a_cluster_of_another_version_is_refused_with_both_versions(cluster, what, index):
    before = f"""
import ray._private.utils as utils
versions = list(utils.compute_version_info())
versions[{index}] = "2.9.1"
utils.compute_version_info = lambda: tuple(versions)
"""
    kind, text = host(before, address=cluster.address)
    assert kind == "StartFailed"
    assert "2.9.1" in text
    assert f"{what}: " in text
    assert "run the host with the Python and the Ray of the cluster" in text


def test_a_lost_head_is_told_and_does_not_take_the_host_with_it():
    before = """
from ray.cluster_utils import Cluster
cluster._LOST = 3.0
nodes = Cluster(initialize_head=True, head_node_args={{"num_cpus": 1, "object_store_memory": %d}})
arguments["address"] = nodes.address
"""
    during = """
        worker.load({"echo": Echo()})
        nodes.head_node.kill_gcs_server()
        while worker.forward("echo", 1) == 1:
            pass
"""
    before = before.replace("{{", "{").replace("}}", "}") % STORE
    kind, text = host(before, during.strip())
    assert kind in ("WorkerDied", "ChannelClosed")
    assert "head of the Ray cluster" in text


def test_a_worker_whose_program_left_ray_closes_and_does_not_start_another_cluster(cluster):
    during = """
        worker.load({"echo": Echo()})
        ray.shutdown()
        try:
            worker.forward("echo", 1)
        except soma.TransportError as error:
            worker.close()
            print(json.dumps([type(error).__name__, ray.is_initialized()]))
"""
    assert host(during=during.strip(), address=cluster.address) == ["WorkerDied", False]


def test_ctrl_c_ends_the_command_and_spares_the_worker(cluster):
    during = """
        worker.load({"actions": Actions()})
        pid = worker.ping().pid
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            worker.forward("actions", ["sleep", 60.0])
        except KeyboardInterrupt:
            print(json.dumps(["interrupted", worker.ping().pid == pid]))
"""
    told = host(during=during.strip(), address=cluster.address, resources=HERE)
    assert told == ["interrupted", True]
