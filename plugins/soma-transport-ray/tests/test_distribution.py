"""Where filters run is what their metas say, by way of ``soma.connect``."""

from __future__ import annotations

import pytest

import soma_core as soma

pytest.importorskip("ray", reason="Ray is not installed; make ray tests with one of its own")
pytestmark = pytest.mark.usefixtures("ray")


def placed(distribution):
    """A filter of this distribution, which says on which node it runs."""

    class Where(soma.Filter):
        def meta(self):
            return super().meta().replace(distribution=distribution)

        def fit(self, x, y=None):
            return {"learned": x}

        def forward(self, x, state):
            import ray

            return {"node": ray.get_runtime_context().get_node_id(), **state}

    return Where()


def node_with(ray, resource):
    [node] = [node["NodeID"] for node in ray.nodes() if resource in node["Resources"]]
    return node


def test_a_tag_chooses_a_node_that_has_the_resource(ray):
    gpu = placed(soma.Remote(soma.Tag("gpu")))
    with soma.connect("ray", filters={"where": gpu}) as worker:
        assert worker.forward("where", 0)["node"] == node_with(ray, "gpu")


def test_any_is_some_node(ray):
    with soma.connect("ray", filters={"where": placed("Any")}) as worker:
        assert worker.forward("where", 0)["node"] in {node["NodeID"] for node in ray.nodes()}


def test_a_worker_id_is_an_engine_that_outlives_its_client(ray):
    filters = {"where": placed(soma.Remote(soma.WorkerId("w1")))}
    with soma.connect("ray", filters=filters, num_cpus=0) as first:
        first.fit("where", 5)
        engine = first.ping()
    with soma.connect("ray", session="w1") as second:
        assert second.ping() == engine
        assert second.forward("where", 0)["learned"] == 5
        second.shutdown()
    with soma.connect("ray", session="w1") as third:
        assert third.ping() != engine
        third.shutdown()


def test_a_pool_is_no_place_for_a_worker_of_one_id():
    filters = {"where": placed(soma.Remote(soma.WorkerId("w1")))}
    with pytest.raises(ValueError, match="leave that out to get several"):
        soma.WorkerPool("ray", 2, filters=filters)


def test_the_thread_budget_is_in_the_environment_of_the_engine():
    class Threads:
        def forward(self, x, state):
            import os

            return os.environ["OMP_NUM_THREADS"], os.environ["OPENBLAS_NUM_THREADS"]

    with soma.connect("ray", filters={"threads": Threads()}, threads=3) as worker:
        assert list(worker.forward("threads", 0)) == ["3", "3"]
