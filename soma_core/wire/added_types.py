"""Types that plugins add to the values that travel, and which of them the other side knows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

__all__ = ["Codec", "Codecs", "Encoded", "Unencodable"]


class Unencodable(Exception):
    """Raised by a codec for an object of its type that it cannot keep whole; the text says why.

    The object then travels as if there were no codec: as a pickle, where these are allowed.
    """


@dataclass(frozen=True)
class Encoded:
    """What a codec made of an object.

    Attributes:
        data: What JSON can hold, arrays, bytes, or anything else that travels as a typed value.
        buffers: Bytes that travel beside it, each C-contiguous: buffers of a frame, which are
            views of this memory until they are sent, or base64 in a line.
    """

    data: Any = None
    buffers: Sequence[Any] = ()


@dataclass(frozen=True)
class Codec:
    """How one type of a plugin travels, as ``soma_register_codecs`` returns it.

    Attributes:
        name: What the wire calls it: ``"pandas.DataFrame"``. Both sides must mean the same by
            it, so a codec whose form changes takes another name.
        target: The class, or where it is: ``"pandas:DataFrame"``. A name costs no import; only
            objects of exactly this class are encoded.
        encode: Given an object, returns an :class:`Encoded`; what travels is a view of the
            object where it can be.
        decode: Given the data and the buffers of an Encoded, returns an equal object. Each
            buffer is writable and the object's own from then on; they come from the other side,
            so check them and raise ValueError with what is wrong.
        distribution: What to install where the codec is missing.
        encode_line: Called instead of ``encode`` where a line of JSON is written, for a form that
            is easier to read in other languages; ``decode`` reads both.
    """

    name: str
    target: type[Any] | str
    encode: Callable[[Any], Encoded]
    decode: Callable[[Any, list[Any]], Any]
    distribution: str
    encode_line: Callable[[Any], Encoded] | None = None

    def resolved(self) -> type[Any] | None:
        """The class; None as long as nobody has imported its module: then no object is of it."""
        if not isinstance(self.target, str):
            return self.target
        module, _, path = self.target.partition(":")
        found = reduce(_attribute, path.split("."), sys.modules.get(module))
        return found if isinstance(found, type) else None


def _attribute(owner: Any, name: str) -> Any:
    return getattr(owner, name, None)


class Codecs:
    """The codecs of this process on one connection.

    Args:
        codecs: Those that plugins added.
    """

    def __init__(self, codecs: Iterable[Codec] = ()) -> None:
        self._by_name = {codec.name: codec for codec in codecs}
        self._by_type: dict[type[Any], Codec] = {}
        self._shared = frozenset(self._by_name)

    def names(self) -> list[str]:
        """The names of all of them, sorted."""
        return sorted(self._by_name)

    def get(self, name: Any) -> Codec | None:
        """The one of a name."""
        return self._by_name.get(name) if isinstance(name, str) else None

    def limit_to(self, names: Iterable[str]) -> None:
        """Encode only with those that the other side has as well; decoding goes on with all.

        Where several hosts share a worker, it encodes with what all of them have.
        """
        self._shared &= frozenset(names)

    def of(self, obj: object) -> Codec | None:
        """The one for an object, whether or not the other side has it."""
        kind = type(obj)
        if len(self._by_type) < len(self._by_name) and kind not in self._by_type:
            for codec in self._by_name.values():
                known = codec.resolved()
                if known is not None:
                    self._by_type[known] = codec
        return self._by_type.get(kind)

    def shares(self, codec: Codec) -> bool:
        """Whether the other side has it; true as long as it has said nothing."""
        return codec.name in self._shared
