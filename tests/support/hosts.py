"""Scripts that are hosts, run as their users run them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import run_python

__all__ = ["run_host"]

_CONNECT = """
import sys
import soma_core as soma

def connect(**arguments):
    options = {"path": sys.argv[2]} if sys.argv[1] == "socket" else {}
    return soma.connect(sys.argv[1], **options, **arguments)
"""


def run_host(
    directory: Path,
    options: Callable[[str], Mapping[str, Any]],
    transport: str,
    source: str,
    files: Mapping[str, str] | None = None,
) -> str:
    """Run a script, which calls ``connect`` without a transport, and return what it printed.

    Args:
        directory: Where the script is, in which no worker looks for modules.
        options: The options that each transport needs.
        transport: The transport.
        source: The script.
        files: Other files of the directory, by their path in it.
    """
    for name, content in (files or {}).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(content))
    script = _CONNECT + textwrap.dedent(source)
    path = options(transport).get("path", "")
    return run_python(script, transport, path, directory=directory).stdout
