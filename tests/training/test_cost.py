"""What a step of training costs in functions of soma, beside those of torch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import soma_core as soma

pytest.importorskip("torch")

MOST_CALLS_A_STEP = 60


def calls_of(work: Callable[[], Any]) -> int:
    """How many functions of soma's packages some work calls."""
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        module = frame.f_globals.get("__name__", "")
        count += event == "call" and module.startswith("soma_")

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_each_batch_of_a_batched_fit_takes_few_functions_beside_those_of_torch():
    network = ("torch.MLP", {"sizes": [4, 3], "loss": "cross_entropy", "seed": 0})
    x, y = np.zeros((110, 4), np.float32), np.zeros(110, np.int64)

    with soma.connect("inline", filters={"net": network}) as worker:

        def fit(batches: int) -> Any:
            rows = 5 * batches
            return worker.batched_fit(["net"], x[:rows], y[:rows], batch_size=5, resume=True)

        fit(1)
        few, many = calls_of(lambda: fit(2)), calls_of(lambda: fit(22))

    assert (many - few) / 20 <= MOST_CALLS_A_STEP
