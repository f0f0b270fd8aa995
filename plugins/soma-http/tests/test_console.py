"""The console: a page that loads nothing from elsewhere, and what it shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soma_http.server.console
from soma_http.server.app import make_app
from soma_http.server.config import ServerConfig, Settings
from soma_http.server.models import Models

from .conftest import TOKEN, Client, serving
from .test_inference import CONFIG, Served

FOLDER = Path(soma_http.server.console.__file__).parent
DOCUMENTATION = FOLDER.parent / "documentation"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
FILES = ["index.html", "console.css", *sorted(path.name for path in FOLDER.glob("*.mjs"))]


@pytest.fixture
def client(tmp_path) -> Client:
    (tmp_path / "tokens.txt").write_text(TOKEN)
    settings = Settings(server=ServerConfig(tokens=tmp_path / "tokens.txt"))
    models = Models({"echo": CONFIG}, lambda name, _: Served(name, lambda x: x))
    return Client(make_app(settings, models))


def test_the_page_needs_no_token_and_what_it_shows_does(client):
    page = client.get("/console/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert client.get("/console").headers["location"] == "/console/"
    assert client.get("/console/shaping.mjs").headers["content-type"].startswith("text/javascript")
    assert client.get("/status").status_code == 401
    shown = client.get("/status", headers=BEARER).json()
    assert [model["name"] for model in shown["models"]] == ["echo"]
    assert shown["clients"] == []


@pytest.mark.parametrize("path", ["__init__.py", "../app.py", "%2e%2e/app.py", "x"])
def test_the_page_has_its_own_files_and_no_others(client, path):
    assert client.get(f"/console/{path}", headers=BEARER).status_code == 404


def test_nothing_is_loaded_from_elsewhere(client):
    policy = client.get("/console/").headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for path in (*(FOLDER / name for name in FILES), *DOCUMENTATION.iterdir()):
        assert not re.search(r"https?://|//cdn|@import", path.read_text()), path


def test_the_requests_are_described_by_a_page_too(client):
    page = client.get("/docs/")
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    for name in re.findall(r'(?:href|src)="([\w.]+)"', page.text):
        assert client.get(f"/docs/{name}").status_code == 200
    assert client.get("/openapi.json").status_code == 401


def test_a_server_may_have_no_console():
    app = make_app(Settings(server=ServerConfig(console=False)), Models({}))
    assert Client(app).get("/console/").status_code == 404
    assert Client(app).get("/status").status_code == 404


def in_node(expression: str, module: str = "shaping.mjs") -> Any:
    """What an expression over the functions of a module of the page is, as JSON."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    program = f"import * as s from {json.dumps(str(FOLDER / module))};" + (
        f"let found; try {{ found = {expression}; }} catch (error) {{ found = error.message; }}"
        "console.log(JSON.stringify(found));"
    )
    command = [node, "--input-type=module", "-e", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_files_become_tensors(tmp_path):
    arrays = {
        "FP32": np.arange(6, dtype="f4").reshape(2, 3),
        "INT64": np.array([1, -2]),
        "UINT8": np.zeros((0, 2), "u1"),
        "BOOL": np.array([True, False]),
        "FP64": np.array([[0.5, np.nan]], ">f8"),
    }
    expressions = []
    for datatype, array in arrays.items():
        np.save(tmp_path / f"{datatype}.npy", array)
        data = list((tmp_path / f"{datatype}.npy").read_bytes())
        expressions.append(f"s.parseNpy(new Uint8Array({data}).buffer)")
    found = in_node(f"[{','.join(expressions)}]")
    for one, (datatype, array) in zip(found, arrays.items(), strict=True):
        data = [None if np.isnan(item) else item for item in array.ravel().tolist()]
        assert one == {"datatype": datatype, "shape": list(array.shape), "data": data}
    assert in_node(r"s.parseCsv('a,b\n1,2.5\r\n\n-3,\n')") == {
        "datatype": "FP64",
        "shape": [2, 2],
        "data": [1, 2.5, -3, None],
    }


def test_what_is_no_tensor_is_named():
    fields = "{name: 'x', datatype: 'FP64', shape: '%s', data: '%s'}"
    wrong = [
        r"s.parseCsv('1,2\n3')",
        "s.parseCsv('1,x')",
        "s.parseNpy(new ArrayBuffer(20))",
        f"s.inputOf({fields % ('2', '1, 2, 3')})",
        f"s.inputOf({fields % ('two', '1')})",
        f"s.inputOf({fields % ('1', 'one')})",
    ]
    caught = [
        f"(() => {{ try {{ return {one} }} catch (e) {{ return e.message }} }})()" for one in wrong
    ]
    said = in_node(f"[{','.join(caught)}]")
    for text, part in zip(
        said,
        ["row 2 has 1", "no number", "no .npy", "there are 3", "whole numbers", "JSON"],
        strict=True,
    ):
        assert part in text


def test_samples_become_rates_and_points():
    before = "{done: 10, failed: 0, queued: 1, p99: 0.5, batches: 2, batched: 4}"
    now = "{done: 30, failed: 2, queued: 3, p99: 0.25, batches: 4, batched: 16}"
    assert in_node(f"s.rates({before}, {now}, 2)") == {
        "requests": 11,
        "queued": 3,
        "p99": 250,
        "batch": 6,
    }
    assert in_node("s.points([0, 2], 3)") == "50.00,29.00 100.00,1.00"
    assert in_node("[s.size(999), s.size(1500), s.size(null), s.duration(90)]") == [
        "999 B", "1.5 kB", "\u2013", "2 min",
    ]  # fmt: skip


@pytest.mark.nightly
def test_a_browser_shows_the_models(tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("chromium is not installed")
    pytest.importorskip("soma_filters_sklearn")
    config = '[server]\nport = 0\n[models.scaler]\nfilter = "sklearn.StandardScaler"\n'
    with serving(tmp_path, config) as url:
        deadline = time.monotonic() + 60
        while "scaler" not in (shown := dump(browser, f"{url}/console/", tmp_path)):
            assert time.monotonic() < deadline, shown
    assert "version 1" in shown
    assert 'class="badge' in shown


def dump(browser: str, url: str, directory: Path) -> str:
    """The page as a browser has it after two seconds."""
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
        "--virtual-time-budget=2000", f"--user-data-dir={directory / 'profile'}", url,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
