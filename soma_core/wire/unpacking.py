"""Unpacking: the map and the buffers of a frame to Python objects.

One call in C reads what MessagePack has a type for, and calls :meth:`Unpacking._extension` for each
extension type. Reading what came and running it are two steps: an :class:`Unpacking` that may not
resolve objects leaves a placeholder for each pickle and each object of a codec, so that a message
can be validated before anything of it is unpickled.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Sequence
from itertools import islice, repeat
from typing import Any

import numpy as np
import ormsgpack
from ormsgpack import Ext, unpackb

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.wire import arrays, stdlib_types
from soma_core.wire.extensions import Extension
from soma_core.wire.frames import FrameError
from soma_core.wire.hashes import hashable
from soma_core.wire.opaque import OpaqueState
from soma_core.wire.pickles import Pickles

_OPTIONS = ormsgpack.OPT_NON_STR_KEYS
_ARRAY = int(Extension.ARRAY)
# Each level of nesting takes stack, and data may nest as deep as they have bytes, up to the limit
# of the parser. What extension types within each other may add up to fits a stack of 8 MiB.
_MOST_LEVELS = 1024
_LEAST_LEVELS = 64
_DEEPEST = 8 * _MOST_LEVELS
_COMPLEX = struct.Struct(">dd")
_from_buffer = np.frombuffer
_DTYPES = arrays.BY_NAME


def unpack(header: Any, buffers: Sequence[Any], pickles: Pickles) -> Any:
    """The object that :func:`~soma_core.wire.packing.pack` packed.

    Args:
        header: The MessagePack.
        buffers: The buffers, each writable; arrays are laid over them.
        pickles: Whether pickles are read. Unpickling runs code of the sender's choice.

    Raises:
        ProtocolError: ``malformed`` if it is not MessagePack, ``invalid_command`` if an extension
            type is not well formed, ``pickle_refused``.
    """
    return Unpacking(buffers, pickles, resolve=True, opaque=pickles.opaque_states).run(header)


def unpack_map(header: Any) -> dict[str, Any]:
    """The map of a frame without its buffers: each extension type stays an ``ormsgpack.Ext``.

    Raises:
        FrameError: ``malformed``: it is no map.
    """
    try:
        return _require_map(unpackb(header, ext_hook=Ext, option=_OPTIONS), header)
    except ValueError as error:
        raise _malformed(f"a frame's map is not MessagePack: {error}") from None


class Unpacking:
    """One message on its way out of a frame.

    Args:
        buffers: The buffers of the frame.
        pickles: Whether and how pickles are read.
        resolve: Whether pickles and objects of codecs are made; else each is a placeholder.
        opaque: Whether a pickle that cannot be read stays one, as an OpaqueState.

    Attributes:
        unresolved: Whether there is a placeholder.
    """

    _failure: BaseException | None = None
    _levels_left = _DEEPEST
    _rows_left = 0
    unresolved = False

    def __init__(
        self, buffers: Sequence[Any], pickles: Pickles, *, resolve: bool, opaque: bool = False
    ) -> None:
        self._buffers = list(buffers)
        self._pickles = pickles
        self._resolve, self._opaque = resolve, opaque

    def run(self, header: Any) -> Any:
        """Unpack MessagePack; as :func:`unpack`."""
        self._rows_left = len(header)
        try:
            return unpackb(header, ext_hook=self._extension, option=_OPTIONS)
        except ValueError as error:
            if self._failure is not None:
                raise self._failure from None
            raise _malformed(f"a frame's map is not MessagePack: {error}") from None

    def map(self, header: Any) -> dict[str, Any]:
        """Unpack the map of a frame.

        Raises:
            ProtocolError: As :func:`unpack`; ``malformed`` also if it is no map of fields.
        """
        content = self.run(header)
        if type(content) is dict and header[0] == 0x80 + len(content):  # what most messages are
            return content
        return _require_map(content, header)

    def _extension(self, number: int, data: bytes) -> Any:
        """The object of an extension type.

        Whatever is raised here comes out of ``unpackb`` as a ValueError of its own; it is kept.
        """
        try:
            if number == _ARRAY:
                return self._array(data)
            read = _READERS.get(number)
            if read is None:
                raise _invalid(f"there is no extension type {number}; known: 1 to {len(Extension)}")
            return read(self, data)
        except (TypeError, ValueError, LookupError, ArithmeticError, struct.error) as error:
            if self._failure is None:
                self._failure = _invalid(f"{_title(number)} is not well formed: {error}")
            raise
        except BaseException as error:
            if self._failure is None:
                self._failure = error
            raise

    def _nested(self, data: bytes) -> Any:
        """What MessagePack within an extension type says."""
        levels = min(max(len(data), _LEAST_LEVELS), _MOST_LEVELS)
        if levels > self._levels_left:
            raise ProtocolError(ErrorCode.TOO_LARGE, "extension types nest too deep in each other")
        self._levels_left -= levels
        content = unpackb(data, ext_hook=self._extension, option=_OPTIONS)
        self._levels_left += levels
        return content

    def _take(self, index: Any) -> Any:
        """A buffer of the frame, which nothing else in it may name."""
        buffers = self._buffers
        if type(index) is not int or not 0 <= index < len(buffers):
            raise ValueError(f"buffer {index} does not exist; the message has {len(buffers)}")
        buffer, buffers[index] = buffers[index], None
        if buffer is None:
            raise ValueError(f"buffer {index} is named twice; each buffer is used once")
        return buffer

    def _array(self, data: bytes) -> np.ndarray[Any, Any]:
        index, dtype, shape, *order = unpackb(data)
        buffer = self._take(index)
        try:
            # Not np.ndarray(shape, dtype, buffer): its base would be what is behind the buffer,
            # and the lease on a region of shared memory would end while the array lives.
            array = _from_buffer(buffer, _DTYPES[dtype]).reshape(shape)
        except (LookupError, TypeError, ValueError):
            array = None
        if order or array is None or array.shape != tuple(shape):
            return _laid_out(buffer, dtype, _checked_shape(shape), *order)
        return array

    def _tensor(self, data: bytes) -> Any:
        if "torch" not in sys.modules and not self._resolve:
            return self._placeholder()
        arrays.require_torch()
        index, dtype, shape, *rest = unpackb(data)
        options = rest[0] if rest else {}
        if type(options) is not dict:
            raise ValueError(f"its options are a map, got {options!r:.80}")
        shape, order = _checked_shape(shape), options.get("order")
        buffer = self._take(index)
        if order is None:
            tensor: Any = arrays.tensor_from_bytes(buffer, dtype, shape)
        else:
            inner = [shape[axis] for axis in _checked_order(order, len(shape))]
            tensor = arrays.tensor_from_bytes(buffer, dtype, inner).permute(_inverse(order))
        return tensor.requires_grad_() if options.get("requires_grad") is True else tensor

    def _tuple(self, data: bytes) -> tuple[Any, ...]:
        return tuple(_require_list(self._nested(data)))

    def _tuples(self, data: bytes) -> list[tuple[Any, ...]]:
        columns = _require_columns(self._nested(data))
        self._count_rows(columns[0])
        return [*zip(*columns, strict=True)]

    def _ragged(self, data: bytes) -> list[tuple[Any, ...]]:
        lengths, items = _require_columns(self._nested(data))
        if not set(map(type, lengths)) <= {int} or sum(lengths) != len(items):
            raise ValueError(f"its lengths do not add up to {len(items)} items")
        self._count_rows(lengths)
        return [*map(tuple, map(islice, repeat(iter(items)), lengths))]

    def _records(self, data: bytes) -> list[dict[str, Any]]:
        keys, *columns = _require_columns(self._nested(data))
        if len(keys) != len(columns) or not set(map(type, keys)) == {str}:
            raise ValueError(f"each key is a text and has a column, got {len(keys)} keys")
        self._count_rows(columns[0])
        return [*map(dict, map(zip, repeat(keys), zip(*columns, strict=True)))]

    def _count_rows(self, rows: list[Any]) -> None:
        self._rows_left -= len(rows)
        if self._rows_left < 0:
            raise ProtocolError(
                ErrorCode.TOO_LARGE,
                "the tuples and dicts that came by columns are more than the map of the frame has "
                "bytes; send them one by one",
            )

    def _scalar(self, data: bytes) -> Any:
        return _elements(data, 1)[0]

    def _scalars(self, data: bytes) -> list[Any]:
        return [*_elements(data, None)]

    def _int(self, data: bytes) -> int:
        return int.from_bytes(data, "big", signed=True)

    def _complex(self, data: bytes) -> complex:
        return complex(*_COMPLEX.unpack(data))

    def _map(self, data: bytes) -> dict[Any, Any]:
        keys, values = _require_columns(self._nested(data))
        return dict(zip(hashable(keys), values, strict=True))

    def _text(self, data: bytes) -> str:
        return data.decode("utf-8", "surrogatepass")

    def _bytes(self, data: bytes) -> Any:
        (index,) = unpackb(data)
        return self._take(index)

    def _stdlib(self, data: bytes) -> Any:
        name, content = self._nested(data)
        return _stdlib_type(name).read(content)

    def _stdlibs(self, data: bytes) -> list[Any]:
        name, contents = self._nested(data)
        return [*map(_stdlib_type(name).read, _require_list(contents))]

    def _codec(self, data: bytes) -> Any:
        if not self._resolve:
            return self._placeholder()
        name, distribution, content, indexes = self._nested(data)
        buffers = [self._take(index) for index in indexes]
        return self._pickles.codecs.decode(name, distribution, content, buffers)

    def _pickle(self, data: bytes) -> Any:
        if not self._resolve:
            return self._placeholder()
        return self._unpickled(*unpackb(data))

    def _pickles_of_list(self, data: bytes) -> Any:
        count, index, indexes = unpackb(data)
        if not self._resolve:
            if type(count) is not int or count > len(self._take(index)):
                raise ValueError(f"its pickle cannot hold {count!r:.80} objects")
            return [self._placeholder()] * count
        found = self._unpickled(index, indexes)
        if type(found) is not OpaqueState and (type(found) is not list or len(found) != count):
            raise ValueError(f"its pickle does not hold a list of {count} objects")
        return found

    def _unpickled(self, index: Any, indexes: Any) -> Any:
        content, beside = self._take(index), [self._take(index) for index in indexes]
        try:
            return self._pickles.load(content, beside)
        except ProtocolError as error:
            if not self._opaque or error.code is ErrorCode.PICKLE_REFUSED:
                raise
            reason = f"{type(error.__cause__).__name__}: {error.__cause__}"
            return OpaqueState(bytes(content), [bytes(memoryview(each)) for each in beside], reason)

    def _placeholder(self) -> Any:
        self.unresolved = True
        return object()


_READERS: dict[int, Callable[[Unpacking, bytes], Any]] = {
    Extension.ARRAY: Unpacking._array,
    Extension.TENSOR: Unpacking._tensor,
    Extension.TUPLE: Unpacking._tuple,
    Extension.TUPLES: Unpacking._tuples,
    Extension.SCALAR: Unpacking._scalar,
    Extension.SCALARS: Unpacking._scalars,
    Extension.INT: Unpacking._int,
    Extension.COMPLEX: Unpacking._complex,
    Extension.MAP: Unpacking._map,
    Extension.TEXT: Unpacking._text,
    Extension.BYTES: Unpacking._bytes,
    Extension.STDLIB: Unpacking._stdlib,
    Extension.CODEC: Unpacking._codec,
    Extension.PICKLE: Unpacking._pickle,
    Extension.RAGGED: Unpacking._ragged,
    Extension.RECORDS: Unpacking._records,
    Extension.STDLIBS: Unpacking._stdlibs,
    Extension.PICKLES: Unpacking._pickles_of_list,
}


def _laid_out(buffer: Any, dtype: Any, shape: list[int], order: Any = None) -> np.ndarray[Any, Any]:
    """An array over a buffer, of any element type and order of axes; says what is wrong."""
    elements = arrays.dtype_from_wire(dtype)
    if order is None:
        return arrays.array_from_bytes(buffer, elements, shape)
    inner = [shape[axis] for axis in _checked_order(order, len(shape))]
    return arrays.array_from_bytes(buffer, elements, inner).transpose(_inverse(order))


def _elements(data: bytes, count: int | None) -> np.ndarray[Any, Any]:
    """The elements of an extension that holds a dtype and bytes."""
    name, content = unpackb(data)
    if type(content) is not bytes:  # of a number, bytearray makes so many zeros
        raise ValueError(f"its elements are bytes, got {type(content).__name__}")
    dtype = arrays.dtype_from_wire(name)
    if count is None:
        count = len(content) // max(1, dtype.itemsize)
    return arrays.array_from_bytes(bytearray(content), dtype, (count,))


def _checked_shape(shape: Any) -> list[int]:
    if type(shape) is list and all(type(length) is int and length >= 0 for length in shape):
        return shape
    raise ValueError(f"a shape is an array of lengths, got {shape!r:.100}")


def _checked_order(order: Any, axes: int) -> list[int]:
    if type(order) is list and sorted(order) == list(range(axes)):
        return order
    raise ValueError(f"an order names each of {axes} axes once, got {order!r:.100}")


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


def _require_list(content: Any) -> list[Any]:
    if type(content) is list:
        return content
    raise ValueError(f"an array is expected, got {type(content).__name__}")


def _require_columns(content: Any) -> list[list[Any]]:
    if set(map(type, _require_list(content))) == {list}:
        return content  # type: ignore[no-any-return]
    raise ValueError("it has no columns, or one that is not an array")


def _stdlib_type(name: Any) -> stdlib_types.StdlibType:
    known = stdlib_types.BY_NAME.get(name)
    if known is None:
        raise ValueError(f"there is no type {name!r}; known: {', '.join(stdlib_types.BY_NAME)}")
    return known


def _require_map(content: Any, header: Any) -> dict[str, Any]:
    if type(content) is not dict:
        raise _malformed(f"a message is a map with a cmd, got {type(content).__name__}")
    if len(content) != _declared_entries(header):
        raise _malformed("a field of the message occurs twice")
    return content


def _declared_entries(header: Any) -> int:
    """How many entries the map at the start of a header declares."""
    first = header[0]
    if first <= 0x8F:
        return int(first & 0x0F)
    return int.from_bytes(header[1 : 3 if first == 0xDE else 5], "big")


def _title(number: int) -> str:
    return f"the extension type {number} ({Extension(number).name})"


def _invalid(message: str) -> ProtocolError:
    return ProtocolError(ErrorCode.INVALID_COMMAND, message)


def _malformed(message: str) -> FrameError:
    return FrameError(ErrorCode.MALFORMED, message)
