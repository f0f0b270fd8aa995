"""Kinds of values: of each, what arrives is of the same type and holds the same."""

from __future__ import annotations

import argparse
import array
import collections
import contextlib
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import http
import io
import ipaddress
import itertools
import math
import operator
import os
import pathlib
import pickle
import random
import re
import signal
import string
import subprocess
import sys
import threading
import time
import types
import typing
import uuid
import zoneinfo
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import pytest
import torch
from scipy import sparse

import soma_core as soma
from soma_core.wire.pickles import Pickles

from ..support import nightly

ml_dtypes = pytest.importorskip("ml_dtypes")
attrs = pytest.importorskip("attrs")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # torch has kinds that are in beta


class Color(enum.Enum):
    RED = "r"


class Size(enum.IntEnum):
    BIG = 3


class Word(enum.StrEnum):
    YES = "y"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Row(typing.NamedTuple):
    a: int
    b: str = "x"


class Texts(list[str]):
    pass


class Table(dict[str, Any]):
    pass


class Name(str):
    pass


class Count(int):
    pass


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = 0

    def norm(self) -> Any:
        return self.x


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: int


class Inner(pydantic.BaseModel):
    x: int


class Outer(pydantic.BaseModel, frozen=True):
    inner: list[Inner]
    _kept: int = 5


class Open(pydantic.BaseModel, extra="allow"):
    a: int


@attrs.define
class Attributes:
    x: int


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slotted) and self.x == other.x


class OwnState:
    def __init__(self, x: int) -> None:
        self.x, self.made = x, threading.Lock()

    def __getstate__(self) -> int:
        return self.x

    def __setstate__(self, state: int) -> None:
        self.__init__(state)  # type: ignore[misc]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OwnState) and self.x == other.x


class Failed(Exception):
    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)
        self.number = number

    def __reduce__(self) -> Any:
        return Failed, (self.args[0], self.number)


class Meters(np.ndarray):
    pass


class Volts(torch.Tensor):
    pass


class Node:
    me: Node


def shift(x: int, by: int = 1) -> int:
    return x + by


def adder(n: int) -> Callable[[int], int]:
    return lambda x: x + n


def noted() -> Exception:
    error = ValueError("a", 1)
    error.add_note("a note")
    return error


def itself() -> Node:
    node = Node()
    node.me = node
    return node


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))


def rows_of_tensors() -> torch.Tensor:
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)


PARIS = zoneinfo.ZoneInfo("Europe/Paris")
FIELDS = [("a", "i4"), ("b", "f8", (2,)), ("c", [("d", "U3")])]
NUMPY = "? i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 g F D G U5 S3"
ML_DTYPES = "bfloat16 float8_e4m3fn float8_e5m2 float8_e8m0fnu int4 uint2"
TORCH = "bool uint8 int8 int16 int32 int64 uint16 float16 bfloat16 float32 float64 complex64"
TORCH += " complex128 float8_e4m3fn float8_e5m2"
SPARSE = "csr csc coo lil dok dia bsr"
QUANTIZED = (0.1, 2, torch.quint8)
Make = Callable[[], Any]

TYPED: dict[str, Make] = {
    "None": lambda: None,
    "bool": lambda: False,
    "int": lambda: -(2**63),
    "an int of 65 bits": lambda: 2**64,
    "float": lambda: 5e-324,
    "nan": lambda: math.nan,
    "str": lambda: "a\0\u2028\U0001f600",
    "a lone surrogate": lambda: ["\udcff", {"\udcff": 1}],
    "bytes": lambda: b"\0\xff",
    "list": lambda: [1, [2.5, "a"]],
    "dict": lambda: {"b": 1, "a": {}},
    "tuple": lambda: (1, (2,), ()),
    "a list of tuples": lambda: [(n, str(n)) for n in range(9)],
    "dict of int keys": lambda: {1: {2: "a"}},
    "dict of mixed keys": lambda: {(1, "a"): 1, None: 2, 1.5: 3, b"k": 4},
    "dict of numpy keys": lambda: {np.int64(1): 1},
    "dict that looks like a tag": lambda: {"type": "Empty", "data": {"$soma": 1}},
    "complex": lambda: complex(math.inf, -0.0),
    "range": lambda: range(9, 0, -3),
    "set": lambda: {1, "a", (2,), "\udcff"},
    "frozenset": lambda: frozenset({frozenset({1})}),
    "OrderedDict": lambda: collections.OrderedDict(b=(1,), a={1: {2: 3}}),
    "date": lambda: dt.date(1, 1, 1),
    "datetime": lambda: dt.datetime(2024, 2, 29, 1, 2, 3, 4),
    "datetime in UTC": lambda: dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
    "datetime at an offset": lambda: dt.datetime(
        2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=45))
    ),
    "datetime in a zone": lambda: dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=PARIS),
    "time": lambda: dt.time(1, 2, 3, 4, tzinfo=dt.UTC),
    "timedelta": lambda: dt.timedelta(days=-1, microseconds=5),
    "UUID": lambda: uuid.UUID(int=7),
    "Decimal": lambda: decimal.Decimal("-1.100"),
    "Decimal NaN": lambda: decimal.Decimal("NaN123"),
    "Fraction": lambda: fractions.Fraction(-3, 7),
    "Path": lambda: pathlib.Path("/a/b\udcff"),
    "PurePosixPath": lambda: pathlib.PurePosixPath("a"),
    "PureWindowsPath": lambda: pathlib.PureWindowsPath("c:\\a"),
    **{
        f"numpy {name}": lambda name=name: (np.arange(6) % 2).astype(name).reshape(2, 3)
        for name in NUMPY.split()
    },
    **{
        f"numpy {kind}8[{unit}]": lambda kind=kind, unit=unit: np.array([1, -5], "i8").view(
            f"{kind}8[{unit}]"
        )
        for kind in "Mm"
        for unit in ("Y", "D", "s", "25s", "ns")
    },
    "numpy void": lambda: np.array([b"abc"], "V3"),
    "numpy fields": lambda: np.ones(2, [("a", "i4"), ("b", "f8", (2,))]),
    "numpy fields within fields": lambda: np.zeros(2, FIELDS),
    "numpy aligned fields": lambda: np.zeros(2, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "numpy NaT": lambda: np.array(["NaT", "2020"], "M8[s]"),
    "numpy 0-d": lambda: np.array(3.5),
    "numpy empty": lambda: np.zeros((2, 0, 4), "f4"),
    "numpy empty texts": lambda: np.zeros(3, "U0"),
    "numpy Fortran order": lambda: np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "numpy transposed": lambda: np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "numpy strided": lambda: np.arange(20)[::3],
    "numpy backwards": lambda: np.arange(12.0).reshape(3, 4)[::-1, ::-2],
    "numpy broadcast": lambda: np.broadcast_to(np.float32(3), (4, 5)),
    "numpy unaligned": lambda: np.frombuffer(b"\0" + bytes(24), "u1")[1:].view("f8"),
    "numpy nan with a payload": lambda: np.array([0x7FF8000000000123], "u8").view("f8"),
    "numpy 64 axes": lambda: np.zeros((1,) * 64),
    "numpy scalar": lambda: np.float32(0.1),
    "numpy text scalar": lambda: np.str_("é"),
    "numpy date scalar": lambda: np.datetime64("2020-01-01T00:00:01.5"),
    "numpy row of fields": lambda: np.ones(1, [("a", "i4")])[0],
    "numpy scalars in a list": lambda: [np.float64(n) for n in range(9)],
    **{
        f"ml_dtypes {name}": lambda name=name: np.ones(3, getattr(ml_dtypes, name))
        for name in ML_DTYPES.split()
    },
    "ml_dtypes scalar": lambda: ml_dtypes.bfloat16(1.5),
    **{
        f"torch {name}": lambda name=name: torch.ones(2, 3).to(getattr(torch, name))
        for name in TORCH.split()
    },
    "torch 0-d": lambda: torch.tensor(2),
    "torch empty": lambda: torch.zeros(0, 3),
    "torch channels last": lambda: torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "torch transposed": lambda: torch.arange(6.0).reshape(2, 3).T,
    "torch strided": lambda: torch.arange(10)[::3],
    "torch expanded": lambda: torch.ones(1).expand(3, 4),
    "torch that wants gradients": lambda: torch.ones(2, requires_grad=True),
    "torch conjugate": lambda: torch.tensor([1 + 2j]).conj(),
    "torch state_dict": lambda: dict(network().state_dict()),
}

PICKLED: dict[str, Make] = {
    "Ellipsis": lambda: ...,
    "NotImplemented": lambda: NotImplemented,
    "slice": lambda: slice(1, None, 2),
    "a class": lambda: int,
    "a class of one's own": lambda: Point,
    "an annotation": lambda: list[int] | None,
    "a built-in function": lambda: len,
    "a function": lambda: shift,
    "a lambda": lambda: lambda x: x + 1,
    "a closure": lambda: adder(3),
    "a partial": lambda: functools.partial(shift, by=2),
    "a method": lambda: Point(1).norm,
    "a method of a text": lambda: "a".upper,
    "an operator": lambda: operator.itemgetter(1),
    "a module": lambda: math,
    "object()": lambda: object(),
    "mappingproxy": lambda: types.MappingProxyType({"a": 1}),
    "SimpleNamespace": lambda: types.SimpleNamespace(a=1),
    "an iterator of a list": lambda: iter([1, 2]),
    "enumerate": lambda: enumerate("ab"),
    "itertools.count": lambda: itertools.count(3),
    "deque": lambda: collections.deque([1, 2], maxlen=3),
    "defaultdict": lambda: collections.defaultdict(list, a=[1]),
    "Counter": lambda: collections.Counter("aab"),
    "ChainMap": lambda: collections.ChainMap({"a": 1}, {"b": 2}),
    "UserDict": lambda: collections.UserDict(a=1),
    "a named tuple": lambda: Row(1),
    "a list of named tuples": lambda: [Row(n) for n in range(5)],
    "struct_time": lambda: time.gmtime(0),
    "stat_result": lambda: os.stat_result(range(10)),
    "a subclass of list": lambda: Texts(["a"]),
    "a subclass of dict": lambda: Table(a=1),
    "a subclass of str": lambda: Name("a"),
    "a subclass of int": lambda: Count(4),
    "a zone": lambda: PARIS,
    "an offset": lambda: dt.timezone(dt.timedelta(hours=-3)),
    "datetime at a named offset": lambda: dt.datetime(
        2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1), "X")
    ),
    "decimal context": lambda: decimal.Context(prec=3),
    "IPv4Address": lambda: ipaddress.ip_address("1.2.3.4"),
    "IPv6Network": lambda: ipaddress.ip_network("::/8"),
    "a pattern": lambda: re.compile("a+", re.I),
    "HTTPStatus": lambda: http.HTTPStatus.OK,
    "a signal": lambda: signal.SIGINT,
    "array.array": lambda: array.array("d", [1.5]),
    "BytesIO": lambda: io.BytesIO(b"abc"),
    "random.Random": lambda: random.Random(3),
    "Template": lambda: string.Template("$a"),
    "argparse.Namespace": lambda: argparse.Namespace(a=1),
    "CompletedProcess": lambda: subprocess.CompletedProcess(["a"], 0, b"o"),
    "an exception": noted,
    "an OSError": lambda: FileNotFoundError(2, "no", "f"),
    "an exception of one's own": lambda: Failed("a", 1),
    "a group of exceptions": lambda: ExceptionGroup("g", [ValueError(1)]),
    "a dataclass": lambda: Point(1, [2]),
    "a frozen dataclass with slots": lambda: Frozen(1),
    "an enum": lambda: Color.RED,
    "IntEnum": lambda: Size.BIG,
    "StrEnum": lambda: Word.YES,
    "Flag": lambda: Access.READ | Access.WRITE,
    "dict of enum keys": lambda: {Color.RED: 1},
    "a pydantic model": lambda: Outer(inner=[Inner(x=1)]),
    "a pydantic model of more fields": lambda: Open(a=1, b=2),
    "a pydantic secret": lambda: pydantic.SecretStr("s"),
    "attrs": lambda: Attributes(1),
    "an object with slots": lambda: Slotted(1),
    "an object with a state of its own": lambda: OwnState(1),
    "an object that holds itself": itself,
    "numpy objects": lambda: np.array([1, "a", None, [2]], object),
    "numpy arrays in an array": lambda: np.array([np.arange(3), np.ones(2)], object),
    "numpy fields with objects": lambda: np.array([(1, {})], [("a", "i4"), ("o", "O")]),
    "numpy StringDType": lambda: np.array(["a", "b" * 40], np.dtypes.StringDType()),
    "numpy overlapping fields": lambda: np.zeros(
        2, np.dtype({"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [0, 0]})
    ),
    "numpy masked": lambda: np.ma.masked_array([1, 2, 3], [0, 1, 0], fill_value=9),
    "numpy recarray": lambda: np.rec.array([(1, 2.0)], names="a,b"),
    "numpy record": lambda: np.rec.array([(1, 2.0)], names="a,b")[0],
    "numpy records in an array": lambda: np.zeros(2, np.dtype((np.record, [("a", "i8")]))),
    "numpy subclass": lambda: np.arange(3).view(Meters),
    "numpy dtype": lambda: np.dtype([("a", "i4")]),
    "numpy ufunc": lambda: np.add,
    "numpy Generator": lambda: np.random.default_rng(5),
    "numpy Polynomial": lambda: np.polynomial.Polynomial([1, 2]),
    "torch Parameter": lambda: torch.nn.Parameter(torch.ones(3)),
    "torch subclass": lambda: torch.ones(2).as_subclass(Volts),
    "torch sparse": lambda: torch.eye(3).to_sparse(),
    "torch CSR": torch.eye(3).to_sparse_csr,
    "torch BSC": lambda: torch.eye(4).to_sparse_bsc((2, 2)),
    "torch quantized": lambda: torch.quantize_per_tensor(torch.arange(4.0), *QUANTIZED),
    "torch meta": lambda: torch.empty(2, 3, device="meta"),
    "torch nested": rows_of_tensors,
    "torch Size": lambda: torch.Size([1, 2]),
    "torch dtype": lambda: torch.bfloat16,
    "torch device": lambda: torch.device("cpu"),
    "torch function": lambda: torch.relu,
    "torch result of max": lambda: torch.max(torch.eye(2), 0),
    "torch module": network,
    "torch optimizer": lambda: torch.optim.Adam(network().parameters()),
    "torch distribution": lambda: torch.distributions.Normal(0.0, 1.0),
    "torch packed sequence": lambda: torch.nn.utils.rnn.pack_sequence([torch.ones(2)]),
    "pandas DataFrame": lambda: pd.DataFrame({"a": [1, 2], "b": ["x", None]}),
    "pandas Series": lambda: pd.Series([1.5, None], name="n"),
    "pandas categories": lambda: pd.Series(pd.Categorical(["a", None], ["b", "a"], ordered=True)),
    "pandas MultiIndex": lambda: pd.MultiIndex.from_product([[1, 2], ["a"]], names=["x", None]),
    "pandas zone": lambda: pd.Series(pd.date_range("2020", periods=2, tz="Europe/Berlin")),
    "pandas periods": lambda: pd.Series(pd.period_range("2020", periods=2, freq="M")),
    "pandas intervals": lambda: pd.Series(pd.interval_range(0, 2)),
    "pandas Int64": lambda: pd.Series([1, None], dtype="Int64"),
    "pandas boolean": lambda: pd.Series([True, None], dtype="boolean"),
    "pandas string": lambda: pd.Series(["a", None], dtype="string"),
    "pandas sparse": lambda: pd.Series(pd.arrays.SparseArray([0, 0, 1])),
    "pandas Timestamp": lambda: pd.Timestamp("2020-01-01 00:00:00.123456789", tz="Asia/Tokyo"),
    "pandas Timedelta": lambda: pd.Timedelta("1ns"),
    "pandas Period": lambda: pd.Period("2020-01"),
    "pandas NaT": lambda: pd.NaT,
    "pandas NA": lambda: pd.NA,
    "pandas offset": lambda: pd.offsets.BDay(2),
    **{f"scipy {kind}": lambda kind=kind: sparse.eye(4).asformat(kind) for kind in SPARSE.split()},
    "scipy array": lambda: sparse.csr_array(np.eye(3)),
}


def content(obj: Any) -> Any:
    """What there is to compare of a kind that does not compare by itself."""
    match obj:
        case torch.Tensor():
            told = obj.dtype, obj.layout, obj.requires_grad, obj.device, obj.dim()
            if obj.is_meta or obj.is_nested:
                return told
            plain = obj.int_repr() if obj.is_quantized else obj.detach().to_dense()
            return told, plain.resolve_conj().contiguous().clone().reshape(-1).view(torch.uint8)
        case torch.nn.Module() | torch.optim.Optimizer():
            return content(obj.state_dict())
        case torch.distributions.Distribution():
            return content(vars(obj))
        case _ if sparse.issparse(obj):
            return obj.toarray()
        case dict():
            return list(obj), [content(value) for value in obj.values()]
        case types.FunctionType():
            return obj.__code__.co_code, obj(1)
        case BaseException():
            return obj.args, vars(obj)
        case Node():
            return obj.me is obj
        case np.ndarray() if obj.dtype == object:
            return [content(item) for item in obj]
    return None if type(obj) is object else obj


Same = Callable[[Any, Any], bool]


@pytest.fixture(scope="module")
def same(identical: Same) -> Same:
    """Whether two objects are of one type and hold the same."""

    def compare(a: Any, b: Any) -> bool:
        if type(a) is not type(b):
            return False
        with contextlib.suppress(Exception):  # a lambda does not pickle
            if pickle.dumps(a) == pickle.dumps(b):
                return True
        return identical(content(a), content(b))

    return compare


@pytest.mark.parametrize("name", [*TYPED, *PICKLED])
def test_it_arrives_as_it_was(frame: Any, same: Same, name: str) -> None:
    make = (TYPED | PICKLED)[name]
    assert same(frame({"it": make()})["it"], make())


@pytest.mark.parametrize("name", TYPED)
def test_it_needs_no_pickle(frame: Any, same: Same, name: str) -> None:
    assert same(frame(TYPED[name](), Pickles(allowed=False)), TYPED[name]())


@pytest.mark.parametrize("name", PICKLED)
def test_it_is_refused_where_pickles_are(frame: Any, name: str) -> None:
    with pytest.raises(soma.ProtocolError, match="can only travel as a pickle"):
        frame(PICKLED[name](), Pickles(allowed=False))


CHANGED: dict[str, tuple[Make, Any]] = {
    "bytearray": (lambda: bytearray(b"ab"), b"ab"),
    "memoryview": (lambda: memoryview(b"abcd")[::2], b"ac"),
    "big-endian": (lambda: np.arange(3, dtype=">i4"), np.arange(3, dtype="i4")),
    "memory map": (lambda: np.zeros(3, "u1").view(np.memmap), np.zeros(3, "u1")),
    "metadata of a dtype": (
        lambda: np.zeros(2, np.dtype("f4", metadata={"a": 1})),
        np.zeros(2, "f4"),
    ),
    "a tensor that was computed with gradients": (
        lambda: torch.ones(2, requires_grad=True) * 2,
        torch.ones(2) * 2,
    ),
}


@pytest.mark.parametrize("name", CHANGED)
def test_what_arrives_otherwise_is_what_the_page_says(frame: Any, same: Same, name: str) -> None:
    make, expected = CHANGED[name]
    assert same(frame(make()), expected)


REFUSED: dict[str, tuple[Make, str]] = {
    "a generator": (lambda: (n for n in [1]), "generator cannot be sent .* send a list"),
    "a lock": (threading.Lock, "_thread.lock cannot be sent"),
    "a lock within": (
        lambda: Point({"k": [threading.Lock()]}),
        r'self\.x\["k"\]\[0\] is a _thread',
    ),
    "an open file": (lambda: sys.__stdout__, "open file '<stdout>'; send its path"),
    "a thread": (threading.Thread, "threading.Thread cannot be sent"),
    "a match": (lambda: re.match("a", "a"), "re.Match cannot be sent"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_process_can_be_sent_is_refused_by_name_and_place(frame: Any, name: str) -> None:
    make, text = REFUSED[name]
    with pytest.raises(soma.ProtocolError, match=text):
        frame(make())
    with pytest.raises(soma.ProtocolError, match=rf'^data\["a"\]\[1\]: .*{text}'):
        frame({"data": {"a": [1, make()]}})


def test_the_page_says_how_many_kinds_are_tried() -> None:
    page = (Path(__file__).parents[2] / "docs" / "values.md").read_text()
    tried = len(TYPED) + len(PICKLED)
    assert f"tries {tried} kinds" in page
    assert sum(map(int, re.findall(r"\| (\d+) \| (?:typed|a pickle) \|$", page, re.M))) == tried


@nightly
def test_a_worker_gets_and_returns_them_all(same: Same) -> None:
    class Kind(soma.Filter):
        def forward(self, x: Any, state: Any) -> Any:
            return repr(type(x)), x

    with soma.connect("stdio", filters={"kind": Kind()}, timeout=60.0) as worker:
        for make in (TYPED | PICKLED).values():
            kind, came = worker.forward("kind", make())
            assert kind == repr(type(make()))
            assert same(came, make())
