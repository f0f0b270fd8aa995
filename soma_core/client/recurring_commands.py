"""Recurring commands: what a loop sends is the same text but for its id, and written once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from numpy import ndarray

from soma_core.client.calls import Call
from soma_core.wire.arrays import name_and_bytes, plain_array
from soma_core.wire.recurring import text_before_id

__all__ = ["write_composite_fit", "write_forward"]

_Kind = tuple[str, tuple[int, ...]]  # the wire's name of the elements, and the shape


def write_forward(call: Call, node_id: str, x: Any) -> None:
    """Give a FORWARD its text, if the elements of its input travel as they lie in memory."""
    if type(x) is ndarray and type(node_id) is str:
        plain = name_and_bytes(x)
        if plain is not None:
            name, view = plain
            call.text = _forward_text(node_id, name, x.shape, call.wants_events)
            call.buffers = (view,)


def write_composite_fit(
    call: Call, node_ids: Sequence[str], x: Any, y: Any, return_states: bool
) -> None:
    """Give a COMPOSITE_FIT its text, if its data and targets are such arrays.

    The order of its fields is that in which they are built elsewhere, so that a worker knows
    either by the other.
    """
    if type(x) is not ndarray or type(y) is not ndarray or type(return_states) is not bool:
        return
    target = name_and_bytes(y)
    data = None if target is None else name_and_bytes(x)
    if data is None or target is None:
        return
    chain = tuple(node_ids)
    if set(map(type, chain)) != _TEXT:
        return
    kinds = (data[0], x.shape), (target[0], y.shape)
    call.text = _composite_fit_text(chain, *kinds, return_states, call.wants_events)
    call.buffers = (data[1], target[1])


_TEXT = {str}


@lru_cache(maxsize=256)
def _forward_text(node_id: str, dtype: str, shape: tuple[int, ...], events: bool) -> bytes:
    return _text(events, cmd="FORWARD", node_id=node_id, data=plain_array(0, dtype, shape))


@lru_cache(maxsize=256)
def _composite_fit_text(
    node_ids: tuple[str, ...], data: _Kind, y: _Kind, return_states: bool, events: bool
) -> bytes:
    return _text(
        events,
        cmd="COMPOSITE_FIT",
        node_ids=node_ids,
        data=plain_array(0, *data),
        y=plain_array(1, *y),
        return_states=return_states,
    )


def _text(events: bool, **fields: Any) -> bytes:
    return text_before_id({**fields, "events": True} if events else fields)
