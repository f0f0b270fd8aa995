"""Recurring replies: what answers a loop is the same text but for its end, and written once."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from numpy import ndarray

from soma_core.wire.arrays import name_and_bytes, plain_array, tensor_name_and_bytes
from soma_core.wire.codec import is_plain_torch_tensor
from soma_core.wire.json_text import write_json
from soma_core.wire.message import Message
from soma_core.wire.recurring import (
    WITH_ID,
    WITH_LOSS_AND_ID,
    text_before_id,
    text_before_loss,
)

__all__ = ["composite_fit_reply", "forward_reply"]


def forward_reply(result: Any, message_id: int) -> Message | None:
    """The reply to a FORWARD; None if the elements of its result do not travel as they lie."""
    plain = name_and_bytes(result) if type(result) is ndarray else None
    if plain is None:
        return None
    name, view = plain
    return Message(WITH_ID % (_result_text(name, result.shape), message_id), [view])


@lru_cache(maxsize=256)
def _result_text(dtype: str, shape: tuple[int, ...]) -> bytes:
    return text_before_id({"ok": True, "result": plain_array(0, dtype, shape)})


def composite_fit_reply(result: Any, loss: Any, message_id: Any) -> Message | None:
    """The reply to a COMPOSITE_FIT without states; None if its result is no torch tensor of
    elements that numpy has too, there is no loss, or the command has no number."""
    if type(loss) is not float or type(message_id) is not int:
        return None
    plain = tensor_name_and_bytes(result) if is_plain_torch_tensor(result) else None
    if plain is None:
        return None
    name, view = plain
    text = _trained_text(name, tuple(result.shape))
    return Message(WITH_LOSS_AND_ID % (text, write_json(loss), message_id), [view])


@lru_cache(maxsize=256)
def _trained_text(dtype: str, shape: tuple[int, ...]) -> bytes:
    result = plain_array(0, dtype, shape)
    result["data"]["container"] = "torch"
    return text_before_loss({"ok": True, "result": result, "states": {}})
