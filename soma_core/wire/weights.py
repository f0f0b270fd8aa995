"""Weights as bytes: tensors, and plain data about them, in torch's format."""

from __future__ import annotations

import io
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Any

from soma_core.errors import ErrorCode, ProtocolError


def dump_weights(content: Any) -> bytes:
    """Tensors, and plain data about them, as ``torch.save`` writes them.

    Args:
        content: Dense tensors, numbers and texts in lists, tuples, sets and dicts.

    Raises:
        ProtocolError: ``pickle_refused``: it holds something else, which :func:`load_weights`
            would not read.
    """
    import torch

    found = next(_not_weights(content, set()), None)
    if found is not None:
        raise ProtocolError(
            ErrorCode.PICKLE_REFUSED,
            f"the weights hold a {type(found).__module__}.{type(found).__qualname__}"
            f"{_layout(found)}, which can only travel as a pickle; weights are dense tensors, "
            "numbers and texts in lists and dicts",
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


def _not_weights(content: Any, seen: set[int]) -> Iterator[object]:
    """What in it :func:`load_weights` would refuse; ``seen`` are the containers before it."""
    import torch

    kind = type(content)
    if kind in (torch.Tensor, torch.nn.Parameter):
        if _layout(content):
            yield content
    elif kind in _CONTAINERS:
        flat = kind is tuple and all(type(item) in _PLAIN for item in content)
        if not flat and id(content) in seen:
            yield content
            return
        seen.add(id(content))
        if isinstance(content, dict):
            yield from (key for key in content if type(key) not in _PLAIN)
        for item in content.values() if isinstance(content, dict) else content:
            yield from _not_weights(item, seen)
    elif kind is torch.dtype:
        if not _is_known(content):
            yield content
    elif kind not in _PLAIN and kind not in (torch.Size, torch.device):
        yield content


def _is_known(dtype: Any) -> bool:
    """Whether a type is one that :func:`load_weights` makes elements of."""
    from soma_core.wire.torch_format import DTYPES

    return str(dtype).removeprefix("torch.") in DTYPES


def _layout(found: Any) -> str:
    """What keeps something of a kind that weights have from being weights; empty if nothing."""
    import torch

    if type(found) in _CONTAINERS:
        return " as a key, or twice"
    if isinstance(found, torch.dtype):
        return f" {str(found).removeprefix('torch.')}"
    if not isinstance(found, torch.Tensor):
        return ""
    if found.layout is not torch.strided or found.is_nested:
        return f" of the layout {found.layout}"
    if found.is_quantized or found.is_meta:
        return " that is quantized" if found.is_quantized else " without content"
    if not _is_known(found.dtype):
        return f" of the type {found.dtype}"
    return ""


_CONTAINERS = frozenset({list, tuple, set, dict, OrderedDict, Counter})
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})
