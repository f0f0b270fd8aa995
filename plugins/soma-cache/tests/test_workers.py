"""The cache in worker processes, where the environment turns it on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import soma_core as soma


def test_workers_after_one_another_share_results_and_take_no_pickles(directory: Path) -> None:
    def doubled_twice() -> Any:
        class Doubled(soma.Filter):
            def forward(self, x: Any, state: Any) -> Any:
                return x * 2

        with soma.connect(
            "stdio",
            filters={"double": Doubled()},
            plugins={"cache": {"directory": str(directory)}},
            timeout=60.0,
        ) as worker:
            x = np.arange(100_000.0)
            for _ in range(2):
                assert worker.forward("double", x).tolist() == (x * 2).tolist()
            return worker.status().plugins["cache"]

    first, second = doubled_twice(), doubled_twice()
    assert (first["hits"], first["misses"]) == (1, 1)
    assert (second["hits"], second["misses"]) == (2, 0)
