"""Files: arrays read from and written to npy, npz and csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
from numpy.lib.format import read_array as read_npy
from numpy.lib.npyio import NpzFile

from soma_core.cli.console import CommandFailed
from soma_core.cli.pipeline import ArrayFile
from soma_core.models.regular_file import open_regular

Array = np.ndarray[Any, Any]

_LONGEST_LINE = 1 << 26  # characters


def read_array(source: ArrayFile, base: Path) -> Array:
    """Read an array; its path is relative to a base.

    Raises:
        CommandFailed: The file cannot be read or does not hold what is asked for.
    """
    path = base / source.path
    try:
        with open_regular(path) as file:
            array = _READERS[path.suffix.lower()](file, source)
        return array if source.dtype is None else array.astype(source.dtype)
    except OSError as error:
        raise CommandFailed(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:  # of csv, zipfile or zlib, for a file that is damaged
        raise CommandFailed(f"{path}: {error or type(error).__name__}") from None


def _read_npz(file: BinaryIO, source: ArrayFile) -> Array:
    with NpzFile(file, allow_pickle=False) as archive:
        names = list(archive)
        key = source.key or (names[0] if len(names) == 1 else None)
        if key not in names:
            asked = "several arrays" if key is None else f"no array {key!r}"
            raise ValueError(f"the file holds {asked}; set key to one of {', '.join(names)}")
        chosen: Array = archive[key]
        return chosen


def _read_csv(file: BinaryIO, source: ArrayFile) -> Array:
    with io.TextIOWrapper(file, newline="", encoding="utf-8-sig") as stream:
        rows = [row for row in csv.reader(_lines(stream)) if row]
    if not rows:
        raise ValueError("the file is empty")
    width = len(rows[0])
    ragged = next((number for number, row in enumerate(rows, start=1) if len(row) != width), None)
    if ragged is not None:
        raise ValueError(
            f"row {ragged} has {len(rows[ragged - 1])} columns where the first has {width}"
        )
    names = rows.pop(0) if source.header else []
    cells = np.array(rows, dtype=str).reshape(len(rows), width)
    return _as_numbers(_select(cells, names, source.columns))


def _lines(stream: TextIO) -> Iterator[str]:
    """The lines of a table; what is as long as none ever is has none."""
    while line := stream.readline(_LONGEST_LINE + 1):
        if len(line) > _LONGEST_LINE:
            raise ValueError(f"a line has more than {_LONGEST_LINE:,} characters")
        yield line


def _select(cells: Array, names: list[str], columns: Any) -> Array:
    if columns is None:
        return cells
    if isinstance(columns, list):
        return cells[:, [_position(column, names, cells.shape[1]) for column in columns]]
    return cells[:, _position(columns, names, cells.shape[1])]


def _position(column: str | int, names: list[str], width: int) -> int:
    if isinstance(column, int):
        if column >= width:
            raise ValueError(f"there is no column {column}; the columns are 0 to {width - 1}")
        return column
    if column not in names:
        raise ValueError(f"there is no column {column!r}; the columns are {', '.join(names)}")
    return names.index(column)


def _as_numbers(cells: Array) -> Array:
    """Whole numbers if all cells are such, else floats, else the text that they are."""
    for kind in (np.int64, np.float64):
        try:
            return cells.astype(kind)
        except (ValueError, OverflowError):
            continue
    return cells


_READERS: dict[str, Callable[[BinaryIO, ArrayFile], Array]] = {
    ".npy": lambda file, source: read_npy(file, allow_pickle=False),
    ".npz": _read_npz,
    ".csv": _read_csv,
}


def write_array(value: Any, path: Path) -> tuple[int, ...]:
    """Write a filter's output, and return its shape.

    Raises:
        CommandFailed: It is not an array, or the format cannot hold it.
    """
    array = _as_array(value)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _WRITERS[path.suffix.lower()](array, path)
    except OSError as error:
        raise CommandFailed(f"cannot write {path}: {error.strerror or error}") from None
    return tuple(array.shape)


def _as_array(value: Any) -> Array:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise CommandFailed(f"the output is not an array: {error}") from None
    if array.dtype.hasobject:
        raise CommandFailed(
            f"the output is a {type(value).__name__}, which no array file can hold; end the chain "
            "with a filter that returns numbers or text"
        )
    return array


def _write_csv(array: Array, path: Path) -> None:
    if array.ndim > 2:
        raise CommandFailed(
            f"an output of shape {list(array.shape)} has no rows and columns for csv; use npy"
        )
    table = array.reshape(-1, 1) if array.ndim < 2 else array
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["output"] if array.ndim < 2 else range(table.shape[1]))
        writer.writerows(table.tolist())


_WRITERS: dict[str, Callable[[Array, Path], None]] = {
    ".npy": lambda array, path: np.save(path, array, allow_pickle=False),
    ".npz": lambda array, path: np.savez_compressed(path, output=array),
    ".csv": _write_csv,
}
