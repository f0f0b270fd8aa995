"""How messages travel as one Ray value: small ones as bytes, large buffers beside them.

Ray stores ``bytes`` as they are and pickles everything else, so that a small message costs less
than an array would. A large buffer travels as an array, which Ray writes into its object store
once and the receiver maps from there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from soma_core.transport import Dialect, Message
from soma_transport_ray.printed import Span

LAYOUT = 2
"""Changes with what pack writes: both sides must have the same."""

LARGE = 100 << 10
"""From how many bytes on a buffer is mapped instead of copied; Ray keeps less out of its store."""

Parcel = Any
"""What ``pack`` returns: bytes, or a list of bytes and arrays."""

_START = struct.Struct("<?IQQ")  # whether it is the last, how many messages, what was printed
_MESSAGE = struct.Struct("<?QI")  # whether it is a line, size of the header, how many buffers
_SIZE = struct.Struct("<Q")


def pack(
    messages: Sequence[Message],
    *,
    last: bool = False,
    printed: Span = (0, 0),
    large: float = LARGE,
) -> Parcel:
    """Messages as one value; their buffers are copied by Ray, or here.

    Args:
        messages: In order.
        last: Whether none comes after them.
        printed: What the engine has printed by then, and no parcel before has told of.
        large: From how many bytes on a buffer stays apart.
    """
    parts: list[Any] = [_START.pack(last, len(messages), *printed)]
    apart: list[np.ndarray[Any, Any]] = []
    for header, buffers, dialect in messages:
        views = [memoryview(buffer) for buffer in buffers]
        parts.append(_MESSAGE.pack(dialect is Dialect.LINE, len(header), len(views)))
        parts.extend(_SIZE.pack(view.nbytes) for view in views)
        parts.append(header)
        for view in views:
            if view.nbytes >= large:
                apart.append(np.frombuffer(view, np.uint8))
            else:
                parts.append(view)
    whole = b"".join(parts)
    return [whole, *apart] if apart else whole


def unpack(
    parcel: Parcel, own: Callable[[np.ndarray[Any, Any]], Any], large: float = LARGE
) -> tuple[list[Message], bool, Span]:
    """The messages of a parcel, with writable buffers, and ``last`` and ``printed`` of it.

    Args:
        parcel: What Ray handed over.
        own: Makes a large buffer the receiver's own, and writable.
        large: As for ``pack``.
    """
    whole: bytes = parcel if isinstance(parcel, bytes) else parcel[0]
    remaining = iter(() if isinstance(parcel, bytes) else parcel[1:])
    last, count, *printed = _START.unpack_from(whole)
    position = _START.size
    messages = []
    for _ in range(count):
        is_line, header_size, buffer_count = _MESSAGE.unpack_from(whole, position)
        position += _MESSAGE.size
        table = position + _SIZE.size * buffer_count
        sizes = [size for (size,) in _SIZE.iter_unpack(whole[position:table])]
        position = table + header_size
        header = whole[table:position]
        buffers: list[Any] = []
        for size in sizes:
            if size >= large:
                buffers.append(own(next(remaining)))
            else:
                buffers.append(bytearray(whole[position : position + size]))
                position += size
        messages.append(Message(header, buffers, Dialect.LINE if is_line else Dialect.FRAME))
    return messages, last, (printed[0], printed[1])


def may_report(command: Message) -> bool:
    """Whether a command may ask for events: it names them, or is a line with escapes."""
    return b"events" in command.header or b"\\u" in command.header
