"""A model that learned is served from its checkpoint, to whoever speaks the protocol."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

import soma_core as soma

from .conftest import TOKEN, serving

pytest.importorskip("soma_filters_sklearn")
datasets = pytest.importorskip("sklearn.datasets")

NAME = "sklearn.LogisticRegression"
MODEL = {"max_iter": 200}
CONFIG = """
[server]
port = 0
tokens = "tokens.txt"

[models.iris]
filter = "sklearn.LogisticRegression"
config = { max_iter = 200 }
checkpoint = "iris.soma"
batching = { max_rows = 32, max_delay = 0.01 }
inputs = [{ name = "x", datatype = "FP64", shape = [-1, 4] }]
outputs = [{ name = "species", datatype = "INT64", shape = [-1] }]
"""
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The URL of a server, inputs, and what the model says of them in this process."""
    directory = tmp_path_factory.mktemp("http")
    x, y = datasets.load_iris(return_X_y=True)
    with soma.connect("inline", filters={"iris": (NAME, MODEL)}, pickle="never") as worker:
        worker.fit("iris", x, y)
        expected = worker.forward("iris", x)
        worker.save_checkpoint(directory / "iris.soma")
    with serving(directory, CONFIG) as url:
        yield url, x, expected


@pytest.fixture(scope="module")
def client(served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served[0], headers=BEARER, timeout=30.0) as client:
        deadline = time.monotonic() + 60.0
        while client.get("/v2/health/ready").status_code != 200:
            assert time.monotonic() < deadline, client.post("/v2/repository/index").text
            time.sleep(0.05)
        yield client


def ask(client: httpx.Client, rows: np.ndarray) -> Any:
    data = [None if np.isnan(number) else number for number in rows.ravel().tolist()]
    one = {"name": "x", "shape": list(rows.shape), "datatype": "FP64", "data": data}
    return client.post("/v2/models/iris/infer", json={"inputs": [one]})


def test_the_metadata_are_those_of_the_configuration(client):
    fields = client.get("/v2/models/iris").json()
    assert fields["inputs"] == [{"name": "x", "datatype": "FP64", "shape": [-1, 4]}]
    assert fields["outputs"] == [{"name": "species", "datatype": "INT64", "shape": [-1]}]
    assert fields["platform"] == NAME


def test_the_model_says_what_it_says_in_this_process(client, served):
    _, x, expected = served
    [output] = ask(client, x).json()["outputs"]
    assert (output["name"], output["datatype"]) == ("species", "INT64")
    assert output["data"] == expected.tolist()


def test_each_of_many_callers_gets_the_answer_to_its_own_rows(client, served):
    _, x, expected = served
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda n: ask(client, x[n : n + 1]).json(), range(150)))
    assert [answer["outputs"][0]["data"] for answer in answers] == expected.reshape(-1, 1).tolist()


def test_the_pool_is_seen_by_prometheus(client):
    shown = client.get("/metrics").text
    assert 'soma_pool_workers{model="iris"} 1.0' in shown
    assert re.search(r'^soma_pool_done_total\{model="iris"\} [1-9]', shown, re.MULTILINE)


def test_what_the_model_refuses_is_a_mistake_of_the_sender(client):
    refused = ask(client, np.full((1, 4), np.nan))
    assert refused.status_code == 400
    refused = ask(client, np.zeros((1, 3)))
    assert refused.status_code == 400
    assert "[-1, 4]" in refused.json()["error"]


def test_tritonclient_gets_the_same_answers(served, client):
    triton = pytest.importorskip("tritonclient.http", reason="make http has tritonclient")
    url, x, expected = served
    asked = triton.InferenceServerClient(url.removeprefix("http://"), concurrency=2)
    with asked:
        assert asked.is_server_live(headers=BEARER)
        assert asked.is_server_ready(headers=BEARER)
        assert asked.is_model_ready("iris", headers=BEARER)
        assert asked.get_server_metadata(headers=BEARER)["name"] == "soma"
        assert asked.get_model_metadata("iris", "1", headers=BEARER)["name"] == "iris"
        assert asked.get_model_repository_index(headers=BEARER)[0]["state"] == "READY"
        for binary in (True, False):
            given = triton.InferInput("x", list(x.shape), "FP64")
            given.set_data_from_numpy(x, binary_data=binary)
            wanted = triton.InferRequestedOutput("species", binary_data=binary)
            headers = dict(BEARER)  # it writes into them
            result = asked.infer("iris", [given], outputs=[wanted], headers=headers)
            assert np.array_equal(result.as_numpy("species"), expected)
        with pytest.raises(Exception, match="no model 'none'"):
            asked.get_model_metadata("none", headers=BEARER)
