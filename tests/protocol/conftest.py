"""Sending objects through a dialect of the wire, and comparing what comes out to the last bit."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import numpy as np
import pytest
from pydantic_core import to_json

from soma_core.wire.json_text import read_json
from soma_core.wire.line_codec import LineDecoder, LineEncoder
from soma_core.wire.packing import pack
from soma_core.wire.pickles import Pickles
from soma_core.wire.unpacking import unpack


def refuse_constant(name: str) -> Any:
    raise AssertionError(f"a bare {name} is not JSON")


class Line:
    """The lines dialect: from an object to its bytes, and back."""

    is_line = True

    def write(self, obj: Any, pickles: Pickles | None = None) -> tuple[bytes, list[bytearray]]:
        wire = LineEncoder(pickles=pickles).encode(obj)
        try:
            text = to_json(wire, inf_nan_mode="constants")
        except ValueError:  # lone surrogates
            text = json.dumps(wire).encode("ascii")
        assert b"\n" not in text
        json.loads(text, parse_constant=refuse_constant)
        return text, []

    def read(self, text: bytes, buffers: list[bytearray], pickles: Pickles | None = None) -> Any:
        return LineDecoder(pickles=pickles).decode(read_json(text))

    def __call__(self, obj: Any, pickles: Pickles | None = None) -> Any:
        return self.read(*self.write(obj, pickles), pickles)


class Frame(Line):
    """The frames dialect."""

    is_line = False

    def write(self, obj: Any, pickles: Pickles | None = None) -> tuple[bytes, list[bytearray]]:
        header, buffers = pack(obj, pickles or Pickles())
        return header, [bytearray(memoryview(buffer)) for buffer in buffers]

    def read(self, text: bytes, buffers: list[bytearray], pickles: Pickles | None = None) -> Any:
        return unpack(text, buffers, pickles or Pickles())


@pytest.fixture(scope="session", params=[Line, Frame], ids=["line", "frame"])
def wire(request: pytest.FixtureRequest) -> Line:
    return request.param()


@pytest.fixture(scope="session")
def line() -> Line:
    return Line()


@pytest.fixture(scope="session")
def frame() -> Frame:
    return Frame()


def _same_array(a: Any, b: Any) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.names is not None:
        return all(_same_array(a[name], b[name]) for name in a.dtype.names)
    if a.dtype.hasobject:
        return all(identical(x, y) for x, y in zip(a.ravel(), b.ravel(), strict=True))
    if a.dtype == np.longdouble or a.dtype == np.clongdouble:  # their padding bytes are arbitrary
        return bool(np.array_equal(a, b, equal_nan=True)) and np.array_equal(
            np.signbit(a.real), np.signbit(b.real)
        )
    return a.tobytes() == b.tobytes()


def _same_tensor(a: Any, b: Any) -> bool:
    import torch

    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    flat_a, flat_b = (t.detach().resolve_conj().resolve_neg().flatten().clone() for t in (a, b))
    flat_a, flat_b = (flat.as_strided(flat.shape, (1,)) for flat in (flat_a, flat_b))
    return bool(torch.equal(flat_a.view(torch.uint8), flat_b.view(torch.uint8)))


def identical(a: Any, b: Any) -> bool:
    """Whether two objects have the same types and content, every bit and every nested type."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return np.float64(a).tobytes() == np.float64(b).tobytes() or (a != a and b != b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(identical, a, b))
    if isinstance(a, np.ma.MaskedArray):
        return _same_array(a.data, b.data) and _same_array(np.asarray(a.mask), np.asarray(b.mask))
    if isinstance(a, np.ndarray | np.generic):
        return _same_array(np.asarray(a), np.asarray(b))
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(a, torch.Tensor):
        return _same_tensor(a, b)
    if dataclasses.is_dataclass(a):
        return identical(vars(a), vars(b))
    if hasattr(a, "equals"):
        return bool(a.equals(b))
    return bool(a == b)


@pytest.fixture(scope="session", name="identical")
def _identical() -> Any:
    return identical
