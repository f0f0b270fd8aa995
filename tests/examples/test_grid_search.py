"""The grid search runs as its docstring says, and finds what is there to find."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ..support import nightly

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "grid_search.py"


@nightly
def test_it_prints_an_accuracy_for_each_configuration():
    ran = subprocess.run(
        [sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=100
    )
    assert ran.returncode == 0, ran.stderr
    rows = [line.split("│")[1:-1] for line in ran.stdout.splitlines() if line.startswith("│")]
    scores = [float(cell) for row in rows for cell in row[1:]]
    assert len(scores) == 12
    assert 0.9 < max(scores) <= 1.0
