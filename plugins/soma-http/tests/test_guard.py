"""What every request must pass: a token, an origin, a size."""

from __future__ import annotations

import pytest
from soma_http.server.app import make_app
from soma_http.server.config import LimitsConfig, ServerConfig, Settings

from .conftest import TOKEN, Client

BEARER = {"Authorization": f"Bearer {TOKEN}"}
PATH = "/workers/none"


def client(tokens=None, **limits) -> Client:
    return Client(application(tokens, **limits))


def application(tokens=None, **limits):
    settings = Settings(server=ServerConfig(tokens=tokens), limits=LimitsConfig(**limits))
    return make_app(settings)


@pytest.fixture
def guarded(tmp_path) -> Client:
    path = tmp_path / "tokens.txt"
    path.write_text(TOKEN)
    return client(path)


def test_a_token_is_wanted_for_everything_but_probes(guarded):
    refused = guarded.get(PATH)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert guarded.get(PATH, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert guarded.get(PATH, headers=BEARER).status_code == 404
    assert guarded.get("/v2/health/live").status_code != 401


def test_probes_need_no_token_under_the_path_of_a_proxy(tmp_path):
    path = tmp_path / "tokens.txt"
    path.write_text(TOKEN)
    behind = Client(application(path), root_path="/soma")
    assert behind.get("/soma/v2/health/live").status_code == 200
    assert behind.get(f"/soma{PATH}").status_code == 401
    assert behind.get("/soma/soma/v2/health/live").status_code == 401


def test_a_page_of_another_origin_is_refused(guarded):
    foreign = {**BEARER, "Origin": "https://evil.example"}
    assert guarded.get(PATH, headers=foreign).status_code == 403
    own = {**BEARER, "Origin": "http://127.0.0.1:8000"}
    assert guarded.get(PATH, headers=own).status_code == 404


def test_without_tokens_only_names_of_this_machine_are_answered():
    assert client().get(PATH).status_code == 404
    assert client().get(PATH, headers={"Host": "rebound.example"}).status_code == 403


def test_a_body_beyond_the_limit_is_refused_before_it_is_read():
    refused = client(body=10).post(f"{PATH}/interrupt", content=b"x" * 11)
    assert refused.status_code == 413
    assert "10" in refused.json()["error"]
