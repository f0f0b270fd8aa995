"""A hash of Python objects by content: the same in every process and every run."""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import functools
import hashlib
import inspect
import ipaddress
import pathlib
import re
import sys
import types
import uuid
import zoneinfo
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np
from pydantic import BaseModel


class _Digest:
    """The hash so far, and the functions that are being hashed: they may refer to themselves."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self.under_way: list[object] = []

    def __call__(self, content: bytes) -> None:
        self._sha256.update(content)

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


def fingerprint(value: object) -> str:
    """The SHA-256 of a value's content, as 64 hexadecimal digits.

    Understands plain data, what the standard library and pydantic have fields of (dates, paths,
    addresses, patterns, secrets), sets, enums, numpy arrays, torch tensors, pydantic models,
    dataclasses, attrs, classes and functions. Dictionaries and sets hash alike in any order.

    Args:
        value: The value; what it holds is looked at to any depth.

    Raises:
        TypeError: The value holds an object of another type, or itself.
    """
    digest = _Digest()
    try:
        _content(value, digest)
    except RecursionError:
        raise TypeError(
            f"cannot hash a {type(value).__qualname__} by content: it contains itself or nests too "
            "deep; hold plain data in the field instead, or override config_hash()"
        ) from None
    return digest.hexdigest()


def _part(feed: _Digest, kind: str, content: bytes) -> None:
    """One element, its kind and length first so that no two contents can run together."""
    feed(f"{kind}:{len(content)}:".encode())
    feed(content)


def _children(feed: _Digest, kind: str, items: Iterable[object]) -> None:
    listed = list(items)
    feed(f"{kind}[{len(listed)}]".encode())
    for item in listed:
        _content(item, feed)


@functools.singledispatch
def _content(value: object, feed: _Digest) -> None:
    if is_dataclass(value):
        _children(
            feed,
            "dataclass",
            [type(value), {f.name: getattr(value, f.name) for f in fields(value)}],
        )
    elif _is_torch_tensor(value):
        tensor: Any = value
        _children(feed, "torch", [str(tensor.dtype), list(tensor.shape), _tensor_bytes(tensor)])
    elif hasattr(value, "get_secret_value"):  # pydantic's secrets and addresses
        _children(feed, "secret", [type(value), value.get_secret_value()])
    elif hasattr(value, "unicode_string"):
        _children(feed, "url", [type(value), value.unicode_string()])
    elif hasattr(value, "__attrs_attrs__"):
        held = {each.name: getattr(value, each.name) for each in value.__attrs_attrs__}
        _children(feed, "attrs", [type(value), held])
    elif hasattr(value, "__struct_fields__"):  # of msgspec
        held = {name: getattr(value, name) for name in value.__struct_fields__}
        _children(feed, "struct", [type(value), held])
    else:
        raise TypeError(
            f"cannot hash a {type(value).__module__}.{type(value).__qualname__} by content; "
            "hold plain data in the field instead, or override config_hash()"
        )


@_content.register
def _(value: None, feed: _Digest) -> None:
    _part(feed, "none", b"")


@_content.register(types.EllipsisType)
@_content.register(types.NotImplementedType)
@_content.register(bool)
@_content.register(float)
@_content.register(complex)
@_content.register(decimal.Decimal)
@_content.register(uuid.UUID)
@_content.register(pathlib.PurePath)
@_content.register(datetime.date)
@_content.register(datetime.time)
@_content.register(datetime.timedelta)
@_content.register(datetime.timezone)
@_content.register(zoneinfo.ZoneInfo)
@_content.register(ipaddress.IPv4Address)
@_content.register(ipaddress.IPv6Address)
@_content.register(ipaddress.IPv4Network)
@_content.register(ipaddress.IPv6Network)
@_content.register(np.dtype)
def _(value: object, feed: _Digest) -> None:
    _part(feed, type(value).__name__, repr(value).encode())


@_content.register
def _(value: int, feed: _Digest) -> None:
    """In hexadecimal digits where Python, or its user, limits the others."""
    long = value.bit_length() > _LONG
    _part(feed, type(value).__name__, (hex(value) if long else repr(value)).encode())


_LONG = 2000  # bits


@_content.register
def _(value: str, feed: _Digest) -> None:
    _part(feed, "str", value.encode("utf-8", "surrogatepass"))


@_content.register(bytes)
@_content.register(bytearray)
def _(value: bytes, feed: _Digest) -> None:
    _part(feed, "bytes", bytes(value))


@_content.register(list)
@_content.register(tuple)
def _(value: list[object], feed: _Digest) -> None:
    _children(feed, type(value).__name__, value)


@_content.register
def _(value: collections.deque, feed: _Digest) -> None:  # type: ignore[type-arg]
    _children(feed, "deque", [list(value), value.maxlen])


@_content.register(set)
@_content.register(frozenset)
def _(value: set[object], feed: _Digest) -> None:
    _children(feed, "set", sorted(fingerprint(item) for item in value))


@_content.register(Mapping)
def _(value: Mapping[object, object], feed: _Digest) -> None:
    pairs = sorted((fingerprint(key), fingerprint(item)) for key, item in value.items())
    _children(feed, "dict", pairs)


@_content.register
def _(value: Enum, feed: _Digest) -> None:
    _children(feed, "enum", [type(value), value.name])


@_content.register
def _(value: BaseModel, feed: _Digest) -> None:
    _children(feed, "model", [type(value), fields_of(value)])


def fields_of(model: BaseModel) -> dict[str, Any]:
    """The fields of a model by name, with those that a model adds which allows others."""
    declared = {name: getattr(model, name) for name in type(model).model_fields}
    return declared | (getattr(model, "__pydantic_extra__", None) or {})


@_content.register(np.ndarray)
@_content.register(np.generic)
def _(value: Any, feed: _Digest) -> None:
    if _is_masked(value):
        mask = np.ma.getmaskarray(value)
        _children(feed, "masked", [value.filled(value.fill_value), mask, value.fill_value])
        return
    array = np.asarray(value)
    if array.dtype.hasobject:
        _children(feed, "array", [list(array.shape), array.ravel().tolist()])
    else:
        _children(feed, "array", [repr(array.dtype), list(array.shape), array.tobytes()])


def _is_masked(value: Any) -> bool:
    """Whether it is a masked array; where none was made, their module is not imported."""
    masked = sys.modules.get("numpy.ma")
    return masked is not None and isinstance(value, masked.MaskedArray)


@_content.register
def _(value: type, feed: _Digest) -> None:
    _part(feed, "class", f"{value.__module__}:{value.__qualname__}".encode())


@_content.register
def _(value: types.ModuleType, feed: _Digest) -> None:
    _part(feed, "module", value.__name__.encode())


@_content.register(types.BuiltinFunctionType)
@_content.register(np.ufunc)
def _(value: Any, feed: _Digest) -> None:
    owner = getattr(value, "__module__", None) or "numpy"
    _part(feed, "builtin", f"{owner}:{value.__name__}".encode())


@_content.register
def _(value: types.FunctionType, feed: _Digest) -> None:
    """A named function is its name; a lambda or a local one is its code and what it closes over."""
    if value.__module__ != "__main__" and "<" not in value.__qualname__:
        _part(feed, "function", f"{value.__module__}:{value.__qualname__}".encode())
        return
    if value in feed.under_way:
        _part(feed, "recursion", str(feed.under_way.index(value)).encode())
        return
    feed.under_way.append(value)
    closed_over = inspect.getclosurevars(value)
    _children(feed, "code", [value.__code__, value.__defaults__, value.__kwdefaults__])
    for scope in (closed_over.nonlocals, closed_over.globals):
        _children(feed, "scope", [item for name in sorted(scope) for item in (name, scope[name])])
    feed.under_way.pop()


def _register_parts(kind: type, name: str, *attributes: str) -> None:
    """Objects of a class are nothing but these attributes."""

    @_content.register(kind)
    def _(value: object, feed: _Digest) -> None:
        _children(feed, name, [getattr(value, attribute) for attribute in attributes])


_register_parts(fractions.Fraction, "fraction", "numerator", "denominator")
_register_parts(range, "range", "start", "stop", "step")
_register_parts(slice, "slice", "start", "stop", "step")
_register_parts(re.Pattern, "pattern", "pattern", "flags")
_register_parts(functools.partial, "partial", "func", "args", "keywords")
_register_parts(types.MethodType, "method", "__func__", "__self__")
_register_parts(types.CodeType, "code", "co_code", "co_names", "co_varnames", "co_consts")


def _is_torch_tensor(value: object) -> bool:
    return type(value).__module__.startswith("torch") and hasattr(value, "detach")


def _tensor_bytes(tensor: Any) -> bytes:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy().tobytes()) if flat.numel() else b""
