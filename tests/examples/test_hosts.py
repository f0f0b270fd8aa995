"""The hosts in other languages do what they say, over both daemons."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..support import gate_runs, nightly

HOSTS = Path(__file__).resolve().parents[2] / "examples" / "hosts"
PRINTED = re.compile(r'result (\[.*\]) of shape (\[.*\])\nrefused with "?(\w+)"?: "?(.*?)"?\n')

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("soma_filters_sklearn") is None,
    reason="the hosts load sklearn.StandardScaler, and soma-filters-sklearn is not installed",
)


def bash(tmp_path: Path) -> list[str]:
    return [needed("bash", "jq", "perl"), str(HOSTS / "host.sh")]


def node(tmp_path: Path) -> list[str]:
    return [needed("node"), str(HOSTS / "host.mjs")]


def c(tmp_path: Path) -> list[str]:
    built = tmp_path / "host"
    strict = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([needed("gcc"), *strict, "-o", built, HOSTS / "host.c"], check=True, timeout=60)
    return [str(built)]


def needed(*programs: str) -> str:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    return programs[0]


def run(command: list[str], python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHON": python},
    )


@pytest.fixture(params=[bash, node, pytest.param(c, marks=nightly)], ids=["bash", "node", "c"])
def host(request, tmp_path) -> list[str]:
    return request.param(tmp_path)


def expect_the_work_was_done(ended: subprocess.CompletedProcess[str]) -> None:
    assert ended.returncode == 0, ended.stderr
    matched = PRINTED.fullmatch(ended.stdout)
    assert matched, ended.stdout
    values, shape, code, error = matched.groups()
    assert json.loads(values) == [-1, -1, 1, 1]
    assert json.loads(shape) == [2, 2]
    assert (code, error) == ("unknown_node", "unknown node 'nobody'; loaded nodes: 'scaler'")


@pytest.mark.parametrize("host", gate_runs(bash, of=[bash, node, c]), indirect=True)
def test_a_host_starts_a_worker_and_uses_it(host):
    expect_the_work_was_done(run(host))


@nightly
def test_a_host_uses_a_worker_of_a_daemon(host, shared_socket_daemon):
    expect_the_work_was_done(run([*host, str(shared_socket_daemon.path)]))


def test_a_host_whose_worker_does_not_come_up_says_so(host):
    ended = run(host, python="/bin/false")
    assert ended.returncode != 0
    assert "the worker is gone" in ended.stderr
