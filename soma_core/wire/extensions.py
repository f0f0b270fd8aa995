"""The extension types of a frame's map: what MessagePack itself has no type for.

Each is a MessagePack extension of the number below. Its data are raw bytes, or MessagePack in turn
(an array, written here in brackets). A ``buffer`` is an index into the buffers of the frame; each
buffer is used once.

=========  ======  ==============================================================================
name       number  data
=========  ======  ==============================================================================
ARRAY           1  [buffer, dtype, shape] or [buffer, dtype, shape, order]: a numpy array
TENSOR          2  [buffer, dtype, shape] or [buffer, dtype, shape, options]: a torch tensor; the
                   options are {"order": …, "requires_grad": true}
TUPLE           3  [item, …]: a tuple
TUPLES          4  [column, …]: a list of tuples of one length, by position: [(1, 2), (3, 4)] is
                   [[1, 3], [2, 4]]
SCALAR          5  [dtype, bytes]: a numpy scalar
SCALARS         6  [dtype, bytes]: a list of numpy scalars
INT             7  raw, two's complement, big-endian: an int of more than 64 bits
COMPLEX         8  raw, two float64, big-endian: a complex number
MAP             9  [[key, …], [value, …]]: a dict whose keys are not all text, or whose values are
                   better packed as one list
TEXT           10  raw, UTF-8 with surrogates: a text that is not valid Unicode
BYTES          11  [buffer]: bytes that lie in a buffer
STDLIB         12  [name, content]: an object of the standard library, see ``stdlib_types``
CODEC          13  [codec, distribution, data, [buffer, …]]: an object of a plugin's codec
PICKLE         14  [buffer, [buffer, …]]: a pickle, and the buffers that it keeps out of band
RAGGED         15  [[length, …], [item, …]]: a list of tuples of several lengths, and the items of
                   all, one after the other
RECORDS        16  [[key, …], column, …]: a list of dicts with the same keys, all text
STDLIBS        17  [name, [content, …]]: a list of objects of one type of the standard library
PICKLES        18  [count, buffer, [buffer, …]]: a list of so many objects, as one pickle
=========  ======  ==============================================================================

Where the data hold a list, such as a column, that may be one of the types that stand for a list.

A ``dtype`` is numpy's name where that is enough (``"float32"``), else its ``dtype.str`` or the list
of fields of the ``.npy`` format. A buffer holds the elements little-endian in C order, or in C
order of the axes in ``order``, for an array whose axes lie otherwise in memory.
"""

from __future__ import annotations

from enum import IntEnum

DEEPEST_EXTENSION = 8
"""How deep our side nests extension types; what nests deeper travels as a pickle."""


class Extension(IntEnum):
    """The number of an extension type."""

    ARRAY = 1
    TENSOR = 2
    TUPLE = 3
    TUPLES = 4
    SCALAR = 5
    SCALARS = 6
    INT = 7
    COMPLEX = 8
    MAP = 9
    TEXT = 10
    BYTES = 11
    STDLIB = 12
    CODEC = 13
    PICKLE = 14
    RAGGED = 15
    RECORDS = 16
    STDLIBS = 17
    PICKLES = 18


ROWS = frozenset({Extension.TUPLES, Extension.RAGGED, Extension.RECORDS})
"""Those that hold rows by columns. Within each other they could stand for many times the memory of
the map: in a frame they have no more rows together than its map has bytes."""
