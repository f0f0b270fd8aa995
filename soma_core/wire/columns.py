"""Columns: what ``packb`` would not take, or only one by one, replaced by what it takes at once.

Packing an object that MessagePack has no type for costs a call in Python, or a pickle. A list of
many is packed as one extension type instead: tuples and dicts by their columns, lists again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from enum import Enum
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np

from soma_core.wire import arrays
from soma_core.wire.extensions import Extension

_TEXT = frozenset({str})
_LEAVES = frozenset({type(None), bool, int, float, bytes, bytearray})
_PLAIN = _LEAVES | {str, list, dict, tuple, memoryview}
_CONTAINERS = frozenset({list, tuple, dict})
_dtype_of = attrgetter("dtype")


class Kind(Enum):
    """How an object is packed that MessagePack has no type for."""

    PICKLE = "a pickle, or by a codec"
    STDLIB = "a type of the standard library"
    SCALAR = "a numpy scalar"
    OTHER = "in a way of its own"


class Column:
    """An object that becomes an extension type, with the content of that as it is to be packed."""

    __slots__ = ("content", "number", "original")

    def __init__(self, number: int, content: Any, original: Any) -> None:
        self.number, self.content, self.original = number, content, original


class Stdlibs:
    """A list of objects of one type of the standard library."""

    __slots__ = ("items", "replacing")

    def __init__(self, items: list[Any], replacing: Replacing) -> None:
        self.items, self.replacing = items, replacing


class Objects:
    """A list of objects that only a pickle can hold, alone or in tuples or dicts of one form.

    ``examples`` has one of each type of them, and ``one_by_one`` is what the list is packed as if
    each is pickled by itself.
    """

    __slots__ = ("examples", "items", "one_by_one")

    def __init__(self, items: list[Any], examples: Collection[Any], one_by_one: Any) -> None:
        self.items, self.examples, self.one_by_one = items, examples, one_by_one


class ScalarColumn:
    """A list of numpy scalars of one type."""

    __slots__ = ("items",)

    def __init__(self, items: np.ndarray[Any, Any]) -> None:
        self.items = items


class SurrogateText:
    """A text with lone surrogates."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class Replacing:
    """Replaces in an object what ``packb`` would not take, or only one by one.

    These are lists of tuples and of other objects, dicts with keys that are not text, texts that
    are not Unicode, and views of bytes that do not lie one by one.

    Args:
        kind_of: How an object is packed.
        by_columns: The types, ``tuple`` and ``dict``, of which lists are packed by columns. With
            ``dict``, the values of a dict are packed at once too, which nests extension types where
            plain dicts would not.
    """

    def __init__(self, kind_of: Callable[[Any], Kind], by_columns: Collection[type[Any]]) -> None:
        self._kind_of = kind_of
        self.dicts_at_once = dict in by_columns
        self._replace: dict[type[Any], Callable[[Any], Any]] = {
            dict: self._dict,
            list: self.of_list,
            tuple: self._tuple,
            memoryview: memoryview.tobytes,
            str: _text,
        }
        at_once: dict[type[Any], Callable[[list[Any]], Any]] = {
            tuple: self._tuples,
            dict: self._records,
        }
        self._list_of = {kind: at_once[kind] for kind in by_columns}

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
        return self._each(items, kinds)

    def of_items(self, items: Collection[Any]) -> list[Any]:
        """What stands for each of some items."""
        return self._each(items, set(map(type, items)))

    def _each(self, items: Collection[Any], kinds: set[type[Any]]) -> list[Any]:
        taken = _LEAVES | _TEXT if str in kinds and _are_unicode(items, kinds) else _LEAVES
        if kinds <= taken:
            return [*items]
        replace = self._replace.get
        return [i if type(i) in taken else replace(type(i), _itself)(i) for i in items]

    def _tuple(self, obj: tuple[Any, ...]) -> Any:
        return Column(Extension.TUPLE, one_by_one(self.of_list([*obj])), obj)

    def _dict(self, obj: Mapping[Any, Any]) -> Any:
        replace = self.of_list if self.dicts_at_once else self.of_items
        values = one_by_one(replace([*obj.values()]))
        is_text = set(map(type, obj)) <= _TEXT and _is_unicode("".join(obj))
        if is_text and type(values) is list:
            return dict(zip(obj, values, strict=True))
        return Column(Extension.MAP, [one_by_one(self.of_list([*obj])), values], obj)

    def _tuples(self, rows: list[tuple[Any, ...]]) -> Any:
        """A list of tuples: by position if they have one length."""
        with suppress(ValueError):  # their lengths differ
            if columns := [*zip(*rows, strict=True)]:
                return self._columns(Extension.TUPLES, [], columns, rows)
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
        packed = {*map(self._kind_of, examples)}
        if packed == {Kind.PICKLE}:
            return Objects(items, examples, items)
        if packed == {Kind.STDLIB} and len(kinds) == 1:
            return Stdlibs(items, self)
        if packed == {Kind.SCALAR}:
            dtypes = set(map(_dtype_of, items))
            if len(dtypes) == 1 and arrays.is_writable(next(iter(dtypes))):
                return ScalarColumn(np.array(items, dtypes.pop()))
        return items

    def _columns(
        self, number: int, head: list[Any], columns: Iterable[Any], rows: list[Any]
    ) -> Any:
        """The rows of a list by their columns; pickled as one if a column can only be pickled."""
        lists = [*map(list, columns)]
        replaced = [*map(self.of_list, lists)]
        by_column = Column(number, [*head, *map(one_by_one, replaced)], rows)
        if Objects not in set(map(type, replaced)):
            return by_column
        return Objects(rows, _one_of_each_type(lists), by_column)


def _itself(obj: Any) -> Any:
    return obj


def _text(text: str) -> Any:
    return text if _is_unicode(text) else SurrogateText(text)


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


def one_by_one(replaced: Any) -> Any:
    """What was replaced, where it cannot be a pickle of a list."""
    return replaced.one_by_one if type(replaced) is Objects else replaced


def _are_unicode(items: Collection[Any], kinds: set[type[Any]]) -> bool:
    """Whether all texts among some items are."""
    texts = items if len(kinds) == 1 else [item for item in items if type(item) is str]
    return _is_unicode("".join(texts))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
