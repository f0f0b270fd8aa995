"""Inputs: sound data of each kind, changed where it hurts, by hypothesis."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import ormsgpack
from hypothesis import strategies as st

__all__ = ["INPUTS", "KEY", "SOUND_REPLIES"]

Draw = Callable[[st.SearchStrategy[Any]], Any]

NUMBERS = [0, 1, 2, 3, 7, 8, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62]
SIGNED = [*NUMBERS, *(-number for number in NUMBERS if number), 2**63 - 1]
numbers = st.sampled_from(SIGNED) | st.integers(-4, 64)
leaves = (
    st.none() | st.booleans() | numbers | st.floats() | st.text(max_size=8) | st.binary(max_size=8)
)
plain = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=6), inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)


def changed_bytes(draw: Draw, data: bytes) -> bytes:
    """Some bytes of it overwritten, cut out, repeated or cut off."""
    content = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        how = draw(st.sampled_from(["byte", "number", "cut", "repeat", "end"]))
        if how == "byte":
            content[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif how == "number":
            width = draw(st.sampled_from(["<H", "<I", "<Q"]))
            size = struct.calcsize(width)
            content[at : at + size] = struct.pack(width, draw(numbers) % (1 << 8 * size))
        elif how == "cut":
            del content[at : at + draw(st.integers(1, 16))]
        elif how == "repeat":
            content[at:at] = content[at : at + draw(st.integers(1, 64))]
        else:
            del content[at:]
    return bytes(content)


def replaced(draw: Draw, value: Any, other: st.SearchStrategy[Any], chance: int) -> Any:
    """The same nesting with one leaf in ``chance`` another one."""
    if isinstance(value, dict) and value:
        return {
            item_key: replaced(draw, item, other, chance)
            for item_key, item in value.items()
            if draw(st.integers(0, chance))
        }
    if isinstance(value, list | tuple) and 0 < len(value) < 30:
        return type(value)(replaced(draw, item, other, chance) for item in value)
    return value if draw(st.integers(0, chance)) else draw(other)


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


@st.composite
def tensors(draw: Draw) -> bytes:
    """The opcodes of a tensor, which may lie anywhere."""
    axes = draw(st.integers(0, 4))
    kind = draw(st.sampled_from(STORAGES))
    named = f"ctorch\n{kind}Storage\n" if kind else "ctorch.storage\nUntypedStorage\n"
    key = draw(st.sampled_from([b"0", b"1", b"7", b"../0"]))
    size = draw(st.sampled_from([8, 16, 2, 32]) | numbers)
    storage = b"(X\7\0\0\0storage" + named.encode() + b"X" + struct.pack("<I", len(key)) + key
    storage += b"X\3\0\0\0cpu" + number(size) + b"tQ"
    small = st.integers(0, 4) | numbers
    place = number(draw(small)) + b"".join(
        sequence(draw(st.lists(small, min_size=axes, max_size=axes))) for _ in range(2)
    )
    rebuild = draw(st.sampled_from(REBUILDS))
    rest = draw(st.sampled_from([b"\x89" + HOOKS, b"\x88" + HOOKS, b"\x89N", b"N"]))
    if rebuild.endswith(b"v3"):
        rest += draw(st.sampled_from([b"ctorch\nfloat32\n", b"ctorch\nuint16\n", b"K\1"]))
    return b"ctorch._utils\n" + rebuild + b"\n(" + storage + place + rest + b"tR"


OPCODES = [b"N", b"(", b"]", b"}", b")", b"t", b"a", b"e", b"s", b"u", b"q\0", b"h\0", b"b", b"R"]
OPCODES += [b"\x85", b"\x86", b"Q", b"0", b"K\1", b"X\1\0\0\0a", b"j\xff\xff\xff\x7f", HOOKS]
OPCODES += [b"c__builtin__\nbytearray\n", b"cposix\nsystem\n", b"\x96\xff\xff\xff\xff\xff\0\0\0"]


@st.composite
def weights(draw: Draw) -> bytes:
    """A file as torch writes it: of opcodes made up here, or a sound one with wrong bytes."""
    if draw(st.booleans()):
        return changed_bytes(draw, draw(st.sampled_from(sound_weights())))
    pieces = draw(st.lists(tensors() | st.sampled_from(OPCODES), max_size=8))
    return zipped({"data.pkl": b"\x80\2(" + b"".join(pieces) + b"t."}, draw)


def zipped(members: dict[str, bytes], draw: Draw) -> bytes:
    buffer = io.BytesIO()
    method = draw(st.sampled_from([zipfile.ZIP_STORED] * 9 + [zipfile.ZIP_DEFLATED]))
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


# States and gradients


@st.composite
def loose_tensors(draw: Draw) -> Any:
    """A tensor of any shape and type: sparse, spread or empty as well."""
    import torch

    shape = draw(st.lists(st.sampled_from([0, 1, 2, 3, 8]), max_size=3))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool]))
    made = torch.ones(shape, dtype=dtype)
    how = draw(st.sampled_from(["dense", "dense", "spread", "sparse"]))
    if how == "spread" and shape:
        return made[:1].expand(draw(st.sampled_from([8, 10**6])), *shape[1:]) if shape[0] else made
    if how == "sparse" and shape == [8, 3]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            beyond = torch.full((2, 1), draw(st.sampled_from([0, 7, 10**6, 10**12])))
            return torch.sparse_coo_tensor(
                beyond, torch.ones(1), (8, 3), check_invariants=False, dtype=torch.float32
            )
    return made


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


@st.composite
def training(draw: Draw) -> bytes:
    """Weights, a training state or gradients, with some parts replaced or some bytes wrong."""
    content, going_on, safe = sound_training()
    what = draw(st.integers(0, 3))
    if what == 2:
        return b"\2" + changed_bytes(draw, safe)
    chosen = going_on if what == 1 else content
    data = saved(replaced(draw, chosen, loose_tensors() | plain, chance=12))
    if not draw(st.integers(0, 5)):
        data = changed_bytes(draw, data)
    return bytes([what]) + data


# Tables


@st.composite
def tables(draw: Draw) -> bytes:
    """An Arrow stream of any types, sound or with some bytes wrong."""
    data = draw(st.sampled_from(sound_streams()))
    return data if not draw(st.integers(0, 9)) else changed_bytes(draw, data)


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


@st.composite
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
        replaced(draw, content, odd(), chance=15), option=ormsgpack.OPT_NON_STR_KEYS
    )
    if not draw(st.integers(0, 3)):
        header = changed_bytes(draw, header)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, part in {"checkpoint.msgpack": header, "0": b"state", "1": bytes(16)}.items():
            file.writestr(name, part)
    data = buffer.getvalue()
    return data if draw(st.integers(0, 3)) else changed_bytes(draw, data)


def odd() -> st.SearchStrategy[Any]:
    """Plain data, or an extension type of some form."""
    return plain.filter(packable) | st.builds(
        lambda kind, inner: ormsgpack.Ext(kind, inner),
        st.integers(0, 20),
        st.lists(numbers.filter(packable) | st.text(max_size=8), max_size=4).map(ormsgpack.packb),
    )


def packable(value: Any) -> bool:
    try:
        ormsgpack.packb(value, option=ormsgpack.OPT_NON_STR_KEYS)
    except TypeError:
        return False
    return True


# Caches

KEY = bytes(range(32))
PLACE = f"00/{KEY[1:].hex()}.val"
AROUND = [PLACE, "00", "00/a.val", "00/b.part", "fe", "fe/x.val", "zz/x.val", "x"]
KINDS_OF_FILES = ["file", "file", "link", "pipe", "directory"]
TARGETS = ["../outside", "../../outside", "..", ".", "00", "/dev/zero", "/proc/self/mem", "gone"]


@st.composite
def caches(draw: Draw) -> bytes:
    """A directory of a cache: an entry that is nearly right, and what else may lie there."""
    found = [(PLACE, "file", draw(entries()))]
    if not draw(st.integers(0, 3)):
        path, kind = draw(st.sampled_from(AROUND)), draw(st.sampled_from(KINDS_OF_FILES))
        leads = kind == "link"
        content = draw(st.sampled_from(TARGETS)).encode() if leads else draw(entries())
        found.insert(draw(st.integers(0, 1)), (path, kind, content))
    return ormsgpack.packb(found)


@st.composite
def entries(draw: Draw) -> bytes:
    """The bytes of an entry, with a checksum that mostly matches."""
    from xxhash import xxh3_128

    content = {"a": ARRAY, "b": ["text", ormsgpack.Ext(3, ormsgpack.packb([1, None]))], "c": b"x"}
    header = ormsgpack.packb(
        replaced(draw, content, odd(), chance=12), option=ormsgpack.OPT_NON_STR_KEYS
    )
    if not draw(st.integers(0, 5)):
        header = changed_bytes(draw, header)
    buffers = draw(st.sampled_from([[bytes(16)], [bytes(16)], [], [bytes(16), b""], [b""] * 3000]))
    table = [len(header), len(buffers), *map(len, buffers)]
    if not draw(st.integers(0, 5)):
        table[draw(st.integers(0, len(table) - 1))] = draw(numbers) % (1 << 64)
    rest = struct.pack(f"<{len(table)}Q", *table) + header + b"".join(buffers)
    key = KEY if draw(st.integers(0, 15)) else draw(st.binary(min_size=32, max_size=32))
    data = key + xxh3_128(rest).digest() + rest
    return data if draw(st.integers(0, 7)) else changed_bytes(draw, data)


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


@st.composite
def replies(draw: Draw) -> bytes:
    """A reply, an error or an event that is nearly right, after the number of its command."""
    number = draw(st.integers(0, len(SOUND_REPLIES) - 1))
    sound = {"ok": True, **SOUND_REPLIES[[*SOUND_REPLIES][number]]}
    chosen = {"id": 1, **draw(st.sampled_from([sound, sound, *OTHERS]))}
    header = ormsgpack.packb(
        replaced(draw, chosen, odd(), chance=12), option=ormsgpack.OPT_NON_STR_KEYS
    )
    if not draw(st.integers(0, 5)):
        header = changed_bytes(draw, header)
    return bytes([number]) + header


INPUTS: dict[str, st.SearchStrategy[bytes]] = {
    "weights": weights(),
    "training": training(),
    "tables": tables(),
    "checkpoints": checkpoints(),
    "replies": replies(),
    "caches": caches(),
}
