"""Shared by the tests: one small Ray cluster, to which this process is connected."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def ray() -> Iterator[Any]:
    """A local Ray of this test process; skips where Ray is not installed."""
    ray = pytest.importorskip(
        "ray", reason="Ray is not installed: make ray sets up one to test with"
    )
    ray.init(
        num_cpus=2,
        resources={"gpu": 1, "here": 1},
        object_store_memory=300 << 20,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    try:
        yield ray
    finally:
        ray.shutdown()
