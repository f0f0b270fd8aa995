"""Typed values as bytes, for plugins that keep or hash what commands carry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from soma_core.plugins.manager import installed_plugins
from soma_core.wire import packing, unpacking
from soma_core.wire.json_text import read_json
from soma_core.wire.line_codec import LineDecoder
from soma_core.wire.pickles import Pickles


def pack(value: Any) -> tuple[bytes, list[Any]]:
    """The MessagePack of a value, and the buffers that it refers to, as in a frame.

    Args:
        value: Plain data, arrays, tensors, and what the codecs of plugins can write.

    Returns:
        The buffers are views of the value's memory. The same value gives the same bytes.

    Raises:
        ProtocolError: ``pickle_refused``: something in it could only travel as a pickle.
    """
    return packing.pack(value, _typed_only())


def unpack(header: Any, buffers: Sequence[Any]) -> Any:
    """The value that :func:`pack` packed.

    Args:
        header: The MessagePack.
        buffers: The buffers, each writable; arrays are laid over them.

    Raises:
        ProtocolError: It is not such a value.
    """
    return unpacking.unpack(header, buffers, _typed_only())


def read_value(text: bytes) -> Any:
    """The value that is written in JSON, as in lines: that of a state of the format ``value``.

    Raises:
        ProtocolError: It is not such a value, or it holds a pickle.
    """
    return LineDecoder(pickles=_typed_only()).decode(read_json(text))


def _typed_only() -> Pickles:
    return Pickles(allowed=False, codecs=installed_plugins().known_codecs())
