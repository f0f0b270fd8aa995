"""Feeding: what a host sent as the inputs of a session, and its outputs as what a host gets."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

_DTYPES = {
    "tensor(bool)": np.bool_,
    "tensor(double)": np.float64,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(int8)": np.int8,
    "tensor(string)": np.object_,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(uint8)": np.uint8,
}
"""By ONNX Runtime's names of types; an input of any other type is given as it is."""


def feeds(session: Any, x: Any) -> dict[str, Any]:
    """The inputs of a session of ONNX Runtime by name, of one where it needs one, or of a dict.

    Raises:
        ValueError: An input is missing, unknown, or of another kind than the model takes.
    """
    wanted = {each.name: each.type for each in session.get_inputs()}
    if not isinstance(x, dict):
        if len(wanted) != 1:
            raise ValueError(
                f"the model has {len(wanted)} inputs: send a dict of {', '.join(wanted)}; got a "
                f"{type(x).__name__}"
            )
        x = {next(iter(wanted)): x}
    unknown = [str(name) for name in x if name not in wanted]
    missing = [name for name in wanted if name not in x]
    if unknown or missing:
        wrong = [
            *(f"there is no {name}" for name in unknown),
            *(f"{name} is missing" for name in missing),
        ]
        raise ValueError(f"{'; '.join(wrong)}; the model's inputs are {', '.join(wanted)}")
    return {name: _as_input(name, wanted[name], value) for name, value in x.items()}


def _as_input(name: str, wanted: str, value: Any) -> Any:
    """An array of the type that an input has."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    dtype = _DTYPES.get(wanted)
    if dtype is None:
        return value
    array = np.asarray(value)
    if array.dtype == dtype:
        return array
    if dtype is np.object_ and array.dtype.kind in "UT":
        return array.astype(np.object_)
    converted = _converted(array, np.dtype(dtype))
    if converted is None:
        raise ValueError(
            f"the input {name} takes {wanted}, and {array.dtype} would change there; convert it "
            "before it is sent"
        )
    return converted


def _converted(array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> Any:
    """Numbers as numbers of another type; None where integers would not stay what they are."""
    if array.dtype.kind not in "iuf" or dtype.kind not in "iuf":
        return None
    if dtype.kind == "f":
        return array.astype(dtype)
    converted = array.astype(dtype) if array.dtype.kind in "iu" else None
    return converted if converted is not None and (converted == array).all() else None


def named_outputs(session: Any, found: Sequence[Any], names: Sequence[str] | None) -> Any:
    """One output as it is, several as a dict by name."""
    if len(found) == 1:
        return found[0]
    return dict(zip(names or [each.name for each in session.get_outputs()], found, strict=True))
