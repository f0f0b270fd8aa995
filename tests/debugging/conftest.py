"""Scripts that are hosts, run as their users run them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from ..support import run_python

CONNECT = """
import sys
import soma_core as soma

def connect(**arguments):
    options = {"path": sys.argv[2]} if sys.argv[1] == "socket" else {}
    return soma.connect(sys.argv[1], **options, **arguments)
"""


@pytest.fixture
def run(tmp_path: Path, options: Callable[[str], dict[str, object]]) -> Callable[..., str]:
    """Runs a script as a host over a transport, with other files beside it; returns its output."""

    def run_script(transport: str, source: str, files: dict[str, str] | None = None) -> str:
        for name, content in (files or {}).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(content))
        script = CONNECT + textwrap.dedent(source)
        path = options(transport).get("path", "")
        return run_python(script, transport, path, directory=tmp_path).stdout

    return run_script
