"""What breaks one clause fails the test of that clause, and no other but what goes with it.

Those that start processes take minutes: the gate runs two of them, and of each only the test of
the clause that it breaks.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from soma_core.testing.clauses import FILTER_CLAUSES, TRANSPORT_CLAUSES, clause_of

from ..support import gate_runs, nightly

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MODULES = ["broken_filters", "broken_inline", "broken_processes"]


def suites(module: str) -> dict[str, Any]:
    found = vars(importlib.import_module(f"{__package__}.{module}"))
    return {name: suite for name, suite in found.items() if hasattr(suite, "breaks")}


def own_tests(suite: Any) -> list[str]:
    """The tests of the clause that a suite breaks."""
    tests = {name: clause_of(getattr(suite, name)) for name in dir(suite)}
    return [name for name, clause in tests.items() if clause == suite.breaks]


def failures(report: Path, *targets: str) -> dict[str, set[str]]:
    """The clauses that failed in a run of pytest, by the name of the suite."""
    options = ["-p", "no:cacheprovider", "-p", "no:xdist", f"--junitxml={report}", "-q"]
    paths = [str(HERE / target) for target in targets]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *paths],
        cwd=ROOT, env={**os.environ, "PYTEST_ADDOPTS": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 1, ran.stdout[-3000:] + ran.stderr[-3000:]
    failed: dict[str, set[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        suite = case.get("classname", "").rpartition(".")[2]
        clauses = [item.get("value") for item in case.iter("property")]
        found = failed.setdefault(suite, set())
        if case.find("failure") is not None or case.find("error") is not None:
            found.add(clauses[0] if clauses else f"{case.get('name')}, before its clause")
    return failed


def meant(suite: Any) -> set[str]:
    """The clauses that a suite is meant to fail."""
    return {suite.breaks, *getattr(suite, "with_it", ())}


def test_every_clause_is_broken_by_something():
    broken = {suite.breaks for module in MODULES for suite in suites(module).values()}
    assert sorted(broken) == sorted(TRANSPORT_CLAUSES | FILTER_CLAUSES)


@nightly
@pytest.mark.parametrize(
    "module", gate_runs("broken_filters", of=["broken_filters", "broken_inline"])
)
def test_each_fails_the_clause_that_it_breaks_and_no_other(module, tmp_path):
    failed = failures(tmp_path / "report.xml", f"{module}.py")
    assert failed == {name: meant(suite) for name, suite in suites(module).items()}


PROCESSES = suites("broken_processes")


@pytest.mark.nightly
@pytest.mark.parametrize(
    "name",
    gate_runs("TestPrintsOnTheWire", "TestKeepsTheStatusToItself", of=list(PROCESSES)),
)
def test_each_with_a_process_fails_the_clause_that_it_breaks(name, tmp_path):
    targets = [f"broken_processes.py::{name}::{test}" for test in own_tests(PROCESSES[name])]
    assert failures(tmp_path / "report.xml", *targets) == {name: {PROCESSES[name].breaks}}


@nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", PROCESSES)
def test_each_with_a_process_fails_no_other_clause(name, tmp_path):
    failed = failures(tmp_path / "report.xml", f"broken_processes.py::{name}")
    assert failed == {name: meant(PROCESSES[name])}
