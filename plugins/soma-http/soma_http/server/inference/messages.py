"""The messages of the protocol, as models: what a request may hold, and what an answer holds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BF16", "BYTES",
]  # fmt: skip
"""All that the protocol has. BF16 is FP32 to a model, and BYTES nested lists of texts or bytes."""
Length = Annotated[int, Field(ge=0, le=1 << 40, strict=True)]
Parameters = dict[str, Any]
GivenParameters = Annotated[
    Parameters, BeforeValidator(lambda given: {} if given is None else given)
]
"""Some clients write null where they have none."""


class _Message(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


class RequestInput(_Message):
    """One tensor of a request; its data are here, or after the JSON."""

    name: str = Field(min_length=1, max_length=1000)
    shape: list[Length] = Field(max_length=32)
    datatype: Datatype
    parameters: GivenParameters = Field(default_factory=dict)
    data: Any = None


class RequestOutput(_Message):
    """One tensor that a request asks for."""

    name: str
    parameters: GivenParameters = Field(default_factory=dict)


class InferenceRequest(_Message):
    """The body of ``infer``."""

    id: str | None = None
    parameters: GivenParameters = Field(default_factory=dict)
    inputs: list[RequestInput] = Field(min_length=1, max_length=1000)
    outputs: list[RequestOutput] | None = Field(default=None, max_length=1000)


class IndexRequest(_Message):
    """The body of ``repository/index``."""

    ready: StrictBool = False


class ResponseOutput(_Message):
    """One tensor of an answer; its data are here, or after the JSON."""

    name: str
    shape: list[int]
    datatype: Datatype
    parameters: Parameters | None = None
    data: list[Any] | None = None


class InferenceResponse(_Message):
    """The answer to ``infer``."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[ResponseOutput]


class TensorMetadata(_Message):
    """What is known of an input or output: -1 is an axis of any length."""

    name: str
    datatype: Datatype
    shape: list[int]


class ModelMetadata(_Message):
    """What is known of a model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
