"""Writing an answer: what a model returned, as tensors of the protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic_core import to_json as dump

from soma_http.server.inference.datatypes import (
    Array,
    datatype_of,
    to_binary,
    to_json,
)
from soma_http.server.inference.messages import RequestOutput, TensorMetadata
from soma_http.server.inference.reading import ReadRequest
from soma_http.server.refusals import Refusal


@dataclass(frozen=True)
class InferenceAnswer:
    """An answer to ``infer``.

    Attributes:
        body: The JSON, and after it the bytes of tensors.
        json_size: How long the JSON is, where bytes follow it; else None.
    """

    body: bytes
    json_size: int | None


def write_answer(
    result: Any, request: ReadRequest, model: str, version: str, declared: Sequence[TensorMetadata]
) -> InferenceAnswer:
    """Write what a model returned.

    Args:
        result: An array, a number, a text, a list of these, a dict of outputs by name, or a tuple
            of outputs.
        declared: What the model says that its outputs are; empty if it does not.

    Raises:
        Refusal: An output was asked for that is not there, or has no datatype.
    """
    named = _named(result, [tensor.name for tensor in declared])
    datatypes = {tensor.name: tensor.datatype for tensor in declared}
    wanted = request.outputs or [RequestOutput(name=name) for name in named]
    outputs, pieces = [], []
    for one in wanted:
        if one.name not in named:
            raise Refusal(f"the model has no output {one.name!r}; it has {', '.join(named)}")
        array, datatype = _tensor(one.name, named[one.name], datatypes.get(one.name))
        fields: dict[str, Any] = {
            "name": one.name,
            "datatype": datatype,
            "shape": list(array.shape),
        }
        is_binary = one.parameters.get("binary_data", request.binary_outputs) is True
        try:
            data = to_binary(array, datatype) if is_binary else to_json(array, datatype)
        except UnicodeError as error:
            raise _unwritten(one.name, error) from None
        if isinstance(data, bytes):
            fields["parameters"] = {"binary_data_size": len(data)}
            pieces.append(data)
        else:
            fields["data"] = data
        outputs.append(fields)
    answer: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": outputs}
    if request.id is not None:
        answer["id"] = request.id
    head = dump(answer, inf_nan_mode="null")
    return InferenceAnswer(b"".join([head, *pieces]), len(head) if pieces else None)


def _unwritten(name: str, error: UnicodeError) -> Refusal:
    if isinstance(error, UnicodeDecodeError):
        return Refusal(
            f"output {name!r} has bytes that are no UTF-8 ({error}), and JSON has texts alone: ask "
            'for it with the parameter "binary_data": true'
        )
    return Refusal(f"the model's output {name!r} has a text that is no Unicode ({error})", 500)


def _named(result: Any, names: Sequence[str]) -> Mapping[str, Any]:
    """The outputs by name."""
    if isinstance(result, dict):
        return {_spelled(name): value for name, value in result.items()}
    if isinstance(result, tuple):
        given = names if len(names) == len(result) else [f"output_{n}" for n in range(len(result))]
        return dict(zip(given, result, strict=True))
    return {names[0] if len(names) == 1 else "output": result}


def _spelled(name: Any) -> str:
    """The name of an output as text."""
    try:
        return str(name).encode().decode()
    except UnicodeError as error:
        raise Refusal(
            f"the model has an output whose name {str(name)!r} is no Unicode ({error})", 500
        ) from None


def _tensor(name: str, value: Any, declared: str | None) -> tuple[Array, str]:
    """An output as an array, and its datatype."""
    array = _array(value)
    datatype = None if array is None else datatype_of(array)
    if array is None or datatype is None:
        kind = type(value).__name__ if array is None else f"{type(value).__name__} of {array.dtype}"
        raise Refusal(
            f"the model's output {name!r} is a {kind}, for which the protocol has no datatype; let "
            "it return arrays, numbers or texts, or a dict of them by name",
            500,
        )
    if declared is not None and (array.size == 0 or (declared, datatype) == ("BF16", "FP32")):
        datatype = declared  # which an empty list, or the array of a filter, does not say
    return array, datatype


def _array(value: Any) -> Array | None:
    """Some data as an array; None if they are none."""
    if hasattr(value, "detach"):  # a torch tensor
        value = value.detach().cpu()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    elif hasattr(value, "toarray"):  # a sparse matrix, which may have no room when it is dense
        return None
    elif hasattr(value, "to_numpy") and not isinstance(value, np.ndarray):  # a column or a table
        value = value.to_numpy()
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return None
    if array.dtype.kind == "O" or isinstance(value, list | str | bytes):
        array = _of_objects(value, array)
    return np.atleast_1d(array)


def _of_objects(value: Any, array: Array) -> Array:
    """Texts keep what numpy would cut off, their zeros at the end; anything else becomes JSON."""
    if array.dtype.kind not in "OSU":
        return array
    objects = np.array(value, dtype=object)
    items = [_as_text(item) for item in objects.ravel().tolist()]
    texts = np.empty(len(items), object)
    texts[:] = items
    return texts.reshape(objects.shape)


def _as_text(item: Any) -> Any:
    return item if isinstance(item, str | bytes) else json.dumps(item, default=str)
