"""Versions that do not fit are told by HELLO, before anything is unpickled, on either side."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import soma_core as soma
from soma_core.protocol import versions
from soma_core.protocol.versions import Side, skew

from ..support import gate_runs
from ..support.installing import python_path
from .conftest import WATCHED
from .hostile import hostile_worker

HERE = Side.here()
MINOR = ".".join(platform.python_version_tuple()[:2])

FAKED = {
    "python": "import platform; platform.python_version = lambda: '3.99.1'",
    "cloudpickle": (
        "import importlib.metadata as m; real = m.version; "
        "m.version = lambda name: '99.1' if name == 'cloudpickle' else real(name)"
    ),
    "soma": "from soma_core.protocol import versions; versions.soma_version = lambda: '0.99.1'",
}
SAID = {"python": "Python 3.99", "cloudpickle": "cloudpickle 99.1", "soma": "soma 0.99.1"}
REMEDIES = {
    "python": "python='/path/to/python",
    "cloudpickle": "pip install 'cloudpickle==",
    "soma": "pip install 'soma-core==",
}


class MakesADirectory:
    """A filter that leaves a directory behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.path,)

    def fit(self, x: Any, y: Any = None) -> Any:
        return {}

    def forward(self, x: Any, state: Any) -> Any:
        return x


def faked_worker(what: str) -> dict[str, Any]:
    """The options of a worker that claims another version of something."""
    run = "import runpy; runpy.run_module('soma_transport_stdio', run_name='__main__')"
    return {"command": [sys.executable, "-P", "-c", f"{FAKED[what]}\n{run}"]}


def fake_host(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if what == "python":
        monkeypatch.setattr(platform, "python_version", lambda: "3.99.1")
    elif what == "cloudpickle":
        monkeypatch.setattr(versions, "cloudpickle_version", lambda: "99.1")
    else:
        monkeypatch.setattr(versions, "soma_version", lambda: "0.99.1")


def check(error: soma.IncompatibleWorker, what: str) -> None:
    text = str(error)
    here = {"python": f"Python {HERE.python}", "soma": f"soma {HERE.soma}"}
    assert SAID[what] in text
    assert here.get(what, f"cloudpickle {HERE.cloudpickle}") in text
    assert "the host has" in text
    assert "the worker" in text
    assert REMEDIES[what] in text
    assert "pickle='never'" in text


@pytest.mark.parametrize("what", gate_runs("python", of=list(FAKED)))
def test_a_worker_of_another_version_is_refused_before_it_gets_a_pickle(
    what: str, tmp_path: Path
) -> None:
    trace = tmp_path / "unpickled"
    with pytest.raises(soma.IncompatibleWorker) as caught:
        soma.connect("stdio", filters={"a": MakesADirectory(trace)}, **faked_worker(what))
    check(caught.value, what)
    assert not trace.exists()


@pytest.mark.parametrize("what", gate_runs("cloudpickle", of=list(FAKED)))
def test_a_host_of_another_version_is_refused_before_it_sends_a_pickle(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "unpickled"
    fake_host(what, monkeypatch)
    with pytest.raises(soma.IncompatibleWorker) as caught:
        soma.connect("stdio", filters={"a": MakesADirectory(trace)})
    check(caught.value, what)
    assert not trace.exists()


@pytest.mark.parametrize("what", FAKED)
def test_a_worker_that_compares_nothing_is_refused_by_the_host(what: str) -> None:
    claimed = {"python": "3.99.1", "cloudpickle": "99.1", "soma": "0.99.1"}[what]
    said = {**HERE._asdict(), what: claimed}
    said.pop("protocol")
    with pytest.raises(soma.IncompatibleWorker) as caught:
        hostile_worker(lambda cmd: pytest.fail(cmd), policy="same-user", versions=said)
    check(caught.value, what)


@pytest.mark.parametrize("what", gate_runs("soma", of=list(FAKED)))
def test_without_pickles_registered_filters_work_across_versions(
    what: str, registered: Path
) -> None:
    path = python_path(WATCHED, registered)
    options = {**faked_worker(what), "env": {"PYTHONPATH": path, "SOMA_WATCHED": os.devnull}}
    filters = {"echo": ("watched.Echo", {})}
    with soma.connect("stdio", pickle="never", filters=filters, **options) as worker:
        assert worker.forward("echo", [1, 2]) == [1, 2]


@pytest.mark.parametrize("pickle", ["same-user", "never"])
def test_another_protocol_is_refused_in_any_case(pickle: Any) -> None:
    with pytest.raises(soma.IncompatibleWorker) as caught:
        hostile_worker(lambda cmd: pytest.fail(cmd), policy=pickle, protocol=99)
    for part in ("protocol 99", f"protocol {versions.PROTOCOL_VERSION}", "on both sides"):
        assert part in str(caught.value)


def test_a_worker_that_refuses_pickles_may_have_other_versions() -> None:
    said = {"python": "3.99.1", "cloudpickle": "99.1", "soma": "0.99.1"}
    fields = {"pickle": "never", "versions": said}
    worker = hostile_worker(lambda cmd: pytest.fail(cmd), policy="same-user", **fields)
    with pytest.raises(soma.ProtocolError, match="this connection refuses"):
        worker.fit("a", slice(1, 2))


@pytest.mark.parametrize(
    "reply",
    [
        {"versions": None},
        {"versions": {"python": "3.11"}},
        {"pickle": "always"},
        {"pid": "x"},
        {"protocol": "1"},
    ],
    ids=str,
)
def test_a_reply_to_hello_that_is_not_one_is_a_failed_start(reply: dict[str, Any]) -> None:
    with pytest.raises(soma.StartFailed, match="reply to HELLO is not one"):
        hostile_worker(lambda cmd: pytest.fail(cmd), **reply)


def test_patch_releases_and_what_a_side_does_not_have_make_no_difference() -> None:
    for other in (
        HERE._replace(python=f"{MINOR}.99"),
        HERE._replace(cloudpickle=HERE.cloudpickle.split(".")[0] + ".99"),
        HERE._replace(soma="0+source"),
        Side(versions.PROTOCOL_VERSION, "", "", ""),  # a host in another language
    ):
        assert skew(other, HERE, pickles=True) is None
        assert skew(HERE, other, pickles=True) is None


def test_of_soma_the_minor_version_counts_before_1_and_the_major_one_after() -> None:
    def fits(host: str, worker: str) -> bool:
        return skew(HERE._replace(soma=host), HERE._replace(soma=worker), pickles=True) is None

    assert fits("0.1.0", "0.1.9")
    assert not fits("0.1.0", "0.2.0")
    assert fits("1.0.0", "1.9.0")
    assert not fits("1.0.0", "2.0.0")


# With another interpreter for real


@cache
def other_python() -> str | None:
    """An interpreter of another minor version that has what soma needs, if there is one."""
    names = (f"python3.{minor}" for minor in range(11, 20))
    candidates = [os.environ.get("SOMA_OTHER_PYTHON"), *map(shutil.which, names)]
    code = "import sys, numpy, pydantic, cloudpickle, pluggy; print(*sys.version_info[:2], sep='.')"
    for candidate in filter(None, candidates):
        done = subprocess.run([candidate, "-c", code], capture_output=True, text=True, timeout=60)
        if done.returncode == 0 and done.stdout.strip() != MINOR:
            return candidate
    return None


@pytest.fixture
def other(registered: Any) -> dict[str, Any]:
    """The options of a worker of another Python."""
    python = other_python()
    if python is None:
        pytest.skip("no other Python with soma's dependencies; SOMA_OTHER_PYTHON may name one")
    path = python_path(WATCHED, registered)
    return {"python": python, "env": {"PYTHONPATH": path, "SOMA_WATCHED": os.devnull}}


def test_a_worker_of_another_python_is_refused(other: dict[str, Any], tmp_path: Path) -> None:
    trace = tmp_path / "unpickled"
    with pytest.raises(soma.IncompatibleWorker, match=f"the host has Python {MINOR}"):
        soma.connect("stdio", filters={"a": MakesADirectory(trace)}, **other)
    assert not trace.exists()


def test_registered_filters_run_in_another_python(other: dict[str, Any]) -> None:
    filters = {"version": ("watched.Version", {}), "echo": ("watched.Echo", {})}
    with soma.connect("stdio", pickle="never", filters=filters, **other) as worker:
        assert worker.forward("version", None) != MINOR
        assert worker.fit("echo", (1, b"2"), [3.0]) == {"x": (1, b"2"), "y": [3.0]}
