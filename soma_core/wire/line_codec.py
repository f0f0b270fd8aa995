"""The lines dialect: Python objects to what JSON can hold, and back.

What ordinary JSON says is plain; everything else is a tagged value (``soma_core.models.values``) or
a ``{"$soma": …}`` tag. Any language writes and reads these by hand.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pydantic import ValidationError

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.models.validation_errors import describe
from soma_core.models.values import VALUE_MODELS, EncodedBytes, TensorData
from soma_core.wire import arrays
from soma_core.wire.added_types import Codec, encode_added
from soma_core.wire.arrays import is_plain_torch_tensor
from soma_core.wire.pickles import Pickles

MAX_NESTING = 200
"""How deep lists and dicts of a message may nest; what the JSON parser accepts too."""

_DATA_NESTING = MAX_NESTING - 20  # leaves room for the message and the tags around the data
_TAGS = frozenset({"Tensor", "Text", "Json", "Bytes", "Object"})
_TAG_KEYS = frozenset({"type", "data"})
_MOST_EMPTY_LISTS = 100_000
_PICKLE_KEY = "__pickle_b64__"
_EMPTY_STATES: tuple[dict[str, Any], ...] = (
    {"type": "Empty"},
    {"type": "Json", "data": {"type": "Empty"}},
)
_NESTING = frozenset({list, dict})
_TEXT = frozenset({str})
_MOST_BITS = 13_000  # of an int as digits: Python reads no more than 4,300 of these back


def _looks_tagged(obj: dict[Any, Any]) -> bool:
    """Whether a reader would take this dict of the user's for a tag."""
    if "$soma" in obj:
        return True
    if len(obj) > len(_TAG_KEYS):
        return False
    keys = obj.keys()
    if keys == _TAG_KEYS:
        return obj["type"].__class__ is str and obj["type"] in _TAGS
    return keys == {_PICKLE_KEY} or (keys == {"type"} and obj["type"] == "Empty")


class LineEncoder:
    """Encodes for the lines dialect: nothing but JSON that any language reads.

    Args:
        pickles: Whether and how objects that are not data are pickled.
        tensors_as_lists: Whether torch tensors become nested lists of numbers.
        dense: Whether arrays and bytes become base64, and no list of numbers.
    """

    def __init__(
        self,
        *,
        pickles: Pickles | None = None,
        tensors_as_lists: bool = False,
        dense: bool = False,
    ) -> None:
        self._pickles = pickles or _ALLOWED
        self._tensors_as_lists = tensors_as_lists and not dense
        self._dense = dense

    def encode(self, obj: Any, depth: int = 0) -> Any:
        """The JSON-able form of an object.

        Raises:
            ProtocolError: ``pickle_refused``, ``too_large`` if it nests too deep, or
                ``invalid_command`` if it cannot be pickled.
        """
        kind = type(obj)
        if kind in _UNCHANGED:
            return obj
        method = _METHODS.get(kind)
        if method is not None:
            return method(self, obj, depth)
        if isinstance(obj, np.generic):
            return self._scalar(obj)
        if is_plain_torch_tensor(obj):
            return self._torch(obj)
        if isinstance(obj, VALUE_MODELS):
            meant = LineDecoder(pickles=self._pickles).decode(obj.model_dump(exclude_none=True))
            return self.encode(meant, depth)
        codec = self._pickles.codecs.of(obj)
        if codec is not None and self._pickles.codecs.shares(codec):
            return self._added(codec, obj, depth)
        return self._pickle(obj)

    def binary(self, data: Any) -> str:
        """The form of a field that holds bytes, such as a state."""
        return _b64(data)

    def _tuple(self, obj: tuple[Any, ...], depth: int) -> Any:
        return self._list(list(obj), depth)

    def _bytes(self, obj: bytes, depth: int = 0) -> Any:
        return {"type": "Bytes", "data": {"b64": _b64(obj)} if self._dense else list(obj)}

    def _float(self, obj: float, depth: int = 0) -> Any:
        if math.isfinite(obj):
            return obj
        return {"$soma": "float", "value": repr(obj)}

    def _int(self, obj: int, depth: int = 0) -> Any:
        if obj.bit_length() <= _MOST_BITS:
            return obj
        return {"$soma": "int", "value": hex(obj)}

    def _list(self, obj: list[Any], depth: int) -> Any:
        kinds = set(map(type, obj))
        if kinds <= _UNCHANGED or (kinds == {float} and all(map(math.isfinite, obj))):
            return obj
        deeper, encode = self._deeper(depth), self.encode
        return [item if type(item) in _UNCHANGED else encode(item, deeper) for item in obj]

    def _dict(self, obj: dict[Any, Any], depth: int) -> Any:
        if not set(map(type, obj)) <= _TEXT:
            return self._pickle(obj)
        if _looks_tagged(obj):
            inside = self._deeper(depth, 3)
            items = [[key, self.encode(item, inside)] for key, item in obj.items()]
            return {"$soma": "dict", "items": items}
        deeper, encode = self._deeper(depth), self.encode
        return {
            key: item if type(item) in _UNCHANGED else encode(item, deeper)
            for key, item in obj.items()
        }

    def _scalar(self, obj: np.generic) -> Any:
        if (obj.dtype.kind in "biufUS" and obj.dtype.itemsize <= 8) or obj.dtype.kind in "US":
            return self.encode(obj.item())
        return self._array(np.asarray(obj))

    def _array(self, obj: np.ndarray[Any, Any], depth: int = 0) -> Any:
        if obj.dtype.hasobject or obj.dtype.kind == "T":
            return self._pickle(obj)
        try:
            dtype = arrays.dtype_to_wire(obj.dtype)
        except ValueError:
            return self._pickle(obj)
        readable = obj.dtype.kind in "iuf" and obj.dtype.itemsize <= 8 and not self._dense
        if readable and bool(np.isfinite(obj).all()):
            data: dict[str, Any] = {"values": obj.ravel().tolist()}
        else:
            data = {"b64": _b64(arrays.array_to_bytes(obj))}
        return {"type": "Tensor", "data": {**data, "dtype": dtype, "shape": obj.shape}}

    def _torch(self, obj: Any) -> Any:
        if self._tensors_as_lists:
            return self.encode(obj.detach().tolist())
        name = arrays.torch_dtype_name(obj)
        data: dict[str, Any] = {"dtype": name, "container": "torch", "shape": tuple(obj.shape)}
        opaque = self._dense or obj.is_complex() or name == "bool" or name.startswith("float8")
        if not opaque and bool(obj.isfinite().all()):
            data["values"] = obj.detach().reshape(-1).tolist()
        else:
            data["b64"] = _b64(arrays.tensor_to_bytes(obj))
        return {"type": "Tensor", "data": data}

    def _added(self, codec: Codec, obj: Any, depth: int) -> Any:
        """An object of a type that a plugin added."""
        encode = codec.encode_line or codec.encode
        encoded = encode_added(codec, encode, obj, or_pickle=self._pickles.allowed)
        if encoded is None:
            return self._pickle(obj)
        return {
            "$soma": "codec",
            "codec": codec.name,
            "distribution": codec.distribution,
            "data": self.encode(encoded.data, self._deeper(depth, 2)),
            "buffers": [self.binary(buffer) for buffer in encoded.buffers],
        }

    def _pickle(self, obj: Any) -> Any:
        return {_PICKLE_KEY: _b64(self._pickles.dump(obj))}

    def _deeper(self, depth: int, levels: int = 1) -> int:
        if depth + levels > _DATA_NESTING:
            raise ProtocolError(
                ErrorCode.TOO_LARGE,
                f"the data nests more than {_DATA_NESTING} levels deep (or contains itself)",
            )
        return depth + levels


_ALLOWED = Pickles()
_UNCHANGED = frozenset({type(None), bool, str})
_METHODS: dict[type[Any], Callable[[LineEncoder, Any, int], Any]] = {
    int: LineEncoder._int,
    float: LineEncoder._float,
    list: LineEncoder._list,
    dict: LineEncoder._dict,
    tuple: LineEncoder._tuple,
    bytes: LineEncoder._bytes,
    np.ndarray: LineEncoder._array,
}


def _b64(data: Any) -> str:
    return base64.b64encode(data).decode("ascii")


class LineDecoder:
    """Reads what :class:`LineEncoder` wrote, or what a JSON host wrote by hand.

    Args:
        pickles: Whether pickles are read. Unpickling runs code of the sender's choice.
    """

    def __init__(self, *, pickles: Pickles | None = None) -> None:
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
            decode = self.decode
            return [decode(item) if type(item) in _NESTING else item for item in wire]
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
        if len(wire) == 1:
            if _PICKLE_KEY in wire:
                return self._pickles.load(_from_b64(wire[_PICKLE_KEY]))
            if tag == "Empty":
                return None
        decode = self.decode
        return {key: decode(item) if type(item) in _NESTING else item for key, item in wire.items()}

    def _tensor(self, data: Any) -> Any:
        try:
            return self._laid_out(TensorData.model_validate(data))
        except ValidationError as error:
            raise _invalid(f"a Tensor is not well formed: {describe(error)}") from None
        except ValueError as error:
            raise _invalid(f"a Tensor is not well formed: {error}") from None

    def _laid_out(self, tensor: TensorData) -> Any:
        if tensor.dtype is None:
            return _nested_lists(tensor.values or [], tensor.shape)
        if tensor.container == "torch":
            arrays.require_torch()
            if tensor.values is not None:
                return arrays.tensor_from_values(tensor.values, tensor.dtype, tensor.shape)
            payload = bytearray(_from_b64(tensor.b64))
            return arrays.tensor_from_bytes(payload, tensor.dtype, tensor.shape)
        dtype = arrays.dtype_from_wire(tensor.dtype)
        if tensor.values is not None:
            return arrays.array_from_values(tensor.values, dtype, tensor.shape)
        return arrays.array_from_bytes(bytearray(_from_b64(tensor.b64)), dtype, tensor.shape)

    def _text(self, data: Any) -> str:
        if isinstance(data, str):
            return data
        raise _invalid(f"the data of a Text is a string, got {type(data).__name__}")

    def _bytes(self, data: Any) -> bytes:
        return bytes(self._bytes_of(data, "Bytes"))

    def _object(self, data: Any) -> Any:
        return self._pickles.load(self._bytes_of(data, "Object"))

    def _bytes_of(self, data: Any, tag: str) -> Any:
        if isinstance(data, list):
            try:
                return bytes(data)
            except (TypeError, ValueError):
                raise _invalid(f"the data of {tag} is a list of numbers from 0 to 255") from None
        try:
            return _from_b64(EncodedBytes.model_validate(data).b64)
        except ValidationError as error:
            raise _invalid(f"{tag} is not well formed: {describe(error)}") from None

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
        data = self.decode(wire.get("data"))
        read = [bytearray(self.binary(buffer)) for buffer in wire.get("buffers") or ()]
        return self._pickles.codecs.decode(wire["codec"], wire.get("distribution"), data, read)


_TAGGED: dict[str, Callable[[LineDecoder, Any], Any]] = {
    "Tensor": LineDecoder._tensor,
    "Text": LineDecoder._text,
    "Json": LineDecoder.decode,
    "Bytes": LineDecoder._bytes,
    "Object": LineDecoder._object,
}

_SPECIAL: dict[str, Callable[[LineDecoder, dict[str, Any]], Any]] = {
    "float": LineDecoder._special_float,
    "int": LineDecoder._special_int,
    "dict": LineDecoder._special_dict,
    "tuple": LineDecoder._special_tuple,
    "scalar": LineDecoder._special_scalar,
    "codec": LineDecoder._special_codec,
}
_CODEC_KEYS = frozenset({"$soma", "codec", "distribution", "data", "buffers"})


def _invalid(message: str) -> ProtocolError:
    return ProtocolError(ErrorCode.INVALID_COMMAND, message)


def _from_b64(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, TypeError) as error:
        raise _invalid(f"not valid base64: {error}") from None


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
