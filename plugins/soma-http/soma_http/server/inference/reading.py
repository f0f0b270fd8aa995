"""Reading a request: JSON, and the bytes of tensors after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from soma_http.server.inference.datatypes import from_binary, from_json
from soma_http.server.inference.messages import (
    InferenceRequest,
    RequestInput,
    RequestOutput,
    TensorMetadata,
)
from soma_http.server.refusals import Refusal

M = TypeVar("M", bound=BaseModel)
_EMPTY = 1 << 20  # how long a tensor may be that has no elements


@dataclass(frozen=True)
class ReadRequest:
    """A request whose tensors were read.

    Attributes:
        id: What the sender calls it.
        tensors: The inputs, by name, in order.
        outputs: What is asked for; None for all.
        binary_outputs: Whether outputs come as bytes that do not say it themselves.
    """

    id: str | None
    tensors: dict[str, Any]
    outputs: list[RequestOutput] | None
    binary_outputs: bool


def read_request(
    body: bytes,
    json_size: str | None,
    declared: Sequence[TensorMetadata],
    rows: int | None = None,
) -> ReadRequest:
    """Read the body of ``infer``.

    Args:
        json_size: The header ``Inference-Header-Content-Length``, if there is one.
        declared: What the model says that its inputs are; empty if it does not.
        rows: The most rows of an input; None for any number.

    Raises:
        Refusal: Something in it is not as the protocol, or the model, wants it.
    """
    size = _size(json_size, len(body))
    request = read_json(body[:size], InferenceRequest)
    for one in request.inputs:
        if rows is not None and one.shape and one.shape[0] > rows:
            raise Refusal(
                f"input {one.name!r} has {one.shape[0]:,} rows; this server takes {rows:,} at "
                "once: ask for them in parts",
                413,
            )
    rest = memoryview(body)[size:]
    tensors: dict[str, Any] = {}
    for one in request.inputs:
        if one.name in tensors:
            raise Refusal(f"there are two inputs of the name {one.name!r}")
        _check_declared(one, declared)
        _check_room(one, len(body))
        tensors[one.name], rest = _tensor(one, rest)
    if rest.nbytes:
        raise Refusal(f"{rest.nbytes} bytes at the end of the body belong to no input")
    missing = [one.name for one in declared if one.name not in tensors]
    if missing:
        raise Refusal(f"the model has an input {missing[0]!r} that is missing")
    asked = [one.name for one in request.outputs or ()]
    if len(set(asked)) < len(asked):
        raise Refusal("an output is asked for twice")
    binary = request.parameters.get("binary_data_output") is True
    return ReadRequest(request.id, tensors, request.outputs, binary)


def read_json(body: bytes, model: type[M]) -> M:
    """Read JSON as one of the protocol's messages.

    Raises:
        Refusal: It is not one.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise Refusal(_described(error)) from None


def _size(given: str | None, length: int) -> int:
    if given is None:
        return length
    if not (given.isascii() and given.isdecimal()) or len(given) > 18 or int(given) > length:
        raise Refusal(
            f"Inference-Header-Content-Length is {given!r}, and the body has {length} bytes"
        )
    return int(given)


def _tensor(one: RequestInput, rest: memoryview) -> tuple[Any, memoryview]:
    """The tensor of an input, and the bytes that are left for the others."""
    size = one.parameters.get("binary_data_size")
    if size is None:
        if one.data is None:
            raise Refusal(f"input {one.name!r} has neither data nor the parameter binary_data_size")
        return from_json(one.name, one.datatype, one.shape, one.data), rest
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= rest.nbytes:
        raise Refusal(
            f"input {one.name!r}: binary_data_size is {size!r}, and {rest.nbytes} bytes are left"
        )
    tensor = from_binary(one.name, one.datatype, one.shape, rest[:size])
    if one.datatype == "BYTES" and one.parameters.get("content_type") != "raw":
        tensor = _as_texts(one.name, tensor)
    return tensor, rest[size:]


def _as_texts(name: str, item: Any) -> Any:
    if isinstance(item, list):
        return [_as_texts(name, one) for one in item]
    try:
        return item.decode()
    except UnicodeDecodeError as error:
        raise Refusal(
            f"input {name!r}: an element is no UTF-8 ({error}); for bytes as they are, give the "
            'input the parameter "content_type": "raw"'
        ) from None


def _check_declared(one: RequestInput, declared: Sequence[TensorMetadata]) -> None:
    if not declared:
        return
    known = {tensor.name: tensor for tensor in declared}
    if one.name not in known:
        raise Refusal(f"the model has no input {one.name!r}; it has {', '.join(known)}")
    wanted = known[one.name]
    fits = len(one.shape) == len(wanted.shape) and all(
        length in (-1, found) for length, found in zip(wanted.shape, one.shape, strict=True)
    )
    if one.datatype != wanted.datatype or not fits:
        raise Refusal(
            f"input {one.name!r} is {one.datatype} of shape {one.shape}; the model takes "
            f"{wanted.datatype} of shape {wanted.shape}"
        )


def _check_room(one: RequestInput, size: int) -> None:
    """Refuse a tensor without elements that is longer than any that could have some."""
    if prod(length or 1 for length in one.shape) > max(size, _EMPTY):
        raise Refusal(
            f"input {one.name!r}: the shape {one.shape} is larger than a body of {size} bytes can "
            "hold"
        )


def _described(error: ValidationError) -> str:
    mistakes = error.errors(include_url=False, include_input=False)
    texts = [f"{'.'.join(map(str, one['loc'])) or 'the body'}: {one['msg']}" for one in mistakes]
    return "; ".join(texts[:5])
