"""The files under examples/deployment are what the programs that read them expect."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from soma_http.server.app import make_app
from soma_http.server.command import argument_parser
from soma_http.server.config_file import read_settings
from soma_http.server.models import Models

from soma_transport_socket import SocketTransport

from .conftest import Client

FOLDER = Path(__file__).resolve().parents[3] / "examples" / "deployment"
NAMED = re.compile(r"\bsoma_\w+")


@pytest.fixture(scope="module")
def metrics() -> set[str]:
    """The names of all metrics that a server has."""
    settings = read_settings(FOLDER / "models.toml", {})
    shown = Client(make_app(settings, Models(settings.models))).get("/metrics").text
    families = text_string_to_metric_families(shown)
    found = {family.name: family.type for family in families}
    endings = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
    return {name + end for name, kind in found.items() for end in endings.get(kind, [""])}


def test_the_configuration_is_valid():
    settings = read_settings(FOLDER / "models.toml", {})
    assert list(settings.models) == ["scaler"]


def test_the_settings_of_the_image_are_variables_that_the_server_reads(tmp_path):
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("a-token-that-is-long-enough")
    text = (FOLDER / "Containerfile").read_text().replace("/etc/soma/tokens.txt", str(tokens))
    variables = dict(re.findall(r"(SOMA_HTTP_\w+)=(\S+)", text))
    assert len(variables) == 2
    settings = read_settings(FOLDER / "models.toml", variables)
    assert (settings.server.host, settings.server.tokens) == ("0.0.0.0", tokens)


@pytest.mark.parametrize("name", ["alerts.yml", "grafana-dashboard.json"])
def test_queries_name_metrics_that_a_server_has(metrics, name):
    named = set(NAMED.findall((FOLDER / name).read_text()))
    assert len(named) >= 5
    assert named <= metrics


def test_each_metric_of_a_server_is_on_the_dashboard(metrics):
    text = (FOLDER / "grafana-dashboard.json").read_text()
    shown = set(NAMED.findall(text))
    beside = {"soma_http_request_seconds_count", "soma_http_request_seconds_sum"}
    assert metrics - beside - {"soma_pool_done_total"} <= shown
    panels = json.loads(text)["panels"]
    assert all(target["expr"] for panel in panels for target in panel["targets"])


def commands_of(unit: str) -> list[list[str]]:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(FOLDER / unit)
    service = parser["Service"]
    return [
        shlex.split(line) for key, line in service.items() if key in ("ExecStart", "ExecStartPre")
    ]


def test_units_start_what_exists_with_arguments_that_it_takes(capsys):
    for line in commands_of("soma-http.service"):
        assert line[1:3] == ["serve", "http"]
        argument_parser().parse_args(line[3:])
    for line in commands_of("soma-socket.service"):
        assert line[1:3] == ["serve", "socket"]
        with pytest.raises(SystemExit):
            SocketTransport.serve(["--help"])
        known = capsys.readouterr().out
        assert [word for word in line[3:] if word.startswith("--") and word not in known] == []


def test_the_image_starts_what_exists_with_arguments_that_it_takes():
    text = (FOLDER / "Containerfile").read_text()
    start, arguments = (
        json.loads(found) for found in re.findall(r"^(?:ENTRYPOINT|CMD) (\[.*\])$", text, re.M)
    )
    assert start[:3] == ["soma", "serve", "http"]
    argument_parser().parse_args([*start[3:], *arguments])


def test_probes_ask_for_what_needs_no_token(tmp_path):
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("a-token-that-is-long-enough")
    settings = read_settings(FOLDER / "models.toml", {"SOMA_HTTP_SERVER__TOKENS": str(tokens)})
    client = Client(make_app(settings, Models({})))
    text = (FOLDER / "kubernetes.yaml").read_text() + (FOLDER / "Containerfile").read_text()
    paths = set(re.findall(r"/v2/health/\w+", text))
    assert paths == {"/v2/health/live", "/v2/health/ready"}
    assert {client.get(path).status_code for path in paths} == {200}


def test_no_probe_restarts_a_server_whose_models_cannot_be_loaded():
    probes = re.findall(
        r"(\w+)Probe:.*\n\s*httpGet: \{ path: (\S+),", (FOLDER / "kubernetes.yaml").read_text()
    )
    assert dict(probes) == {
        "startup": "/v2/health/live",
        "readiness": "/v2/health/ready",
        "liveness": "/v2/health/live",
    }
