"""Torch's format for weights, read without unpickling it and without torch's own reader.

A file of ``torch.save`` is a zip archive: ``data.pkl``, a pickle, and the bytes of each storage.
The pickle is followed here opcode by opcode, by those opcodes and with those constructors that
dense tensors and plain data need; anything else is refused by its name. What it says of a tensor
(type, offset, sizes, strides) is compared with the storage before a tensor is made.
"""

from __future__ import annotations

import pickletools
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from soma_core.wire.archive import Member, read_archive

_PICKLE = "/data.pkl"
_OPCODES = 500_000  # beyond these, one for each 256 bytes that came
_TIMES, _BESIDE = 8, 32 << 20  # all tensors together: so many times what came, and so much beside
_NO_BYTES = 100_000  # rows of a tensor without elements
_MOST_AXES = 64
_SCALARS = (str, bytes, int, float, complex, bool, type(None))


def read_weights(data: bytes) -> Any:
    """The tensors and plain data of a file that ``torch.save`` wrote.

    Raises:
        Exception: Of any class: it is no such file, or holds something else.
    """
    members = read_archive(data)
    names = [name for name in members if name.endswith(_PICKLE)]
    if len(names) != 1:
        raise ValueError(
            "the archive has no member data.pkl; torch.save writes it unless it has "
            "_use_new_zipfile_serialization=False"
        )
    prefix = names[0].removesuffix(_PICKLE)
    order = members.get(f"{prefix}/byteorder")
    if order is not None and bytes(order.content) != sys.byteorder.encode():
        raise ValueError(f"its bytes are not in the order of this machine, {sys.byteorder} endian")
    storages = _Storages(members, f"{prefix}/data/", _TIMES * len(data) + _BESIDE)
    return _Machine(storages, _OPCODES + len(data) // 256).run(bytes(members[names[0]].content))


@dataclass(frozen=True)
class _Storage:
    """The bytes of a storage, and the type of its elements unless the tensor says that."""

    content: torch.Tensor
    dtype: torch.dtype | None


@dataclass(frozen=True)
class _StorageType:
    """What a pickle calls ``torch.FloatStorage``."""

    dtype: torch.dtype | None


@dataclass(frozen=True)
class _Constructor:
    """What a pickle may call."""

    call: Callable[..., Any]


class _Storages:
    """The storages of a file, and the tensors over them.

    Args:
        members: The members of the archive.
        prefix: What comes before the key of a storage in the name of its member.
        most: How many bytes all tensors together may have.
    """

    def __init__(self, members: Mapping[str, Member], prefix: str, most: int) -> None:
        self._members = members
        self._prefix = prefix
        self._left = most
        self._read: dict[str, torch.Tensor] = {}

    def get(self, kind: str, storage: Any, key: str, device: str, size: int) -> _Storage:
        """What a pickle's persistent id stands for."""
        if kind != "storage" or not isinstance(storage, _StorageType) or not _is_size(size):
            raise ValueError("a persistent id is not a storage")
        if key not in self._read:
            content = np.frombuffer(self._members[f"{self._prefix}{key}"].content, np.uint8)
            self._read[key] = torch.from_numpy(content.copy())
        found = self._read[key]
        width = 1 if storage.dtype is None else storage.dtype.itemsize
        if found.numel() != size * width:
            raise ValueError(f"storage {key} has {found.numel():,} bytes, not {size:,} elements")
        return _Storage(found, storage.dtype)

    def tensor(
        self,
        storage: Any,
        offset: Any,
        sizes: Any,
        strides: Any,
        requires_grad: Any,
        hooks: Any,
        metadata: Any = None,
    ) -> torch.Tensor:
        """What ``torch._utils._rebuild_tensor_v2`` is called with."""
        dtype = getattr(storage, "dtype", None)
        return self.typed_tensor(
            storage, offset, sizes, strides, requires_grad, hooks, dtype, metadata
        )

    def typed_tensor(
        self,
        storage: Any,
        offset: Any,
        sizes: Any,
        strides: Any,
        requires_grad: Any,
        hooks: Any,
        dtype: Any,
        metadata: Any = None,
    ) -> torch.Tensor:
        """What ``torch._utils._rebuild_tensor_v3`` is called with."""
        if not isinstance(storage, _Storage) or not isinstance(dtype, torch.dtype):
            raise ValueError("a tensor lies in no storage, or has no type")
        if type(requires_grad) is not bool or hooks:
            raise ValueError("a tensor has hooks, or its requires_grad is not a bool")
        elements = _as_elements(storage.content, dtype)
        start, sizes, strides = _inside(elements.numel(), offset, sizes, strides)
        made = elements.as_strided(sizes, strides, start)
        self._left -= made.numel() * dtype.itemsize
        if self._left < 0:
            raise ValueError("its tensors together are many times as large as what came")
        return _with_bits(made, metadata).requires_grad_(requires_grad)


def _as_elements(content: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if dtype is torch.bool:
        return content.ne(0)  # any other byte than 0 and 1 is no bool for the processor
    return content.view(dtype) if len(content) else torch.empty(0, dtype=dtype)


def _inside(length: int, offset: Any, sizes: Any, strides: Any) -> tuple[int, Any, Any]:
    """Where the elements of a tensor lie in a storage of some length, made sure of."""
    axes = [*zip(sizes, strides, strict=True)]
    if not all(map(_is_size, (offset, *sizes, *strides))) or len(axes) > _MOST_AXES:
        raise ValueError("offset, sizes or strides of a tensor are not counts")
    if 0 in sizes:
        rows = 1
        for size in sizes:
            rows *= size or 1
        if rows > _NO_BYTES:
            raise ValueError(f"a tensor without elements has {rows:,} rows")
        return 0, sizes, [min(stride, rows) for stride in strides]
    last = offset + sum((size - 1) * stride for size, stride in axes)
    if last >= length:
        raise ValueError(f"a tensor reaches element {last:,} of a storage of {length:,}")
    return offset, sizes, [min(stride, length) for stride in strides]


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0


def _with_bits(tensor: torch.Tensor, metadata: Any) -> torch.Tensor:
    """A tensor that torch has yet to conjugate or negate, once it has."""
    bits = {} if metadata is None else metadata
    if type(bits) is not dict or not bits.keys() <= {"conj", "neg"}:
        raise ValueError(f"the description of a tensor is not understood: {metadata!r}")
    if bits.get("conj"):
        tensor = tensor.conj().resolve_conj()
    return tensor.neg() if bits.get("neg") else tensor


def _parameter(data: Any, requires_grad: Any, hooks: Any) -> torch.nn.Parameter:
    if type(data) is not torch.Tensor or type(requires_grad) is not bool or hooks:
        raise ValueError("a parameter is not a tensor, or has hooks")
    return torch.nn.Parameter(data, requires_grad)


def _bytes(text: str, encoding: str) -> bytes:
    """How the second protocol of pickle writes bytes."""
    if type(text) is not str or encoding != "latin1":
        raise ValueError("bytes are written in an odd way")
    return text.encode("latin1")


def _counter(counts: Any) -> Counter[Any]:
    if type(counts) is not dict or not all(type(count) is int for count in counts.values()):
        raise ValueError("a Counter counts something else than numbers")
    return Counter(counts)


def _set(items: Any) -> set[Any]:
    if type(items) is not list:
        raise ValueError("a set is made of no list")
    return set(items)


def _size(sizes: Any) -> torch.Size:
    if type(sizes) is not tuple:
        raise ValueError("a torch.Size is made of no tuple")
    return torch.Size(sizes)


def _no_arguments(make: Callable[[], Any]) -> _Constructor:
    return _Constructor(lambda: make())


@cache
def _known() -> dict[str, Any]:
    """What a pickle may name, but for what makes tensors."""
    return {
        "collections OrderedDict": _no_arguments(OrderedDict),
        "collections Counter": _Constructor(_counter),
        "_codecs encode": _Constructor(_bytes),
        "__builtin__ bytes": _no_arguments(bytes),
        "__builtin__ complex": _Constructor(lambda real, imaginary: complex(real, imaginary)),
        "__builtin__ set": _Constructor(_set),
        "torch Size": _Constructor(_size),
        "torch device": _Constructor(torch.device),
        "torch._utils _rebuild_parameter": _Constructor(_parameter),
        "torch.storage UntypedStorage": _StorageType(None),
        **{
            f"torch {name}Storage": _StorageType(getattr(torch, dtype))
            for name, dtype in _STORAGES.items()
        },
        **{f"torch {name}": getattr(torch, name) for name in DTYPES if hasattr(torch, name)},
    }


_STORAGES = {
    "BFloat16": "bfloat16",
    "Bool": "bool",
    "Byte": "uint8",
    "Char": "int8",
    "ComplexDouble": "complex128",
    "ComplexFloat": "complex64",
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "Int": "int32",
    "Long": "int64",
    "Short": "int16",
}
DTYPES = frozenset(_STORAGES.values()) | {
    "complex32",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
    "uint16",
    "uint32",
    "uint64",
}


class _Machine:
    """Follows a pickle.

    Args:
        storages: Where tensors come from.
        most: How many opcodes the pickle may have.
    """

    def __init__(self, storages: _Storages, most: int) -> None:
        self._storages = storages
        self._most = most
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._makes_tensors = {
            "torch._utils _rebuild_tensor_v2": _Constructor(storages.tensor),
            "torch._utils _rebuild_tensor_v3": _Constructor(storages.typed_tensor),
        }

    def run(self, pickle: bytes) -> Any:
        """What the pickle describes."""
        for number, (opcode, argument, _) in enumerate(pickletools.genops(pickle)):
            if number > self._most:
                raise ValueError(f"it has more than {self._most:,} opcodes")
            name = opcode.name
            if name in _PUSHES:
                self._stack.append(argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name]())
            elif name in _ACTS:
                _ACTS[name](self, argument)
            elif name not in _IGNORED:
                raise ValueError(f"it has the opcode {name}, which weights do not need")
        (content,) = self._stack
        if self._below or isinstance(content, _Storage | _StorageType | _Constructor):
            raise ValueError("it ends early")
        return content

    def mark(self, _: Any) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def tuple_to_mark(self, _: Any) -> None:
        items = tuple(self._to_mark())
        self._stack.append(items)

    def tuple_of(self, count: int) -> None:
        items = tuple(self._stack[-count:])
        if len(items) != count:
            raise ValueError("it takes from an empty stack")
        self._stack[-count:] = [items]

    def append(self, _: Any) -> None:
        self._extend([self._stack.pop()])

    def append_to_mark(self, _: Any) -> None:
        self._extend(self._to_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise ValueError(f"it appends to a {type(target).__name__}")
        target.extend(items)

    def set_item(self, _: Any) -> None:
        value = self._stack.pop()
        self._update([self._stack.pop(), value])

    def set_items_to_mark(self, _: Any) -> None:
        self._update(self._to_mark())

    def _update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) not in (dict, OrderedDict):
            raise ValueError(f"it sets items of a {type(target).__name__}")
        keys = items[::2]
        if not all(type(key) in _SCALARS for key in keys):
            raise ValueError("a dict has a key that is neither text nor number")
        target.update(zip(keys, items[1::2], strict=True))

    def put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def memoize(self, _: Any) -> None:
        self.put(len(self._memo))

    def get(self, index: int) -> None:
        """Repeat something; what holds other things would multiply with each time."""
        found = self._memo[index]
        flat = type(found) is tuple and all(type(item) in _SCALARS for item in found)
        if not flat and isinstance(found, list | dict | set | tuple):
            raise ValueError(f"it repeats a {type(found).__name__}")
        self._stack.append(found)

    def name(self, name: str) -> None:
        known = name.replace("builtins ", "__builtin__ ", 1)
        found = self._makes_tensors.get(known) or _known().get(known)
        if found is None:
            raise ValueError(f"it names {name.replace(' ', '.')}, which weights do not need")
        self._stack.append(found)

    def name_from_stack(self, _: Any) -> None:
        attribute, module = self._stack.pop(), self._stack.pop()
        self.name(f"{module} {attribute}")

    def call(self, _: Any) -> None:
        arguments, found = self._stack.pop(), self._stack.pop()
        if not isinstance(found, _Constructor) or type(arguments) is not tuple:
            raise ValueError(f"it calls a {type(found).__name__}")
        self._stack.append(found.call(*arguments))

    def find_storage(self, _: Any) -> None:
        identifier = self._stack.pop()
        if type(identifier) is not tuple:
            raise ValueError("a persistent id is not a tuple")
        self._stack.append(self._storages.get(*identifier))

    def build(self, _: Any) -> None:
        """Set the one attribute that a state_dict has: the versions of its modules."""
        attributes, target = self._stack.pop(), self._stack[-1]
        if type(target) is not OrderedDict or type(attributes) is not dict:
            raise ValueError(f"it sets attributes of a {type(target).__name__}")
        (name,) = attributes
        versions = attributes[name]
        if name != "_metadata" or type(versions) is not OrderedDict:
            raise ValueError(f"it sets the attribute {name!r} of a dict")
        vars(target)[name] = versions


_PUSHES = frozenset(
    {
        "BINBYTES",
        "BINFLOAT",
        "BININT",
        "BININT1",
        "BININT2",
        "BINUNICODE",
        "LONG1",
        "SHORT_BINBYTES",
        "SHORT_BINUNICODE",
    }
)
_IGNORED = frozenset({"PROTO", "FRAME", "STOP"})
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_ACTS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "TUPLE": _Machine.tuple_to_mark,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.append_to_mark,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items_to_mark,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name_from_stack,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.find_storage,
}
