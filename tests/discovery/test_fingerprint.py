"""config_hash and fingerprint: equal content, equal hash, in every process and every run."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import ipaddress
import math
import operator
import os
import pathlib
import re
import subprocess
import sys
import uuid
import zoneinfo
from typing import Any

import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

import soma_core as soma
from soma_core.models.fingerprint import fingerprint


class Scale(soma.Filter):
    factor: float = 2.0
    anything: Any = None

    def forward(self, x: Any, state: Any) -> Any:
        return x * self.factor


class Other(Scale):
    pass


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Level(enum.IntEnum):
    LOW = 1


class Shade(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: int
    y: int


@dataclasses.dataclass
class Twin:
    x: int
    y: int


class Model(BaseModel):
    a: int = 1
    b: Any = None


class Open(BaseModel, extra="allow"):
    a: int = 1


class OpenScale(Scale, extra="allow"):
    pass


def named(x: Any) -> Any:
    return x


SCRIPT = """
import datetime, enum, json, pathlib
import numpy as np
import soma_core as soma

class Kind(enum.Enum):
    A = "a"

factor = 3

class Scale(soma.Filter):
    factor: float = 2.0
    table: dict = {}
    tags: set = set()
    array: object = None
    kind: Kind = Kind.A
    when: datetime.date = datetime.date(2026, 1, 2)
    call: object = None

    def forward(self, x, state):
        return x

names = {f"name{n}": n for n in range(20)}
call = lambda x: {x, "p", "q"} & {"r", "s"} | {factor}
for _ in range(200):
    call(1)  # code that has run is the same code
print(Scale(
    factor=1.5, table=names, tags=set(names), array=np.arange(4.0), call=call
).config_hash())
"""


@pytest.mark.nightly
def test_the_hash_is_the_same_in_every_process() -> None:
    hashes = set()
    for seed in ("0", "1", "31337"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        hashes.add(done.stdout)
    (text,) = hashes
    assert len(text.strip()) == 64
    int(text, 16)


def test_equal_filters_have_equal_hashes_and_others_have_others() -> None:
    assert Scale(factor=3).config_hash() == Scale(factor=3.0).config_hash()
    assert Scale().config_hash() == Scale(factor=2.0, anything=None).config_hash()
    hashes = {
        Scale().config_hash(),
        Scale(factor=3).config_hash(),
        Scale(anything=1).config_hash(),
        Scale(anything="1").config_hash(),
        Other().config_hash(),
        OpenScale(shift=1).config_hash(),
        OpenScale(shift=2).config_hash(),
    }
    assert len(hashes) == 7


def test_a_change_of_a_field_changes_the_hash_and_its_reversal_restores_it() -> None:
    scale = Scale(anything=[1])
    before = scale.config_hash()
    scale.anything.append(2)
    assert scale.config_hash() != before
    scale.anything.pop()
    assert scale.config_hash() == before


def adder(n: int) -> Any:
    return lambda x: x + n


def recursive() -> Any:
    def factorial(n: int) -> int:
        return 1 if n < 2 else n * factorial(n - 1)

    return factorial


class Holder:
    def method(self) -> None: ...

    @classmethod
    def make(cls) -> None: ...


DIFFERENT: list[Any] = [
    None,
    False,
    True,
    0,
    1,
    -1,
    1.0,
    -0.0,
    0.0,
    math.nan,
    math.inf,
    1 + 0j,
    2**100,
    "",
    "1",
    "\ud800",
    b"",
    b"1",
    [],
    [1],
    [[1], []],
    [[], [1]],
    (1,),
    (1, 2),
    {},
    {1: 2},
    {"1": 2},
    {1: {2: 3}},
    {(1, 2): 3},
    set(),
    {1},
    {1, 2},
    {(1, 2)},
    decimal.Decimal("1"),
    decimal.Decimal("1.0"),
    uuid.UUID(int=1),
    pathlib.PurePosixPath("a"),
    datetime.date(2026, 1, 1),
    datetime.datetime(2026, 1, 1),
    datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    datetime.time(1),
    datetime.timedelta(1),
    Color.RED,
    Color.BLUE,
    Shade.RED,
    Level.LOW,
    Point(1, 2),
    Point(2, 1),
    Twin(1, 2),
    Model(),
    Model(a=2),
    Scale(),
    Other(),
    Open(),
    Open(b=1),
    Open(b=2),
    OpenScale(shift=1),
    OpenScale(shift=2),
    Point,
    Twin,
    dict,
    int,
    math,
    len,
    math.sin,
    np.sin,
    np.cos,
    operator.add,
    named,
    recursive,
    adder(1),
    adder(2),
    lambda x: x * 2,
    lambda x: x * 3,
    lambda x, y=1: x * 2,
    lambda x, *, y=1: x * 2,
    functools.partial(named, 1),
    functools.partial(named, 2),
    functools.partial(named, x=1),
    Holder.make,
    np.zeros(2),
    np.zeros(3),
    np.zeros((2, 1)),
    np.zeros((1, 2)),
    np.zeros(2, "f4"),
    np.zeros(2, ">f8"),
    np.ones(2),
    np.array(["a"]),
    np.array([b"a"]),
    np.array([1, None], dtype=object),
    np.array([1, 2], dtype=object),
    np.zeros(2, "M8[s]"),
    np.zeros(2, "M8[D]"),
    np.zeros(1, [("a", "i4"), ("b", "f4")]),
    np.zeros(1, [("a", "i4"), ("c", "f4")]),
    np.zeros(1, [("a", "f4"), ("b", "i4")]),
    np.float32(1),
    np.int8(1),
    slice(1, 2),
    slice(1, 2, 1),
    [1, 2, None],
    range(2),
    range(3),
    collections.deque([1]),
    collections.deque([1], maxlen=2),
    re.compile("a"),
    re.compile("a", re.I),
    re.compile(b"a"),
    fractions.Fraction(1, 2),
    zoneinfo.ZoneInfo("UTC"),
    datetime.UTC,
    ipaddress.ip_address("1.2.3.4"),
    ipaddress.ip_network("1.2.3.4"),
    ipaddress.ip_address("::1"),
    pydantic.SecretStr("a"),
    pydantic.SecretStr("b"),
    pydantic.SecretBytes(b"a"),
    pydantic.AnyUrl("http://a"),
    pydantic.HttpUrl("http://a"),
    pydantic.HttpUrl("http://b"),
    pydantic.PostgresDsn("postgres://a@b/c"),
    np.dtype("f4"),
    np.dtype("f8"),
    np.ma.MaskedArray([1, 2], mask=[False, True]),
    np.ma.MaskedArray([1, 2], mask=[True, False]),
    10**5000,
    10**5000 + 1,
    fractions.Fraction(10**5000, 3),
]
LOOP: list[Any] = []
LOOP.append({"a": LOOP})


def test_different_content_has_different_hashes() -> None:
    owners: dict[str, list[int]] = collections.defaultdict(list)
    for index, value in enumerate(DIFFERENT):
        owners[fingerprint(value)].append(index)
    alike = [[DIFFERENT[index] for index in group] for group in owners.values() if len(group) > 1]
    assert alike == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({3, 1, 2}, {1, 2, 3}),
        ({1, 2}, frozenset({1, 2})),
        (bytearray(b"a"), b"a"),
        ([math.nan], [float("nan")]),
        (np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3))),
        (np.arange(6)[::2], np.array([0, 2, 4])),
        (np.ones(2)[::-1], np.ones(2)),
        (adder(1), adder(1)),
        (recursive(), recursive()),
        (collections.OrderedDict(b=1, a=2), {"a": 2, "b": 1}),
        (Model(b=[Point(1, 2)]), Model(b=[Point(1, 2)])),
    ],
    ids=lambda value: type(value).__name__,
)
def test_equal_content_has_equal_hashes(one: Any, other: Any) -> None:
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[..., 0],
        lambda x: x[1:2],
        lambda x: (x in {"a", "b"}, x, 1.5, b"", 2**70, None),
        lambda x: [y for y in x if (lambda z: z > 0)(y)],
        lambda x: f"{x!r}",
        lambda x: np.mean(x) + math.pi,
    ],
    ids=["ellipsis", "slice", "constants", "nested", "f-string", "modules"],
)
def test_any_lambda_in_a_field_can_be_hashed(function: Any) -> None:
    assert len(Scale(anything=function).config_hash()) == 64


def test_a_recursive_function_in_a_field_can_be_hashed() -> None:
    assert len(Scale(anything=recursive()).config_hash()) == 64


def test_torch_tensors_are_hashed_by_content() -> None:
    torch = pytest.importorskip("torch")
    tensors = [
        torch.zeros(2),
        torch.ones(2),
        torch.zeros(2, 1),
        torch.zeros(2, dtype=torch.float64),
        torch.zeros(2, dtype=torch.bfloat16),
        torch.zeros(2, dtype=torch.float16),
        torch.zeros(0),
        torch.tensor(0.0),
    ]
    assert len({fingerprint(tensor) for tensor in tensors}) == len(tensors)
    same = [torch.arange(6.0).reshape(2, 3), torch.arange(6.0).reshape(3, 2).T.contiguous()]
    assert fingerprint(same[0].T.contiguous().T) == fingerprint(same[0])
    assert fingerprint(torch.ones(2, requires_grad=True)) == fingerprint(torch.ones(2))


@pytest.mark.parametrize(
    "value",
    [object(), iter([]), (n for n in ()), sys.stderr, [object()], {"a": object()}, LOOP],
    ids=["object", "iterator", "generator", "file", "in a list", "in a dict", "itself"],
)
def test_what_cannot_be_hashed_by_content_is_refused_by_its_type(value: Any) -> None:
    with pytest.raises(TypeError, match=r"cannot hash a .* override config_hash"):
        Scale(anything=value).config_hash()


CONTENT = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(one=CONTENT, other=CONTENT)
def test_hashes_are_equal_only_for_equal_content(one: Any, other: Any) -> None:
    def key(value: Any) -> Any:
        if isinstance(value, dict):
            return ("dict", frozenset((key(k), key(v)) for k, v in value.items()))
        if isinstance(value, list | tuple):
            return (type(value).__name__, tuple(map(key, value)))
        return (type(value).__name__, repr(value))

    assert (fingerprint(one) == fingerprint(other)) == (key(one) == key(other))
