"""Known commands: what a loop sends is the same text but for its id, and written once."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from numpy import ndarray

from soma_core.calls import Call
from soma_core.protocol.arrays import name_and_view, plain_array
from soma_core.protocol.recurring import text_before_id

__all__ = ["write_forward"]


def write_forward(call: Call, node_id: str, x: Any) -> None:
    """Give a FORWARD its text, if its input is an array that travels as it lies in memory."""
    if type(x) is ndarray and type(node_id) is str:
        plain = name_and_view(x)
        if plain is not None:
            name, view = plain
            call.text = _forward_text(node_id, name, x.shape, call.wants_events)
            call.buffers = (view,)


@lru_cache(maxsize=256)
def _forward_text(node_id: str, dtype: str, shape: tuple[int, ...], events: bool) -> bytes:
    data = plain_array(0, dtype, shape)
    fields: dict[str, Any] = {"cmd": "FORWARD", "node_id": node_id, "data": data}
    if events:
        fields["events"] = True
    return text_before_id(fields)
