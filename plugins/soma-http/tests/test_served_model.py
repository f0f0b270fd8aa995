"""A model that learned is served from its checkpoint, to whoever speaks the protocol."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from soma_http.server.config import ModelConfig
from soma_http.server.models import ServedModel
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.sync.client import connect as open_websocket

import soma_core as soma

from .conftest import TOKEN, serving

MODULE = """
import time

import numpy as np
import soma_core as soma


class Center(soma.Filter):
    def fit(self, x, y=None):
        return {"mean": np.mean(x, axis=0)}

    def forward(self, x, state):
        if (x == 1e9).any():
            time.sleep(20.0)
        if np.isnan(x).any():
            raise ValueError("the rows hold NaN")
        return x - state["mean"]

    def meta(self):
        return super().meta().replace(rowwise=True)
"""
CONFIG = """
[server]
port = 0
tokens = "tokens.txt"

[limits]
sharing = 1

[models.center]
filter = "acme.Center"
checkpoint = "center.soma"
batching = { max_rows = 32, max_delay = 0.01 }
inputs = [{ name = "x", datatype = "FP64", shape = [-1, 4] }]
outputs = [{ name = "centered", datatype = "FP64", shape = [-1, 4] }]
"""
BEARER = {"Authorization": f"Bearer {TOKEN}"}
ROWS = np.arange(600.0).reshape(150, 4)
STUCK = np.full((1, 4), 1e9)
EXPECTED = ROWS - ROWS.mean(axis=0)


def install(site: Path) -> None:
    """Leave a distribution with a filter in a directory, as an installer would."""
    info = site / "acme-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[soma.filters]\nacme.Center = acme_http:Center\n")
    (site / "acme_http.py").write_text(MODULE)


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    """The URL of a server whose model learned before."""
    directory = tmp_path_factory.mktemp("http")
    install(directory / "site")
    found = os.pathsep.join(filter(None, [str(directory / "site"), os.environ.get("PYTHONPATH")]))
    filters = {"center": ("acme.Center", {})}
    options = {"pickle": "never", "env": {"PYTHONPATH": found}}
    with soma.connect("stdio", filters=filters, **options) as worker:
        worker.fit("center", ROWS)
        worker.save_checkpoint(directory / "center.soma")
    with serving(directory, CONFIG, PYTHONPATH=found) as url:
        yield url


@pytest.fixture(scope="module")
def client(url) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers=BEARER, timeout=30.0) as client:
        deadline = time.monotonic() + 60.0
        while client.get("/v2/health/ready").status_code != 200:
            assert time.monotonic() < deadline, client.post("/v2/repository/index").text
            time.sleep(0.05)
        yield client


def ask(client: httpx.Client, rows: np.ndarray, timeout: float = 30.0) -> Any:
    data = [None if np.isnan(number) else number for number in rows.ravel().tolist()]
    one = {"name": "x", "shape": list(rows.shape), "datatype": "FP64", "data": data}
    return client.post("/v2/models/center/infer", json={"inputs": [one]}, timeout=timeout)


def test_the_time_that_a_request_may_take_is_not_that_of_the_start(tmp_path):
    install(tmp_path)
    environment = {"PYTHONPATH": str(tmp_path)}
    model = ServedModel("center", ModelConfig(filter="acme.Center", timeout=1e-6, env=environment))

    async def start():
        await model.start()
        try:
            return list(model.metas())
        finally:
            await model.stop()

    assert asyncio.run(start()) == ["center"]


def test_the_metadata_are_those_of_the_configuration(client):
    fields = client.get("/v2/models/center").json()
    assert fields["inputs"] == [{"name": "x", "datatype": "FP64", "shape": [-1, 4]}]
    assert fields["outputs"] == [{"name": "centered", "datatype": "FP64", "shape": [-1, 4]}]
    assert fields["platform"] == "acme.Center"


def test_the_model_answers_with_what_it_learned(client):
    [output] = ask(client, ROWS).json()["outputs"]
    assert (output["name"], output["datatype"]) == ("centered", "FP64")
    assert output["data"] == EXPECTED.ravel().tolist()


def test_each_of_many_callers_gets_the_answer_to_its_own_rows(client):
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda n: ask(client, ROWS[n : n + 1]).json(), range(150)))
    found = [answer["outputs"][0]["data"] for answer in answers]
    assert found == EXPECTED.tolist()


def test_the_pool_is_seen_by_prometheus(client):
    shown = client.get("/metrics").text
    assert 'soma_pool_workers{model="center"} 1.0' in shown
    assert re.search(r'^soma_pool_memory_bytes\{model="center"\} [1-9]', shown, re.MULTILINE)
    assert re.search(r'^soma_pool_done_total\{model="center"\} [1-9]', shown, re.MULTILINE)


def test_what_the_model_refuses_is_a_mistake_of_the_sender(client):
    refused = ask(client, np.full((1, 4), np.nan))
    assert refused.status_code == 400
    assert "the rows hold NaN" in refused.json()["error"]
    refused = ask(client, np.zeros((1, 3)))
    assert refused.status_code == 400
    assert "[-1, 4]" in refused.json()["error"]


def test_a_request_whose_client_is_gone_holds_up_nobody(client):
    with pytest.raises(httpx.ReadTimeout):
        ask(client, STUCK, timeout=0.8)
    begun = time.monotonic()
    assert ask(client, ROWS[:1]).status_code == 200
    assert time.monotonic() - begun < 10.0
    assert (
        'soma_http_requests_total{model="center",status="499"} 1.0' in client.get("/metrics").text
    )


def test_tritonclient_gets_the_same_answers(url, client):
    triton = pytest.importorskip("tritonclient.http", reason="make http has tritonclient")
    asked = triton.InferenceServerClient(url.removeprefix("http://"), concurrency=2)
    with asked:
        assert asked.is_server_live(headers=BEARER)
        assert asked.is_server_ready(headers=BEARER)
        assert asked.is_model_ready("center", headers=BEARER)
        assert asked.get_server_metadata(headers=BEARER)["name"] == "soma"
        assert asked.get_model_metadata("center", "1", headers=BEARER)["name"] == "center"
        assert asked.get_model_repository_index(headers=BEARER)[0]["state"] == "READY"
        for binary in (True, False):
            given = triton.InferInput("x", list(ROWS.shape), "FP64")
            given.set_data_from_numpy(ROWS, binary_data=binary)
            wanted = triton.InferRequestedOutput("centered", binary_data=binary)
            headers = dict(BEARER)  # it writes into them
            result = asked.infer("center", [given], outputs=[wanted], headers=headers)
            assert np.array_equal(result.as_numpy("centered"), EXPECTED)
        with pytest.raises(Exception, match="no model 'none'"):
            asked.get_model_metadata("none", headers=BEARER)


def test_the_client_of_the_protocol_itself_gets_the_same_answers(url, client):
    openapi = pytest.importorskip("open_inference.openapi.client", reason="make http has it")
    types = pytest.importorskip("open_inference.openapi.types")
    with httpx.Client(headers=BEARER, timeout=30.0) as connection:
        asked = openapi.OpenInferenceClient(base_url=url, httpx_client=connection)
        asked.check_server_liveness()
        asked.check_server_readiness()
        asked.check_model_readiness("center")
        assert asked.read_server_metadata().name == "soma"
        assert asked.read_model_metadata("center").inputs[0].datatype == "FP64"
        given = types.RequestInput(
            name="x", shape=list(ROWS.shape), datatype="FP64", data=ROWS.ravel().tolist()
        )
        request = types.InferenceRequest(inputs=[given])
        for answer in (
            asked.model_infer("center", request=request),
            asked.model_version_infer("center", "1", request=request),
        ):
            assert answer.outputs[0].data.dict()["__root__"] == EXPECTED.ravel().tolist()
        with pytest.raises(Exception, match="no model 'none'"):
            asked.read_model_metadata("none")


def test_a_text_that_is_none_closes_the_websocket(url, client):
    address = f"{url.replace('http', 'ws', 1)}/models/center"
    with open_websocket(address, additional_headers=BEARER) as websocket:
        websocket.send('{"cmd":"LIST"}')
        websocket.send(b"\x93\xff", text=True)
        with pytest.raises(ConnectionClosed) as closed:
            list(websocket)  # to its end
    assert closed.value.rcvd.code == CloseCode.INVALID_DATA
    deadline = time.monotonic() + 30.0
    while client.get("/status").json()["clients"]:  # one client may share at a time
        assert time.monotonic() < deadline


@pytest.fixture(scope="module")
def shared(url, client) -> Iterator[soma.Worker]:
    """A worker that is the model, for all its clients."""
    with soma.connect("http", url=url, token=TOKEN, model="center", timeout=30.0) as worker:
        yield worker


def test_a_client_runs_the_model_over_the_whole_protocol(shared):
    found = shared.forward("center", ROWS)
    assert np.array_equal(found, EXPECTED)
    assert found.flags.writeable


def test_a_client_changes_nothing_of_a_model_that_it_shares(shared):
    for change in (
        lambda: shared.fit("center", ROWS * 2),
        lambda: shared.unload(["center"]),
        lambda: shared.load({"other": ("center", {})}),
        lambda: shared.batched_fit(["center"], ROWS),
    ):
        with pytest.raises(soma.RemoteError, match="connect without model="):
            change()
    assert np.array_equal(shared.forward("center", ROWS), EXPECTED)


def test_an_error_of_a_shared_model_is_that_of_the_filter(shared):
    with pytest.raises(ValueError, match="the rows hold NaN") as caught:
        shared.forward("center", np.full((1, 4), np.nan))
    assert type(caught.value).__name__ == "RemoteError[ValueError]"


def test_a_call_of_a_shared_model_ends_by_its_deadline_and_frees_the_worker(shared):
    with pytest.raises(soma.DeadlineExceeded) as caught:
        shared.forward("center", STUCK, timeout=0.3)
    assert caught.value.worker_survived
    assert np.array_equal(shared.forward("center", ROWS), EXPECTED)


def test_no_more_clients_share_a_model_than_may(url, shared):
    with pytest.raises(soma.StartFailed, match="503, as many clients share models as may"):
        soma.connect("http", url=url, token=TOKEN, model="center")


def test_a_model_that_is_not_there_cannot_be_shared(url, client):
    with pytest.raises(soma.StartFailed, match="404, the model 'none' is not there"):
        soma.connect("http", url=url, token=TOKEN, model="none")
