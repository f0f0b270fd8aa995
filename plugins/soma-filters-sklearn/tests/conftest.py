"""Shared by the tests: data to learn from, and a trip over the wire."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from soma_core.wire.line_codec import LineDecoder, LineEncoder
from soma_core.wire.packing import pack
from soma_core.wire.pickles import Pickles
from soma_core.wire.unpacking import unpack


class Data:
    """Sixty positive samples of five features, with classes, kinds and numbers to predict."""

    def __init__(self) -> None:
        random = np.random.default_rng(7)
        self.x = np.abs(random.normal(size=(60, 5))) + 0.1
        self.classes = (self.x[:, 0] > self.x[:, 1]).astype(int)
        self.kinds = np.arange(60) % 3
        self.numbers = self.x @ np.arange(5.0)


@pytest.fixture
def data() -> Data:
    return Data()


def _over_frames(value: Any, pickles: Pickles) -> Any:
    header, views = pack(value, pickles)
    return unpack(header, [bytearray(memoryview(view)) for view in views], pickles)


def _over_lines(value: Any, pickles: Pickles) -> Any:
    line = json.dumps(LineEncoder(pickles=pickles).encode(value))
    return LineDecoder(pickles=pickles).decode(json.loads(line))


@pytest.fixture(params=[_over_frames, _over_lines], ids=["frames", "lines"])
def send(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Sends a value to another process and back, as far as the value can tell."""

    def send(value: Any, *, pickle: bool = True) -> Any:
        return request.param(value, Pickles(allowed=pickle))

    return send
