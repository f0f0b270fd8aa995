"""The table of a lender: one byte for each of its regions, which both ends read and write.

Before these come a token, which proves that both ends see one table, how much memory resting
regions keep, and the numbers by which messages are taken back.
"""

from __future__ import annotations

import struct

from soma_core.channel import recalls

SLOTS = 4096
RETAINED = 64 << 20
"""Bytes that resting regions keep in each direction, where nothing else is said."""

TOKEN_SIZE = 16
START = struct.Struct(f"<{TOKEN_SIZE}sQ")
RECALLS = slice(START.size, START.size + recalls.SIZE)
FIRST = RECALLS.stop
TABLE_SIZE = FIRST + SLOTS
FREE, LENT, DROPPED = 0, 1, 2
ANNOUNCEMENT = struct.Struct("<IQQ")
"""What comes with the descriptor of a region: its slot, its generation and its size."""
