"""Workers over each transport."""

from __future__ import annotations

from typing import Any

import pytest

import soma_core as soma

from ..support import TRANSPORTS
from ..support import filters as f


def _filters() -> dict[str, Any]:
    return {
        "accumulate": f.Accumulate(),
        "echo": f.Echo(),
        "fail": f.Fail(),
        "fail oddly": f.FailOddly(),
        "keep": f.Keep(),
        "mean": f.Mean(),
        "received": f.Received(),
        "report": f.Report(),
        "scale": f.Scale(),
        "sleep": f.Sleep(),
        "spoil": f.Spoil(),
    }


@pytest.fixture(scope="session", params=TRANSPORTS)
def warm(request, options) -> soma.Worker:
    """One worker of each transport for all tests that leave it as they found it."""
    with soma.connect(request.param, **options(request.param), filters=_filters()) as worker:
        yield worker
