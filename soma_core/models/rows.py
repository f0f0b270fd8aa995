"""Rows: how many some data has, a selection of them, and parts put together again.

Lists, tuples, arrays, tensors, data frames and tables have rows along their first axis. A dict
holds columns: its rows are those of its values, dicts among them. Anything else (a number, a text,
an array without axes) has no rows, and belongs to every row. No library is imported for this but
numpy: a tensor or a frame brings its own.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np

Selection = slice | np.ndarray[Any, Any]
"""Which rows: a slice of them, or their numbers in any order."""

_WITHOUT_INDEX = ("coo", "dia", "bsr")


def count(value: Any, name: str = "data") -> int | None:
    """The number of rows; None for what has no rows; ``name`` is for the error.

    Raises:
        ValueError: Columns of a dict differ in their number of rows.
    """
    if type(value) is np.ndarray:  # the usual case: asked of every call that may be joined
        return len(value) if value.ndim else None
    return common_count({name: value})


def count_if_equal(value: Any) -> int | None:
    """The number of rows; None for what has no rows, or columns of different numbers."""
    with suppress(ValueError):
        return count(value)
    return None


def common_count(named: Mapping[str, Any]) -> int | None:
    """The number of rows that several data have in common; None if none of them has rows.

    Args:
        named: The data by the names that the error gives them; what has no rows fits any number.

    Raises:
        ValueError: They, or the columns of one of them, differ in their number of rows.
    """
    lengths = {key: size for name, value in named.items() for key, size in _lengths(name, value)}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {length:,}" for name, length in lengths.items())
        raise ValueError(f"{' and '.join(named)} must have equally many rows; {listed}")
    return next(iter(lengths.values()), None)


def take(value: Any, selection: Selection) -> Any:
    """The selected rows, in a value of the same kind; what has no rows is returned as it is.

    A slice of an array or a tensor is a view. Rows by number are copies.
    """
    if type(value) is np.ndarray and value.ndim:  # the usual case: asked for in every batch
        return value[selection]
    if isinstance(value, dict):
        return _with_columns(value, {key: take(item, selection) for key, item in value.items()})
    if isinstance(value, list | tuple):
        if isinstance(selection, slice):
            return value[selection]
        kind = list if isinstance(value, list) else tuple
        return kind(value[row] for row in selection)
    if not _has_rows(value):
        return value
    if hasattr(value, "iloc"):  # a data frame: its brackets select columns
        return value.iloc[selection]
    library = _kind(value.__class__)
    if library == "pyarrow" and not isinstance(selection, slice):
        return value.take(selection)
    if library == "scipy" and value.format in _WITHOUT_INDEX:
        return value.tocsr()[selection].asformat(value.format)
    return value[selection]


def concatenate(parts: Sequence[Any]) -> Any:
    """Put parts together, one after the other; one part alone is returned as it is.

    Args:
        parts: At least one, all of one kind: arrays, tensors, lists, tuples, data frames, tables,
            sparse matrices, or dicts of these. A column without rows must be equal in all.

    Raises:
        ValueError: They cannot be put together.
    """
    if len(parts) == 1:
        return parts[0]
    kinds = {_kind(type_of_part) for type_of_part in set(map(type, parts))}
    join = _JOINS.get(kinds.pop()) if len(kinds) == 1 else None
    if join is None:
        came = ", ".join(sorted({type(part).__name__ for part in parts}))
        raise ValueError(
            f"parts of type {came} cannot be put together; expected arrays, tensors, lists, data "
            "frames, or dicts of these, all of one kind"
        )
    try:
        return join(parts)
    except Exception as error:  # each library raises its own
        raise ValueError(f"parts cannot be put together: {error}") from error


def is_numbered(value: Any) -> bool:
    """Whether some data is a frame whose rows have no names but their numbers, from 0 on."""
    index: Any = getattr(value, "index", None)
    return type(index).__name__ == "RangeIndex" and bool(index.start == 0 and index.step == 1)


def renumbered(value: Any, like: Any) -> Any:
    """Rows that were put together or taken apart, numbered from 0 on where those of ``like`` are.

    Args:
        value: The rows.
        like: What they were made of.
    """
    if isinstance(value, dict):
        return _with_columns(value, {key: renumbered(value[key], like[key]) for key in value})
    return value.reset_index(drop=True) if is_numbered(like) else value


def _with_columns(like: dict[Any, Any], columns: dict[Any, Any]) -> dict[Any, Any]:
    """Columns in a dict of the class of another one that has them."""
    if type(like) is dict:
        return columns
    changed = copy.copy(like)
    for name, column in columns.items():
        changed[name] = column
    return changed


def _lengths(name: str, value: Any) -> Iterator[tuple[str, int]]:
    """The number of rows of each thing that has some, by its name."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _lengths(f"{name}[{key!r}]", item)
    elif isinstance(value, list | tuple):
        yield name, len(value)
    elif _has_rows(value):
        yield name, int(value.shape[0])


def _has_rows(value: Any) -> bool:
    indexed = hasattr(value, "__getitem__") or _kind(value.__class__) == "scipy"
    return bool(getattr(value, "shape", ())) and indexed


@lru_cache(maxsize=256)
def _kind(type_of_part: Any) -> str:
    """What says how values of a type are put together: a builtin type, or a library."""
    for base in type_of_part.__mro__:
        module = base.__module__.partition(".")[0]
        name: str = base.__name__ if module == "builtins" else module
        if name in _JOINS:
            return name
    return ""


def _join_columns(parts: Sequence[dict[Any, Any]]) -> dict[Any, Any]:
    names = [list(part) for part in parts]
    if any(set(other) != set(names[0]) for other in names):
        raise ValueError(f"they have different columns: {names}")
    return {key: _join_column(key, [part[key] for part in parts]) for key in names[0]}


def _join_column(key: object, parts: Sequence[Any]) -> Any:
    if count(parts[0]) is not None:
        return concatenate(parts)
    if any(part is not parts[0] and part != parts[0] for part in parts):
        raise ValueError(f"{key!r} has no rows and is not the same in all: {parts}")
    return parts[0]


def _join_arrays(parts: Sequence[Any]) -> Any:
    kinds = set(map(type, parts))
    masked = any(issubclass(kind, np.ma.MaskedArray) for kind in kinds)
    joined = (np.ma.concatenate if masked else np.concatenate)(parts)
    return joined.view(np.recarray) if kinds == {np.recarray} else joined


def _join_sparse(parts: Sequence[Any]) -> Any:
    return sys.modules["scipy.sparse"].vstack(parts, format=parts[0].format)


_JOINS: dict[str, Callable[[Sequence[Any]], Any]] = {
    "dict": _join_columns,
    "list": lambda parts: [row for part in parts for row in part],
    "tuple": lambda parts: tuple(row for part in parts for row in part),
    "numpy": _join_arrays,
    "torch": lambda parts: sys.modules["torch"].cat(parts),
    "pandas": lambda parts: sys.modules["pandas"].concat(parts),
    "pyarrow": lambda parts: sys.modules["pyarrow"].concat_tables(parts),
    "scipy": _join_sparse,
}
