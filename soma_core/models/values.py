"""Value: the six kinds of data that cross the wire, in the JSON form of the protocol.

These models describe and validate the form that JSON hosts write and read. Between a Python
host and a filter the same data travels as ordinary Python objects: ``soma_core.wire.line_codec``
turns one into the other.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, TypeAdapter, model_validator

from soma_core.models.frozen import Frozen

Byte = Annotated[int, Field(ge=0, le=255)]


class _Model(Frozen):
    model_config = ConfigDict(strict=True)


class TensorData(_Model):
    """The content of a :class:`Tensor`.

    Attributes:
        shape: The length of each axis; empty for a single number.
        dtype: The element type. Without it the tensor is a plain list of numbers and arrives
            as nested lists. With it the tensor is an array: numpy's name for the type
            (``"float32"``), its ``dtype.str`` (``"<U5"``), or a list of fields for structured
            types.
        container: ``"torch"`` if the array is to arrive as a torch tensor.
        values: The elements in C order; ``null`` is NaN.
        b64: The elements as base64 of little-endian bytes in C order; needs ``dtype``.
    """

    shape: tuple[Annotated[int, Field(ge=0)], ...] = Field(strict=False)
    dtype: str | list[Any] | None = None
    container: Literal["torch"] | None = None
    values: list[Any] | None = Field(
        default=None,
        json_schema_extra={"items": {"type": ["number", "boolean", "null"]}},
    )
    b64: str | None = None

    @model_validator(mode="after")
    def _one_payload(self) -> Self:
        if (self.values is None) == (self.b64 is None):
            found = "none of them" if self.b64 is None else "both"
            raise ValueError(f"a Tensor has exactly one of values and b64; found {found}")
        if self.dtype is None and self.b64 is not None:
            raise ValueError("a Tensor with b64 needs a dtype")
        return self


class Tensor(_Model):
    """Numbers of one type on a regular grid."""

    type: Literal["Tensor"] = "Tensor"
    data: TensorData


class Text(_Model):
    """A string."""

    type: Literal["Text"] = "Text"
    data: str


class Json(_Model):
    """Any JSON value; tagged values inside it are decoded too."""

    type: Literal["Json"] = "Json"
    data: Any


class EncodedBytes(_Model):
    """Bytes in a denser form than a list of numbers."""

    b64: str


class Bytes(_Model):
    """A byte string: a list of numbers from 0 to 255, or base64."""

    type: Literal["Bytes"] = "Bytes"
    data: list[Byte] | EncodedBytes


class Object(_Model):
    """A pickled Python object: its bytes as in :class:`Bytes`."""

    type: Literal["Object"] = "Object"
    data: list[Byte] | EncodedBytes


class Empty(_Model):
    """Nothing: ``{}`` where a state is expected, ``None`` elsewhere."""

    type: Literal["Empty"] = "Empty"


Value = Annotated[Tensor | Text | Json | Bytes | Object | Empty, Field(discriminator="type")]

VALUE: TypeAdapter[Tensor | Text | Json | Bytes | Object | Empty] = TypeAdapter(
    Value, config=ConfigDict(defer_build=True)
)
"""Validates and dumps a :data:`Value`: ``VALUE.validate_python({"type": "Text", "data": "a"})``."""

VALUE_MODELS = (Tensor, Text, Json, Bytes, Object, Empty)
"""The models themselves: sent as data, one arrives as the value that it describes."""
