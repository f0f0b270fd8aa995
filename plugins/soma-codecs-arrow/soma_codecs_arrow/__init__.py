"""Tables as typed values and Parquet files as data; imports neither pandas nor pyarrow."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from soma_core import hookimpl
from soma_core.codecs import Codec, Encoded

__all__ = ["SOMA_API_VERSION", "soma_open_file", "soma_register_codecs"]

SOMA_API_VERSION = 1
_DISTRIBUTION = "soma-codecs-arrow"


@hookimpl
def soma_register_codecs() -> list[Codec]:
    """Let DataFrames, Series and Tables travel in Arrow's format."""
    return [
        _codec("pyarrow.Table", "pyarrow:Table", "tables"),
        _codec("pandas.DataFrame", "pandas:DataFrame", "frames"),
        _codec("pandas.Series", "pandas:Series", "series"),
    ]


@hookimpl
def soma_open_file(path: str, key: Any) -> Any:
    """The rows of a ``.parquet`` file; None for any other."""
    if not path.endswith(".parquet"):
        return None
    from soma_codecs_arrow.parquet import ParquetRows

    return ParquetRows(path, key)


def _codec(name: str, target: str, module_name: str) -> Codec:
    def module() -> Any:
        return import_module(f"{__name__}.{module_name}")

    def encode(obj: Any) -> Encoded:
        return module().encode(obj)  # type: ignore[no-any-return]

    def encode_line(obj: Any) -> Encoded:
        return module().encode(obj, aside=False)  # type: ignore[no-any-return]

    def decode(data: Any, buffers: list[Any]) -> Any:
        return module().decode(data, buffers)

    return Codec(name, target, encode, decode, _DISTRIBUTION, encode_line)
