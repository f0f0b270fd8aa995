"""The routes of the Open Inference Protocol, without workers."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Any

import pytest
from soma_http.server.app import make_app
from soma_http.server.config import LimitsConfig, ModelConfig, Settings
from soma_http.server.models import Models, ServedModel

import soma_core as soma

from .conftest import Client

INPUT = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1.0, 2.0]}
CONFIG = ModelConfig(filter="acme.Echo", version="3")


class Served(ServedModel):
    """A model that a function is."""

    def __init__(self, name: str, function: Callable[[Any], Any] | None) -> None:
        super().__init__(name, CONFIG)
        self._function = function

    @property
    def ready(self) -> bool:
        return self._function is not None

    async def run(self, x: Any) -> Any:
        if self._function is None:
            raise soma.StartFailed("no such filter")
        return self._function(x)


def fails_with(error: Exception) -> Callable[[Any], Any]:
    def fail(x: Any) -> Any:
        raise error

    return fail


def client(**functions: Callable[[Any], Any] | None) -> Client:
    models = Models(dict.fromkeys(functions, CONFIG), lambda name, _: Served(name, functions[name]))
    settings = Settings(limits=LimitsConfig(body=10_000))
    return Client(make_app(settings, models))


def infer(asked: Client, model: str = "echo", **fields: Any) -> Any:
    return asked.post(f"/v2/models/{model}/infer", json={"inputs": [INPUT], **fields})


ECHO = client(echo=lambda x: x)


def test_health_and_metadata_are_as_the_protocol_says():
    assert ECHO.get("/v2/health/live").json() == {"live": True}
    assert ECHO.get("/v2/health/ready").json() == {"ready": True}
    assert ECHO.get("/v2").json()["extensions"] == ["binary_tensor_data", "model_repository"]
    assert ECHO.get("/v2/models/echo").json() == {
        "name": "echo",
        "versions": ["3"],
        "platform": "acme.Echo",
        "inputs": [],
        "outputs": [],
    }
    assert ECHO.get("/v2/models/echo/versions/3/ready").json() == {"name": "echo", "ready": True}
    [entry] = ECHO.post("/v2/repository/index", content=b"{}").json()
    assert (entry["name"], entry["state"]) == ("echo", "READY")


def test_a_server_is_not_ready_while_a_model_is_not():
    asked = client(echo=lambda x: x, absent=None)
    assert asked.get("/v2/health/live").status_code == 200
    assert asked.get("/v2/health/ready").status_code == 503
    assert asked.get("/v2/models/echo/ready").status_code == 200
    assert asked.get("/v2/models/absent/ready").status_code == 503
    refused = infer(asked, "absent")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "no such filter" in refused.json()["error"]
    index = "/v2/repository/index"
    assert [one["state"] for one in asked.post(index).json()] == ["READY", "UNAVAILABLE"]
    assert [one["name"] for one in asked.post(index, json={"ready": True}).json()] == ["echo"]
    assert asked.post(index, json={"ready": []}).status_code == 400


def test_an_answer_names_the_model_and_the_request():
    answer = infer(ECHO, id="a1").json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("echo", "3", "a1")
    assert answer["outputs"][0] == {
        "name": "output",
        "datatype": "FP32",
        "shape": [2],
        "data": [1.0, 2.0],
    }


def test_several_inputs_are_a_dict():
    asked = client(total=lambda x: x["a"] + x["b"])
    inputs = [{**INPUT, "name": name} for name in "ab"]
    assert infer(asked, "total", inputs=inputs).json()["outputs"][0]["data"] == [2.0, 4.0]


def test_outputs_in_binary_follow_the_json():
    answer = infer(ECHO, parameters={"binary_data_output": True})
    size = int(answer.headers["inference-header-content-length"])
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.content[size:] == bytes.fromhex("0000803f00000040")


def test_a_body_may_be_compressed_and_not_without_end():
    body = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]}'
    headers = {"Content-Encoding": "gzip"}
    path = "/v2/models/echo/infer"
    assert ECHO.post(path, content=gzip.compress(body), headers=headers).status_code == 200
    bomb = gzip.compress(body + b" " * 1_000_000)
    assert ECHO.post(path, content=bomb, headers=headers).status_code == 413
    for broken in (body, gzip.compress(body)[:-1], gzip.compress(body) * 2):
        assert ECHO.post(path, content=broken, headers=headers).status_code == 400
    assert ECHO.post(path, content=body, headers={"Content-Encoding": "br"}).status_code == 415


def test_a_request_of_more_rows_than_allowed_is_refused_before_it_is_read():
    models = Models({"echo": CONFIG}, lambda name, _: Served(name, lambda x: x))
    asked = Client(make_app(Settings(limits=LimitsConfig(rows=1)), models))
    refused = infer(asked)
    assert refused.status_code == 413
    assert "2 rows; this server takes 1 at once" in refused.json()["error"]
    assert infer(asked, inputs=[{**INPUT, "shape": [1, 2]}]).status_code == 200


def test_a_body_without_a_length_has_the_same_limit():
    async def pieces() -> Any:
        for _ in range(20):
            yield bytes(1000)

    assert ECHO.post("/v2/models/echo/infer", content=pieces()).status_code == 413


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/v2/models/none/infer", 404, "no model 'none'"),
        ("/v2/models/echo/versions/4/infer", 404, "no version '4'; it has '3'"),
        ("/v2/models/echo/infer/more", 404, "Not Found"),
        ("/v2/health/live", 405, "Method Not Allowed"),
    ],
)
def test_what_is_not_there_is_an_error_in_json(path, status, said):
    answer = ECHO.post(path, json={"inputs": [INPUT]})
    assert answer.status_code == status
    assert said in answer.json()["error"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"inputs":[]}', b"\xff", b"{" * 999]
)
def test_a_body_that_is_no_request_is_refused(content):
    answer = ECHO.post("/v2/models/echo/infer", content=content)
    assert answer.status_code == 400
    assert answer.json()["error"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (soma.QueueFull("full"), 503),
        (soma.DeadlineExceeded("late", worker_survived=True), 504),
        (soma.RemoteError.from_reply({"error": "bad rows", "type": "ValueError"}), 400),
        (soma.RemoteError.from_reply({"error": "no \udcff", "type": "RuntimeError"}), 500),
        (soma.WorkerDied("gone"), 503),
        (soma.ChannelClosed("closed"), 503),
    ],
)
def test_a_failure_has_the_status_of_its_cause(error, status):
    answer = infer(client(model=fails_with(error)), "model")
    assert answer.status_code == status
    assert answer.json()["error"]


def test_an_error_of_the_server_itself_tells_nothing_of_it(caplog):
    answer = infer(client(model=fails_with(KeyError("secret"))), "model")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "secret" in caplog.text


def test_answers_are_counted_by_model_and_status():
    asked = client(echo=lambda x: x)
    infer(asked)
    infer(asked, inputs=[])
    infer(asked, "none")
    shown = asked.get("/metrics").text
    assert 'soma_http_requests_total{model="echo",status="200"} 1.0' in shown
    assert 'soma_http_requests_total{model="echo",status="400"} 1.0' in shown
    assert 'soma_http_request_seconds_count{model="echo"} 2.0' in shown
    assert 'soma_model_ready{model="echo"} 1.0' in shown
    assert "none" not in shown
