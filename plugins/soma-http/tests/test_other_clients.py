"""What others wrote to break servers runs against this one, and finds nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from soma_http.server.app import make_app
from soma_http.server.config import ServerConfig, Settings
from soma_http.server.models import Models

from .conftest import TOKEN
from .test_inference import CONFIG, Served

schemathesis = pytest.importorskip("schemathesis", reason="make http has schemathesis")
hypothesis = pytest.importorskip("hypothesis")

BEARER = {"Authorization": f"Bearer {TOKEN}"}


def application() -> Any:
    """A server that wants a token, with a model that gives back what it gets."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "tokens.txt"
        path.write_text(TOKEN)
        models = Models({"echo": CONFIG}, lambda name, _: Served(name, lambda x: x))
        return make_app(Settings(server=ServerConfig(tokens=path)), models)


SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", application(), headers=BEARER)


@SCHEMA.parametrize()
@hypothesis.settings(
    max_examples=60, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
)
def test_what_the_document_allows_and_forbids_is_answered_as_it_says(case: Any) -> None:
    case.call_and_validate(headers=BEARER)
