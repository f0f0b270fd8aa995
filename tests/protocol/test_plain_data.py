"""Plain data, and data that is not plain, through both dialects: what is sent is what arrives."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import json
import math
import pickle
import struct
import threading
from enum import Enum
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.models.values import Json
from soma_core.wire.json_text import read_json
from soma_core.wire.line_codec import MAX_NESTING
from soma_core.wire.line_codec import LineDecoder as Decoder
from soma_core.wire.opaque import OpaqueState
from soma_core.wire.pickles import Pickles
from soma_core.wire.unpacking import Unpacking

ANY_TEXT = st.text(alphabet=st.characters())  # lone surrogates too
FLOATS = st.floats()
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**60), max_value=10**60)
    | FLOATS
    | ANY_TEXT
    | st.binary()
)
KEYS = ANY_TEXT | st.sampled_from(["type", "data", "$soma", "__pickle_b64__", "items", "value"])
TREES = st.recursive(
    LEAVES | st.sampled_from(["Tensor", "Text", "Json", "Bytes", "Object", "Empty"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=25,
)


@given(obj=TREES)
@example(obj={"type": "Text", "data": "\ud800"})
@example(obj=[math.nan, [math.inf, {"a": -math.inf}]])
@example(obj=["\ud83d", "\udc00", {"\udfff": 1}])
def test_plain_data_arrives_as_it_was_sent(wire: Any, identical: Any, obj: Any) -> None:
    assert identical(wire(obj), obj)


@given(
    obj=st.recursive(
        LEAVES,
        lambda inner: st.tuples(inner, inner) | st.tuples() | st.lists(inner, max_size=3),
        max_leaves=15,
    )
)
def test_frames_keep_tuples_and_lines_make_them_arrays(
    line: Any, frame: Any, identical: Any, obj: Any
) -> None:
    def as_arrays(item: Any) -> Any:
        return list(map(as_arrays, item)) if isinstance(item, list | tuple) else item

    assert identical(frame(obj), obj)
    assert identical(line(obj), as_arrays(obj))


LOOKALIKES = [
    {"type": "Tensor", "data": {"values": [1.0], "shape": [1]}},
    {"type": "Tensor", "data": None},
    {"type": "Text", "data": 5},
    {"type": "Json", "data": {"type": "Json", "data": 1}},
    {"type": "Bytes", "data": [1, 2]},
    {"type": "Object", "data": [1, 2]},
    {"type": "Empty"},
    {"type": "Empty", "data": 1},
    {"type": "Other", "data": 1},
    {"type": ["Tensor"], "data": 1},
    {"type": "Text", "data": "x", "third": 1},
    {"__pickle_b64__": "gAQu"},
    {"__pickle_b64__": "gAQu", "other": 1},
    {"$soma": "float", "value": "nan"},
    {"$soma": "dict", "items": [["a", 1]]},
    {"$soma": None},
    {"$soma": {"$soma": {"type": "Empty"}}},
    {"type": "Tensor"},
    {"data": 1},
    {},
]


@pytest.mark.parametrize("obj", LOOKALIKES, ids=repr)
def test_a_dict_of_the_user_is_never_taken_for_a_tag(wire: Any, identical: Any, obj: Any) -> None:
    assert identical(wire(obj), obj)
    assert identical(wire([obj, {"a": obj}]), [obj, {"a": obj}])


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7e308])
def test_unusual_floats_arrive_alone_and_inside(wire: Any, identical: Any, number: float) -> None:
    for obj in (number, [number], [1.0, number], {"a": number}, [[number], 1, "a"]):
        assert identical(wire(obj), obj)


def test_a_line_spells_a_float_that_json_lacks_as_a_tag(line: Any) -> None:
    text, _ = line.write([math.nan, math.inf, -math.inf])
    spelled = [json.loads(text)[i]["value"] for i in range(3)]
    assert spelled == ["nan", "inf", "-inf"]
    assert {item["$soma"] for item in json.loads(text)} == {"float"}


UNUSUAL = [math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7e308]


@pytest.mark.parametrize("length", [255, 256, 257, 7_000])
def test_long_lists_of_floats_arrive_wherever_they_stand(
    wire: Any, identical: Any, length: int
) -> None:
    floats = [*UNUSUAL, *map(float, range(length - len(UNUSUAL)))]
    lookalike = {"type": "Text", "data": floats}
    for obj in (floats, [floats, floats], {"a": floats, "b": [1, floats]}, [*floats, 1], lookalike):
        assert identical(wire(obj), obj)


@pytest.mark.parametrize("length", [255, 256, 7_000])
def test_long_tuples_of_floats_arrive_in_frames(frame: Any, identical: Any, length: int) -> None:
    floats = tuple(map(float, range(length)))
    for obj in (floats, (floats, [floats], list(floats)), {"a": floats}):
        assert identical(frame(obj), obj)


@given(
    rows=st.integers(0, 4).flatmap(
        lambda width: st.lists(
            st.tuples(
                *[st.none() | st.integers() | st.text(max_size=3) | st.tuples(st.text())] * width
            )
            | st.just(("of another length",) * 5)
        )
    )
)
def test_lists_of_tuples_arrive_in_frames(frame: Any, identical: Any, rows: list[Any]) -> None:
    for obj in (rows, [rows, rows], {"a": rows, "b": tuple(rows)}, [*rows, 1]):
        assert identical(frame(obj), obj)


class Place(NamedTuple):
    x: Any
    y: Any


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


OF_ONE_TYPE = [
    st.tuples(st.integers(), st.text(max_size=2)),
    st.lists(st.integers(), max_size=3).map(tuple),
    st.tuples(st.datetimes(timezones=st.just(datetime.UTC) | st.none()), st.tuples(st.booleans())),
    st.fixed_dictionaries({"id": st.integers(), "\ud800": st.tuples(FLOATS, FLOATS)}),
    st.fixed_dictionaries({"at": st.datetimes()}, optional={"by": st.uuids()}),
    st.dictionaries(st.integers(), st.decimals(allow_nan=False), max_size=3),
    st.fixed_dictionaries({"place": st.builds(Place, FLOATS, st.none()), "of": st.dates()}),
    st.sampled_from(Colour),
    st.sampled_from([*Colour, Place(1, 2)]),
    st.sets(st.integers() | st.sampled_from(Colour), max_size=2),
    st.fractions() | st.complex_numbers(allow_nan=False),
    st.timedeltas(),
]


@pytest.mark.parametrize("items", OF_ONE_TYPE, ids=range(len(OF_ONE_TYPE)))
@given(data=st.data())
def test_lists_of_objects_arrive_as_they_were_wherever_they_stand(
    frame: Any, identical: Any, items: Any, data: Any
) -> None:
    objects = data.draw(st.lists(items, max_size=5))
    by_name, by_number = {str(n): obj for n, obj in enumerate(objects)}, dict(enumerate(objects))
    for obj in (objects, tuple(objects), by_name, by_number, [objects, {"a": objects}] * 3):
        header, buffers = frame.write(obj)
        assert len(Unpacking(buffers, Pickles(), resolve=False).run(header)) == len(obj)
        assert identical(frame.read(header, buffers), obj)


@pytest.mark.parametrize(
    "obj",
    [
        [{"a": {"a": {"a": (1,)}}}] * 100,
        [(((n % 9,),),) for n in range(100)],
        [()] * 100,
        {n: {0: (n,)} for n in range(9)},
    ],
)
def test_rows_that_are_short_for_their_number_arrive_too(
    frame: Any, identical: Any, obj: Any
) -> None:
    assert identical(frame(obj), obj)
    assert identical(frame({"data": obj}, Pickles(allowed=False)), {"data": obj})


def test_a_list_of_objects_is_one_pickle(frame: Any) -> None:
    places = [Place(n, (n, n)) for n in range(200)]
    for obj in (places, [{"id": 1, "at": place} for place in places], [(p, 1) for p in places]):
        _, buffers = frame.write(obj)
        assert len(buffers) == 1


def test_of_a_list_of_objects_the_one_that_does_not_pickle_is_named(frame: Any) -> None:
    records = [{"id": n, "of": Place(n, threading.Lock() if n == 7 else None)} for n in range(9)]
    with pytest.raises(ProtocolError, match=r'data\[7\]\["of"\]: a .*Place cannot be sent'):
        frame.write({"data": records})


def test_what_differs_in_a_pickle_does_not_share_one_with_the_objects_beside_it(frame: Any) -> None:
    known = OpaqueState(pickle.dumps(Place(0, 0)), [], "no such module")
    rows = [(known, [Json(data={"a": 1})], Place(n, n)) for n in range(3)]
    assert frame(rows) == [(Place(0, 0), [{"a": 1}], Place(n, n)) for n in range(3)]


def test_views_of_a_tensor_do_not_take_all_of_it_along_with_the_objects_beside_them(
    frame: Any, identical: Any
) -> None:
    torch = pytest.importorskip("torch")
    table = torch.zeros(100, 1000)
    rows = [(row, Place(n, n)) for n, row in enumerate(table[:9])]
    header, buffers = frame.write(rows)
    assert sum(map(len, buffers)) < 2 * 9 * 4000
    assert identical(frame.read(header, buffers), rows)


class Growing:
    """Adds to the list that it is in when it is pickled."""

    def __init__(self, within: list[Any]) -> None:
        self.within = within

    def __reduce__(self) -> Any:
        if len(self.within) < 20:
            self.within.append(Growing(self.within))
        return list, ()


def test_a_list_that_grows_while_it_is_pickled_arrives_as_it_was(frame: Any) -> None:
    growing: list[Any] = []
    growing += [Growing(growing) for _ in range(4)]
    assert frame(growing)[:4] == [[]] * 4


class Gone:
    """Can be pickled, and not be read again."""

    def __reduce__(self) -> Any:
        return import_module, ("no_such_module",)


def test_a_state_with_sets_of_what_cannot_be_read_here_is_read_but_for_these(frame: Any) -> None:
    things = [Gone(), Gone(), Gone()]
    ordered = collections.OrderedDict({things[0]: things[1]})
    read = frame({"sets": [set(things)] * 3, "one": [ordered]}, Pickles(opaque_states=True))
    for inner in (*read["sets"][0], *read["one"][0], *read["one"][0].values()):
        assert type(inner) is OpaqueState
    assert list(map(len, read["sets"])) == [3, 3, 3]


@pytest.mark.parametrize("allowed", [True, False])
def test_dicts_within_dicts_do_not_nest_too_deep_because_of_the_tuples_in_them(
    frame: Any, identical: Any, allowed: bool
) -> None:
    tree: Any = {"name": "leaf", "boxes": [(1, 2), (3, 4)], "children": []}
    for _ in range(12):
        tree = {"name": "x" * 100, "boxes": [(1, 2)], "children": [tree, {**tree, "name": "y"}]}
    pickles = Pickles(allowed=allowed)
    chain: Any = [(1,), (2,), (3,), (4,)]
    for number in range(200):
        chain = {"number": number, "next": chain}
    assert identical(frame(chain, pickles), chain)
    header, buffers = frame.write(tree, pickles)
    assert not buffers
    assert identical(frame.read(header, buffers, pickles), tree)


@pytest.mark.parametrize(
    "number",
    [
        2**53 + 1,
        -(2**53) - 1,
        2**63,
        2**64,
        -(2**63) - 1,
        10**400,
        10**4000,
        -(10**4300),
        1 << 20000,
    ],
    ids=lambda number: f"{number.bit_length()} bits",
)
def test_integers_of_any_size_are_exact(wire: Any, number: int) -> None:
    assert wire(number) == number
    assert wire([number, {"a": number}]) == [number, {"a": number}]


@dataclasses.dataclass
class Point:
    x: int
    y: Any


Pair = collections.namedtuple("Pair", "a b")


class TextLike(str):
    pass


OBJECTS = [
    {1: "a", 2: [math.nan]},
    {"a": {3: 4}},
    {("a", 1): 2},
    {True: 1, "b": 2},
    Point(1, np.arange(3)),
    [Point(1, None)],
    {1, 2, 3},
    frozenset("a"),
    1 + 2j,
    decimal.Decimal("1.1"),
    datetime.date(2026, 1, 2),
    collections.OrderedDict(a=1),
    Pair(1, 2),
    TextLike("a"),
    range(3),
    slice(1, 2),
    np.ma.MaskedArray([1.0, 2.0, 3.0], mask=[False, True, False]),
    np.array([1, "a", None], dtype=object),
    np.array([{"a": 1}, [2]], dtype=object),
    np.array([(1, "a")], dtype=[("n", int), ("o", object)]),
    np.float32,
    np.dtype("float32"),
]


@pytest.mark.parametrize("obj", OBJECTS, ids=lambda obj: f"{type(obj).__name__} {obj!r}"[:40])
def test_any_other_object_arrives_as_it_was(wire: Any, identical: Any, obj: Any) -> None:
    assert identical(wire(obj), obj)
    assert identical(wire({"deep": [obj]}), {"deep": [obj]})


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_a_matrix_stays_a_matrix(wire: Any) -> None:
    matrix = np.matrix([[1, 2], [3, 4]])
    arrived = wire(matrix)
    assert type(arrived) is np.matrix
    assert (arrived == matrix).all()


def test_a_string_dtype_array_arrives(wire: Any) -> None:
    texts = np.array(["a", "longer than most"], dtype=np.dtypes.StringDType())
    arrived = wire(texts)
    assert arrived.dtype == texts.dtype
    assert arrived.tolist() == texts.tolist()


def test_a_data_frame_arrives_with_its_index_and_dtypes(wire: Any) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(
        {"n": [1.5, math.nan], "t": ["a", "b"], "c": pandas.Categorical(["x", "y"])},
        index=["r1", "r2"],
    )
    for sent in (table, table["n"], table.index):
        arrived = wire(sent)
        assert type(arrived) is type(sent)
        assert arrived.equals(sent)


def test_a_masked_value_and_its_fill_arrive(wire: Any) -> None:
    masked = np.ma.MaskedArray([1, 2], mask=[1, 0], fill_value=77)
    arrived = wire(masked)
    assert arrived.fill_value == 77
    assert arrived.mask.tolist() == [True, False]


def test_large_arrays_in_objects_travel_beside_a_frame_and_arrive_writable(frame: Any) -> None:
    point = Point(1, np.arange(1000.0))
    text, buffers = frame.write(point)
    assert len(text) < 500
    assert sum(map(len, buffers)) >= 8000
    arrived = frame.read(text, buffers)
    arrived.y[0] = -1.0
    assert arrived.y.tolist() == [-1.0, *range(1, 1000)]


SCALARS = [
    np.float32(1.5),
    np.float64("nan"),
    np.float16(-0.0),
    np.int8(-3),
    np.uint64(2**64 - 1),
    np.bool_(True),
    np.str_("text"),
    np.bytes_(b"raw"),
    np.complex64(1 + 2j),
    np.longdouble("1.1"),
    np.datetime64("2026-01-02T03:04:05", "s"),
    np.timedelta64(7, "D"),
    np.datetime64("NaT", "ns"),
    np.void(b"abc"),
    np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])[0],
]


@pytest.mark.parametrize("scalar", SCALARS, ids=lambda scalar: repr(scalar)[:40])
def test_frames_keep_numpy_scalars(frame: Any, identical: Any, scalar: Any) -> None:
    assert identical(frame(scalar), scalar)
    assert identical(frame([scalar, (scalar,)]), [scalar, (scalar,)])


@pytest.mark.parametrize("scalar", SCALARS[:8], ids=lambda scalar: repr(scalar)[:40])
def test_lines_make_numpy_scalars_plain(line: Any, identical: Any, scalar: Any) -> None:
    assert identical(line(scalar), scalar.item())
    assert identical(line([1, scalar]), [1, scalar.item()])


@pytest.mark.parametrize("scalar", SCALARS[8:], ids=lambda scalar: repr(scalar)[:40])
def test_lines_make_scalars_that_json_lacks_arrays_without_axes(
    line: Any, identical: Any, scalar: Any
) -> None:
    assert identical(line(scalar), np.asarray(scalar))


def test_a_signalling_nan_keeps_its_bits_in_an_array(wire: Any) -> None:
    payload = struct.pack("<QQ", 0x7FF0_0000_0000_0001, 0xFFF8_0000_DEAD_BEEF)
    sent = np.frombuffer(payload, "<f8")
    assert wire(sent).tobytes() == payload


def test_nothing_that_arrives_shares_memory_with_what_was_sent(wire: Any) -> None:
    array, rows, table = np.arange(5.0), [1, [2, 3]], {"a": [1]}
    arrived = wire([array, rows, table])
    arrived[0][0], arrived[1][1][0], arrived[2]["a"][0] = 9.0, 9, 9
    assert array[0] == 0.0
    assert (rows, table) == ([1, [2, 3]], {"a": [1]})


def test_one_array_sent_twice_arrives_as_two(wire: Any) -> None:
    array = np.zeros(3)
    first, second = wire([array, array])
    first[0] = 1.0
    assert second[0] == 0.0


def nested(depth: int, wrap: Any, leaf: Any = 1) -> Any:
    for _ in range(depth):
        leaf = wrap(leaf)
    return leaf


def attempt(function: Any) -> tuple[ErrorCode | None, Any]:
    """The code with which it refuses, or what it returns."""
    try:
        return None, function()
    except ProtocolError as error:
        return error.code, None


WRAPS = {
    "list": lambda inner: [inner],
    "dict": lambda inner: {"a": inner},
    "tuple": lambda inner: (inner,),
    "lookalike": lambda inner: {"$soma": inner},
    "tagged": lambda inner: {"type": "Json", "data": inner},
    "mixed": lambda inner: [({"a": inner},)],
}


@pytest.mark.parametrize("depth", [1, 30, 60, 90, 100, 150, 178, 180, 199])
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=list(WRAPS))
def test_what_nests_deep_arrives_or_is_refused_by_the_sender(
    frame: Any, wrap: Any, depth: int
) -> None:
    sent = nested(depth, wrap)
    code, written = attempt(lambda: frame.write(sent))
    assert code in (None, ErrorCode.TOO_LARGE)
    assert code is None or depth > 50
    assert code is not None or frame.read(*written) == sent


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=list(WRAPS))
def test_too_deep_nesting_is_refused_by_name_and_not_by_a_crash(wire: Any, wrap: Any) -> None:
    with pytest.raises(ProtocolError, match="levels deep") as caught:
        wire.write(nested(5000, wrap))
    assert caught.value.code is ErrorCode.TOO_LARGE


def test_data_that_contains_itself_is_refused(wire: Any) -> None:
    loop: list[Any] = []
    loop.append(loop)
    table: dict[str, Any] = {}
    table["a"] = [table]
    for cyclic in (loop, table):
        with pytest.raises(ProtocolError, match="contains itself") as caught:
            wire.write(cyclic)
        assert caught.value.code is ErrorCode.TOO_LARGE


def test_json_may_nest_as_deep_as_the_limit_says_and_no_deeper() -> None:
    fits = b"[" * MAX_NESTING + b"]" * MAX_NESTING
    assert Decoder().decode(read_json(fits)) is not None
    for deeper in (b"[" * 50_000 + b"]" * 50_000, b'{"a":' * 50_000):
        with pytest.raises(ProtocolError) as caught:
            read_json(deeper)
        assert caught.value.code is ErrorCode.MALFORMED


def test_a_lone_surrogate_does_not_lift_the_limit_of_nesting() -> None:
    text = b"[" * 900 + b'"\\ud800"' + b"]" * 900
    with pytest.raises(ProtocolError) as caught:
        Decoder().decode(read_json(text))
    assert caught.value.code in (ErrorCode.MALFORMED, ErrorCode.TOO_LARGE)
