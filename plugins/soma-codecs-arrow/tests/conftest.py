"""Both dialects, without pickles: what a value becomes on its way."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from soma_codecs_arrow import soma_register_codecs

from soma_core.wire.added_types import Codecs
from soma_core.wire.line_codec import LineDecoder, LineEncoder
from soma_core.wire.packing import pack
from soma_core.wire.pickles import Pickles
from soma_core.wire.unpacking import unpack

Travel = Callable[[Any], Any]
TYPED_ONLY = Pickles(allowed=False, codecs=Codecs(soma_register_codecs()))


def through_a_frame(value: Any) -> Any:
    header, views = pack(value, TYPED_ONLY)
    return unpack(header, [bytearray(memoryview(view)) for view in views], TYPED_ONLY)


def through_a_line(value: Any) -> Any:
    line = json.dumps(LineEncoder(pickles=TYPED_ONLY).encode(value))
    return LineDecoder(pickles=TYPED_ONLY).decode(json.loads(line))


@pytest.fixture(params=[through_a_frame, through_a_line])
def travel(request: pytest.FixtureRequest) -> Travel:
    """Sends a value through a dialect that refuses pickles, and returns what arrived."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def typed_only() -> Pickles:
    """How values travel where pickles are refused."""
    return TYPED_ONLY
