"""The bake-off of classifiers judges each of them, and prints a table."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..support import nightly

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "pipelines" / "bake_off.py"
NAMES = ["naive Bayes", "one tree", "extra trees"]
ROW = re.compile(r"│ (.+?) +│ (\d+\.\d)% │ (\d\.\d+) +│ (.{20}) +│ (\d+) of 569 +│")


@nightly
def test_the_table_has_a_row_for_each_model_the_surest_first() -> None:
    pytest.importorskip("soma_filters_sklearn")
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), *NAMES], capture_output=True, text=True, timeout=100
    )
    assert ran.returncode == 0, ran.stderr
    rows = ROW.findall(ran.stdout)
    assert sorted(name for name, *_ in rows) == sorted(NAMES)
    assert all(float(right) > 90 for _, right, *_ in rows)
    losses = [float(loss) for _, _, loss, *_ in rows]
    assert losses == sorted(losses)
