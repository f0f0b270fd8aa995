"""What breaks one clause fails the test of that clause, and no other but what goes with it.

Those that start processes run that test alone, and every clause with
``pytest tests/kit/test_broken.py --all-faults``.
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

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MODULES = ["broken_filters", "broken_inline", "broken_processes"]
SLOW = {"broken_processes"}


def suites(module: str) -> dict[str, Any]:
    found = vars(importlib.import_module(f"{__package__}.{module}"))
    return {name: suite for name, suite in found.items() if hasattr(suite, "breaks")}


def own_tests(suite: Any) -> list[str]:
    """The tests of the clause that a suite breaks."""
    tests = {name: clause_of(getattr(suite, name)) for name in dir(suite)}
    return [name for name, clause in tests.items() if clause == suite.breaks]


def failures(module: str, report: Path, *, whole: bool) -> dict[str, set[str]]:
    """The clauses that failed, by the name of the suite."""
    path = str(HERE / f"{module}.py")
    targets = [path] if whole else [
        f"{path}::{name}::{test}"
        for name, suite in suites(module).items() for test in own_tests(suite)
    ]  # fmt: skip
    options = ["-p", "no:cacheprovider", "-p", "no:xdist", f"--junitxml={report}", "-q"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *targets],
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


def test_every_clause_is_broken_by_something():
    broken = {suite.breaks for module in MODULES for suite in suites(module).values()}
    assert sorted(broken) == sorted(TRANSPORT_CLAUSES | FILTER_CLAUSES)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("module", MODULES)
def test_each_fails_the_clause_that_it_breaks_and_no_other(module, tmp_path, request):
    whole = module not in SLOW or request.config.getoption("--all-faults")
    meant = {
        name: {suite.breaks, *(getattr(suite, "with_it", ()) if whole else ())}
        for name, suite in suites(module).items()
    }
    assert failures(module, tmp_path / "report.xml", whole=whole) == meant
