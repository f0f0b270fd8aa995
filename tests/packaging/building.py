"""Building and installing distributions, without this interpreter's packages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from ..support import ROOT

PLUGINS = [
    "soma-cache",
    "soma-codecs-arrow",
    "soma-filters-onnx",
    "soma-filters-sklearn",
    "soma-filters-text",
    "soma-filters-torch",
    "soma-http",
    "soma-telemetry",
    "soma-transport-ray",
]
NEW = {"filter": "acme.RobustScaler", "transport": "carrier-pigeon"}
FOLDERS = {"filter": "acme-robust-scaler", "transport": "soma-transport-carrier-pigeon"}


def run(*command: object, **options) -> str:
    options.setdefault("env", clean_environment())
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=300, **options
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def clean_environment(**added: str) -> dict[str, str]:
    """This environment without what would let this interpreter's packages in."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PYTHON", "COVERAGE", "COV_CORE"))
    }
    return {**kept, "NO_COLOR": "1", "COLUMNS": "200", **added}


def build(source: Path, out: Path) -> None:
    """Build the wheel of a distribution."""
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out, cwd=source)


def install(programs: Path, *what: object) -> None:
    """Without compiling what nobody imports; what is imported is compiled once, by whoever does."""
    pip = [sys.executable, "-m", "pip", "--python", programs / "python"]
    run(*pip, "install", "-q", "--no-compile", "--disable-pip-version-check", *what)


def page_blocks(page: str, language: str) -> list[str]:
    """The code in a language that a page of the documentation shows."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
