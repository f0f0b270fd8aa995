"""Arrow tables: their buffers are all that there is to them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from soma_codecs_arrow.packing import pack, unpack
from soma_core.codecs import Encoded


def encode(table: pa.Table, *, aside: bool = True) -> Encoded:
    """A Table; with ``aside=False`` as one IPC stream, which any Arrow library reads."""
    apart, buffers = pack(table, aside=aside)
    return Encoded(apart, buffers)


def decode(data: Any, buffers: list[Any]) -> pa.Table:
    """The Table that was encoded, or that an IPC stream holds.

    Raises:
        ValueError: It is none.
    """
    return unpack(data, buffers)
