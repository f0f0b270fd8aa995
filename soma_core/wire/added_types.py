"""Types that plugins add to the values that travel, and which of them the other side knows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.models.validation_errors import describe


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
        found: Any = sys.modules.get(module)
        for name in path.split("."):
            found = getattr(found, name, None)
        return found if isinstance(found, type) else None


class Codecs:
    """The codecs of this process on one connection."""

    def __init__(self, codecs: Iterable[Codec] = ()) -> None:
        self._by_name = {codec.name: codec for codec in codecs}
        self._by_type: dict[type[Any], Codec] = {}
        self._modules = 0
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
        modules = len(sys.modules)
        if modules != self._modules:  # some may have come that have classes of codecs
            for codec in self._by_name.values():
                known = codec.resolved()
                if known is not None:
                    self._by_type[known] = codec
            self._modules = modules
        return self._by_type.get(type(obj))

    def shares(self, codec: Codec) -> bool:
        """Whether the other side has it; true as long as it has said nothing."""
        return codec.name in self._shared

    def decode(self, name: Any, distribution: Any, data: Any, buffers: list[Any]) -> Any:
        """The object that a codec of this process reads from what came.

        Raises:
            ProtocolError: ``invalid_command``: there is no such codec here, or it cannot read it.
        """
        codec = self.get(name)
        if codec is None:
            raise _unknown(name, distribution, self.names())
        try:
            return codec.decode(data, buffers)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a codec may raise anything
            raise _failed(codec, "read what came", error) from error


def encode_added(
    codec: Codec, encode: Callable[[Any], Encoded], obj: Any, *, or_pickle: bool
) -> Encoded | None:
    """What a codec's function for the dialect makes of an object, each buffer as plain bytes.

    None if the codec cannot keep it whole, and it may travel as a pickle.

    Raises:
        ProtocolError: ``pickle_refused``, or ``invalid_command`` if the codec failed.
    """
    try:
        encoded = encode(obj)
        if not isinstance(encoded, Encoded):
            raise TypeError(f"encode returns an Encoded, got a {_class_name(encoded)}")
        if encoded.data is obj:
            raise TypeError("encode returns an Encoded of what the object holds, got the object")
        return Encoded(encoded.data, [_plain_bytes(buffer) for buffer in encoded.buffers])
    except Unencodable as reason:
        if or_pickle:
            return None
        raise ProtocolError(
            ErrorCode.PICKLE_REFUSED,
            f"this {_class_name(obj)} can only travel as a pickle, which this connection refuses: "
            f"{codec.distribution} says: {reason}",
        ) from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a codec may raise anything
        raise _failed(codec, f"encode a {_class_name(obj)}", error) from error


def _plain_bytes(buffer: Any) -> memoryview:
    """A C-contiguous buffer as bytes; another one raises TypeError."""
    view = memoryview(buffer)
    return view.cast("B") if view.nbytes else memoryview(b"")


def _class_name(obj: object) -> str:
    return f"{type(obj).__module__}.{type(obj).__qualname__}"


def _failed(codec: Codec, task: str, error: BaseException) -> ProtocolError:
    text = describe(error) if isinstance(error, ValidationError) else error
    return ProtocolError(
        ErrorCode.INVALID_COMMAND,
        f"the codec {codec.name!r} of {codec.distribution} could not {task}: "
        f"{type(error).__name__}: {text}",
    )


def _unknown(name: Any, distribution: Any, known: Sequence[str]) -> ProtocolError:
    named = isinstance(distribution, str) and distribution
    remedy = f"pip install {distribution:.100}" if named else "install the plugin that has it"
    return ProtocolError(
        ErrorCode.INVALID_COMMAND,
        f"a value of the codec {name!r:.100} came, which is not installed in this process; "
        f"{remedy} where it runs (its codecs: {', '.join(known) or 'none'})",
    )
