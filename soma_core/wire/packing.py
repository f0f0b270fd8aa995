"""Packing: Python objects to the map and the buffers of a frame.

What MessagePack has a type for is packed by one call in C. Everything else reaches
:meth:`Packing._extension`, one object at a time, and becomes an extension type
(:mod:`~soma_core.wire.extensions`); its bulk is put aside as a buffer.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np
import ormsgpack
from ormsgpack import Ext, packb

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.models.values import VALUE_MODELS
from soma_core.wire import arrays, stdlib_types
from soma_core.wire.added_types import encode_added
from soma_core.wire.extensions import DEEPEST_EXTENSION, Extension
from soma_core.wire.line_codec import LineDecoder
from soma_core.wire.opaque import OpaqueState
from soma_core.wire.pickles import Pickles

__all__ = ["Binary", "Packing", "pack"]

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
_TEXT = frozenset({str})
_LEAVES = frozenset({type(None), bool, int, float, bytes, bytearray})
_PLAIN = _LEAVES | {str, list, dict, tuple, memoryview}
_CONTAINERS = frozenset({list, tuple, dict})
_dtype_of = attrgetter("dtype")


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


class _TooDeep(Exception):
    """Lists that are packed at once nest too deep: those of dicts are to be packed as they are."""


class Packing:
    """One message on its way into a frame.

    Attributes:
        buffers: What was put aside, in the order of the indexes in the map.
    """

    _failure: BaseException | None = None
    _failed: object = None
    _alone = _depth = 0
    _replacing: _Replacing | None = None

    def __init__(self, pickles: Pickles) -> None:
        self._pickles = pickles
        self.buffers: list[Any] = []

    def run(self, content: Any) -> bytes:
        """Pack an object; as :func:`pack`."""
        try:
            return packb(content, self._extension, _OPTIONS)
        except TypeError as error:
            failure = self._failure or error
        if not isinstance(failure, _Crowd | TypeError):
            raise self._with_place(failure, content)
        return self._lists_at_once(content, _Replacing(dicts_at_once=True))

    def _lists_at_once(self, content: Any, replacing: _Replacing) -> bytes:
        """Pack an object once more, after what cannot be packed as it is was replaced."""
        self.buffers.clear()
        self._failure, self._depth, self._replacing = None, 0, replacing
        try:
            return packb(replacing.of(content), self._extension, _OPTIONS)
        except (TypeError, RecursionError) as error:
            failure = self._failure or _TooDeep(error)
        if isinstance(failure, _TooDeep):
            if replacing.dicts_at_once:
                return self._lists_at_once(content, _Replacing(dicts_at_once=False))
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
                self._failed = obj.original if type(obj) is _Column else obj
            raise

    def _nested(self, number: int, content: Any, original: Any) -> Ext:
        """An extension type that holds others; where they nest too deep, a pickle."""
        if self._depth == DEEPEST_EXTENSION:
            if self._replacing is not None and self._replacing.dicts_at_once:
                raise _TooDeep
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
        if not _is_writable(obj.dtype):
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
        if not _is_writable(obj.dtype):
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
            content = _one_by_one(self._replacing.of(content))
        return self._nested(Extension.STDLIB, [known.name, content], obj)

    def _stdlibs(self, obj: _Stdlibs) -> Any:
        items = obj.items
        if self._pickles.codecs.of(items[0]) is not None:
            return items
        known = stdlib_types.BY_TYPE[type(items[0])]
        try:
            contents = obj.replacing.of_items([*map(known.write, items)])
        except stdlib_types.Unwritable:
            return items
        contents = [c.one_by_one if type(c) is _Objects else c for c in contents]
        return self._nested(Extension.STDLIBS, [known.name, contents], items)

    def _objects(self, obj: _Objects) -> Any:
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

    def _column(self, obj: _Column) -> Any:
        return self._nested(obj.number, obj.content, obj.original)

    def _scalar_column(self, obj: _ScalarColumn) -> Ext:
        return self._scalars(Extension.SCALARS, obj.items)

    def _text(self, obj: _Text) -> Ext:
        return Ext(Extension.TEXT, obj.text.encode("utf-8", "surrogatepass"))


class _Column:
    """An object that becomes an extension type, with the content of that as it is to be packed."""

    __slots__ = ("content", "number", "original")

    def __init__(self, number: int, content: Any, original: Any) -> None:
        self.number, self.content, self.original = number, content, original


class _Stdlibs:
    """A list of objects of one type of the standard library."""

    __slots__ = ("items", "replacing")

    def __init__(self, items: list[Any], replacing: _Replacing) -> None:
        self.items, self.replacing = items, replacing


class _Objects:
    """A list of objects that only a pickle can hold, alone or in tuples or dicts of one form.

    ``examples`` has one of each type of them, and ``one_by_one`` is what the list is packed as if
    each is pickled by itself.
    """

    __slots__ = ("examples", "items", "one_by_one")

    def __init__(self, items: list[Any], examples: Collection[Any], one_by_one: Any) -> None:
        self.items, self.examples, self.one_by_one = items, examples, one_by_one


class _ScalarColumn:
    """A list of numpy scalars of one type."""

    __slots__ = ("items",)

    def __init__(self, items: np.ndarray[Any, Any]) -> None:
        self.items = items


class _Text:
    """A text with lone surrogates."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


_Write = Callable[[Packing, Any], Any]
_WRITERS: dict[type[Any], _Write] = {
    tuple: Packing._tuple,
    int: Packing._int,
    complex: Packing._complex,
    np.ndarray: Packing._array,
    np.memmap: Packing._memmap,
    Binary: Packing._binary,
    OpaqueState: Packing._opaque,
    _Column: Packing._column,
    _Stdlibs: Packing._stdlibs,
    _Objects: Packing._objects,
    _ScalarColumn: Packing._scalar_column,
    _Text: Packing._text,
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


class _Replacing:
    """Replaces in an object what ``packb`` would not take, or only one by one.

    These are lists of tuples and of other objects, dicts with keys that are not text, texts that
    are not Unicode, and views of bytes that do not lie one by one.

    Args:
        dicts_at_once: Whether lists of dicts, and the values of a dict, are packed at once too,
            which nests extension types where plain dicts would not.
    """

    def __init__(self, *, dicts_at_once: bool) -> None:
        self.dicts_at_once = dicts_at_once
        self._replace: dict[type[Any], Callable[[Any], Any]] = {
            dict: self._dict,
            list: self.of_list,
            tuple: self._tuple,
            memoryview: memoryview.tobytes,
            str: _text,
        }
        self._list_of: dict[type[Any], Callable[[list[Any]], Any]] = {tuple: self._tuples}
        if dicts_at_once:
            self._list_of[dict] = self._records

    def of(self, obj: Any) -> Any:
        """What stands for an object; often itself."""
        return self._replace.get(type(obj), _itself)(obj)

    def of_list(self, items: list[Any]) -> Any:
        """What stands for a list."""
        kinds = set(map(type, items))
        if kinds <= _LEAVES:
            return items
        if len(kinds) == 1 and (of_one_kind := self._list_of.get(next(iter(kinds)))):
            return of_one_kind(items)
        if kinds.isdisjoint(_PLAIN):
            return self._objects(items, kinds)
        return self.of_items(items)

    def of_items(self, items: Collection[Any]) -> list[Any]:
        """What stands for each of some items."""
        kinds = set(map(type, items))
        taken = _LEAVES | _TEXT if str in kinds and _are_unicode(items, kinds) else _LEAVES
        if kinds <= taken:
            return [*items]
        replace = self._replace.get
        return [i if type(i) in taken else replace(type(i), _itself)(i) for i in items]

    def _tuple(self, obj: tuple[Any, ...]) -> Any:
        return _Column(Extension.TUPLE, _one_by_one(self.of_list([*obj])), obj)

    def _dict(self, obj: Mapping[Any, Any]) -> Any:
        replace = self.of_list if self.dicts_at_once else self.of_items
        values = _one_by_one(replace([*obj.values()]))
        is_text = set(map(type, obj)) <= _TEXT and _is_unicode("".join(obj))
        if is_text and type(values) is list:
            return dict(zip(obj, values, strict=True))
        return _Column(Extension.MAP, [_one_by_one(self.of_list([*obj])), values], obj)

    def _tuples(self, rows: list[tuple[Any, ...]]) -> Any:
        """A list of tuples: by position if they have one length."""
        if len(set(map(len, rows))) == 1 and rows[0]:
            return self._columns(Extension.TUPLES, [], zip(*rows, strict=True), rows)
        lengths, items = [*map(len, rows)], [*chain.from_iterable(rows)]
        return self._columns(Extension.RAGGED, [lengths], [items], rows)

    def _records(self, records: list[dict[Any, Any]]) -> Any:
        """A list of dicts: by key if they have the same ones."""
        kinds = set(map(type, chain.from_iterable(records)))
        if len(set(map(tuple, records))) > 1 or kinds != _TEXT:
            return [*map(self._dict, records)]
        keys = self.of_items([*records[0]])
        columns = zip(*map(dict.values, records), strict=True)
        return self._columns(Extension.RECORDS, [keys], columns, records)

    def _objects(self, items: list[Any], kinds: set[type[Any]]) -> Any:
        """A list of objects that MessagePack has no type for."""
        examples = items[:1] if len(kinds) == 1 else _one_of_each_type(items)
        writers = {*map(_writer_of, examples)}
        if writers == {Packing._added_or_pickle}:
            return _Objects(items, examples, items)
        if writers == {Packing._stdlib} and len(kinds) == 1:
            return _Stdlibs(items, self)
        if writers == {Packing._scalar}:
            dtypes = set(map(_dtype_of, items))
            if len(dtypes) == 1 and _is_writable(next(iter(dtypes))):
                return _ScalarColumn(np.array(items, dtypes.pop()))
        return items

    def _columns(
        self, number: int, head: list[Any], columns: Iterable[Any], rows: list[Any]
    ) -> Any:
        """The rows of a list by their columns; pickled as one if a column can only be pickled."""
        lists = [*map(list, columns)]
        replaced = [*map(self.of_list, lists)]
        by_column = _Column(number, [*head, *map(_one_by_one, replaced)], rows)
        if _Objects not in set(map(type, replaced)):
            return by_column
        return _Objects(rows, _one_of_each_type(lists), by_column)


def _itself(obj: Any) -> Any:
    return obj


def _text(text: str) -> Any:
    return text if _is_unicode(text) else _Text(text)


def _one_of_each_type(items: list[Any]) -> list[Any]:
    """An object of each type among some items, and among those of lists, tuples and dicts there."""
    found: dict[type[Any], Any] = {}
    ways: list[Any] = [items]
    for inner in ways:  # it grows meanwhile
        new = dict(zip(map(type, inner), inner, strict=True))
        found.update(new)
        if not _CONTAINERS.isdisjoint(new):
            ways += (item for item in inner if type(item) in _CONTAINERS)
            ways += (item.values() for item in inner if type(item) is dict)
    return [*found.values()]


def _one_by_one(replaced: Any) -> Any:
    """What was replaced, where it cannot be a pickle of a list."""
    return replaced.one_by_one if type(replaced) is _Objects else replaced


def _are_unicode(items: Collection[Any], kinds: set[type[Any]]) -> bool:
    """Whether all texts among some items are."""
    texts = items if len(kinds) == 1 else [item for item in items if type(item) is str]
    return _is_unicode("".join(texts))


def _is_writable(dtype: np.dtype[Any]) -> bool:
    """Whether arrays of this element type travel as bytes, and not as a pickle."""
    if dtype.hasobject or dtype.kind == "T":
        return False
    if dtype.type is np.record:  # it equals the same fields without being of that class
        return False
    try:
        arrays.dtype_to_wire(dtype)
    except ValueError:
        return False
    return True


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
