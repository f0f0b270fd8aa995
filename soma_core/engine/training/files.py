"""Files as data: rows that are read as batches need them, and are not kept in memory."""

from __future__ import annotations

import mmap
import os
import struct
from typing import Any, BinaryIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
from numpy.lib import format as npy

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.models.files import DataFile
from soma_core.models.regular_file import open_regular
from soma_core.models.rows import Selection
from soma_core.plugins.manager import PluginSet

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a member of a zip file: its length varies
_RETAINED = 1 << 25  # bytes of a file that may stay mapped before they are let go
_FAULT = 1 << 16  # bytes that the kernel maps around one that is touched


def open_data(source: DataFile, plugins: PluginSet | None = None) -> Any:
    """Open the rows in a file: an array of numpy's, or what a plugin reads.

    Raises:
        ProtocolError: ``invalid_command``: there is no such file, or nothing in it whose rows can
            be read one by one; or the operator of this process lets hosts name no files.
    """
    if os.environ.get("SOMA_DATA_FILES") == "never":
        raise ProtocolError(
            ErrorCode.INVALID_COMMAND,
            "files: this worker reads no files that hosts name (SOMA_DATA_FILES=never in its "
            "environment); send the data, or an iterator of chunks",
        )
    try:
        if not source.path.endswith((".npy", ".npz")):
            return _opened_by_plugin(source, plugins)
        with open_regular(source.path) as file:
            if source.path.endswith(".npz"):
                file.seek(_member_start(file, source.key))
            elif source.key is not None:
                raise ValueError(f"it is no .npz file, so that there is no {source.key!r} in it")
            return _map(file)
    except (OSError, TypeError, ValueError, BadZipFile) as error:
        raise ProtocolError(
            ErrorCode.INVALID_COMMAND,
            f"files: {source.path}: {error}",
            remote_type=type(error).__name__,
        ) from None


def _opened_by_plugin(source: DataFile, plugins: PluginSet | None) -> Any:
    key = list(source.key) if isinstance(source.key, tuple) else source.key
    opened = plugins and plugins.hook.soma_open_file(path=source.path, key=key)
    if opened is None:
        raise ValueError(
            "files are .npy, .npz, and what plugins read: pip install soma-codecs-arrow in the "
            "worker for .parquet"
        )
    return opened


def _member_start(file: BinaryIO, key: str | tuple[str, ...] | None) -> int:
    """Where an array begins in a ``.npz`` file."""
    members = {info.filename.removesuffix(".npy"): info for info in ZipFile(file).infolist()}
    if key is None and len(members) == 1:
        key = next(iter(members))
    if not isinstance(key, str) or key not in members:
        raise ValueError(f"expected key= to be one of the arrays in it: {', '.join(members)}")
    info = members[key]
    if info.compress_type != ZIP_STORED:
        raise ValueError(
            f"{key!r} is compressed, so that its rows cannot be read one by one; write it with "
            "numpy.savez or as .npy"
        )
    file.seek(info.header_offset)
    _, name_size, extra_size = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    return int(info.header_offset + _LOCAL_HEADER.size + name_size + extra_size)


def _map(file: BinaryIO) -> _MappedArray:
    """Map the array whose ``.npy`` header begins where the file stands."""
    version = npy.read_magic(file)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of .npy files is not known")
    shape, fortran_order, dtype = readers[version](file)
    if not shape or dtype.hasobject:
        raise ValueError(f"it holds an array of shape {shape} and type {dtype}; expected rows")
    content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    array: np.ndarray[Any, Any] = np.ndarray(
        shape, dtype, content, file.tell(), order="F" if fortran_order else "C"
    )
    return _MappedArray(array, content)


class _MappedArray:
    """An array in a file; the rows that are selected are copied, and are not kept in memory.

    Attributes:
        shape: The shape of the array.
        dtype: The type of its elements.
    """

    def __init__(self, array: np.ndarray[Any, Any], content: mmap.mmap) -> None:
        self._array, self._content = array, content
        self.shape, self.dtype = array.shape, array.dtype.newbyteorder("=")
        self._touched = 0

    def __getitem__(self, selection: Selection) -> np.ndarray[Any, Any]:
        in_one_piece = isinstance(selection, slice) and self._array.flags.c_contiguous
        chosen = self._array[selection].astype(self.dtype, copy=isinstance(selection, slice))
        touched = chosen.nbytes if in_one_piece else max(chosen.nbytes, len(chosen) * _FAULT)
        self._let_go(touched)
        return chosen

    def _let_go(self, touched: int) -> None:
        """Do not let pages of the file count as memory of this process for long."""
        self._touched += touched
        if self._touched > _RETAINED and hasattr(mmap, "MADV_DONTNEED"):
            self._content.madvise(mmap.MADV_DONTNEED)
            self._touched = 0
