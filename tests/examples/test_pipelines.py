"""The examples that are scripts learn what they say, and draw it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..support import nightly

PIPELINES = Path(__file__).resolve().parents[2] / "examples" / "pipelines"
PNG = b"\x89PNG\r\n"

pytestmark = nightly  # they learn for half a minute each


def run(name: str, folder: Path) -> str:
    command = [sys.executable, str(PIPELINES / name), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def _installed() -> None:
    for name in ("soma_filters_torch", "sklearn", "matplotlib"):
        pytest.importorskip(name)


def test_the_convolutional_network_reads_digits(tmp_path: Path) -> None:
    printed = run("digits_convolution.py", tmp_path)
    accuracy = re.search(r"accuracy (\S+) on 450 images", printed)
    assert accuracy is not None
    assert float(accuracy[1]) >= 0.98
    assert (tmp_path / "digits-convolution.png").read_bytes().startswith(PNG)


def test_the_character_model_predicts_better_than_counting(tmp_path: Path) -> None:
    printed = run("characters.py", tmp_path)
    bits = dict(re.findall(r"^  (\S.*?) +(\d\.\d\d)  ▇", printed, re.MULTILINE))
    assert float(bits["network"]) < float(bits["counts after 3"]) < float(bits["counts after 1"])
    assert len(printed.partition("it writes:")[2]) > 300
    assert (tmp_path / "characters.png").read_bytes().startswith(PNG)
