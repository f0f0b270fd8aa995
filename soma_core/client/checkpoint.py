"""Checkpoints: the states of several nodes in one file, written whole or not at all.

What a filter learned is in it, and how it was configured; the filter itself is not. The file is an
uncompressed zip: ``checkpoint.msgpack``, the map of a frame
(:mod:`~soma_core.wire.extensions`), and a member for each of its buffers. Zip keeps a checksum of
each.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import secrets
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from pydantic import BaseModel, ConfigDict, StrictStr, ValidationError

from soma_core.client.results import NodeState
from soma_core.client.steps import Steps
from soma_core.errors import ErrorCode, ProtocolError, RemoteError
from soma_core.models.regular_file import open_regular
from soma_core.models.validation_errors import describe
from soma_core.protocol.commands import StateFormat
from soma_core.wire.archive import read_archive
from soma_core.wire.packing import Binary, pack
from soma_core.wire.pickles import Pickles
from soma_core.wire.unpacking import Unpacking, unpack, unpack_map

if TYPE_CHECKING:
    from soma_core.client.verbs.states import StateVerbs

_HEADER = "checkpoint.msgpack"
_VERSION = 2
_MAGIC = b"PK\3\4"
_LONGEST_TEXT = 200  # characters of a configuration's field in an error


class Saved(NamedTuple):
    """One node in a checkpoint: the name of its filter, and its state."""

    filter: str
    state: NodeState


def _write(path: Path, nodes: Mapping[str, Saved], pickles: Pickles) -> None:
    """Write a checkpoint beside its place, then put it there: a reader finds the old or the new.

    Raises:
        OSError: It cannot be written.
        ProtocolError: ``pickle_refused``.
    """
    written = {node_id: _fields(saved) for node_id, saved in nodes.items()}
    header, buffers = pack({"soma_checkpoint": _VERSION, "nodes": written}, pickles)
    # Named before it is made: whenever Ctrl-C comes, it is known what to remove.
    name = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(name, "xb", opener=_private) as file:
            _write_archive(file, header, buffers)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise
    _sync_directory(path.parent)


def _write_archive(file: BinaryIO, header: bytes, buffers: Iterable[Any]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(_HEADER, header)
        for number, buffer in enumerate(buffers):
            with archive.open(str(number), "w", force_zip64=True) as member:
                view = memoryview(buffer)
                member.write(view.cast("B") if view.nbytes else b"")


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fields(saved: Saved) -> dict[str, Any]:
    state = saved.state
    return {
        "filter": saved.filter,
        "config": None if state.config is None else dict(state.config),
        "format": state.format,
        "state": None if state.data is None else Binary(state.data),
        "fit_state": state.fit_state,
        "training": None if state.training is None else Binary(state.training),
    }


def read_checkpoint(path: Path, pickles: Pickles) -> dict[str, Saved]:
    """Read what :func:`_write` wrote.

    The file takes at most a few times its size in memory. Nothing in it is unpickled before all
    of it is known to have the form of a checkpoint.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no checkpoint, damaged, or of another version.
        ProtocolError: ``pickle_refused``: a learned state in it is a pickle.
    """
    try:
        header, buffers = _members(_content(path))
        version = unpack_map(header).get("soma_checkpoint")
        if version != _VERSION:
            raise ValueError(f"it has version {version!r:.100}; this soma reads {_VERSION}")
        _Content.model_validate(Unpacking(buffers, pickles, resolve=False).run(header))
        content = _Content.model_validate(unpack(header, buffers, pickles))
    except ProtocolError as error:
        if error.code is ErrorCode.PICKLE_REFUSED:
            raise
        raise _no_checkpoint(path, error) from None
    except ValidationError as error:
        raise _no_checkpoint(path, describe(error)) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise _no_checkpoint(path, error or type(error).__name__) from None
    return {node_id: node.saved() for node_id, node in content.nodes.items()}


def _no_checkpoint(path: Path, reason: object) -> ValueError:
    return ValueError(f"{path} is not a checkpoint, or damaged: {reason}")


def _content(path: Path) -> bytes:
    """What a file holds that begins as a checkpoint does.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no regular file, or begins otherwise.
    """
    with open_regular(path) as file:
        if not file.peek(len(_MAGIC)).startswith(_MAGIC):
            raise ValueError("it does not begin as a zip archive does")
        return file.read()


def _members(content: bytes) -> tuple[bytes, list[bytearray]]:
    """The header and the buffers in the archive, each as its checksum says.

    Raises:
        ValueError: They are not there, or damaged.
    """
    members = read_archive(content)
    names = [_HEADER, *map(str, range(len(members) - 1))]
    if members.keys() != set(names):
        raise ValueError(f"its members are not {_HEADER} and a number for each buffer")
    for name in names:
        if zlib.crc32(members[name].content) != members[name].checksum:
            raise ValueError(f"the checksum of its member {name} is wrong")
    header, *buffers = (bytearray(members[name].content) for name in names)
    return bytes(header), buffers


_Bytes = bytes | bytearray | memoryview


class _Node(BaseModel):
    """One node, as it stands in the file."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    filter: StrictStr
    config: dict[str, Any] | None
    format: StateFormat
    state: _Bytes | None
    fit_state: Any
    training: _Bytes | None

    def saved(self) -> Saved:
        state = NodeState(
            data=None if self.state is None else bytes(self.state),
            format=self.format,
            fit_state=self.fit_state,
            training=None if self.training is None else bytes(self.training),
            config=self.config,
        )
        return Saved(self.filter, state)


class _Content(BaseModel):
    """All that stands in the file."""

    model_config = ConfigDict(extra="forbid")

    soma_checkpoint: int
    nodes: dict[StrictStr, _Node]


def save(worker: StateVerbs, path: Path, pickles: Pickles, timeout: Any) -> Steps[None]:
    """Write the full states of a worker's nodes; see ``Worker.save_checkpoint``."""
    metas = worker.metas
    if not metas:
        raise ValueError("there is nothing to save: the worker has no nodes; load filters first")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(path.parent)!r} for {path.name}")
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder; name a file in it")
    nodes = {}
    for node_id, meta in metas.items():
        nodes[node_id] = Saved(meta.name, (yield from _full_state(worker, node_id, timeout)))
    _write(path, nodes, pickles)


def load(
    worker: StateVerbs,
    path: Path,
    pickles: Pickles,
    timeout: Any,
    *,
    force: bool,
) -> Steps[None]:
    """Put back what :func:`save` wrote, into all nodes or none; see ``Worker.load_checkpoint``."""
    saved = read_checkpoint(path, pickles)
    here = {node_id: meta.name for node_id, meta in worker.metas.items()}
    there = {node_id: item.filter for node_id, item in saved.items()}
    if here != there:
        raise ValueError(
            f"{os.fspath(path)} holds the nodes {there}, this worker {here} (filters by node "
            "id); load the same filters under the same ids first"
        )
    before = {}
    for node_id in saved:
        before[node_id] = yield from _full_state(worker, node_id, timeout)
    other = _configured_otherwise(before, saved)
    if other and not force:
        raise ValueError(
            f"{os.fspath(path)} was saved with filters of another configuration: "
            f"{'; '.join(other.values())}. Load filters that are configured alike, or pass "
            "force=True: what they learned is put into those that are loaded"
        )
    done: list[str] = []
    try:
        for node_id, item in saved.items():
            state = _without_filter(item.state)
            if node_id in other:  # its optimizer and schedule are those that it is configured with
                state = dataclasses.replace(state, training=None)
            yield from worker.set_state(node_id, state, timeout=timeout)
            done.append(node_id)
    except RemoteError:
        for node_id in done:
            yield from worker.set_state(node_id, before[node_id], timeout=timeout)
        raise


def _configured_otherwise(
    here: Mapping[str, NodeState], saved: Mapping[str, Saved]
) -> dict[str, str]:
    """The nodes whose filters are configured in another way than those that were saved, and how."""
    differences = {
        node_id: _differences(saved[node_id].state.config, state.config)
        for node_id, state in here.items()
    }
    return {
        node_id: f"node {node_id!r}: {', '.join(texts)}"
        for node_id, texts in differences.items()
        if texts
    }


def _differences(saved: Mapping[str, Any] | None, here: Mapping[str, Any] | None) -> list[str]:
    """In which fields two configurations differ; none where one of them is not known."""
    if saved is None or here is None:
        return []
    return [
        f"{name} was {_spelled(saved, name)} and is {_spelled(here, name)}"
        for name in dict.fromkeys([*saved, *here])
        if _spelled(saved, name) != _spelled(here, name)
    ]


def _spelled(config: Mapping[str, Any], name: str) -> str:
    """A field as text, in which a nan equals a nan; cut where it is long."""
    if name not in config:
        return "not there"
    text = json.dumps(config[name], default=str, skipkeys=True)
    if len(text) <= _LONGEST_TEXT:
        return text
    return f"{text[:_LONGEST_TEXT]}… ({hashlib.sha256(text.encode()).hexdigest()[:8]})"


def _full_state(worker: StateVerbs, node_id: str, timeout: Any) -> Steps[NodeState]:
    state = yield from worker.get_state(node_id, full=True, timeout=timeout)
    if state.format == "cloudpickle" and node_id in worker.registered:
        with suppress(RemoteError):  # then it has attributes that are no typed values
            state = yield from worker.get_state(node_id, format="value", full=True, timeout=timeout)
    return _without_filter(state)


def _without_filter(state: NodeState) -> NodeState:
    """A state without the filter itself, which is its configuration: the loaded one stays."""
    if state.config is None or state.format not in ("cloudpickle", "value"):
        return state
    return dataclasses.replace(state, data=None)
