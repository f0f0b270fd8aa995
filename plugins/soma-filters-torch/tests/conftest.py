"""Shared by the tests: data to learn from, and a trip over the wire without pickle."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from soma_core.wire.line_codec import LineDecoder, LineEncoder
from soma_core.wire.packing import pack
from soma_core.wire.pickles import Pickles
from soma_core.wire.unpacking import unpack

TYPED_ONLY = Pickles(allowed=False)


class Data:
    """Fifty rows of four float32 features, with two numbers and one class to predict."""

    def __init__(self) -> None:
        random = np.random.default_rng(5)
        self.x = random.normal(size=(50, 4)).astype(np.float32)
        self.y = random.normal(size=(50, 2)).astype(np.float32)
        self.classes = (self.x[:, 0] > 0).astype(np.int64)


@pytest.fixture(autouse=True)
def _device(request: pytest.FixtureRequest) -> None:
    """Skips what is marked ``gpu`` where there is none."""
    if request.node.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def data() -> Data:
    return Data()


def _over_frames(value: Any) -> Any:
    header, views = pack(value, TYPED_ONLY)
    return unpack(header, [bytearray(memoryview(view)) for view in views], TYPED_ONLY)


def _over_lines(value: Any) -> Any:
    line = json.dumps(LineEncoder(pickles=TYPED_ONLY).encode(value))
    return LineDecoder(pickles=TYPED_ONLY).decode(json.loads(line))


@pytest.fixture(params=[_over_frames, _over_lines], ids=["frames", "lines"])
def send(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Sends a value to another process and back, as far as the value can tell."""
    return request.param
