"""Checkpoints: the states of several nodes in one file, written whole or not at all.

The file is an uncompressed zip: ``checkpoint.msgpack``, the map of a frame
(:mod:`~soma_core.wire.extensions`), and a member for each of its buffers. Zip keeps a checksum of
each.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Container, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from soma_core.client.results import NodeState
from soma_core.errors import ProtocolError, RemoteError
from soma_core.models.filters import FilterMeta
from soma_core.wire.packing import Binary, pack
from soma_core.wire.pickles import Pickles
from soma_core.wire.unpacking import unpack, unpack_map

__all__ = ["Saved", "load", "read_checkpoint", "save", "write_checkpoint"]

_HEADER = "checkpoint.msgpack"
_VERSION = 2


class Saved(NamedTuple):
    """One node in a checkpoint: the name of its filter, and its state."""

    filter: str
    state: NodeState


def write_checkpoint(path: Path, nodes: Mapping[str, Saved], pickles: Pickles) -> None:
    """Write a checkpoint beside its place, then put it there: a reader finds the old or the new.

    Args:
        path: The file; one that exists is replaced.
        nodes: What it holds, by node id.
        pickles: Whether learned states that are no plain data may be pickled.

    Raises:
        OSError: It cannot be written.
        ProtocolError: ``pickle_refused``.
    """
    written = {node_id: _fields(saved) for node_id, saved in nodes.items()}
    header, buffers = pack({"soma_checkpoint": _VERSION, "nodes": written}, pickles)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr(_HEADER, header)
                for number, buffer in enumerate(buffers):
                    with archive.open(str(number), "w", force_zip64=True) as member:
                        member.write(memoryview(buffer).cast("B"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise
    _sync_directory(path.parent)


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
        "format": state.format,
        "state": Binary(state.data),
        "fit_state": state.fit_state,
        "training": None if state.training is None else Binary(state.training),
    }


def read_checkpoint(path: Path, pickles: Pickles) -> dict[str, Saved]:
    """Read what :func:`write_checkpoint` wrote.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no checkpoint, damaged, or of another version.
        ProtocolError: ``pickle_refused``: a learned state in it is a pickle.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            header = archive.read(_HEADER)
            count = len(archive.namelist()) - 1
            buffers = [bytearray(archive.read(str(number))) for number in range(count)]
        version = unpack_map(header).get("soma_checkpoint")
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, ProtocolError) as error:
        raise ValueError(f"{path} is not a checkpoint, or damaged: {error}") from None
    if version != _VERSION:
        raise ValueError(
            f"{path} is a checkpoint of version {version!r}; this soma reads {_VERSION}"
        )
    content = unpack(header, buffers, pickles)
    return {node_id: _saved(saved) for node_id, saved in content["nodes"].items()}


def _saved(fields: Mapping[str, Any]) -> Saved:
    training = fields["training"]
    state = NodeState(
        data=bytes(fields["state"]),
        format=fields["format"],
        fit_state=fields["fit_state"],
        training=None if training is None else bytes(training),
    )
    return Saved(fields["filter"], state)


class Stateful(Protocol):
    """What a checkpoint needs of a worker."""

    @property
    def metas(self) -> Mapping[str, FilterMeta]:
        """What is known of its nodes, by id."""

    def get_state(
        self, node_id: str, *, format: Any = None, full: bool = False, timeout: Any
    ) -> NodeState:
        """Fetch the state of a node."""

    def set_state(self, node_id: str, state: NodeState, *, timeout: Any) -> None:
        """Put the state of a node back."""


def save(
    worker: Stateful, path: Path, pickles: Pickles, registered: Container[str], timeout: Any
) -> None:
    """Write the full states of a worker's nodes; see ``Worker.save_checkpoint``.

    Args:
        worker: The worker.
        path: The file.
        pickles: Whether learned states that are no plain data may be pickled.
        registered: The nodes that were loaded by name, whose states need no pickle.
        timeout: Seconds for each node.
    """
    nodes = {
        node_id: Saved(meta.name, _full_state(worker, node_id, registered, timeout))
        for node_id, meta in worker.metas.items()
    }
    write_checkpoint(path, nodes, pickles)


def load(
    worker: Stateful, path: Path, pickles: Pickles, registered: Container[str], timeout: Any
) -> None:
    """Put back what :func:`save` wrote, into all nodes or none; see ``Worker.load_checkpoint``."""
    saved = read_checkpoint(path, pickles)
    here = {node_id: meta.name for node_id, meta in worker.metas.items()}
    there = {node_id: item.filter for node_id, item in saved.items()}
    if here != there:
        raise ValueError(
            f"{os.fspath(path)} holds the nodes {there}, this worker {here} (filters by node "
            "id); load the same filters under the same ids first"
        )
    before = {node_id: _full_state(worker, node_id, registered, timeout) for node_id in saved}
    done: list[str] = []
    try:
        for node_id, item in saved.items():
            worker.set_state(node_id, item.state, timeout=timeout)
            done.append(node_id)
    except RemoteError:
        for node_id in done:
            worker.set_state(node_id, before[node_id], timeout=timeout)
        raise


def _full_state(
    worker: Stateful, node_id: str, registered: Container[str], timeout: Any
) -> NodeState:
    if node_id in registered:
        for format in ("torch", "value"):
            with suppress(RemoteError):  # then it has no state of that format
                return worker.get_state(node_id, format=format, full=True, timeout=timeout)
    return worker.get_state(node_id, full=True, timeout=timeout)
