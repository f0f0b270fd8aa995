"""DataFile: data that the worker reads from a file, instead of getting it in a message."""

from __future__ import annotations

import os
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

__all__ = ["DataFile"]


class DataFile(BaseModel):
    """An array in a file, of which a worker reads the rows that a batch needs.

    Give one to ``batched_fit`` in place of an array: the data may be larger than memory.

    Args:
        path: A ``.npy`` file, or a ``.npz`` file that ``numpy.savez`` wrote (not compressed). The
            worker opens it; a relative path is one of the host's working directory.
        key: The name of the array in a ``.npz`` file; None where it holds one array.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    key: str | None = None

    def __init__(self, path: str | os.PathLike[str], key: str | None = None, **extra: Any) -> None:
        super().__init__(path=path, key=key, **extra)

    @field_validator("path", mode="before")
    @classmethod
    def _absolute(cls, path: Any) -> Any:
        return os.path.abspath(path) if isinstance(path, str | os.PathLike) else path
