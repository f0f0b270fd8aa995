"""The site is built from the documentation, and none of its links leads nowhere."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..support import nightly

ROOT = Path(__file__).resolve().parents[2]


NEEDED = ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers")


@nightly
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED),
    reason="mkdocs-material or mkdocstrings is not installed: pip install -e '.[docs]'",
)
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert built.returncode == 0, built.stderr
    pages = {page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md")}
    assert [page for page in pages if not (tmp_path / page.with_suffix(".html")).exists()] == []
