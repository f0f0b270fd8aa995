"""Arrays as raw bytes: numpy and torch element types by name, and the bytes in C order."""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from soma_core.errors import ErrorCode, ProtocolError

if TYPE_CHECKING:
    import torch

_VIEWABLE = "?bBhHiIlLqQefd" if sys.byteorder == "little" else ""
_NAMES = {np.dtype(char).num: np.dtype(char).name for char in _VIEWABLE}
BY_NAME = {name: np.dtype(name) for name in _NAMES.values()}
"""The element types that :func:`name_and_bytes` names."""

_OF_ML_DTYPES = frozenset(
    {"bfloat16", "float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn", "float8_e3m4", "float8_e4m3"}
    | {"float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"}
    | {"float8_e8m0fnu", "int1", "int2", "int4", "uint1", "uint2", "uint4"}
    | {"complex32", "bcomplex32"}
)
_TORCH = re.compile(r"(bool|u?int(8|16|32|64)|b?float\w+|complex\d+)\Z")  # not the quantized ones
_MOST_EMPTY_TEXTS = 100_000
_OF_NUMBERS = frozenset("biufcmM")
_NUMBERS = frozenset({bool, int, float, type(None)})
WireDtype = str | list[Any]


@lru_cache(maxsize=256)
def dtype_to_wire(dtype: np.dtype[Any]) -> WireDtype:
    """How a message names an element type: numpy's name where that is enough to get the type back,
    else its ``dtype.str``, else the list of fields that the ``.npy`` format uses.

    Raises:
        ValueError: None of these can name it: its fields overlap, or are not in order.
    """
    native = _native(dtype)
    for name in (native.name, native.str):
        if _names(name, native):
            return name
    try:
        descr = list(np.lib.format.dtype_to_descr(native))
        found = _structured_dtype(descr)
    except TypeError as error:  # numpy itself cannot read some of what it writes
        raise ValueError(f"{dtype} cannot be written as a list of fields: {error}") from None
    if found != native:
        raise ValueError(f"{dtype} cannot be written as a list of fields")
    return descr


@lru_cache(maxsize=256)
def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The same element type in this machine's byte order, inner fields included."""
    return dtype.newbyteorder("=")


def _names(name: str, dtype: np.dtype[Any]) -> bool:
    try:
        return np.dtype(name) == dtype and dtype.names is None
    except TypeError:
        return False


def dtype_from_wire(named: WireDtype) -> np.dtype[Any]:
    """The element type that a message names, in native byte order.

    Raises:
        ValueError: There is no such type, or it holds Python objects.
    """
    try:
        dtype = _named_dtype(named) if isinstance(named, str) else _structured_dtype(named)
    except (TypeError, ValueError, SyntaxError, OverflowError, AttributeError, IndexError) as error:
        raise ValueError(f"dtype {named!r} is not a numpy element type: {error}") from None
    if dtype.hasobject or not (dtype.itemsize or dtype.kind in "USV"):
        raise ValueError(f"dtype {named!r} holds Python objects; such arrays travel as an Object")
    return dtype


@lru_cache(maxsize=256)
def _named_dtype(name: str) -> np.dtype[Any]:
    if "," in name:
        raise ValueError("a structured type is a list of fields")
    if name in _OF_ML_DTYPES:
        _register_ml_dtypes()
    return np.dtype(name).newbyteorder("=")


def _register_ml_dtypes() -> None:
    """Let numpy know the element types of ml_dtypes, which the other side has imported.

    Raises:
        ValueError: It is not installed here.
    """
    try:
        importlib.import_module("ml_dtypes")
    except ImportError as error:
        raise ValueError(f"{error}; install ml_dtypes in this environment") from None


def _structured_dtype(fields: list[Any]) -> np.dtype[Any]:
    return _native(np.lib.format.descr_to_dtype(_tuples(fields)))


def _tuples(fields: list[Any]) -> list[Any]:
    """Field lists from JSON with their tuples restored: ``[["x", "<f4", [2]]]``."""
    return [tuple(_field_part(part) for part in field) for field in fields]


def _field_part(part: Any) -> Any:
    if not isinstance(part, list):
        return part
    nested = bool(part) and all(isinstance(item, list | tuple) for item in part)
    return _tuples(part) if nested else tuple(part)


def is_writable(dtype: np.dtype[Any]) -> bool:
    """Whether arrays of this element type travel as bytes, and not as a pickle."""
    if dtype.hasobject or dtype.kind == "T":
        return False
    if dtype.type is np.record:  # it equals the same fields without being of that class
        return False
    try:
        dtype_to_wire(dtype)
    except ValueError:
        return False
    return True


def name_and_bytes(array: np.ndarray[Any, Any]) -> tuple[str, memoryview] | None:
    """The wire's name and the bytes of an array whose elements lie in memory one by one, in C
    order, as they travel; None if they do not."""
    dtype = array.dtype
    name = _NAMES.get(dtype.num)
    if name is None or not dtype.isnative:
        return None
    view = array.data
    return (name, view) if view.c_contiguous else None


def order_in_memory(
    shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int
) -> list[int] | None:
    """In which order the axes of an array lie in memory, the outermost first.

    Args:
        shape: The length of each axis.
        strides: The distance between its elements.
        itemsize: The distance between two elements that lie one by one, in the same unit.

    Returns:
        None for C order, and for elements that do not lie one by one in any order: these travel
        as a copy in C order.
    """
    order = sorted(range(len(shape)), key=lambda axis: -strides[axis])
    if order == list(range(len(shape))):
        return None
    distance = itemsize
    for axis in reversed(order):
        if shape[axis] > 1 and strides[axis] != distance:
            return None
        distance *= shape[axis]
    return order


def array_to_bytes(array: np.ndarray[Any, Any]) -> memoryview:
    """The elements as little-endian bytes in C order; a view of the array where it can be one."""
    dtype = array.dtype
    if dtype.num in _NAMES and array.flags.c_contiguous and dtype.isnative:
        return array.data
    if array.nbytes == 0:
        return memoryview(b"")
    wire = _native(dtype) if sys.byteorder == "little" else _native(dtype).newbyteorder("<")
    return np.ascontiguousarray(array, dtype=wire).reshape(-1).view(np.uint8).data


def array_from_bytes(data: Any, dtype: np.dtype[Any], shape: Sequence[int]) -> np.ndarray[Any, Any]:
    """A writable array over a writable buffer of bytes.

    Raises:
        ValueError: The number of bytes does not fit the type and the shape.
    """
    size = len(data)
    needed = math.prod(shape) * dtype.itemsize
    if size != needed:
        raise ValueError(f"shape {list(shape)} of {dtype} needs {needed:,} bytes, got {size:,}")
    if needed == 0:
        return _without_bytes(dtype, shape)
    if sys.byteorder == "little":
        return np.frombuffer(data, dtype).reshape(shape)
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype).reshape(shape)


def _without_bytes(dtype: np.dtype[Any], shape: Sequence[int]) -> np.ndarray[Any, Any]:
    """An array that came without bytes: no elements, or a few empty texts.

    numpy gives an empty text at least a byte of its own, which a shape must not multiply.
    """
    if math.prod(shape) > _MOST_EMPTY_TEXTS:
        raise ValueError(f"shape {list(shape)} asks for too many elements of no bytes")
    return np.zeros(shape, dtype)


def array_from_values(
    values: list[Any], dtype: np.dtype[Any], shape: Sequence[int]
) -> np.ndarray[Any, Any]:
    """An array from the numbers of a JSON list; None stands for NaN.

    Raises:
        ValueError: The number of values does not fit the shape, or one does not fit the type.
    """
    _check_count(values, shape)
    if dtype.kind not in _OF_NUMBERS:
        raise ValueError(f"dtype {dtype} is not one of numbers; its elements travel as bytes")
    kinds = set(map(type, values))
    if type(None) in kinds:
        values = [math.nan if value is None else value for value in values]
    if float in kinds and dtype.kind in "biu":
        raise ValueError(f"a value is not a whole number, which dtype {dtype} needs")
    if not kinds <= _NUMBERS:
        raise ValueError("values are numbers, booleans or null")
    try:
        with np.errstate(over="raise", invalid="raise"):
            return np.array(values, dtype=dtype).reshape(shape)
    except (TypeError, ArithmeticError, ValueError) as error:
        raise ValueError(f"a value does not fit dtype {dtype}: {error}") from None


def _check_count(values: list[Any], shape: Sequence[int]) -> None:
    if len(values) != math.prod(shape):
        raise ValueError(
            f"shape {list(shape)} needs {math.prod(shape):,} values, got {len(values):,}"
        )


def torch_dtype_name(tensor: torch.Tensor) -> str:
    """The wire's name of a tensor's element type: ``"bfloat16"``."""
    return str(tensor.dtype).removeprefix("torch.")


def _torch_dtype(name: WireDtype) -> torch.dtype:
    import torch

    dtype = getattr(torch, name, None) if isinstance(name, str) and _TORCH.match(name) else None
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype {name!r} is not a torch element type")
    return dtype


def tensor_to_bytes(tensor: torch.Tensor) -> memoryview:
    """The elements as little-endian bytes in C order; a view of the tensor where it can be one."""
    import torch

    array = _shared_with_numpy(tensor)
    if array is not None and array.flags.c_contiguous and array.size:
        return array.reshape(-1).view(np.uint8).data
    flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    if flat.numel() == 0:
        return memoryview(b"")
    if flat.stride(0) != 1:  # one element of another tensor is contiguous, whatever the stride
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).numpy().data


def is_plain_torch_tensor(obj: Any) -> bool:
    """Whether it is a torch tensor whose elements lie in memory one by one; never imports torch."""
    torch = sys.modules.get("torch")
    if torch is None or type(obj) is not torch.Tensor:
        return False
    plain = obj.layout is torch.strided and not obj.is_meta
    return plain and not obj.is_quantized and not obj.is_nested


def require_torch() -> None:
    """Make sure that torch can be imported.

    Raises:
        ProtocolError: ``invalid_command``: it cannot.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise ProtocolError(
            ErrorCode.INVALID_COMMAND,
            f"a torch tensor came, and torch cannot be imported here ({error}); install "
            "soma-core[torch] in this environment",
        ) from None


def tensor_name_and_bytes(tensor: torch.Tensor) -> tuple[str, memoryview]:
    """The wire's name of a tensor's element type, and its elements in C order; a view of its
    memory where that can be."""
    array = _shared_with_numpy(tensor)
    plain = name_and_bytes(array) if array is not None and array.size else None
    return plain or (torch_dtype_name(tensor), tensor_to_bytes(tensor))


def _shared_with_numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any] | None:
    """The tensor's memory; None where numpy has no such elements, or they are elsewhere."""
    try:
        plain = tensor.detach() if tensor.requires_grad else tensor
        array: np.ndarray[Any, Any] = plain.numpy()
    except (TypeError, RuntimeError):
        return None
    return array


def tensor_from_bytes(data: Any, dtype_name: WireDtype, shape: Sequence[int]) -> torch.Tensor:
    """A torch tensor on the CPU over a writable buffer.

    Raises:
        ValueError: The type is unknown to torch, or the bytes do not fit it and the shape.
    """
    import torch

    dtype = _torch_dtype(dtype_name)
    size, needed = memoryview(data).nbytes, math.prod(shape) * dtype.itemsize
    if size != needed:
        raise ValueError(f"shape {list(shape)} of {dtype} needs {needed:,} bytes, got {size:,}")
    if needed == 0:
        return _empty_tensor(dtype, shape)
    return torch.frombuffer(data, dtype=dtype).reshape(tuple(shape))


def _empty_tensor(dtype: torch.dtype, shape: Sequence[int]) -> torch.Tensor:
    import torch

    try:
        return torch.empty(tuple(shape), dtype=dtype)
    except (RuntimeError, OverflowError, TypeError) as error:
        raise ValueError(f"shape {list(shape)} cannot be: {error}") from None


def tensor_from_values(
    values: list[Any], dtype_name: WireDtype, shape: Sequence[int]
) -> torch.Tensor:
    """A torch tensor from the numbers of a JSON list; None stands for NaN.

    Raises:
        ValueError: The type is unknown to torch, or the values do not fit it or the shape.
    """
    import torch

    dtype = _torch_dtype(dtype_name)
    _check_count(values, shape)
    filled = [math.nan if value is None else value for value in values]
    try:
        return torch.tensor(filled, dtype=dtype).reshape(tuple(shape))
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"a value does not fit {dtype}: {error}") from None
