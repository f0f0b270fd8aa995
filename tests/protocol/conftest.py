"""Sending objects through a dialect of the wire, and comparing what comes out to the last bit."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from pydantic_core import to_json

from soma_core.wire.codec import Decoder, FrameEncoder, LineEncoder
from soma_core.wire.json_text import read_json
from soma_core.wire.pickles import Pickles

settings.register_profile("soma", deadline=None, database=None, derandomize=True, max_examples=60)
settings.register_profile("hunt", deadline=None, database=None, max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "soma"))


def refuse_constant(name: str) -> Any:
    raise AssertionError(f"a bare {name} is not JSON")


class Wire:
    """One dialect: from an object to its bytes, and back."""

    def __init__(self, encoder_class: type[Any]) -> None:
        self.encoder_class = encoder_class
        self.is_line = encoder_class is LineEncoder

    def write(self, obj: Any, pickles: Pickles | None = None) -> tuple[bytes, list[bytearray]]:
        encoder = self.encoder_class(pickles=pickles)
        wire = encoder.encode(obj)
        try:
            text = to_json(wire, inf_nan_mode="constants")
        except ValueError:  # lone surrogates
            text = json.dumps(wire).encode("ascii")
        if self.is_line:
            assert b"\n" not in text
            json.loads(text, parse_constant=refuse_constant)
        return text, [bytearray(buffer) for buffer in getattr(encoder, "buffers", ())]

    def read(self, text: bytes, buffers: list[bytearray], pickles: Pickles | None = None) -> Any:
        return Decoder(buffers, pickles=pickles).decode(read_json(text))

    def __call__(self, obj: Any, pickles: Pickles | None = None) -> Any:
        return self.read(*self.write(obj, pickles), pickles)


@pytest.fixture(scope="session", params=[LineEncoder, FrameEncoder], ids=["line", "frame"])
def wire(request: pytest.FixtureRequest) -> Wire:
    return Wire(request.param)


@pytest.fixture(scope="session")
def line() -> Wire:
    return Wire(LineEncoder)


@pytest.fixture(scope="session")
def frame() -> Wire:
    return Wire(FrameEncoder)


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
    flat_a, flat_b = (t.detach().resolve_conj().contiguous().reshape(-1) for t in (a, b))
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
