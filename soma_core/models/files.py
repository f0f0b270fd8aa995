"""DataFile: data that the worker reads from a file, instead of getting it in a message."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

_MISSING: Any = ...


class DataFile(BaseModel):
    """Rows in a file, of which a worker reads those that a batch needs.

    Give one to ``batched_fit`` in place of an array: the data may be larger than memory.

    Args:
        path: A ``.npy`` file, a ``.npz`` file that ``numpy.savez`` wrote (not compressed), or a
            ``.parquet`` file where soma-codecs-arrow is installed. The worker opens it; a relative
            path is one of the host's working directory.
        key: The name of the array in a ``.npz`` file; None where it holds one array. Of a
            ``.parquet`` file the name of a column, the names of several, which make a matrix, or
            None for all columns by name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    key: str | tuple[str, ...] | None = None

    def __init__(
        self,
        /,
        path: str | os.PathLike[str] = _MISSING,
        key: str | Sequence[str] | None = None,
        **extra: Any,
    ) -> None:
        given = {} if path is _MISSING else {"path": path}  # that none came, validation says
        super().__init__(**given, key=key, **extra)

    @field_validator("path", mode="before")
    @classmethod
    def _absolute(cls, path: Any) -> Any:
        return os.path.abspath(path) if isinstance(path, str | os.PathLike) else path

    @field_validator("key", mode="before")
    @classmethod
    def _frozen(cls, key: Any) -> Any:
        return tuple(key) if isinstance(key, list) else key
