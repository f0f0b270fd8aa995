"""Packing: Python objects to the map and the buffers of a frame.

What MessagePack has a type for is packed by one call in C. Everything else reaches
:meth:`Packing._extension`, one object at a time, and becomes an extension type
(:mod:`~soma_core.wire.extensions`); its bulk is put aside as a buffer.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import ormsgpack
from ormsgpack import Ext, packb

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.models.values import VALUE_MODELS
from soma_core.wire import arrays, stdlib_types
from soma_core.wire.added_types import encode_added
from soma_core.wire.columns import (
    Column,
    Kind,
    Objects,
    Replacing,
    ScalarColumn,
    Stdlibs,
    SurrogateText,
    one_by_one,
)
from soma_core.wire.extensions import DEEPEST_EXTENSION, ROWS, Extension
from soma_core.wire.line_codec import LineDecoder
from soma_core.wire.opaque import OpaqueState
from soma_core.wire.pickles import Pickles

# Exact types only: what is a subclass, or has a meaning of its own, must reach ``_extension``.
_OPTIONS = (
    ormsgpack.OPT_PASSTHROUGH_BIG_INT
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
_CROWD = 3  # objects that are packed one by one; are there more, then lists are packed at once
_SMALL_PICKLE = 1 << 16  # bytes; what is larger is not pickled a second time for that
_INLINE_BYTES = 1 << 10  # bytes of a state up to which they stay in the map
_ARRAY = int(Extension.ARRAY)
_COMPLEX = struct.Struct(">dd")


class Binary:
    """Bytes of a field of the protocol, such as a state; large ones are put aside as a buffer."""

    __slots__ = ("content",)

    def __init__(self, content: Any) -> None:
        self.content = content


def pack(content: Any, pickles: Pickles) -> tuple[bytes, list[Any]]:
    """The MessagePack of an object, and the buffers that it refers to.

    Args:
        content: The fields of a message, or any other object.
        pickles: Whether and how objects that are not data are pickled.

    Returns:
        The buffers are views of the caller's memory: send them before the caller goes on.

    Raises:
        ProtocolError: ``pickle_refused``, ``too_large`` if it nests too deep, or
            ``invalid_command`` if something in it cannot be pickled.
    """
    packing = Packing(pickles)
    return packing.run(content), packing.buffers


class _Crowd(Exception):
    """Many objects came one by one: lists of them are to be packed at once."""


class _Nested(Exception):
    """Lists that are packed at once nest too deep, or are long for what they hold."""


class Packing:
    """One message on its way into a frame.

    Attributes:
        buffers: What was put aside, in the order of the indexes in the map.
    """

    _failure: BaseException | None = None
    _failed: object = None
    _alone = _depth = _rows = 0
    _replacing: Replacing | None = None

    def __init__(self, pickles: Pickles) -> None:
        self._pickles = pickles
        self.buffers: list[Any] = []

    def run(self, content: Any) -> bytes:
        """Pack an object; as :func:`pack`."""
        try:
            return packb(content, self._extension, _OPTIONS)
        except TypeError as error:
            failure = self._failure or error
        if not isinstance(failure, _Crowd | TypeError | RecursionError):
            raise self._with_place(failure, content)
        return self._lists_at_once(content, tuple, dict)

    def _lists_at_once(self, content: Any, *of: type[Any]) -> bytes:
        """Pack an object once more, after what cannot be packed as it is was replaced.

        Args:
            content: The object.
            of: The types of which lists are packed by columns.
        """
        self.buffers.clear()
        self._failure, self._depth, self._rows = None, 0, 0
        self._replacing = Replacing(_kind_of, of)
        try:
            packed = packb(self._replacing.of(content), self._extension, _OPTIONS)
        except (TypeError, RecursionError) as error:
            failure = self._failure or _Nested(error)
        else:
            if self._rows <= len(packed):
                return packed
            failure = _Nested()
        if isinstance(failure, _Nested | RecursionError):
            if of:
                return self._lists_at_once(content, *of[:-1])
            raise ProtocolError(
                ErrorCode.TOO_LARGE,
                "the data nests more than some 240 levels deep (or contains itself), which no "
                f"message can hold: {failure}",
            )
        raise self._with_place(failure, content)

    def _with_place(self, failure: BaseException, content: Any) -> BaseException:
        """The failure, which says where in the content that is which cannot be sent."""
        from soma_core.wire.unpicklable import place_of

        place = place_of(self._failed, content)
        if place and isinstance(failure, ProtocolError):
            failure.args = (f"{place}: {failure}",)
        return failure

    def _extension(self, obj: Any) -> Any:
        """What stands for an object that MessagePack has no type for.

        Whatever is raised here comes out of ``packb`` as a TypeError of its own; it is kept.
        """
        try:
            if type(obj) is np.ndarray:
                return self._array(obj)
            write = _WRITERS.get(type(obj)) or _writer_of(obj)
            return write(self, obj)
        except BaseException as error:
            if self._failure is None:
                self._failure = error
                self._failed = obj.original if type(obj) is Column else obj
            raise

    def _nested(self, number: int, content: Any, original: Any) -> Ext:
        """An extension type that holds others; where they nest too deep, a pickle."""
        if self._depth == DEEPEST_EXTENSION:
            if self._replacing is not None and self._replacing.dicts_at_once:
                raise _Nested
            if self._pickles.allowed:
                is_list = type(original) is list
                return self._pickle_list(original) if is_list else self._pickle(original)
        self._depth += 1
        data = packb(content, self._extension, _OPTIONS)
        self._depth -= 1
        return Ext(number, data)

    def _put_aside(self, data: Any) -> int:
        self.buffers.append(data)
        return len(self.buffers) - 1

    def _array(self, obj: np.ndarray[Any, Any]) -> Any:
        plain = arrays.name_and_bytes(obj)
        if plain is not None:
            buffers = self.buffers
            buffers.append(plain[1])
            return Ext(_ARRAY, packb((len(buffers) - 1, plain[0], obj.shape)))
        return self._unusual_array(obj)

    def _memmap(self, obj: np.memmap[Any, Any]) -> Any:
        return self._array(obj)

    def _unusual_array(self, obj: np.ndarray[Any, Any]) -> Any:
        """An array whose axes lie otherwise in memory, or of elements that are not plain."""
        if not arrays.is_writable(obj.dtype):
            return self._pickle(obj)
        order = arrays.order_in_memory(obj.shape, obj.strides, obj.itemsize)
        ordered = obj if order is None else obj.transpose(order)
        fields: list[Any] = [self._put_aside(arrays.array_to_bytes(ordered))]
        fields += [arrays.dtype_to_wire(obj.dtype), list(obj.shape)]
        return Ext(_ARRAY, packb(fields if order is None else [*fields, order]))

    def _tensor(self, obj: Any) -> Any:
        order = arrays.order_in_memory(tuple(obj.shape), obj.stride(), 1)
        ordered = obj if order is None else obj.detach().permute(order)
        name, data = arrays.tensor_name_and_bytes(ordered)
        fields: list[Any] = [self._put_aside(data), name, list(obj.shape)]
        options: dict[str, Any] = {} if order is None else {"order": order}
        if obj.requires_grad and obj.is_leaf:
            options["requires_grad"] = True
        return Ext(Extension.TENSOR, packb([*fields, options] if options else fields))

    def _tuple(self, obj: tuple[Any, ...]) -> Any:
        self._count_alone()
        return self._nested(Extension.TUPLE, list(obj), obj)

    def _scalar(self, obj: np.generic) -> Any:
        self._count_alone()
        if not arrays.is_writable(obj.dtype):
            return self._pickle(obj)
        return self._scalars(Extension.SCALAR, np.asarray(obj))

    def _scalars(self, number: int, items: np.ndarray[Any, Any]) -> Ext:
        data = arrays.array_to_bytes(items)
        return Ext(number, packb([arrays.dtype_to_wire(items.dtype), bytes(data)]))

    def _count_alone(self) -> None:
        self._alone += 1
        if self._alone > _CROWD and self._replacing is None:
            raise _Crowd

    def _int(self, obj: int) -> Ext:
        return Ext(Extension.INT, obj.to_bytes(obj.bit_length() // 8 + 1, "big", signed=True))

    def _complex(self, obj: complex) -> Ext:
        return Ext(Extension.COMPLEX, _COMPLEX.pack(obj.real, obj.imag))

    def _binary(self, obj: Binary) -> Any:
        view = memoryview(obj.content)
        if view.nbytes <= _INLINE_BYTES:
            return view.tobytes()
        return Ext(Extension.BYTES, packb([self._put_aside(view)]))

    def _stdlib(self, obj: Any) -> Any:
        if self._pickles.codecs.of(obj) is not None:
            return self._added_or_pickle(obj)
        self._count_alone()
        known = stdlib_types.BY_TYPE[type(obj)]
        try:
            content = known.write(obj)
        except stdlib_types.Unwritable:
            return self._pickle(obj)
        if self._replacing is not None:
            content = one_by_one(self._replacing.of(content))
        return self._nested(Extension.STDLIB, [known.name, content], obj)

    def _stdlibs(self, obj: Stdlibs) -> Any:
        items = obj.items
        if self._pickles.codecs.of(items[0]) is not None:
            return items
        known = stdlib_types.BY_TYPE[type(items[0])]
        try:
            contents = obj.replacing.of_items([*map(known.write, items)])
        except stdlib_types.Unwritable:
            return items
        contents = [*map(one_by_one, contents)]
        return self._nested(Extension.STDLIBS, [known.name, contents], items)

    def _objects(self, obj: Objects) -> Any:
        if not self._pickles.allowed or not all(map(self._is_same_in_pickle, obj.examples)):
            return obj.one_by_one
        try:
            return self._pickle_list(obj.items)
        except Exception:  # one by one it is found out which of them does not pickle
            return obj.one_by_one

    def _is_same_in_pickle(self, obj: Any) -> bool:
        """Whether an object may as well lie in the pickle of a list."""
        return _writer_of(obj) not in _BETTER_ALONE and self._pickles.codecs.of(obj) is None

    def _value(self, obj: Any) -> Any:
        """What one of the public value models stands for."""
        return LineDecoder(pickles=self._pickles).decode(obj.model_dump(exclude_none=True))

    def _added_or_pickle(self, obj: Any) -> Any:
        """An object of a type that a plugin added; a pickle if there is no such plugin."""
        codecs = self._pickles.codecs
        codec = codecs.of(obj)
        if codec is None or not codecs.shares(codec):
            return self._pickle(obj)
        encoded = encode_added(codec, codec.encode, obj, or_pickle=self._pickles.allowed)
        if encoded is None:
            return self._pickle(obj)
        indexes = [self._put_aside(buffer) for buffer in encoded.buffers]
        fields = [codec.name, codec.distribution, encoded.data, indexes]
        return self._nested(Extension.CODEC, fields, obj)

    def _pickle(self, obj: Any) -> Ext:
        index, indexes = self._pickled(obj)
        if len(self.buffers[index]) <= _SMALL_PICKLE:
            self._count_alone()
        return Ext(Extension.PICKLE, packb([index, indexes]))

    def _pickle_list(self, items: list[Any]) -> Ext:
        """A list as a pickle of which it is known before it is read that it is one."""
        items = [*items]  # pickling runs the user's code, which may lengthen the list
        return Ext(Extension.PICKLES, packb([len(items), *self._pickled(items)]))

    def _pickled(self, obj: Any) -> tuple[int, list[int]]:
        """Pickle an object, and put aside the pickle and the buffers that it keeps out of band."""
        kept_apart: list[pickle.PickleBuffer] = []
        index = self._put_aside(self._pickles.dump(obj, kept_apart.append))
        return index, [self._put_aside(buffer.raw()) for buffer in kept_apart]

    def _opaque(self, obj: OpaqueState) -> Ext:
        if not self._pickles.allowed:
            return self._pickle(obj)
        index = self._put_aside(obj.content)
        return Ext(Extension.PICKLE, packb([index, [*map(self._put_aside, obj.buffers)]]))

    def _column(self, obj: Column) -> Any:
        if obj.number in ROWS:
            self._rows += len(obj.original)
        return self._nested(obj.number, obj.content, obj.original)

    def _scalar_column(self, obj: ScalarColumn) -> Ext:
        return self._scalars(Extension.SCALARS, obj.items)

    def _text(self, obj: SurrogateText) -> Ext:
        return Ext(Extension.TEXT, obj.text.encode("utf-8", "surrogatepass"))


_Write = Callable[[Packing, Any], Any]
_WRITERS: dict[type[Any], _Write] = {
    tuple: Packing._tuple,
    int: Packing._int,
    complex: Packing._complex,
    np.ndarray: Packing._array,
    np.memmap: Packing._memmap,
    Binary: Packing._binary,
    OpaqueState: Packing._opaque,
    Column: Packing._column,
    Stdlibs: Packing._stdlibs,
    Objects: Packing._objects,
    ScalarColumn: Packing._scalar_column,
    SurrogateText: Packing._text,
    **dict.fromkeys(stdlib_types.BY_TYPE, Packing._stdlib),
    **dict.fromkeys(VALUE_MODELS, Packing._value),
}
# In a pickle, a view of a tensor takes all of it along, and the others arrive as what they are:
# bytes of a field, a map of a file, a model that stands for a value, a state that was not read.
_BETTER_ALONE = {Packing._tensor, Packing._binary, Packing._memmap, Packing._value, Packing._opaque}


def _writer_of(obj: Any) -> _Write:
    known = _WRITERS.get(type(obj))
    if known is not None:
        return known
    if isinstance(obj, np.generic):
        return Packing._scalar
    if arrays.is_plain_torch_tensor(obj):
        return Packing._tensor
    return Packing._added_or_pickle


_KINDS: dict[_Write, Kind] = {
    Packing._added_or_pickle: Kind.PICKLE,
    Packing._stdlib: Kind.STDLIB,
    Packing._scalar: Kind.SCALAR,
}


def _kind_of(obj: Any) -> Kind:
    return _KINDS.get(_writer_of(obj), Kind.OTHER)
