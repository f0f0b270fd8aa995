"""Weights as bytes: tensors, and plain data about them, in torch's format."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain
from typing import Any

from soma_core.errors import ErrorCode, ProtocolError

__all__ = ["dump_weights", "load_weights"]


def dump_weights(content: Any, *, foreign: bool = False) -> bytes:
    """Tensors, and plain data about them, as bytes.

    Torch's format is a pickle too, so what :func:`load_weights` cannot read back is only written
    where pickles are allowed.

    Args:
        content: Tensors, numbers and texts in lists and dicts.
        foreign: Whether it may hold something else.

    Raises:
        ProtocolError: ``pickle_refused``: it holds something else.
    """
    import torch

    found = None if foreign else next(_not_weights(content), None)
    if found is not None:
        raise ProtocolError(
            ErrorCode.PICKLE_REFUSED,
            f"the weights hold a {type(found).__module__}.{type(found).__qualname__}, "
            "which can only travel as a pickle; this connection takes tensors, numbers and "
            "texts in lists and dicts",
        )
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def load_weights(data: Any) -> Any:
    """Read torch's format, with torch's own reader of weights, which calls no code in it.

    Raises:
        ValueError: It is not weights in that format.
    """
    import torch

    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"the bytes are not weights in torch's format: {error}") from None


def _not_weights(content: Any) -> Iterator[object]:
    """What in it torch's reader of weights would refuse."""
    import torch

    kind = type(content)
    weights = (torch.Tensor, torch.nn.Parameter, torch.Size, torch.dtype, torch.device)
    if kind in (list, tuple, dict, OrderedDict):
        for item in chain(content, content.values()) if isinstance(content, dict) else content:
            yield from _not_weights(item)
    elif kind not in _PLAIN and kind not in weights:
        yield content


_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})
