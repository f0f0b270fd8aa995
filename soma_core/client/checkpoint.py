"""Checkpoints: the states of several nodes in one file, written whole or not at all.

The file is an uncompressed zip: ``checkpoint.json``, in which bytes and arrays are numbers of
buffers, and a member for each buffer. Zip keeps a checksum of each.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from soma_core.client.results import NodeState
from soma_core.wire.codec import Decoder, FrameEncoder
from soma_core.wire.json_text import read_json, write_json
from soma_core.wire.pickles import Pickles

__all__ = ["Saved", "read_checkpoint", "write_checkpoint"]

_HEADER = "checkpoint.json"
_VERSION = 1


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
    encoder = FrameEncoder(pickles=pickles)
    written = {node_id: _encoded(saved, encoder) for node_id, saved in nodes.items()}
    header = write_json({"soma_checkpoint": _VERSION, "nodes": written})
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr(_HEADER, header)
                for number, buffer in enumerate(encoder.buffers):
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


def _encoded(saved: Saved, encoder: FrameEncoder) -> dict[str, Any]:
    state = saved.state
    training = None if state.training is None else encoder.binary(state.training)
    return {
        "filter": saved.filter,
        "format": state.format,
        "state": encoder.binary(state.data),
        "fit_state": encoder.encode(state.fit_state),
        "training": training,
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
            content = read_json(archive.read(_HEADER))
            count = len(archive.namelist()) - 1
            buffers = [bytearray(archive.read(str(number))) for number in range(count)]
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a checkpoint, or damaged: {error}") from None
    version = content.get("soma_checkpoint")
    if version != _VERSION:
        raise ValueError(f"{path} is a checkpoint of version {version!r}; this soma reads 1")
    decoder = Decoder(buffers, pickles=pickles)
    return {node_id: _decoded(saved, decoder) for node_id, saved in content["nodes"].items()}


def _decoded(saved: Mapping[str, Any], decoder: Decoder) -> Saved:
    training = saved["training"]
    state = NodeState(
        data=bytes(decoder.binary(saved["state"])),
        format=saved["format"],
        fit_state=decoder.state(saved["fit_state"]),
        training=None if training is None else bytes(decoder.binary(training)),
    )
    return Saved(saved["filter"], state)
