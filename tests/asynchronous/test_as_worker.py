"""What is tested of a Worker holds of an AsyncWorker: the same tests, over the other driver.

The kit for transports is among them: each of its clauses holds over both.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from ..support import ROOT, nightly

SUITES = [
    "tests/transports/test_worker.py",
    "tests/transports/test_deadlines.py",
    "tests/transports/test_records.py",
    "tests/kit/test_transports.py",
]


@nightly
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_passes_over_an_async_worker(suite):
    plugin = ["-p", "tests.asynchronous.adapter", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *plugin, "-q", "-n", "2", suite]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1100)
    assert ran.returncode == 0, ran.stdout[-5000:]
    assert " passed" in ran.stdout
