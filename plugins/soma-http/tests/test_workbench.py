"""What the console asks of its server, without a browser."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from soma_http.notices import ENDED, offered_token
from soma_http.server.app import make_app
from soma_http.server.config import Settings
from soma_http.server.local import make_console, run
from soma_http.server.models import Models

import soma_core as soma
from soma_core.testing.filters import Mean

from .conftest import TOKEN, Client
from .test_console import in_node

BEARER = {"Authorization": f"Bearer {TOKEN}", "Host": "127.0.0.1"}


@pytest.fixture(scope="module")
def client() -> Client:
    return Client(make_app(Settings(), Models({})))


def test_a_command_is_checked_with_the_place_of_a_mistake(client):
    right = client.post("/validate", content=b'{"cmd":"PING"}').json()
    assert right == {"valid": True, "why": None, "where": []}
    wrong = b'{"cmd":"LOAD","filters":[{"id":"a","filter":3}]}'
    found = client.post("/validate", content=wrong).json()
    assert found["where"] == ["filters", 0, "filter"]
    assert "valid string" in found["why"]
    assert client.post("/validate", content=b"[").json()["where"] == []


def test_a_token_may_come_as_a_subprotocol():
    coded = base64.urlsafe_b64encode(TOKEN.encode()).decode().rstrip("=")
    assert offered_token(["soma", f"soma.token.{coded}"]) == f"Bearer {TOKEN}"
    assert offered_token(["soma", "soma.token.\u00e9", "soma.token.A"]) == ""


def test_a_recording_is_run_again_and_compared(tmp_path):
    path = tmp_path / "flight.jsonl"
    with soma.connect("inline", filters={"m": Mean()}, record=path) as worker:
        worker.fit("m", np.ones((2, 2)))
    client = Client(make_console("inline", {"pickle": "same-user"}, TOKEN))
    answer = client.post("/replay", content=path.read_bytes(), headers=BEARER)
    found = [json.loads(line) for line in answer.text.splitlines()]
    assert {one["verdict"] for one in found} == {"same"}
    assert len(found) == 3
    broken = client.post("/replay", content=b"no recording\n", headers=BEARER)
    assert "recording" in json.loads(broken.text)["error"]


async def talk(app: Any, *lines: str) -> list[dict[str, Any]]:
    """What a WebSocket to a worker says of its opening, and to some lines."""
    headers = [(name.lower().encode(), value.encode()) for name, value in BEARER.items()]
    scope = {"type": "websocket", "path": "/workers", "headers": headers, "query_string": b""}
    scope |= {"subprotocols": ["soma"], "root_path": "", "scheme": "ws"}
    sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    sent.put_nowait({"type": "websocket.connect"})
    serving = asyncio.create_task(app(scope, sent.get, said.put))
    found = [await said.get()]
    for line in lines:
        sent.put_nowait({"type": "websocket.receive", "text": line})
        found.append(await said.get())
    found.append(await said.get())
    await serving
    return found


def test_a_console_speaks_lines_to_a_worker_of_any_transport():
    lines = ['{"cmd":"LIST"}', "[", '{"cmd":"SHUTDOWN"}']
    opened, *replies, closed = asyncio.run(
        asyncio.wait_for(talk(make_console("inline", {}, TOKEN), *lines), 30.0)
    )
    assert opened["subprotocol"] == "soma"
    listed, refused, ended = (json.loads(one["text"]) for one in replies)
    assert listed["nodes"] == {}
    assert refused["code"] == "malformed"
    assert ended["ok"]
    assert closed["code"] == ENDED


def test_a_console_wants_its_token_and_listens_on_this_machine_alone(monkeypatch):
    client = Client(make_console("inline", {}, TOKEN))
    assert client.get("/status").status_code == 401
    assert client.get("/console/").status_code == 200
    heard = []
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: heard.extend(sockets))
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert run(["inline"]) == 0
    [listening] = heard
    assert listening.getsockname()[0] == "127.0.0.1"
    listening.close()


def test_a_form_is_made_of_a_schema():
    schema = {
        "required": ["size"],
        "$defs": {"Kind": {"enum": ["a", "b"]}},
        "properties": {
            "times": {"type": "number", "default": 2.0, "minimum": 0, "description": "how often"},
            "kind": {"$ref": "#/$defs/Kind", "default": "a"},
            "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
            "any": {"default": "rbf"},
            "size": {"type": "integer"},
        },
    }
    settings = in_node(f"s.settingsOf({json.dumps(schema)})", "schemas.mjs")
    kinds = {one["name"]: one["kind"] for one in settings}
    assert kinds == {
        "size": "integer", "times": "number", "kind": "choice", "maybe": "integer", "any": "any"
    }  # fmt: skip
    assert (settings[0]["name"], settings[0]["required"]) == ("size", True)
    texts = ["3", "2.0", '"b"', "", "linear"]
    config = f"s.configOf(s.settingsOf({json.dumps(schema)}), {json.dumps(texts)})"
    assert in_node(config, "schemas.mjs") == {"size": 3, "kind": "b", "any": "linear"}
    wrong = f"s.configOf(s.settingsOf({json.dumps(schema)}), {json.dumps(['x'] * 5)})"
    assert in_node(wrong, "schemas.mjs") == 'size: "x" is no integer'


def test_each_part_of_a_text_has_its_place():
    text = '{"a": [1, {"b": "\\u00e9"}],\n "c": -1.5e3}'
    place = f"s.placeOf(s.parseText({json.dumps(text)}), %s)"
    where = [["a", 1, "b"], ["c"], ["a", 7]]
    found = in_node(f"[{','.join(place % json.dumps(one) for one in where)}]", "texts.mjs")
    cut = [text[one["start"] : one["end"]] for one in found]
    assert cut == ['"\\u00e9"', "-1.5e3", "["]
    at = f"s.lineAndColumn({json.dumps(text)}, {found[1]['start']})"
    assert in_node(at, "texts.mjs") == "line 2, column 7"


@pytest.mark.parametrize(
    "text", ["", "{", "[1,]", '{"a" 1}', "{a: 1}", '"open', "01", "1 2", "nul", '{"a":1,}']
)
def test_what_is_no_json_is_refused_as_everywhere(text):
    assert in_node(f"s.parseText({json.dumps(text)})", "texts.mjs")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--option", "x"], "KEY=VALUE is expected, got 'x'"),
        (["--port", "70000"], "from 0 to 65535 is expected, got '70000'"),
        (["--option", "foo=1"], "the transport 'stdio' has no option foo"),
        (["--option", "pickle=no"], "the transport 'stdio': pickle: input should be"),
    ],
)
def test_a_console_says_what_is_wrong_with_its_arguments(arguments, why, capfd):
    with pytest.raises(SystemExit):
        run(arguments)
    assert why in capfd.readouterr().err
