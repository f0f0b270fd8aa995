"""Inputs: sound data of each kind, changed where it hurts."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import numpy as np
import ormsgpack

from .drawing import Draw

__all__ = ["INPUTS", "KEY", "SOUND_REPLIES", "input_of"]


def input_of(kind: str, seed: int, number: int) -> bytes:
    """One input of those that a seed stands for."""
    return INPUTS[kind](Draw(f"{kind} {seed} {number}"))


# Weights


def number(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def sequence(values: list[int]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


STORAGES = ("Float", "Double", "Long", "Bool", "BFloat16", "ComplexFloat", "Byte", "QInt8", "")
REBUILDS = (
    b"_rebuild_tensor_v2",
    b"_rebuild_tensor_v2",
    b"_rebuild_tensor_v2",
    b"_rebuild_tensor_v3",
    b"_rebuild_sparse_tensor",
    b"_rebuild_qtensor",
    b"_rebuild_nested_tensor",
    b"_rebuild_meta_tensor_no_storage",
)
HOOKS = b"ccollections\nOrderedDict\n)R"


def tensors(draw: Draw) -> bytes:
    """The opcodes of a tensor, which may lie anywhere."""
    axes = draw.within(0, 4)
    kind = draw.among(STORAGES)
    named = f"ctorch\n{kind}Storage\n" if kind else "ctorch.storage\nUntypedStorage\n"
    key = draw.among([b"0", b"1", b"7", b"../0"])
    size = draw.among([8, 16, 2, 32]) if draw.one_in(2) else draw.number()
    storage = b"(X\7\0\0\0storage" + named.encode() + b"X" + struct.pack("<I", len(key)) + key
    storage += b"X\3\0\0\0cpu" + number(size) + b"tQ"

    def small() -> int:
        return draw.number() if draw.one_in(8) else draw.within(0, 4)

    place = number(small()) + b"".join(sequence([small() for _ in range(axes)]) for _ in range(2))
    rebuild = draw.among(REBUILDS)
    rest = draw.among([b"\x89" + HOOKS, b"\x88" + HOOKS, b"\x89N", b"N"])
    if rebuild.endswith(b"v3"):
        rest += draw.among([b"ctorch\nfloat32\n", b"ctorch\nuint16\n", b"K\1"])
    return b"ctorch._utils\n" + rebuild + b"\n(" + storage + place + rest + b"tR"


OPCODES = [b"N", b"(", b"]", b"}", b")", b"t", b"a", b"e", b"s", b"u", b"q\0", b"h\0", b"b", b"R"]
OPCODES += [b"\x85", b"\x86", b"Q", b"0", b"K\1", b"X\1\0\0\0a", b"j\xff\xff\xff\x7f", HOOKS]
OPCODES += [b"c__builtin__\nbytearray\n", b"cposix\nsystem\n", b"\x96\xff\xff\xff\xff\xff\0\0\0"]


def weights(draw: Draw) -> bytes:
    """A file as torch writes it: of opcodes made up here, or a sound one with wrong bytes."""
    how = draw.below(4)
    if how == 0:
        return draw.changed_bytes(draw.among(sound_weights()))
    if how == 1:
        return zipped({"data.pkl": draw.changed_bytes(draw.among(sound_pickles()))}, draw)
    pieces = draw.several(8, lambda: draw.among(OPCODES) if draw.one_in(6) else tensors(draw))
    return zipped({"data.pkl": b"\x80\2(" + b"".join(pieces) + b"t."}, draw)


def zipped(members: dict[str, bytes], draw: Draw) -> bytes:
    buffer = io.BytesIO()
    method = draw.among([zipfile.ZIP_STORED] * 9 + [zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in members.items():
            file.writestr(f"archive/{name}", content)
        for key in ("0", "1"):
            file.writestr(f"archive/data/{key}", bytes(range(64)))
    return buffer.getvalue()


def saved(content: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@cache
def sound_weights() -> list[bytes]:
    import torch

    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = torch.sparse_coo_tensor([[0], [1]], torch.ones(1), (2, 2))
    contents = [network.state_dict(), {"a": [1, (2.5, None), b"b", {"c": torch.ones(4)[1:]}]}]
    return [saved(content) for content in [*contents, {"a": sparse}]]


@cache
def sound_pickles() -> list[bytes]:
    files = [zipfile.ZipFile(io.BytesIO(data)) for data in sound_weights()]
    return [file.read("archive/data.pkl") for file in files]


# States and gradients


def loose_tensors(draw: Draw) -> Any:
    """A tensor of any shape and type: sparse, spread or empty as well."""
    import torch

    shape = draw.several(3, lambda: draw.among([0, 1, 2, 3, 8]))
    dtype = draw.among([torch.float32, torch.float64, torch.int64, torch.bool])
    made = torch.ones(shape, dtype=dtype)
    how = draw.among(["dense", "dense", "spread", "sparse"])
    if how == "spread" and shape:
        return made[:1].expand(draw.among([8, 10**6]), *shape[1:]) if shape[0] else made
    if how == "sparse" and shape == [8, 3]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            beyond = torch.full((2, 1), draw.among([0, 7, 10**6, 10**12]))
            return torch.sparse_coo_tensor(
                beyond, torch.ones(1), (8, 3), check_invariants=False, dtype=torch.float32
            )
    return made


def loose(draw: Draw) -> Any:
    return loose_tensors(draw) if draw.one_in(2) else draw.plain()


@cache
def sound_training() -> tuple[Any, Any, bytes]:
    """What the target's network holds, what its training goes on from, and safetensors of it."""
    import soma_core as soma
    from soma_core.wire.weights import load_weights

    from .target import NET

    config = {**NET, "scheduler": {"name": "StepLR", "step_size": 2}}
    config["optimizer"] = {"name": "Adam", "fused": True}
    x, y = np.ones((4, 3), np.float32), np.ones((4, 2), np.float32)
    with soma.connect("inline", pickle="never", filters={"net": ("torch.MLP", config)}) as worker:
        worker.composite_fit(["net"], x, y)
        state = worker.get_state("net", full=True)
        safe = worker.get_state("net", format="safetensors").data
    return load_weights(state.data), load_weights(state.training), safe or b""


def training(draw: Draw) -> bytes:
    """Weights, a training state or gradients, with some parts replaced or some bytes wrong."""
    content, going_on, safe = sound_training()
    what = draw.within(0, 3)
    if what == 2:
        return b"\2" + draw.changed_bytes(safe)
    chosen = going_on if what == 1 else content
    changed = draw.replaced(chosen, lambda: loose(draw), chance=draw.among([12, 60, 300]))
    numbers = changed.get("random")
    if isinstance(numbers, dict) and type(numbers.get("torch")) is bytes and draw.one_in(4):
        numbers["torch"] = draw.changed_bytes(numbers["torch"])
    data = saved(changed)
    if draw.one_in(6):
        data = draw.changed_bytes(data)
    return bytes([what]) + data


# Tables


def tables(draw: Draw) -> bytes:
    """An Arrow stream of any types, sound or with some bytes wrong."""
    data = draw.among(sound_streams())
    return data if draw.one_in(10) else draw.changed_bytes(data)


@cache
def sound_streams() -> list[bytes]:
    import pyarrow as pa

    words = pa.array(["a", "bc", None, "def"])
    items = pa.array(range(4), pa.int32())
    columns = {
        "numbers": pa.array([1.5, None, 3.0, 4.0]),
        "words": words,
        "large": words.cast(pa.large_string()),
        "dictionary": words.dictionary_encode(),
        "lists": pa.array([[1], [], None, [2, 3]]),
        "pairs": pa.FixedSizeListArray.from_arrays(pa.array(range(8)), 2),
        "structs": pa.StructArray.from_arrays([words, items], ["w", "i"]),
        "maps": pa.array([[("a", 1)], [], None, [("b", 2)]], pa.map_(pa.string(), pa.int8())),
        "bools": pa.array([True, False, None, True]),
        "nulls": pa.nulls(4),
        "dates": pa.array([0, 1, 2, None], pa.date32()),
        "times": pa.array([0, 1, 2, 3], pa.timestamp("us", "UTC")),
        "decimals": pa.array([1, 2, 3, None], pa.decimal128(9, 2)),
        "fixed": pa.array([b"ab", b"cd", None, b"ef"], pa.binary(2)),
        "views": words.cast(pa.string_view()),
        "runs": pa.RunEndEncodedArray.from_arrays(pa.array([1, 4], pa.int32()), items[:2]),
        "list views": pa.ListViewArray.from_arrays(items, pa.array([0] * 4, pa.int32()), items),
    }
    made = [pa.table({name: column}) for name, column in columns.items()]
    made.append(pa.table({name: columns[name] for name in [*columns][:12]}))
    streams = []
    for table in made:
        for compression in (None, "zstd") if table is made[-1] else (None,):
            sink = io.BytesIO()
            options = pa.ipc.IpcWriteOptions(compression=compression)
            with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
                writer.write_table(table)
            streams.append(sink.getvalue())
    return streams


# Checkpoints


def checkpoints(draw: Draw) -> bytes:
    """A file with a header that is nearly right, or with some bytes wrong."""
    node = {
        "filter": "A",
        "config": {"a": 1},
        "format": "value",
        "state": ormsgpack.Ext(11, ormsgpack.packb([0])),
        "fit_state": {"a": ormsgpack.Ext(1, ormsgpack.packb([1, "float64", [2]]))},
        "training": None,
    }
    content = {"soma_checkpoint": 2, "nodes": {"a": node}}
    header = ormsgpack.packb(
        draw.replaced(content, lambda: odd(draw), chance=15), option=ormsgpack.OPT_NON_STR_KEYS
    )
    if draw.one_in(4):
        header = draw.changed_bytes(header)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, part in {"checkpoint.msgpack": header, "0": b"state", "1": bytes(16)}.items():
            file.writestr(name, part)
    data = buffer.getvalue()
    return data if not draw.one_in(4) else draw.changed_bytes(data)


def odd(draw: Draw) -> Any:
    """Plain data, or an extension type of some form."""
    if draw.one_in(2):
        return draw.plain()
    if draw.one_in(2):
        return packable(draw.replaced(draw.among(sound_values())[0], draw.plain, chance=12))
    content = draw.several(4, lambda: draw.number() if draw.one_in(2) else draw.text())
    return ormsgpack.Ext(draw.within(0, 20), ormsgpack.packb(content))


# Values of frames


def values(draw: Draw) -> bytes:
    """A value and the buffers it names, with some parts replaced or some bytes wrong."""
    content, buffers = draw.among(sound_values())
    changed = draw.replaced(content, lambda: odd(draw), chance=6)
    header = ormsgpack.packb(packable(changed), option=ormsgpack.OPT_NON_STR_KEYS)
    if draw.one_in(12):
        header = draw.changed_bytes(header)
    buffers = [draw.changed_bytes(each) if draw.one_in(6) else each for each in buffers]
    return ormsgpack.packb([header, buffers])


EXTENSION = "an extension type"
"""What stands first in a list of three that is one: after it come its number and its content."""


@cache
def sound_values() -> list[tuple[Any, list[bytes]]]:
    """Values of every type that needs no pickle, as lists, and their buffers."""
    from soma_core.wire.packing import pack

    from .target import typed_values

    found = []
    for value in samples():
        header, buffers = pack(value, typed_values())
        tree = ormsgpack.unpackb(header, ext_hook=opened, option=_KEYS)
        found.append((tree, [memoryview(each).tobytes() for each in buffers]))
    return found


def samples() -> list[Any]:
    import pandas as pd
    import torch
    from scipy import sparse

    matrix = np.eye(3)
    numbered = pd.DataFrame({"a": [1.5, 2.5], "b": ["x", None], "c": pd.Categorical(["u", "v"])})
    named = numbered.set_index(["a", "b"])
    moments = pd.date_range("2020", periods=3, freq="D", tz="UTC")
    zone = timezone(timedelta(hours=1))
    arrays = [np.arange(6.0).reshape(2, 3), np.arange(6).reshape(2, 3).T, np.array(["a", "bc"])]
    arrays += [np.zeros((2, 0)), np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]), np.array(5)]
    arrays += [np.array(["2020"], "M8[D]"), np.ones(2, np.complex64), np.array([b"x", b"yz"])]
    tensors = [torch.ones(2, 3), torch.ones(2, 3).T, torch.ones(2, dtype=torch.bfloat16)]
    plain = [(1, "a"), [(1, 2.0), (3, 4.0)], np.float32(1.5), [np.int8(1), np.int8(2)], 1 << 70]
    plain += [[(1,), (), (2, "b")], [{"a": (1, 2)}] * 3, [UUID(int=5)] * 3, {1: (2, 3), 2: (4, 5)}]
    plain += [1 + 2j, {1: 2, (3, 4): {5}}, "\ud800", b"x" * 20, range(3), frozenset({1})]
    plain += [datetime(2020, 1, 2, 3, tzinfo=zone), date(2020, 1, 2), time(3), timedelta(4)]
    plain += [UUID(int=5), Decimal("1.5"), Fraction(1, 3), PurePosixPath("/a"), OrderedDict(a=1)]
    formats = ["csr", "csc", "coo", "lil", "dok", "dia", "bsr"]
    matrices = [sparse.csr_matrix(matrix).asformat(name) for name in formats]
    matrices += [sparse.csr_array(matrix), sparse.coo_array(np.ones(3))]
    frames = [numbered, named, pd.Series(moments)]
    return [*arrays, *tensors, *plain, *matrices, *frames, pd.Series([1, 2], name="a")]


_KEYS = ormsgpack.OPT_NON_STR_KEYS
_RAW = {7, 8, 10}  # extension types that hold no MessagePack


def opened(number: int, data: bytes) -> list[Any]:
    """An extension type as a list, so that what is in it can be replaced."""
    content = data if number in _RAW else ormsgpack.unpackb(data, ext_hook=opened, option=_KEYS)
    return [EXTENSION, number, content]


def packable(value: Any) -> Any:
    """The same with each such list as an extension type again."""
    if isinstance(value, dict):
        return {key: packable(item) for key, item in value.items()}
    if not isinstance(value, list | tuple):
        return value
    items = [packable(item) for item in value]
    if len(items) != 3 or items[0] != EXTENSION or type(items[1]) is not int:
        return items
    _, number, content = items
    data = content if type(content) is bytes else ormsgpack.packb(content, option=_KEYS)
    return ormsgpack.Ext(number % 128, data)


# Caches

KEY = bytes(range(32))
PLACE = f"00/{KEY[1:].hex()}.val"
AROUND = [PLACE, "00", "00/a.val", "00/b.part", "fe", "fe/x.val", "zz/x.val", "x"]
KINDS_OF_FILES = ["file", "file", "link", "pipe", "directory"]
TARGETS = ["../outside", "../../outside", "..", ".", "00", "/dev/zero", "/proc/self/mem", "gone"]


def caches(draw: Draw) -> bytes:
    """A directory of a cache: an entry that is nearly right, and what else may lie there."""
    found = [(PLACE, "file", entries(draw))]
    if draw.one_in(4):
        path, kind = draw.among(AROUND), draw.among(KINDS_OF_FILES)
        leads = kind == "link"
        content = draw.among(TARGETS).encode() if leads else entries(draw)
        found.insert(draw.within(0, 1), (path, kind, content))
    return ormsgpack.packb(found)


def entries(draw: Draw) -> bytes:
    """The bytes of an entry, with a checksum that mostly matches."""
    from xxhash import xxh3_128

    content = {"a": ARRAY, "b": ["text", ormsgpack.Ext(3, ormsgpack.packb([1, None]))], "c": b"x"}
    header = ormsgpack.packb(
        draw.replaced(content, lambda: odd(draw), chance=12), option=ormsgpack.OPT_NON_STR_KEYS
    )
    if draw.one_in(6):
        header = draw.changed_bytes(header)
    buffers = draw.among([[bytes(16)], [bytes(16)], [], [bytes(16), b""], [b""] * 3000])
    table = [len(header), len(buffers), *map(len, buffers)]
    if draw.one_in(6):
        table[draw.within(0, len(table) - 1)] = draw.number() % (1 << 64)
    rest = struct.pack(f"<{len(table)}Q", *table) + header + b"".join(buffers)
    key = KEY if not draw.one_in(16) else bytes(draw.below(256) for _ in range(32))
    data = key + xxh3_128(rest).digest() + rest
    return data if not draw.one_in(8) else draw.changed_bytes(data)


# Replies

ARRAY = ormsgpack.Ext(1, ormsgpack.packb([0, "float64", [2]]))
META = {"name": "n", "kind": "Trainable", "cacheable": False, "differentiable": False}
SOUND_REPLIES: dict[str, dict[str, Any]] = {
    "LOAD": {"filters": {"n": META}},
    "UNLOAD": {},
    "LIST": {"filters": {"n": META}},
    "FIT": {"result": {"mean": ARRAY}},
    "PARTIAL_FIT": {"result": {"mean": ARRAY}},
    "FORWARD": {"result": ARRAY},
    "COMPOSITE_FORWARD": {"result": [ARRAY, (1, 2)]},
    "COMPOSITE_FIT": {"result": 1, "loss": 0.5, "fit_states": {"n": {}}, "states": {"n": b"x"}},
    "BATCHED_FIT": {"losses": [1.0], "states": {"n": {}}, "epochs": 1},
    "GET_STATE": {"state_b64": b"x", "format": "value", "fit_state": {"mean": ARRAY}},
    "SET_STATE": {},
    "GET_GRADIENTS": {"gradients_b64": b"x"},
    "APPLY_GRADIENTS": {},
    "PING": {"pid": 1, "incarnation": "x"},
}
ENTRY = {"file": "x.py", "line": 1, "name": "f", "column": 1, "end_column": 3, "source": "x"}
RAISED = {
    "type": "ValueError",
    "error": "no",
    "bases": ["ValueError"],
    "args": ["no"],
    "attributes": {"errno": 1},
    "notes": ["a note"],
    "stack": [ENTRY, ENTRY],
    "cause": {"type": "KeyError", "stack": [ENTRY]},
    "exceptions": [],
}
ERROR = {"ok": False, "error": "no", "code": "filter_failed", "type": "ValueError", "cmd": "FIT"}
RECORD = {"name": "l", "level": 30, "message": "m", "pathname": "x.py", "lineno": 1, "created": 1.0}
WARNING = {"message": "m", "categories": ["builtins:UserWarning"], "filename": "x.py", "lineno": 1}
OTHERS: list[dict[str, Any]] = [
    {**ERROR, "traceback": "its text", "exception": RAISED},
    {"event": "log", "cmd": "FIT", "data": RECORD | {"function": "f", "thread": "t", "process": 1}},
    {"event": "warning", "cmd": "FIT", "data": WARNING},
]


def replies(draw: Draw) -> bytes:
    """A reply, an error or an event that is nearly right, after the number of its command."""
    number = draw.within(0, len(SOUND_REPLIES) - 1)
    sound = {"ok": True, **SOUND_REPLIES[[*SOUND_REPLIES][number]]}
    chosen = {"id": 1, **draw.among([sound, sound, *OTHERS])}
    header = ormsgpack.packb(
        draw.replaced(chosen, lambda: odd(draw), chance=12), option=ormsgpack.OPT_NON_STR_KEYS
    )
    if draw.one_in(6):
        header = draw.changed_bytes(header)
    return bytes([number]) + header


INPUTS: dict[str, Callable[[Draw], bytes]] = {
    "weights": weights,
    "training": training,
    "tables": tables,
    "checkpoints": checkpoints,
    "replies": replies,
    "values": values,
    "caches": caches,
}
