"""Codec: Python objects to the data of a message and back.

An :class:`Encoder` turns an object into what JSON can hold, and an :class:`Encoder` for frames
puts bytes aside as buffers. A :class:`Decoder` reads both. What ordinary JSON says is plain;
everything else is a tagged value (``soma_core.models.values``) or a ``{"$soma": …}`` tag.
"""

from __future__ import annotations

import base64
import math
import pickle
import sys
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from pydantic import ValidationError

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.models.validation_errors import describe
from soma_core.models.values import EncodedBytes, TensorData
from soma_core.wire import arrays
from soma_core.wire.added_types import Codec, Encoded, Unencodable
from soma_core.wire.pickles import Pickles

__all__ = [
    "MAX_NESTING",
    "Decoder",
    "FrameEncoder",
    "LineEncoder",
    "from_value",
    "is_plain_torch_tensor",
    "to_value",
]

MAX_NESTING = 200
"""How deep lists and dicts of a message may nest; what the JSON parser accepts too."""

_DATA_NESTING = MAX_NESTING - 20  # leaves room for the message and the tags around the data
_TAGS = frozenset({"Tensor", "Text", "Json", "Bytes", "Object"})
_TAG_KEYS = frozenset({"type", "data"})
_MOST_EMPTY_LISTS = 100_000
_PACKED_FROM = 256  # floats in a list from which on reading their text costs more than a buffer
_PICKLE_KEY = "__pickle_b64__"
_EMPTY_STATES: tuple[dict[str, Any], ...] = (
    {"type": "Empty"},
    {"type": "Json", "data": {"type": "Empty"}},
)
_PLAIN = frozenset({str, bool, type(None)})
_NESTING = frozenset({list, dict})
_LARGEST_INT = 10**4000  # Python's own limit for reading an int back from text is 4,300 digits


def _looks_tagged(obj: dict[Any, Any]) -> bool:
    """Whether a reader would take this dict of the user's for a tag."""
    if "$soma" in obj:
        return True
    keys = obj.keys()
    if keys == _TAG_KEYS:
        return obj["type"].__class__ is str and obj["type"] in _TAGS
    return keys == {_PICKLE_KEY} or (keys == {"type"} and obj["type"] == "Empty")


class Encoder:
    """What both dialects share: plain data as it is, the rest through four methods to define.

    Args:
        pickles: Whether and how objects that are not data are pickled.
    """

    def __init__(self, *, pickles: Pickles | None = None) -> None:
        self._pickles = pickles or _ALLOWED

    def encode(self, obj: Any, depth: int = 0) -> Any:
        """The JSON-able form of an object.

        Raises:
            ProtocolError: ``pickle_refused``, ``too_large`` if it nests too deep, or
                ``invalid_command`` if it cannot be pickled.
        """
        kind = type(obj)
        if kind is np.ndarray:
            return self._array(obj)
        if kind in _UNCHANGED:
            return obj
        method = _METHODS.get(kind)
        if method is not None:
            return getattr(self, method)(obj, depth)
        if isinstance(obj, np.generic):
            return self._scalar(obj)
        if is_plain_torch_tensor(obj):
            return self._torch(obj)
        codec = self._pickles.codecs.of(obj)
        if codec is not None and self._pickles.codecs.shares(codec):
            return self._added(codec, obj, depth)
        return self._pickle(obj)

    def binary(self, data: Any) -> Any:
        """The form of a field that holds bytes, such as a state."""
        raise NotImplementedError

    def _tuple(self, obj: tuple[Any, ...], depth: int) -> Any:
        raise NotImplementedError

    def _bytes(self, obj: bytes, depth: int = 0) -> Any:
        raise NotImplementedError

    def _float(self, obj: float, depth: int = 0) -> Any:
        raise NotImplementedError

    def _scalar(self, obj: np.generic) -> Any:
        raise NotImplementedError

    def _array_data(self, obj: np.ndarray[Any, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def _torch(self, obj: Any) -> Any:
        raise NotImplementedError

    def _pickle(self, obj: Any) -> Any:
        raise NotImplementedError

    def _added(self, codec: Codec, obj: Any, depth: int) -> Any:
        """An object of a type that a plugin added."""
        try:
            encoded = _check_encoded(self._encode_with(codec)(obj))
        except Unencodable as reason:
            return self._unencodable(codec, obj, reason)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a codec may raise anything
            raise _failed(codec, f"encode a {_class_name(obj)}", error) from error
        return {
            "$soma": "codec",
            "codec": codec.name,
            "distribution": codec.distribution,
            "data": self.encode(encoded.data, self._deeper(depth, 2)),
            "buffers": [self.binary(buffer) for buffer in encoded.buffers],
        }

    def _encode_with(self, codec: Codec) -> Callable[[Any], Encoded]:
        return codec.encode

    def _unencodable(self, codec: Codec, obj: Any, reason: Unencodable) -> Any:
        if self._pickles.allowed:
            return self._pickle(obj)
        raise ProtocolError(
            ErrorCode.PICKLE_REFUSED,
            f"this {_class_name(obj)} can only travel as a pickle, which this connection refuses: "
            f"{codec.distribution} says: {reason}",
        )

    def _int(self, obj: int, depth: int = 0) -> Any:
        if -_LARGEST_INT < obj < _LARGEST_INT:
            return obj
        return {"$soma": "int", "value": hex(obj)}

    def _list(self, obj: list[Any], depth: int) -> Any:
        kinds = set(map(type, obj))
        if kinds <= _PLAIN:
            return obj
        if kinds == {float}:
            return self._floats(obj)
        deeper = self._deeper(depth)
        return [self.encode(item, deeper) for item in obj]

    def _floats(self, obj: list[float]) -> Any:
        if all(map(math.isfinite, obj)):
            return obj
        return [self._float(item) for item in obj]

    def _dict(self, obj: dict[Any, Any], depth: int) -> Any:
        if not all(type(key) is str for key in obj):
            return self._pickle(obj)
        if _looks_tagged(obj):
            inside = self._deeper(depth, 3)
            items = [[key, self.encode(item, inside)] for key, item in obj.items()]
            return {"$soma": "dict", "items": items}
        deeper = self._deeper(depth)
        return {key: self.encode(item, deeper) for key, item in obj.items()}

    def _deeper(self, depth: int, levels: int = 1) -> int:
        if depth + levels > _DATA_NESTING:
            raise ProtocolError(
                ErrorCode.TOO_LARGE,
                f"the data nests more than {_DATA_NESTING} levels deep (or contains itself)",
            )
        return depth + levels

    def _array(self, obj: np.ndarray[Any, Any]) -> Any:
        if obj.dtype.hasobject or obj.dtype.kind == "T":
            return self._pickle(obj)
        try:
            spelling = arrays.dtype_to_wire(obj.dtype)
        except ValueError:
            return self._pickle(obj)
        data = self._array_data(obj)
        data["dtype"] = spelling
        data["shape"] = obj.shape
        return {"type": "Tensor", "data": data}


_ALLOWED = Pickles()
_UNCHANGED = frozenset({type(None), bool, str})
_METHODS = {
    int: "_int",
    float: "_float",
    list: "_list",
    dict: "_dict",
    tuple: "_tuple",
    bytes: "_bytes",
}


def is_plain_torch_tensor(obj: Any) -> bool:
    """Whether it is a torch tensor whose elements lie in memory one by one; never imports torch."""
    torch = sys.modules.get("torch")
    if torch is None or type(obj) is not torch.Tensor:
        return False
    return obj.layout is torch.strided and not obj.is_quantized and not obj.is_nested


def _b64(data: Any) -> str:
    return base64.b64encode(data).decode("ascii")


class LineEncoder(Encoder):
    """Encodes for the lines dialect: nothing but JSON that any language reads.

    Args:
        pickles: Whether and how objects that are not data are pickled.
        tensors_as_lists: Whether torch tensors become nested lists of numbers.
    """

    def __init__(self, *, pickles: Pickles | None = None, tensors_as_lists: bool = False) -> None:
        super().__init__(pickles=pickles)
        self._tensors_as_lists = tensors_as_lists

    def binary(self, data: Any) -> str:
        return _b64(data)

    def _tuple(self, obj: tuple[Any, ...], depth: int) -> Any:
        return self._list(list(obj), depth)

    def _bytes(self, obj: bytes, depth: int = 0) -> Any:
        return {"type": "Bytes", "data": list(obj)}

    def _float(self, obj: float, depth: int = 0) -> Any:
        if math.isfinite(obj):
            return obj
        return {"$soma": "float", "value": repr(obj)}

    def _scalar(self, obj: np.generic) -> Any:
        if (obj.dtype.kind in "biufUS" and obj.dtype.itemsize <= 8) or obj.dtype.kind in "US":
            return self.encode(obj.item())
        return self._array(np.asarray(obj))

    def _array_data(self, obj: np.ndarray[Any, Any]) -> dict[str, Any]:
        readable = obj.dtype.kind in "iuf" and obj.dtype.itemsize <= 8
        if readable and bool(np.isfinite(obj).all()):
            return {"values": obj.ravel().tolist()}
        return {"b64": _b64(arrays.array_to_bytes(obj))}

    def _torch(self, obj: Any) -> Any:
        if self._tensors_as_lists:
            return self.encode(obj.detach().tolist())
        name = arrays.torch_dtype_name(obj)
        data: dict[str, Any] = {"dtype": name, "container": "torch", "shape": tuple(obj.shape)}
        if not (obj.is_complex() or name == "bool" or name.startswith("float8")) and bool(
            obj.isfinite().all()
        ):
            data["values"] = obj.detach().reshape(-1).tolist()
        else:
            data["b64"] = _b64(arrays.tensor_to_bytes(obj))
        return {"type": "Tensor", "data": data}

    def _encode_with(self, codec: Codec) -> Callable[[Any], Encoded]:
        return codec.encode_line or codec.encode

    def _pickle(self, obj: Any) -> Any:
        return {_PICKLE_KEY: _b64(self._pickles.dump(obj))}


class FrameEncoder(Encoder):
    """Encodes for frames: every type kept, bytes put aside.

    Args:
        pickles: Whether and how objects that are not data are pickled.

    Attributes:
        buffers: What was put aside, in the order of the indexes in the encoded data. They are
            views of the caller's memory: send them before the caller goes on.
    """

    def __init__(self, *, pickles: Pickles | None = None) -> None:
        self._pickles = pickles or _ALLOWED  # what the base does, without the way there
        self.buffers: list[Any] = []

    def binary(self, data: Any) -> Any:
        return {"type": "Bytes", "data": {"buffer": self._put_aside(data)}}

    def _put_aside(self, data: Any) -> int:
        self.buffers.append(data)
        return len(self.buffers) - 1

    def _tuple(self, obj: tuple[Any, ...], depth: int) -> Any:
        return {"$soma": "tuple", "items": super()._list(list(obj), self._deeper(depth))}

    def _list(self, obj: list[Any], depth: int) -> Any:
        if len(obj) >= _PACKED_FROM and set(map(type, obj)) == {float}:
            return {"$soma": "floats", "buffer": self._put_aside(np.array(obj, "<f8").data)}
        return super()._list(obj, depth)

    def _bytes(self, obj: bytes, depth: int = 0) -> Any:
        return self.binary(obj)

    def _float(self, obj: float, depth: int = 0) -> float:
        return obj

    def _floats(self, obj: list[float]) -> Any:
        return obj

    def _scalar(self, obj: np.generic) -> Any:
        if obj.dtype.hasobject:
            return self._pickle(obj)
        return {"$soma": "scalar", "array": self._array(np.asarray(obj))}

    def _array(self, obj: np.ndarray[Any, Any]) -> Any:
        plain = arrays.name_and_bytes(obj)
        if plain is None:
            return super()._array(obj)
        name, view = plain
        buffers = self.buffers
        buffers.append(view)
        return arrays.plain_array(len(buffers) - 1, name, obj.shape)

    def _array_data(self, obj: np.ndarray[Any, Any]) -> dict[str, Any]:
        return {"buffer": self._put_aside(arrays.array_to_bytes(obj))}

    def _torch(self, obj: Any) -> Any:
        name, data = arrays.tensor_name_and_bytes(obj) or (
            arrays.torch_dtype_name(obj),
            arrays.tensor_to_bytes(obj),
        )
        wire = arrays.plain_array(self._put_aside(data), name, tuple(obj.shape))
        wire["data"]["container"] = "torch"
        return wire

    def _pickle(self, obj: Any) -> Any:
        kept_apart: list[pickle.PickleBuffer] = []
        index = self._put_aside(self._pickles.dump(obj, kept_apart.append))
        indexes = [self._put_aside(buffer.raw()) for buffer in kept_apart]
        return {"type": "Object", "data": {"buffer": index, "buffers": indexes}}


class Decoder:
    """Reads what an encoder of either dialect wrote, or what a JSON host wrote by hand.

    Args:
        buffers: The buffers of the message, each writable; arrays are laid over them.
        pickles: Whether pickles are read. Unpickling runs code of the sender's choice.
    """

    def __init__(self, buffers: Sequence[Any] = (), *, pickles: Pickles | None = None) -> None:
        self._buffers = buffers
        self._pickles = pickles or _ALLOWED

    def decode(self, wire: Any) -> Any:
        """The Python object that the data of a message stands for; ``Empty`` is None.

        Raises:
            ProtocolError: ``invalid_command`` if a tag is not well formed, ``pickle_refused``.
        """
        kind = type(wire)
        if kind is dict:
            return self._dict(wire)
        if kind is list and not _NESTING.isdisjoint(map(type, wire)):
            return [self.decode(item) for item in wire]
        return wire

    def state(self, wire: Any) -> Any:
        """Like :meth:`decode`, for a state: ``Empty`` is ``{}``."""
        if type(wire) is dict and wire in _EMPTY_STATES:
            return {}
        return self.decode(wire)

    def binary(self, wire: Any) -> Any:
        """The bytes of a field that holds base64, or a ``Bytes`` value."""
        if isinstance(wire, str):
            return _from_b64(wire)
        if isinstance(wire, dict) and wire.keys() == _TAG_KEYS and wire["type"] == "Bytes":
            return self._bytes_of(wire["data"], "Bytes")
        raise _invalid("expected base64 or a Bytes value")

    def _dict(self, wire: dict[str, Any]) -> Any:
        tag = wire.get("type")
        if tag.__class__ is str and tag in _TAGS and len(wire) == 2 and "data" in wire:
            return _TAGGED[tag](self, wire["data"])
        if "$soma" in wire:
            return self._special(wire)
        if wire.keys() == {_PICKLE_KEY}:
            return self._pickles.load(_from_b64(wire[_PICKLE_KEY]))
        if wire == {"type": "Empty"}:
            return None
        return {key: self.decode(item) for key, item in wire.items()}

    def _tensor(self, data: Any) -> Any:
        is_torch = isinstance(data, dict) and data.get("container") == "torch"
        found = self._plain_array(data, 4 if is_torch else 3)
        if found is not None and not is_torch:
            return found
        if found is not None and data["dtype"] in arrays.IN_TORCH_TOO and "torch" in sys.modules:
            return sys.modules["torch"].from_numpy(found)
        try:
            return self._laid_out(TensorData.model_validate(data))
        except ValidationError as error:
            raise _invalid(f"a Tensor is not well formed: {describe(error)}") from None
        except ValueError as error:
            raise _invalid(f"a Tensor is not well formed: {error}") from None

    def _plain_array(self, data: Any, entries: int) -> np.ndarray[Any, Any] | None:
        """An array as our own encoder writes it, read without a model; None if anything is not
        as it should be, which the model then explains."""
        try:
            name, shape, index = _PLAIN_ARRAY(data)
            expected = tuple(shape) if type(shape) in _SHAPES else None
            # Not np.ndarray(shape, dtype, buffer): its base would be what is behind the buffer,
            # and the lease on a region of shared memory would end while the array lives.
            array = np.frombuffer(self._buffers[index], arrays.BY_NAME[name]).reshape(expected)
        except (LookupError, TypeError, ValueError):
            return None
        if array.shape != expected or len(data) != entries or index < 0:
            return None
        return array if _INT.issuperset(map(type, (index, *shape))) else None

    def _laid_out(self, tensor: TensorData) -> Any:
        if tensor.dtype is None:
            return _nested_lists(tensor.values or [], tensor.shape)
        if tensor.container == "torch":
            _require_torch()
            if tensor.values is not None:
                return arrays.tensor_from_values(tensor.values, tensor.dtype, tensor.shape)
            return arrays.tensor_from_bytes(self._payload(tensor), tensor.dtype, tensor.shape)
        dtype = arrays.dtype_from_wire(tensor.dtype)
        if tensor.values is not None:
            return arrays.array_from_values(tensor.values, dtype, tensor.shape)
        return arrays.array_from_bytes(self._payload(tensor), dtype, tensor.shape)

    def _payload(self, tensor: TensorData) -> Any:
        if tensor.b64 is not None:
            return bytearray(_from_b64(tensor.b64))
        return self._buffer(tensor.buffer)

    def _text(self, data: Any) -> str:
        if isinstance(data, str):
            return data
        raise _invalid(f"the data of a Text is a string, got {type(data).__name__}")

    def _json(self, data: Any) -> Any:
        return self.decode(data)

    def _bytes(self, data: Any) -> bytes:
        return bytes(self._bytes_of(data, "Bytes"))

    def _object(self, data: Any) -> Any:
        content = self._bytes_of(data, "Object")
        indexes = data.get("buffers") or [] if isinstance(data, dict) else []
        return self._pickles.load(content, [self._buffer(index) for index in indexes])

    def _bytes_of(self, data: Any, tag: str) -> Any:
        if isinstance(data, list):
            try:
                return bytes(data)
            except (TypeError, ValueError):
                raise _invalid(f"the data of {tag} is a list of numbers from 0 to 255") from None
        try:
            encoded = EncodedBytes.model_validate(data)
        except ValidationError as error:
            raise _invalid(f"{tag} is not well formed: {describe(error)}") from None
        if encoded.b64 is not None:
            return _from_b64(encoded.b64)
        return self._buffer(encoded.buffer)

    def _buffer(self, index: int | None) -> Any:
        if index is None or not 0 <= index < len(self._buffers):
            count = len(self._buffers)
            raise _invalid(f"buffer {index} does not exist; the message has {count}")
        return self._buffers[index]

    def _special(self, wire: dict[str, Any]) -> Any:
        reader = _SPECIAL.get(wire["$soma"]) if isinstance(wire["$soma"], str) else None
        if reader is None:
            raise _invalid(f"unknown tag $soma: {wire['$soma']!r}; known: {', '.join(_SPECIAL)}")
        try:
            return reader(self, wire)
        except (KeyError, TypeError, ValueError) as error:
            raise _invalid(
                f"the tag $soma {wire['$soma']!r} is not well formed: {error!r}"
            ) from None

    def _special_float(self, wire: dict[str, Any]) -> float:
        if wire["value"] not in ("nan", "inf", "-inf"):
            raise ValueError("value is one of nan, inf and -inf")
        return float(wire["value"])

    def _special_floats(self, wire: dict[str, Any]) -> list[float]:
        index = wire["buffer"]
        if type(index) is not int:
            raise ValueError("buffer is the index of a buffer")
        floats: list[float] = np.frombuffer(self._buffer(index), "<f8").tolist()
        return floats

    def _special_int(self, wire: dict[str, Any]) -> int:
        return int(wire["value"], 16)

    def _special_dict(self, wire: dict[str, Any]) -> dict[str, Any]:
        if not all(type(key) is str for key, _ in wire["items"]):
            raise ValueError("a key is not a text")
        return {key: self.decode(item) for key, item in wire["items"]}

    def _special_tuple(self, wire: dict[str, Any]) -> tuple[Any, ...]:
        if type(wire["items"]) is not list:
            raise ValueError("items is a list")
        return tuple(self.decode(wire["items"]))

    def _special_scalar(self, wire: dict[str, Any]) -> Any:
        return self.decode(wire["array"])[()]

    def _special_codec(self, wire: dict[str, Any]) -> Any:
        if not wire.keys() <= _CODEC_KEYS:
            raise ValueError(f"its keys are {', '.join(sorted(_CODEC_KEYS))}")
        codecs = self._pickles.codecs
        codec = codecs.get(wire["codec"])
        if codec is None:
            raise _unknown_codec(wire["codec"], wire.get("distribution"), codecs.names())
        data = self.decode(wire.get("data"))
        read = [self.binary(buffer) for buffer in wire.get("buffers") or ()]
        buffers = [bytearray(part) if type(part) is bytes else part for part in read]
        try:
            return codec.decode(data, buffers)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a codec may raise anything
            raise _failed(codec, "read what came", error) from error


_TAGGED: dict[str, Callable[[Decoder, Any], Any]] = {
    "Tensor": Decoder._tensor,
    "Text": Decoder._text,
    "Json": Decoder._json,
    "Bytes": Decoder._bytes,
    "Object": Decoder._object,
}

_SPECIAL: dict[str, Callable[[Decoder, dict[str, Any]], Any]] = {
    "float": Decoder._special_float,
    "floats": Decoder._special_floats,
    "int": Decoder._special_int,
    "dict": Decoder._special_dict,
    "tuple": Decoder._special_tuple,
    "scalar": Decoder._special_scalar,
    "codec": Decoder._special_codec,
}
_CODEC_KEYS = frozenset({"$soma", "codec", "distribution", "data", "buffers"})


_PLAIN_ARRAY = itemgetter("dtype", "shape", "buffer")
_INT = frozenset({int})
_SHAPES = frozenset({list, tuple})


def _invalid(message: str) -> ProtocolError:
    return ProtocolError(ErrorCode.INVALID_COMMAND, message)


def _class_name(obj: object) -> str:
    return f"{type(obj).__module__}.{type(obj).__qualname__}"


def _check_encoded(encoded: Any) -> Encoded:
    """What a codec returned, each buffer as plain bytes.

    Raises:
        TypeError: It is no Encoded, or holds something that is no C-contiguous buffer.
    """
    if not isinstance(encoded, Encoded):
        raise TypeError(f"encode returns an Encoded, got a {_class_name(encoded)}")
    return Encoded(encoded.data, [_plain_bytes(buffer) for buffer in encoded.buffers])


def _plain_bytes(buffer: Any) -> memoryview:
    view = memoryview(buffer)
    return view.cast("B") if view.nbytes else memoryview(b"")


def _failed(codec: Codec, task: str, error: BaseException) -> ProtocolError:
    text = describe(error) if isinstance(error, ValidationError) else error
    return _invalid(
        f"the codec {codec.name!r} of {codec.distribution} could not {task}: "
        f"{type(error).__name__}: {text}"
    )


def _unknown_codec(name: Any, distribution: Any, known: Sequence[str]) -> ProtocolError:
    named = isinstance(distribution, str) and distribution
    remedy = f"pip install {distribution:.100}" if named else "install the plugin that has it"
    return _invalid(
        f"a value of the codec {name!r:.100} came, which is not installed in this process; "
        f"{remedy} where it runs (its codecs: {', '.join(known) or 'none'})"
    )


def _from_b64(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, TypeError) as error:
        raise _invalid(f"not valid base64: {error}") from None


def _require_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise _invalid(
            f"a Tensor with container torch came, and torch cannot be imported here ({error}); "
            "install soma-core[torch] in the worker's environment"
        ) from None


def _nested_lists(values: list[Any], shape: Sequence[int]) -> Any:
    """A tensor without dtype: its numbers as floats, nested as its shape says."""
    if not set(map(type, values)) <= {int, float, type(None)}:
        raise ValueError("values are numbers or null")
    if len(shape) > _DATA_NESTING:
        raise ValueError(f"a shape of {len(shape):,} axes nests deeper than {_DATA_NESTING} lists")
    if len(values) != math.prod(shape):
        needed = math.prod(shape)
        raise ValueError(f"shape {list(shape)} needs {needed:,} values, got {len(values):,}")
    if 0 in shape:
        if math.prod(shape[: shape.index(0)]) > _MOST_EMPTY_LISTS:
            raise ValueError(f"shape {list(shape)} asks for too many empty lists")
        return np.zeros(shape).tolist()
    try:
        flat: list[Any] = [math.nan if value is None else float(value) for value in values]
    except OverflowError:
        raise ValueError("a value is larger than a float can be") from None
    if not shape:
        return flat[0]
    for length in reversed(shape[1:]):
        flat = [flat[start : start + length] for start in range(0, len(flat), length)]
    return flat


def to_value(obj: Any, *, pickles: Pickles | None = None) -> dict[str, Any]:
    """The tagged JSON form (``{"type": …, "data": …}``) of any object, as JSON hosts write it."""
    wire = LineEncoder(pickles=pickles).encode(obj)
    if obj is None:
        return {"type": "Empty"}
    if isinstance(wire, str):
        return {"type": "Text", "data": wire}
    if isinstance(wire, dict) and _looks_tagged(wire) and "$soma" not in wire:
        if _PICKLE_KEY in wire:
            return {"type": "Object", "data": {"b64": wire[_PICKLE_KEY]}}
        return wire
    return {"type": "Json", "data": wire}


def from_value(value: Any, *, pickles: Pickles | None = None) -> Any:
    """The Python object that a value in tagged JSON form stands for.

    Raises:
        ProtocolError: The value is not well formed, or is a pickle that is not allowed.
    """
    return Decoder(pickles=pickles).decode(value)
