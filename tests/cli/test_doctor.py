"""soma doctor: each kind of finding, from facts that are put in its place."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from importlib.metadata import requires

import pytest

from soma_core.cli.doctor import facts as gathering
from soma_core.cli.doctor.facts import (
    BlasLibrary,
    Facts,
    Interpreter,
    Requirement,
    RoundTrip,
    TripOutcome,
    processor_quota,
    read_requirements,
    time_transport,
    try_sealed_memory,
)
from soma_core.cli.doctor.findings import Finding, Level, examine
from soma_core.cli.plugins import PluginReport
from soma_core.plugins.catalog import PluginInfo

STDIO = PluginInfo("stdio", "soma_transport_stdio:StdioTransport", "soma-core", "0.1.0")

HEALTHY = Facts(
    interpreter=Interpreter("CPython", (3, 12, 1), "/usr/bin/python3", "Linux"),
    soma="0.1.0",
    protocol=1,
    requirements=(
        Requirement("numpy", ">=1.26", "2.1.0", None),
        Requirement("torch", ">=2.6", "2.6.0+cpu", "torch"),
    ),
    plugins=(PluginReport("soma.transports", STDIO, None),),
    sealed_memory=None,
    open_files=20_000,
    address_space=None,
    shared_directory=1 << 30,
    cores=4,
    quota=None,
    blas=(BlasLibrary("openblas", 4),),
    round_trips=(RoundTrip("stdio", TripOutcome.TIMED, 0.4, 0.0001),),
)


def finding(subject: str, **changed: object) -> Finding:
    """What is found about a subject where these facts are changed."""
    (found,) = [
        each for each in examine(replace(HEALTHY, **changed)) if each.subject.startswith(subject)
    ]
    return found


def test_nothing_is_wrong_with_what_is_healthy():
    assert {each.level for each in examine(HEALTHY)} == {Level.OK}
    assert all(not each.remedy for each in examine(HEALTHY))


@pytest.mark.parametrize(
    ("subject", "changed", "level", "found", "remedy"),
    [
        (
            "python",
            {"interpreter": Interpreter("CPython", (3, 10, 2), "/usr/bin/python3", "Linux")},
            Level.WRONG,
            "CPython 3.10.2",
            "install Python 3.11",
        ),
        (
            "python",
            {"interpreter": Interpreter("PyPy", (3, 11, 2), "/usr/bin/pypy", "Linux")},
            Level.ADVICE,
            "PyPy 3.11.2",
            "CPython alone",
        ),
        (
            "system",
            {"interpreter": Interpreter("CPython", (3, 11, 2), "python.exe", "Windows")},
            Level.WRONG,
            "Windows",
            "WSL",
        ),
        (
            "system",
            {"interpreter": Interpreter("CPython", (3, 11, 2), "/usr/bin/python3", "Darwin")},
            Level.ADVICE,
            "macOS",
            "without seals",
        ),
        ("soma-core", {"requirements": ()}, Level.WRONG, "not installed", "pip install"),
        (
            "numpy",
            {"requirements": (Requirement("numpy", ">=1.26", None, None),)},
            Level.WRONG,
            "not installed",
            "pip install 'numpy>=1.26'",
        ),
        (
            "numpy",
            {"requirements": (Requirement("numpy", ">=1.26", "1.9.3", None),)},
            Level.WRONG,
            "1.9.3, and soma needs >=1.26",
            "pip install 'numpy>=1.26'",
        ),
        (
            "torch",
            {"requirements": (Requirement("torch", ">=2.6", "2.1.0+cpu", "torch"),)},
            Level.WRONG,
            "2.1.0+cpu, and soma needs >=2.6",
            "pip install 'torch>=2.6'",
        ),
        (
            "torch",
            {"requirements": (Requirement("torch", ">=2.6", None, "torch"),)},
            Level.OK,
            "only filters that use torch",
            "",
        ),
        (
            "stdio of soma-core",
            {"plugins": (PluginReport("soma.transports", STDIO, "it does not import"),)},
            Level.WRONG,
            "it does not import",
            "reinstall or update soma-core",
        ),
        (
            "stdio of soma-core",
            {
                "plugins": (
                    PluginReport(
                        "soma.transports",
                        replace(STDIO, conflict=("acme", "soma-core")),
                        "acme and soma-core both provide it",
                    ),
                )
            },
            Level.WRONG,
            "both provide",
            "pip uninstall one of acme, soma-core",
        ),
        ("installed", {"plugins": ()}, Level.WRONG, "none", "pip install soma-core"),
        (
            "sealed memory",
            {"sealed_memory": "memfd_create: Operation not permitted"},
            Level.ADVICE,
            "Operation not permitted",
            "seccomp",
        ),
        ("open files", {"open_files": 256}, Level.ADVICE, "256", "ulimit -n"),
        ("open files", {"open_files": None}, Level.OK, "unlimited", ""),
        ("address space", {"address_space": 1 << 30}, Level.ADVICE, "1.1 GB", "ulimit -v"),
        ("/dev/shm", {"shared_directory": 64 << 20}, Level.ADVICE, "67.1 MB free", "--shm-size"),
        ("openblas", {"cores": 2}, Level.ADVICE, "4 threads", "threads=2"),
        ("openblas", {"quota": 1.5}, Level.ADVICE, "4 threads", "threads=1"),
        ("cores", {"quota": 1.5}, Level.OK, "4 cores, of which a control group grants", ""),
        (
            "stdio",
            {"round_trips": (RoundTrip("stdio", TripOutcome.TIMED, 0.4, 0.02),)},
            Level.ADVICE,
            "round trip 20000 us",
            "other load",
        ),
        (
            "stdio",
            {"round_trips": (RoundTrip("stdio", TripOutcome.DID_NOT_START, reason="it fell"),)},
            Level.WRONG,
            "it fell",
            "soma plugins stdio",
        ),
        (
            "socket",
            {"round_trips": (RoundTrip("socket", TripOutcome.DID_NOT_START, reason="no daemon"),)},
            Level.ADVICE,
            "no daemon",
            "soma serve socket",
        ),
        (
            "tcp",
            {"round_trips": (RoundTrip("tcp", TripOutcome.NEEDS_OPTIONS, reason="port: missing"),)},
            Level.OK,
            "port: missing",
            "soma.connect('tcp'",
        ),
        (
            "tcp",
            {"round_trips": (RoundTrip("tcp", TripOutcome.FAILED, reason="KeyError: 1"),)},
            Level.WRONG,
            "KeyError: 1",
            "soma plugins tcp",
        ),
    ],
)
def test_a_finding_says_what_was_found_and_what_to_do(subject, changed, level, found, remedy):
    result = finding(subject, **changed)
    assert result.level is level
    assert found in result.found
    assert remedy in result.remedy
    assert bool(remedy) == bool(result.remedy)


@pytest.mark.parametrize(
    ("installed", "level"), [("1.26", "ok"), ("2.0.0rc1", "ok"), ("1.9", "wrong")]
)
def test_versions_are_compared_as_numbers(installed, level):
    result = finding("numpy", requirements=(Requirement("numpy", ">=1.26", installed, None),))
    assert result.level == level


def test_requirements_are_read_from_metadata_without_those_of_the_developers():
    lines = ["numpy>=1.26", "torch>=2.6; extra == 'torch'", "pytest>=8; extra == 'test'"]
    assert read_requirements(lines, {"numpy": "2.0"}.get) == (
        Requirement("numpy", ">=1.26", "2.0", None),
        Requirement("torch", ">=2.6", None, "torch"),
    )


def test_every_requirement_of_this_distribution_is_looked_at():
    of_users = [line for line in requires("soma-core") if "extra" not in line or "torch" in line]
    assert len(read_requirements(of_users, lambda name: None)) == len(of_users)


def test_a_quota_of_processor_time_is_read_in_cores(tmp_path):
    limits = tmp_path / "cpu.max"
    limits.write_text("150000 100000\n")
    assert processor_quota(limits) == 1.5
    limits.write_text("max 100000\n")
    assert processor_quota(limits) is None
    assert processor_quota(tmp_path / "nowhere") is None


def test_sealed_memory_that_is_forbidden_is_reported_with_the_reason(monkeypatch):
    def forbidden(name, flags):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    assert try_sealed_memory() is None
    monkeypatch.setattr(os, "memfd_create", forbidden)
    assert try_sealed_memory() == "memfd_create: Operation not permitted"


def test_a_transport_is_timed_in_use():
    trip = time_transport("stdio")
    assert trip.outcome is TripOutcome.TIMED
    assert trip.start > trip.ping > 0


def test_a_transport_without_what_it_needs_is_not_tried(install, tmp_path):
    (tmp_path / "site" / "acme_port.py").write_text(TRANSPORT)
    install("acme", "soma.transports", port="acme_port:Port", bad="acme_port:Bad")
    assert time_transport("port").outcome is TripOutcome.NEEDS_OPTIONS
    assert "port" in time_transport("port").reason
    assert time_transport("bad") == RoundTrip("bad", TripOutcome.FAILED, reason="KeyError: 'gone'")


TRANSPORT = """
from soma_core.transport import Transport, TransportOptions

class Options(TransportOptions):
    port: int

class Bad(Transport):
    name = "bad"
    def start(self, timeout=None):
        raise KeyError("gone")
    def poll(self): return None
    def interrupt(self): pass
    def stop(self, grace): return None

class Port(Bad):
    name = "port"
    Options = Options
"""


@pytest.fixture
def found(monkeypatch):
    def replace_facts(**changed):
        monkeypatch.setattr(gathering, "gather", lambda: replace(HEALTHY, **changed))

    return replace_facts


def test_the_command_succeeds_where_nothing_is_wrong(soma, found):
    found()
    result = soma("doctor")
    assert result.exit_code == 0
    assert "everything is fine" in result.stderr


def test_advice_is_no_failure(soma, found):
    found(open_files=256)
    result = soma("doctor")
    assert result.exit_code == 0
    assert "-> ulimit -n" in result.stdout
    assert "nothing wrong, 1 advice" in result.stderr


def test_the_command_fails_where_something_is_wrong(soma, found):
    found(requirements=(Requirement("numpy", ">=1.26", None, None),))
    result = soma("doctor")
    assert result.exit_code == 1
    assert "-> pip install 'numpy>=1.26'" in result.stdout


def test_findings_can_be_had_as_json(soma, found):
    found(open_files=256)
    rows = json.loads(soma("doctor", "--json").stdout)
    (row,) = [row for row in rows if row["subject"] == "open files"]
    assert row["area"] == "limits"
    assert (row["level"], row["found"]) == ("advice", "256")


@pytest.mark.nightly
def test_this_installation_is_examined(soma):
    result = soma("doctor", "--json")
    rows = {(row["area"], row["subject"]): row for row in json.loads(result.stdout)}
    assert rows["transports", "stdio"]["level"] in ("ok", "advice")
    assert "round trip" in rows["transports", "stdio"]["found"]
    assert rows["versions", "numpy"]["level"] == "ok"
    assert result.exit_code == any(row["level"] == "wrong" for row in rows.values())
