"""Both dialects, without pickles: what a value becomes on its way."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from soma_codecs_arrow import soma_register_codecs

from soma_core.wire.added_types import Codecs
from soma_core.wire.codec import Decoder, FrameEncoder, LineEncoder
from soma_core.wire.pickles import Pickles

Travel = Callable[[Any], Any]
TYPED_ONLY = Pickles(allowed=False, codecs=Codecs(soma_register_codecs()))


def through_a_frame(value: Any) -> Any:
    encoder = FrameEncoder(pickles=TYPED_ONLY)
    header = json.loads(json.dumps(encoder.encode(value)))
    buffers = [bytearray(buffer) for buffer in encoder.buffers]
    return Decoder(buffers, pickles=TYPED_ONLY).decode(header)


def through_a_line(value: Any) -> Any:
    line = json.dumps(LineEncoder(pickles=TYPED_ONLY).encode(value))
    return Decoder(pickles=TYPED_ONLY).decode(json.loads(line))


@pytest.fixture(params=[through_a_frame, through_a_line])
def travel(request: pytest.FixtureRequest) -> Travel:
    """Sends a value through a dialect that refuses pickles, and returns what arrived."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def typed_only() -> Pickles:
    """How values travel where pickles are refused."""
    return TYPED_ONLY
