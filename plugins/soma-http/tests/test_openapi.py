"""The OpenAPI document says what the server answers."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import pytest
from soma_http.server.app import make_app
from soma_http.server.config import Settings
from soma_http.server.models import Models
from soma_http.server.openapi import document

from .conftest import Client
from .test_inference import CONFIG, INPUT, Served

REQUEST = {"inputs": [INPUT]}


@pytest.fixture(scope="module")
def client() -> Client:
    models = Models({"echo": CONFIG}, lambda name, _: Served(name, lambda x: x))
    return Client(make_app(Settings(), models))


def schema_of(path: str, method: str, status: int) -> dict[str, Any]:
    answers = document()["paths"][path][method]["responses"]
    answer = answers.get(str(status), answers["default"])
    return answer["content"]["application/json"]["schema"]


def check(instance: Any, schema: dict[str, Any]) -> None:
    whole = {**schema, "components": document()["components"]}
    jsonschema.Draft202012Validator(whole).validate(instance)


CASES = [
    (path, method)
    for path, item in document()["paths"].items()
    for method in item
    if method in ("get", "post")
]


@pytest.mark.parametrize(("path", "method"), CASES)
def test_each_answer_is_as_the_document_says(client, path, method):
    asked = path.format(model="echo", version="3")
    answer = client.request(method.upper(), asked, json=REQUEST)
    assert answer.status_code == 200, answer.text
    check(answer.json(), schema_of(path, method, 200))
    if "{model}" in path:
        refused = client.request(
            method.upper(), path.format(model="none", version="3"), json=REQUEST
        )
        assert refused.status_code == 404
        check(refused.json(), schema_of(path, method, 404))


def test_a_request_is_as_the_document_says():
    schema = document()["components"]["schemas"]["InferenceRequest"]
    check(REQUEST, schema)
    with pytest.raises(jsonschema.ValidationError):
        check({"inputs": [{**INPUT, "datatype": "FP99"}]}, schema)


def test_the_document_is_served_and_each_reference_in_it_leads_somewhere(client):
    shown = client.get("/openapi.json")
    assert shown.json() == document()
    named = set(re.findall(r'"#/components/schemas/(\w+)"', shown.text))
    assert named <= document()["components"]["schemas"].keys()
    assert {"InferenceRequest", "InferenceResponse", "Error"} <= named
