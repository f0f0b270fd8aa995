"""The process that reads hostile data: batches of inputs from stdin, one line of JSON for each.

It runs as a program of its own, so that a crash is seen by its signal.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import signal
import struct
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
import ormsgpack

import soma_core as soma
from soma_core.wire.added_types import Codecs
from soma_core.wire.pickles import Pickles

LENGTH = POSITION = struct.Struct("<Q")
TIMES, BESIDE = 10, 64 << 20  # of an input's length, and beside it: the memory that it may take
_SLACK = 4 << 20  # bytes of a height that lasts into the next inputs
Reader = Callable[[bytes], None]


def weights() -> Reader:
    """Weights in torch's format, each tensor of which is read through."""
    import torch

    from soma_core.wire.weights import dump_weights, load_weights

    def read(data: bytes) -> None:
        look_at(load_weights(data), levels=20)

    read(dump_weights({"a": torch.ones(2)}))  # what it imports is no input's fault
    return read


def look_at(value: Any, levels: int) -> None:
    """Read every element of every tensor."""
    import torch

    if isinstance(value, torch.Tensor):
        dense = value.detach().clone(memory_format=torch.contiguous_format).reshape(-1)
        dense.view(torch.uint8).numpy().sum(dtype=np.uint64)
    elif isinstance(value, dict | list | tuple | set) and levels:
        for item in [*value, *(value.values() if isinstance(value, dict) else ())]:
            look_at(item, levels - 1)


NET = {"sizes": [3, 8, 2], "seed": 1}


def training() -> Reader:
    """States and gradients of a network, which then trains on with them.

    The first byte says what the rest is: weights, a training state, or gradients.
    """
    fused = {"name": "Adam", "fused": True}
    filters = {"net": ("torch.MLP", {**NET, "optimizer": fused, "scheduler": "StepLR"})}
    filters["net"][1]["scheduler"] = {"name": "StepLR", "step_size": 2}
    worker = soma.connect("inline", pickle="never", filters=filters)
    x, y = np.ones((4, 3), np.float32), np.ones((4, 2), np.float32)
    worker.composite_fit(["net"], x, y)
    sound = worker.get_state("net", full=True)

    def put(what: int, data: bytes) -> None:
        if what == 0:
            worker.set_state("net", soma.NodeState(data, "torch", {}))
        elif what == 1:
            worker.set_state("net", soma.NodeState(sound.data, "torch", {}, training=data))
        elif what == 2:
            worker.set_state("net", soma.NodeState(data, "safetensors", {}))
        else:
            worker.apply_gradients("net", data)

    def read(data: bytes) -> None:
        put(data[0], data[1:])  # what is refused leaves the node as it was
        try:
            worker.composite_fit(["net"], x, y)
        finally:
            worker.set_state("net", sound)

    return read


def tables() -> Reader:
    """An Arrow stream as a Table and as a DataFrame."""
    import pandas as pd
    from soma_codecs_arrow import frames, soma_register_codecs

    codecs = Codecs(soma_register_codecs())

    def read(data: bytes) -> None:
        table = codec(codecs, "pyarrow.Table").decode(None, [bytearray(data)])
        table.slice(0, 100).to_pylist()
        codec(codecs, "pandas.DataFrame").decode(None, [bytearray(data)])

    encoded = frames.encode(pd.DataFrame({"a": [1], "b": ["x"]}), aside=False)
    read(bytes(encoded.buffers[0]))
    return read


def values() -> Reader:
    """What a frame holds, of any type, which is then read through and packed again."""
    import torch  # noqa: F401 - as for checkpoints

    from soma_core.wire.packing import pack
    from soma_core.wire.unpacking import unpack

    from .inputs import sound_values

    pickles = typed_values()

    def read(data: bytes) -> None:
        header, buffers = ormsgpack.unpackb(data)
        value = unpack(header, [bytearray(each) for each in buffers], pickles)
        with suppress(Exception):  # what was taken may be nonsense
            look_through(value)
        with suppress(Exception):
            pack(value, pickles)

    sound_values()  # imports what values need
    return read


@cache
def typed_values() -> Pickles:
    """No pickles, and the codecs of soma's own plugins."""
    import soma_codecs_arrow
    from soma_filters_sklearn import plugin

    codecs = Codecs([*soma_codecs_arrow.soma_register_codecs(), *plugin.soma_register_codecs()])
    return Pickles(allowed=False, codecs=codecs)


def look_through(value: Any) -> None:
    """Read every element of arrays, matrices and tables."""
    import pandas as pd
    from scipy import sparse

    if isinstance(value, np.ndarray):
        np.ascontiguousarray(value).reshape(-1).view(np.uint8).sum(dtype=np.uint64)
    elif sparse.issparse(value):
        (value @ np.ones(min(value.shape[-1], 1000))).sum()
        value.tocsr().sum()
    elif isinstance(value, pd.DataFrame | pd.Series | pd.Index):
        value[:100].to_numpy(dtype=object).tolist()
        hash(str(value[:10]))
    else:
        look_at(value, levels=20)


def codec(codecs: Codecs, name: str) -> Any:
    found = codecs.get(name)
    assert found is not None
    return found


def checkpoints() -> Reader:
    """A file as a checkpoint."""
    import torch  # noqa: F401 - a tensor in a checkpoint has it imported, which is no input's fault

    from soma_core.client.checkpoint import read_checkpoint

    path = Path(tempfile.mkdtemp()) / "it"
    pickles = Pickles(allowed=False)

    def read(data: bytes) -> None:
        path.write_bytes(data)
        read_checkpoint(path, pickles)

    return read


def replies() -> Reader:
    """What a worker answers to a command, with two buffers, as a host takes it."""
    import torch  # noqa: F401 - as for checkpoints

    from soma_core.client.calls import Call
    from soma_core.client.conversation import Conversation
    from soma_core.client.records import deliver
    from soma_core.protocol.commands import COMMANDS
    from soma_core.protocol.parsing import name_of_command
    from soma_core.wire.message import Message

    from .inputs import SOUND_REPLIES

    models = {name_of_command(model): model for model in COMMANDS}
    names, pickles = [*SOUND_REPLIES], Pickles(allowed=False)
    sys.stderr = None  # records that make no sense are reported there

    def read(data: bytes) -> None:
        name = names[data[0]]
        call = Call(models[name], {"cmd": name, "node_id": "n"})
        conversation = Conversation(pickles, grace=1.0)
        exchange = conversation.begin(call)
        event = conversation.take(Message(data[1:], [bytearray(16), bytearray(8)]))
        if event is not None:
            deliver(event, call, None)
        elif exchange.over:
            try:
                repr(conversation.result(exchange))
            except soma.SomaError as error:
                "".join(traceback.format_exception(error))
                raise

    return read


def caches() -> Reader:
    """A directory as a cache: asked, added to, tidied and cleared."""
    import logging

    import pandas as pd  # noqa: F401 - an input that names a codec must not pay for its import
    import torch  # noqa: F401 - as for checkpoints
    from soma_cache.settings import CacheSettings
    from soma_cache.store import MISSING, Store

    from .inputs import KEY

    logging.disable()
    root = Path(tempfile.mkdtemp())
    settings, outside = CacheSettings(root / "cache", 1 << 20), root / "outside"

    def read(data: bytes) -> None:
        outside.write_bytes(b"precious")
        lay_out(settings.directory, ormsgpack.unpackb(data))
        store = Store(settings)
        found = store.get(KEY)
        if store.put(KEY, [1]) is None and store.get(KEY) != [1]:
            raise AssertionError(f"what was put is not found: {store.trouble}")
        store.repair()
        store.clear()
        shutil.rmtree(settings.directory)
        if outside.read_bytes() != b"precious":
            raise AssertionError("a file outside of the cache was changed")
        if found is MISSING:
            raise ValueError("a miss")
        look_at(found, levels=20)

    return read


def lay_out(directory: Path, found: list[tuple[str, str, bytes]]) -> None:
    """Make what an input says lies in a directory; of two things in one place the first."""
    directory.mkdir(mode=0o700)
    for name, kind, content in found:
        path = directory / name
        try:
            path.parent.mkdir(exist_ok=True)
            if kind == "link":
                path.symlink_to(content.decode())
            elif kind == "pipe":
                os.mkfifo(path)
            elif kind == "directory":
                path.mkdir()
            elif not path.is_symlink() and not path.is_fifo():
                path.write_bytes(content)
        except (FileExistsError, FileNotFoundError, NotADirectoryError, IsADirectoryError):
            continue


def harmful() -> Reader:
    """What each kind of harm looks like, for the tests of the search itself."""

    def read(data: bytes) -> None:
        match data:
            case b"crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case b"hang":
                signal.pause()
            case b"memory":
                bytearray(BESIDE + (1 << 20)).find(b"x")
            case b"raise":
                raise KeyError("no refusal")
            case b"refuse":
                raise ValueError("a refusal")

    return read


KINDS: dict[str, Callable[[], Reader]] = {
    "weights": weights,
    "training": training,
    "tables": tables,
    "checkpoints": checkpoints,
    "replies": replies,
    "values": values,
    "caches": caches,
    "harmful": harmful,
}
EXPECTED: dict[str, tuple[type[Exception], ...]] = {
    "tables": (Exception,),  # Codecs turn any of them into one of ours
    "replies": (soma.SomaError,),
}


class Memory:
    """What this process holds: asked after each input, so asked cheaply."""

    def __init__(self) -> None:
        self._status = os.open("/proc/self/status", os.O_RDONLY)
        self._held = 0
        self._reset()

    def taken(self) -> int:
        """How much more it held at its height than when it was asked before."""
        held, peak = self._now()
        more = peak - self._held
        if peak - held > _SLACK:
            self._reset()
        else:
            self._held = held
        return more

    def _now(self) -> tuple[int, int]:
        status = os.pread(self._status, 8192, 0)
        return _kilobytes(status, b"VmRSS:") << 10, _kilobytes(status, b"VmHWM:") << 10

    def _reset(self) -> None:
        """Let the height be what is held now."""
        Path("/proc/self/clear_refs").write_text("5")
        self._held, _ = self._now()


def _kilobytes(status: bytes, name: bytes) -> int:
    at = status.index(name) + len(name)
    return int(status[at : status.index(b"kB", at)])


def outcome(read: Reader, data: bytes, expected: tuple[type[Exception], ...]) -> tuple[str, bool]:
    """What reading came to: the name of what it raised, and whether it may raise that."""
    try:
        read(data)
    except expected as error:
        return type(error).__name__, True
    except BaseException as error:
        return f"raised {type(error).__name__}: {error}"[:500], False
    return "taken", True


def read_all(read: Reader, kind: str, batch: list[bytes], at: mmap.mmap) -> dict[str, Any]:
    """Read inputs until one does harm, and note before each which one it is."""
    expected = EXPECTED.get(kind, (soma.SomaError, ValueError))
    outcomes, memory = Counter[str](), Memory()
    for number, data in enumerate(batch):
        POSITION.pack_into(at, 0, number)
        told, sound = outcome(read, data, expected)
        taken = memory.taken()
        if sound and taken > TIMES * len(data) + BESIDE:
            told, sound = f"{len(data):,} bytes took {taken:,}", False
        if not sound:
            return {"outcomes": outcomes, "harm": told}
        outcomes[told] += 1
    return {"outcomes": outcomes, "harm": None}


def serve(kind: str, place: str, stdin: BinaryIO, stdout: TextIO) -> None:
    """Answer each batch of inputs until there is no more."""
    warnings.simplefilter("ignore")
    read = KINDS[kind]()
    with open(place, "r+b") as file, mmap.mmap(file.fileno(), POSITION.size) as at:
        while head := stdin.read(LENGTH.size):
            batch = ormsgpack.unpackb(stdin.read(*LENGTH.unpack(head)))
            stdout.write(json.dumps(read_all(read, kind, batch, at)) + "\n")
            stdout.flush()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], sys.stdin.buffer, sys.stdout)
