"""Tables as typed values: what this plugin adds to soma, importing neither pandas nor pyarrow."""

from __future__ import annotations

from typing import Any

from soma_core import hookimpl
from soma_core.codecs import Codec, Encoded

__all__ = ["SOMA_API_VERSION", "soma_register_codecs"]

SOMA_API_VERSION = 1
_DISTRIBUTION = "soma-codecs-arrow"


@hookimpl
def soma_register_codecs() -> list[Codec]:
    """Let DataFrames, Series and Tables travel in Arrow's format."""
    return [
        _codec("pyarrow.Table", "pyarrow:Table", _table),
        _codec("pandas.DataFrame", "pandas:DataFrame", _frame),
        _codec("pandas.Series", "pandas:Series", _series),
    ]


def _codec(name: str, target: str, module: Any) -> Codec:
    def encode(obj: Any) -> Encoded:
        return module().encode(obj)  # type: ignore[no-any-return]

    def encode_line(obj: Any) -> Encoded:
        return module().encode(obj, aside=False)  # type: ignore[no-any-return]

    def decode(data: Any, buffers: list[Any]) -> Any:
        return module().decode(data, buffers)

    return Codec(name, target, encode, decode, _DISTRIBUTION, encode_line)


def _table() -> Any:
    from soma_codecs_arrow import tables

    return tables


def _frame() -> Any:
    from soma_codecs_arrow import frames

    return frames


def _series() -> Any:
    from soma_codecs_arrow import series

    return series
