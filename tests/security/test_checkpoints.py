"""Checkpoints bring back what was learned and nothing else, and what is none is refused by name."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ormsgpack
import pytest
from pydantic import PrivateAttr

import soma_core as soma
from soma_core.client.checkpoint import read_checkpoint
from soma_core.wire.pickles import Pickles

from ..support import run_python

TYPED_ONLY = Pickles(allowed=False)


class Center(soma.Filter):
    """Learns a mean, and keeps what it needs only while it runs."""

    scale: float = 1.0
    window: tuple[int, int] = (1, 2)
    limit: float = float("nan")
    _lock: Any = PrivateAttr(default=None)

    def fit(self, x: Any, y: Any = None) -> Any:
        self._lock = threading.Lock()
        return {"mean": sum(x) / len(x)}

    def forward(self, x: Any, state: Any) -> Any:
        return (x - state["mean"]) * self.scale


class Weighted(soma.Filter):
    """Has a field that JSON cannot hold."""

    weights: Any

    def forward(self, x: Any, state: Any) -> Any:
        return x


@pytest.fixture
def worker() -> Iterator[soma.Worker]:
    with soma.connect("inline") as worker:
        yield worker


@pytest.fixture
def path(worker: soma.Worker, tmp_path: Path) -> Path:
    """A checkpoint of a filter that learned the mean 2."""
    worker.load({"center": Center()})
    worker.fit("center", [1.0, 3.0])
    worker.save_checkpoint(tmp_path / "it")
    return tmp_path / "it"


# What comes back


def test_what_was_learned_comes_back_into_the_filter_that_is_loaded(
    worker: soma.Worker, path: Path
) -> None:
    loaded = Center()
    worker.load({"center": loaded})
    worker.load_checkpoint(path)
    assert worker.forward("center", 5.0) == 3.0
    config = worker.get_state("center", full=True).config
    assert json.dumps(config) == '{"scale": 1.0, "window": [1, 2], "limit": NaN}'


def test_another_configuration_is_refused_by_its_fields_unless_it_is_forced(
    worker: soma.Worker, path: Path
) -> None:
    worker.load({"center": Center(scale=10.0, window=(1, 3))})
    with pytest.raises(ValueError, match=r"'center': scale was 1\.0 and is 10\.0, window was"):
        worker.load_checkpoint(path)
    worker.load_checkpoint(path, force=True)
    assert worker.forward("center", 5.0) == 30.0


TRAIN = """
import sys
import soma_core as soma

class Center(soma.Filter):
    def fit(self, x, y=None): return {"mean": sum(x) / len(x)}
    def forward(self, x, state): return x - state["mean"]

class Counts:
    def __init__(self): self.seen, self.shape = 0, (1, 2)
    def fit(self, x, y=None): self.seen += len(x); return {}
    def forward(self, x, state): return [self.seen, self.shape]

with soma.connect("stdio", filters={"center": Center(), "counts": Counts()}) as worker:
    if sys.argv[1] == "save":
        for node_id in ("center", "counts"):
            worker.fit(node_id, [1.0, 3.0])
        worker.save_checkpoint("it")
    else:
        worker.load_checkpoint("it")
    print(worker.forward("center", 5.0), worker.forward("counts", 0))
"""


def test_what_was_learned_comes_back_and_the_code_is_that_of_the_script(tmp_path: Path) -> None:
    mended = TRAIN.replace('x - state["mean"]', '"mended", x - state["mean"]').replace(
        "return [self.seen", 'return ["mended", self.seen'
    )
    assert run_python(TRAIN, "save", directory=tmp_path, timeout=110).stdout == "3.0 [2, (1, 2)]\n"
    said = run_python(mended, "load", directory=tmp_path, timeout=110).stdout
    assert said == "('mended', 3.0) ['mended', 2, (1, 2)]\n"


def test_a_filter_that_holds_what_does_not_pickle_has_a_checkpoint_too(
    worker: soma.Worker, path: Path
) -> None:
    assert b"_lock" not in path.read_bytes()
    saved = read_checkpoint(path, TYPED_ONLY)
    assert saved["center"].state.data is None
    assert saved["center"].state.fit_state == {"mean": 2.0}


def test_a_field_that_json_cannot_hold_is_compared_by_its_content(
    worker: soma.Worker, tmp_path: Path
) -> None:
    worker.load({"it": Weighted(weights=np.arange(3))})
    worker.save_checkpoint(tmp_path / "it")
    worker.load({"it": Weighted(weights=np.arange(3))})
    worker.load_checkpoint(tmp_path / "it")
    worker.load({"it": Weighted(weights=np.arange(4))})
    with pytest.raises(ValueError, match='weights was "sha256:'):
        worker.load_checkpoint(tmp_path / "it")


# What is no checkpoint


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


HEADER = "checkpoint.msgpack"
NODE: dict[str, Any] = {
    "filter": "Center",
    "config": None,
    "format": "value",
    "state": None,
    "fit_state": {},
    "training": None,
}


def checkpoint(**changes: Any) -> dict[str, Any]:
    return {"soma_checkpoint": 2, "nodes": {"center": {**NODE, **changes}}}


def written(content: Any, *buffers: bytes) -> bytes:
    header = ormsgpack.packb(content, option=ormsgpack.OPT_NON_STR_KEYS)
    numbered = {str(n): buffer for n, buffer in enumerate(buffers)}
    return archive({HEADER: header, **numbered})


def extension(number: int, content: Any) -> ormsgpack.Ext:
    return ormsgpack.Ext(number, ormsgpack.packb(content))


def bomb() -> bytes:
    return archive({HEADER: bytes(200_000_000)}, zipfile.ZIP_DEFLATED)


def overlapping() -> bytes:
    data = written(checkpoint(), bytes(10_000))
    start, end = data.rindex(b"PK\x01\x02"), data.rindex(b"PK\x05\x06")
    first, entry = data[data.index(b"PK\x01\x02") : start], data[start:end]
    entries = [entry[:-1] + str(n).encode() for n in range(10)]
    counts = struct.pack("<HHI", 11, 11, len(first) + 10 * len(entry))
    head = data[: data.index(b"PK\x01\x02")]
    return head + first + b"".join(entries) + data[end : end + 8] + counts + data[end + 16 :]


def damaged() -> bytes:
    data = bytearray(written(checkpoint(), b"abcdefgh" * 10))
    data[data.index(b"abcd")] ^= 1
    return bytes(data)


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "does not begin as a zip"),
    "text": (lambda: b"hello", "does not begin as a zip"),
    "a pickle": (lambda: pickle.dumps({"a": 1}), "does not begin as a zip"),
    "cut off": (lambda: written(checkpoint())[:-9], "does not end as a zip"),
    "a zip bomb": (bomb, "longer than itself|compressed"),
    "members that overlap": (overlapping, "longer than itself"),
    "a wrong byte": (damaged, "checksum of its member 0"),
    "no header": (lambda: archive({"0": b""}), "its members are not"),
    "a member too many": (lambda: archive({HEADER: b"\x80", "x": b""}), "its members are not"),
    "an old header": (lambda: archive({"checkpoint.json": b"{}"}), "its members are not"),
    "no MessagePack": (lambda: archive({HEADER: b"\xc1"}), "not MessagePack"),
    "no header at all": (lambda: archive({HEADER: b""}), "not MessagePack"),
    "no map": (lambda: written([1, 2]), "is a map"),
    "a number": (lambda: written(7), "is a map"),
    "nothing in it": (lambda: written({}), "version None"),
    "another version": (lambda: written({"soma_checkpoint": 9, "nodes": {}}), "version 9"),
    "a version that is text": (lambda: written({"soma_checkpoint": "2" * 999}), "version '222"),
    "no nodes": (lambda: written({"soma_checkpoint": 2}), "nodes"),
    "nodes in a list": (lambda: written({"soma_checkpoint": 2, "nodes": []}), "nodes"),
    "a node that is a number": (lambda: written({"soma_checkpoint": 2, "nodes": {"a": 5}}), "a"),
    "a node without fields": (
        lambda: written({"soma_checkpoint": 2, "nodes": {"a": {}}}),
        "filter",
    ),
    "a node with another field": (lambda: written(checkpoint(odd=1)), "odd"),
    "a filter that is no text": (lambda: written(checkpoint(filter=5)), "filter"),
    "a format that is none": (lambda: written(checkpoint(format="dill")), "format"),
    "a state that is text": (lambda: written(checkpoint(state=5)), "state"),
    "a configuration that is text": (lambda: written(checkpoint(config="x")), "config"),
    "training that is a list": (lambda: written(checkpoint(training=[])), "training"),
    "a buffer that is not there": (
        lambda: written(checkpoint(state=extension(11, [3]))),
        "buffer 3 does not exist",
    ),
    "a buffer used twice": (
        lambda: written(
            checkpoint(state=extension(11, [0]), training=extension(11, [0])), bytes(9)
        ),
        "buffer 0 is named twice",
    ),
    "an array beyond its buffer": (
        lambda: written(checkpoint(fit_state=extension(1, [0, "float64", [10**9]])), bytes(8)),
        "",
    ),
    "an extension that is not known": (
        lambda: written(checkpoint(fit_state=extension(99, 1))),
        "no extension type 99",
    ),
    "nests without end": (
        lambda: archive({HEADER: b"\x91" * 1_000_000 + b"\x00"}),
        "",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_checkpoint_is_refused_by_what_is_wrong_with_it(
    kind: str, worker: soma.Worker, path: Path
) -> None:
    make, reason = BAD[kind]
    path.write_bytes(make())
    with pytest.raises(ValueError, match=f"is not a checkpoint, or damaged: .*({reason})"):
        worker.load_checkpoint(path)
    assert worker.forward("center", 5.0) == 3.0


def test_a_pickle_in_it_is_refused_where_pickles_are(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    content = written(checkpoint(fit_state=extension(14, [0, []])), pickle.dumps(Evil()))
    (tmp_path / "it").write_bytes(content)
    with pytest.raises(soma.ProtocolError) as caught:
        read_checkpoint(tmp_path / "it", TYPED_ONLY)
    assert caught.value.code is soma.ErrorCode.PICKLE_REFUSED
    assert not (tmp_path / "ran").exists()


def test_nothing_is_unpickled_of_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    pickled = extension(14, [0, []])
    for content in (checkpoint(fit_state=pickled, odd=1), checkpoint(fit_state=pickled, filter=5)):
        (tmp_path / "it").write_bytes(written(content, pickle.dumps(Evil())))
        with pytest.raises(ValueError, match="not a checkpoint"):
            read_checkpoint(tmp_path / "it", Pickles())
    assert not (tmp_path / "ran").exists()


def test_a_file_that_is_no_regular_one_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(ValueError, match="it is no regular file"):
            read_checkpoint(path, TYPED_ONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        for path in (tmp_path, tmp_path / "missing", tmp_path / "s"):
            with pytest.raises(OSError, match=str(path)):
                read_checkpoint(path, TYPED_ONLY)


def test_a_hole_larger_than_memory_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "hole").touch()
    os.truncate(tmp_path / "hole", 1 << 42)
    with pytest.raises(ValueError, match="does not begin as a zip archive"):
        read_checkpoint(tmp_path / "hole", TYPED_ONLY)


def test_checksums_are_those_of_the_members(path: Path) -> None:
    with zipfile.ZipFile(path) as file:
        for entry in file.infolist():
            assert zlib.crc32(file.read(entry)) == entry.CRC
