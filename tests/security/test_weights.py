"""Weights that somebody made to do harm are refused before torch has seen them."""

from __future__ import annotations

import io
import os
import pickle
import struct
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from soma_core.wire.weights import dump_weights, load_weights

torch = pytest.importorskip("torch")

FLOATS = b"ctorch\nFloatStorage\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
HOOKS = b"ccollections\nOrderedDict\n)R"


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def archive(opcodes: bytes, storage: bytes = bytes(16), method: int = zipfile.ZIP_STORED) -> bytes:
    """A file as torch writes it, of a pickle and one storage of the key ``0``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("archive/data.pkl", b"\x80\x02" + opcodes + b".")
        file.writestr("archive/version", "3")
        file.writestr("archive/data/0", storage)
    return buffer.getvalue()


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(elements: int = 4, key: str = "0", kind: bytes = FLOATS) -> bytes:
    name = struct.pack("<I", len(key)) + key.encode()
    parts = b"X\x07\0\0\0storage" + kind + b"X" + name + b"X\x03\0\0\0cpu" + number(elements)
    return b"(" + parts + b"tQ"


def tensor(
    offset: int = 0,
    sizes: tuple[int, ...] = (4,),
    strides: tuple[int, ...] = (1,),
    over: bytes | None = None,
    after: bytes = HOOKS,
) -> bytes:
    """The opcodes of a tensor over the storage of four floats."""
    place = number(offset) + numbers(sizes) + numbers(strides)
    return REBUILD + b"(" + (storage() if over is None else over) + place + b"\x89" + after + b"tR"


def test_these_opcodes_are_a_tensor_as_torch_writes_it() -> None:
    data = archive(tensor(offset=1, sizes=(2,)), struct.pack("<4f", 1, 2, 3, 4))
    assert load_weights(data).tolist() == [2.0, 3.0]
    assert torch.equal(load_weights(data), torch.load(io.BytesIO(data), weights_only=True))


HONEST: dict[str, Callable[[], Any]] = {
    "of a network": lambda: torch.nn.Sequential(
        torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)
    ).state_dict(),
    "transposed": lambda: torch.arange(6.0).reshape(2, 3).t(),
    "a part": lambda: torch.arange(20.0).reshape(4, 5)[1:3, 2:4],
    "spread": lambda: torch.ones(1).expand(5),
    "of no axis": lambda: torch.tensor(3.5),
    "empty": lambda: torch.ones(0, 3),
    "conjugate": lambda: torch.tensor([1 + 2j]).conj(),
    "negated": lambda: torch.tensor([1 + 2j]).conj().imag,
    "a parameter": lambda: torch.nn.Parameter(torch.ones(2)),
    "that wants gradients": lambda: torch.ones(2, requires_grad=True),
    "plain": lambda: [None, True, 1, -1, 2.5, 1j, "text", b"bytes", (1, (2, 3)), {"a": {1: 2}}],
    "large numbers": lambda: [2**31, -(2**40), 10**30],
    "about tensors": lambda: [torch.Size([1, 2]), torch.float32, torch.device("cuda:1")],
    "counted": lambda: [Counter("abb"), {1, 2}, OrderedDict(a=1)],
    **{
        str(dtype): lambda dtype=dtype: torch.tensor([0, 1, 2, 3]).to(dtype)  # type: ignore[misc]
        for dtype in (
            torch.bool,
            torch.uint8,
            torch.uint16,
            torch.int64,
            torch.float16,
            torch.bfloat16,
            torch.float64,
            torch.complex64,
            torch.float8_e4m3fn,
        )
    },
}


def same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, torch.Tensor):
        alike = (found.dtype, found.shape, found.requires_grad) == (
            wanted.dtype,
            wanted.shape,
            wanted.requires_grad,
        )
        return alike and found.tolist() == wanted.tolist()
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(same(found[k], wanted[k]) for k in wanted)
    return bool(found == wanted)


@pytest.mark.parametrize("kind", HONEST)
def test_what_torch_saves_is_read_as_torch_reads_it(kind: str) -> None:
    content = HONEST[kind]()
    for data in (saved(content), saved(content, pickle_protocol=4), dump_weights(content)):
        if kind == "counted" and data == saved(content, pickle_protocol=4):
            continue  # a set has opcodes of its own there
        found = load_weights(data)
        assert type(found) is type(content)
        assert same(found, content)
        if kind == "of a network":
            assert vars(found) == vars(content)


def test_tensors_that_share_their_memory_share_it_again() -> None:
    whole = torch.arange(4.0)
    found = load_weights(saved({"whole": whole, "part": whole[1:3]}))
    found["part"].zero_()
    assert found["whole"].tolist() == [0.0, 0.0, 0.0, 3.0]


def test_the_bytes_of_the_sender_are_never_written() -> None:
    data = saved(torch.ones(4))
    before = bytes(bytearray(data))
    load_weights(data).zero_()
    load_weights(memoryview(bytearray(data))).zero_()
    assert data == before


def sparse(indices: list[list[int]]) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.sparse_coo_tensor(
            torch.tensor(indices), torch.ones(len(indices[0])), (2, 2), check_invariants=False
        )
        return saved({"weight": made})


def billion_laughs() -> bytes:
    lines = [b"]q\0"] + [b"(h%ch%ct" % (n, n) + b"q%c" % (n + 1) for n in range(60)]
    return archive(b"".join(lines))


def many_storages(count: int) -> bytes:
    """An archive each of whose entries names one and the same member."""
    data = archive(b"N", bytes(1000))
    directory = data.rindex(b"PK\x01\x02")
    end = data.rindex(b"PK\x05\x06")
    entry = data[directory:end]
    first = data[data.index(b"PK\x01\x02") : directory]
    counts = struct.pack("<HH", (count + 1) & 0xFFFF, (count + 1) & 0xFFFF)
    size = struct.pack("<I", len(first) + count * len(entry))
    tail = data[end : end + 8] + counts + size + data[end + 16 :]
    return data[: data.index(b"PK\x01\x02")] + first + count * entry + tail


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "no archive": (lambda: b"\x80\x02N.", "does not end as a zip"),
    "nothing": (lambda: b"", "does not end as a zip"),
    "cut off": (lambda: saved(torch.ones(9))[:-30], "does not end as a zip"),
    "the format before zip": (
        lambda: saved(torch.ones(2), _use_new_zipfile_serialization=False),
        "does not end as a zip",
    ),
    "another archive": (lambda: archive(b"N").replace(b"data.pkl", b"data.abc"), r"no .*data\.pkl"),
    "compressed": (
        lambda: archive(tensor(), bytes(1 << 20), zipfile.ZIP_DEFLATED),
        "longer than itself|is compressed",
    ),
    "one member many times": (lambda: many_storages(1000), "longer than itself"),
    "a directory of millions": (lambda: many_storages(80_000), "directory of"),
    "a function": (lambda: archive(b"cposix\nsystem\nX\1\0\0\0a\x85R"), r"names posix\.system"),
    "a large bytearray": (
        lambda: archive(b"c__builtin__\nbytearray\n" + number(3 * 10**9) + b"\x85R"),
        r"names __builtin__\.bytearray",
    ),
    "large bytes": (
        lambda: archive(b"c__builtin__\nbytes\n" + number(3 * 10**9) + b"\x85R"),
        "takes 0 positional arguments",
    ),
    "a bytearray by its opcode": (lambda: archive(b"\x96" + struct.pack("<Q", 1 << 40)), ""),
    "a text longer than the pickle": (lambda: archive(b"X" + struct.pack("<I", 1 << 30)), ""),
    "sparse": (lambda: sparse([[0, 1], [1, 0]]), r"names torch\._utils\._rebuild_sparse"),
    "sparse, out of range": (
        lambda: sparse([[0, 10**9], [1, 10**9]]),
        r"names torch\._utils\._rebuild_sparse",
    ),
    "quantized": (
        lambda: archive(REBUILD.replace(b"_rebuild_tensor_v2", b"_rebuild_qtensor")),
        "_rebuild_qtensor",
    ),
    "without content": (lambda: saved(torch.ones(2, device="meta")), "_rebuild_meta_tensor"),
    "nested": (lambda: archive(b"ctorch._utils\n_rebuild_nested_tensor\n"), "_rebuild_nested"),
    "beyond its storage": (lambda: archive(tensor(sizes=(5,))), "reaches element 4"),
    "an offset beyond": (lambda: archive(tensor(offset=10**9, sizes=(1,))), "reaches element"),
    "a stride beyond": (lambda: archive(tensor(sizes=(2,), strides=(10**12,))), "reaches"),
    "a negative offset": (lambda: archive(tensor(offset=-1)), "are not counts"),
    "a negative size": (lambda: archive(tensor(sizes=(-4,))), "are not counts"),
    "a negative stride": (lambda: archive(tensor(offset=3, strides=(-1,))), "are not counts"),
    "sizes that overflow": (
        lambda: archive(tensor(sizes=(2**62, 4), strides=(2**62, 1))),
        "reaches element",
    ),
    "more sizes than strides": (lambda: archive(tensor(sizes=(1, 1))), ""),
    "spread over gigabytes": (
        lambda: archive(tensor(sizes=(10**10,), strides=(0,))),
        "many times as large",
    ),
    "many rows of nothing": (
        lambda: archive(tensor(sizes=(2**40, 0), strides=(1, 1))),
        r"without elements has .* rows",
    ),
    "many axes": (lambda: archive(tensor(sizes=(1,) * 100, strides=(1,) * 100)), "not counts"),
    "a storage that is longer than its bytes": (
        lambda: archive(tensor(over=storage(10**9))),
        "has 16 bytes, not 1,000,000,000 elements",
    ),
    "a storage that is not there": (lambda: archive(tensor(over=storage(key="7"))), "data/7"),
    "a storage outside of the archive": (
        lambda: archive(tensor(over=storage(key="../../etc/passwd"))),
        "etc/passwd",
    ),
    "a storage of no kind": (lambda: archive(tensor(over=storage(kind=b"N"))), "not a storage"),
    "hooks": (lambda: archive(tensor(after=b"}K\1K\1s")), "has hooks"),
    "odd metadata": (lambda: archive(tensor(after=HOOKS + b"}X\1\0\0\0aK\1s")), "not understood"),
    "attributes of a tensor": (lambda: archive(tensor() + b"}b"), "sets attributes of a Tensor"),
    "attributes of a function": (lambda: archive(REBUILD + b"}b"), "sets attributes of a _Constr"),
    "other attributes of a dict": (
        lambda: archive(HOOKS + b"}X\1\0\0\0aK\1sb"),
        "sets the attribute 'a'",
    ),
    "a function as content": (lambda: archive(REBUILD), "ends early"),
    "billions of lists": (billion_laughs, "repeats a"),
    "a list in itself": (lambda: archive(b"]q\0h\0a"), "repeats a list"),
    "millions of opcodes": (lambda: archive(b"(" + b"]" * 2_000_000 + b"t"), "opcodes"),
    "another opcode": (lambda: archive(b"NN0"), "opcode POP"),
    "an empty stack": (lambda: archive(b"\x86"), "empty stack"),
    "a mark too few": (lambda: archive(b"t"), ""),
    "a memo that is not there": (lambda: archive(b"h\x07"), ""),
    "a key that is no text": (lambda: archive(b"})K\1s"), "neither text nor number"),
    "the other order of bytes": (
        lambda: saved(torch.ones(1)).replace(b"little", b"large!"),
        "order of this machine",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_more_than_weights_is_refused_by_what_it_is(kind: str) -> None:
    make, reason = HOSTILE[kind]
    with pytest.raises(ValueError, match=f"not weights in torch's format: .*({reason})"):
        load_weights(make())


def test_what_a_pickle_would_run_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    with pytest.raises(ValueError, match=r"names .*\.mkdir"):
        load_weights(saved({"weight": Evil()}))
    assert not (tmp_path / "ran").exists()


def test_a_process_that_extends_torchs_reader_has_not_extended_ours() -> None:
    with (
        torch.serialization.safe_globals([os.mkdir]),
        pytest.raises(ValueError, match=r"names posix\.mkdir"),
    ):
        load_weights(archive(b"cposix\nmkdir\nX\1\0\0\0a\x85R"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(2, 2).to_sparse(),
        lambda: torch.ones(2, device="meta"),
        lambda: torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.quint8),
        lambda: torch.qint8,
        lambda: {("a", 1): 2},
        lambda: [[]] * 2,
    ],
    ids=["sparse", "meta", "quantized", "dtype", "key", "twice"],
)
def test_only_what_is_read_is_written(make: Callable[[], Any]) -> None:
    from soma_core import ErrorCode, ProtocolError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = {"a": make()}
    with pytest.raises(ProtocolError, match="weights are dense tensors") as caught:
        dump_weights(content)
    assert caught.value.code is ErrorCode.PICKLE_REFUSED


@pytest.mark.parametrize(
    "answer",
    [[torch.ones(2)], {"b": torch.ones(2)}, {"a": torch.ones(3)}, {"a": 5}, 5],
    ids=["a list", "other names", "another shape", "a number", "no dict"],
)
def test_states_of_workers_that_answer_nonsense_are_not_averaged(answer: Any) -> None:
    from soma_core.client.data_parallel import average_states

    honest = saved({"a": torch.ones(2)})
    for states in ([honest, saved(answer)], [saved(answer), honest]):
        with pytest.raises(ValueError, match="names and shapes of the first"):
            average_states(states)
