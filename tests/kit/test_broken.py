"""What breaks one clause fails the test of that clause, and no other."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MODULES = ["broken_filters", "broken_inline", "broken_processes"]


def failures(module: str, report: Path) -> dict[str, set[str]]:
    """The clauses that failed, by the name of the suite."""
    target = str(HERE / f"{module}.py")
    options = ["-p", "no:cacheprovider", "-p", "no:xdist", f"--junitxml={report}", "-q"]
    environment = {**os.environ, "PYTEST_ADDOPTS": ""}
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options, target],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400,
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


@pytest.mark.timeout(420)
@pytest.mark.parametrize("module", MODULES)
def test_each_fails_the_clause_that_it_breaks_and_no_other(module, tmp_path):
    suites = vars(importlib.import_module(f"{__package__}.{module}"))
    meant = {
        name: {suite.breaks} for name, suite in suites.items() if name.startswith("Test")
        and hasattr(suite, "breaks")
    }  # fmt: skip
    assert failures(module, tmp_path / "report.xml") == meant
