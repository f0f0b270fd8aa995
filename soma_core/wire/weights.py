"""Weights as bytes: tensors, and plain data about them, in torch's format."""

from __future__ import annotations

import io
from collections import Counter, OrderedDict
from collections.abc import Iterator
from itertools import chain
from typing import Any

from soma_core.errors import ErrorCode, ProtocolError

__all__ = ["dump_weights", "load_weights"]


def dump_weights(content: Any, *, foreign: bool = False) -> bytes:
    """Tensors, and plain data about them, as ``torch.save`` writes them.

    Args:
        content: Dense tensors, numbers and texts in lists, tuples, sets and dicts.
        foreign: Whether it may hold something else, which :func:`load_weights` will not read:
            the format is a pickle.

    Raises:
        ProtocolError: ``pickle_refused``: it holds something else.
    """
    import torch

    found = None if foreign else next(_not_weights(content), None)
    if found is not None:
        raise ProtocolError(
            ErrorCode.PICKLE_REFUSED,
            f"the weights hold a {type(found).__module__}.{type(found).__qualname__}"
            f"{_layout(found)}, which can only travel as a pickle; this connection takes dense "
            "tensors, numbers and texts in lists and dicts",
        )
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def load_weights(data: Any) -> Any:
    """Read what :func:`dump_weights` or ``torch.save`` wrote: dense tensors and plain data.

    Nothing in it is called, and every tensor lies within what came: torch's own reader of weights
    makes tensors, sparse ones among them, that reach outside of their memory.

    Args:
        data: The bytes; the tensors are copies, on the CPU.

    Raises:
        ValueError: It is not weights in that format, or would take far more memory than it has
            bytes.
    """
    from soma_core.wire.torch_format import read_weights

    try:
        return read_weights(bytes(data))
    except Exception as error:
        raise ValueError(f"the bytes are not weights in torch's format: {error}") from None


def _not_weights(content: Any) -> Iterator[object]:
    """What in it :func:`load_weights` would refuse."""
    import torch

    kind = type(content)
    if kind in (torch.Tensor, torch.nn.Parameter):
        if _layout(content):
            yield content
    elif kind in _CONTAINERS:
        for item in chain(content, content.values()) if isinstance(content, dict) else content:
            yield from _not_weights(item)
    elif kind not in _PLAIN and kind not in (torch.Size, torch.dtype, torch.device):
        yield content


def _layout(found: Any) -> str:
    """What keeps a tensor from being a dense one of numbers, for an error; empty if nothing."""
    import torch

    if not isinstance(found, torch.Tensor):
        return ""
    if found.layout is not torch.strided or found.is_nested:
        return f" of the layout {found.layout}"
    if found.is_quantized or found.is_meta:
        return " that is quantized" if found.is_quantized else " without content"
    return ""


_CONTAINERS = frozenset({list, tuple, set, dict, OrderedDict, Counter})
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})
