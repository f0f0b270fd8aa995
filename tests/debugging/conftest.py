"""Scripts that are hosts, run as their users run them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ..support.hosts import run_host


@pytest.fixture
def run(tmp_path: Path, options: Callable[[str], dict[str, object]]) -> Callable[..., str]:
    """Runs a script as a host over a transport, with other files beside it; returns its output."""
    return partial(run_host, tmp_path, options)
