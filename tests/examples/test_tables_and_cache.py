"""The examples of soma-codecs-arrow and soma-cache print what they promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..support import nightly

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "pipelines"


def printed(script: str, **environment: str) -> str:
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / script)],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, **environment},
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.nightly
def test_the_most_unusual_flowers_of_each_species_are_listed_the_farthest_first() -> None:
    pytest.importorskip("pyarrow")
    rows = re.findall(r"│ (\w+) +│ flower \d+ +│ (\d\.\d) +│", printed("unusual_flowers.py"))
    assert [species for species, _ in rows] == [
        species for species in ("setosa", "versicolor", "virginica") for _ in range(3)
    ]
    far = [float(text) for _, text in rows]
    for start in (0, 3, 6):
        assert far[start] >= far[start + 1] >= far[start + 2] > 2


@nightly
def test_a_sweep_computes_what_no_sweep_before_it_has(tmp_path: Path) -> None:
    pytest.importorskip("xxhash")
    said = printed("cached_sweep.py", SOMA_CACHE_DIR=str(tmp_path / "cache"))
    rows = re.findall(r"│ (\w[\w ]+?) +│ (\d+) +│ (\d+) +│ [\d.]+ +│", said)
    assert rows == [
        ("the first", "9", "0"),
        ("the same again", "0", "9"),
        ("with a width more", "3", "9"),
    ]
    shares = [float(share) for share in re.findall(r"(\d+\.\d)%", said)]
    assert len(shares) == 8
    assert max(shares) > 95
