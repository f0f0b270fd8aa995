"""Golden vectors: every command with a reply, in both dialects, in the format of a recording.

They are for authors of hosts and workers in other languages. What belongs to a process or an
installation is blank in them; replayed, they give the same replies otherwise.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from soma_core.channel.contract import TransportOptions
from soma_core.client.recording.entries import Direction, Entry, Section, write_entry, write_section
from soma_core.engine.inline import InlineTransport
from soma_core.protocol.versions import PROTOCOL_VERSION
from soma_core.wire.codec import Encoder, FrameEncoder, LineEncoder
from soma_core.wire.json_text import read_json, write_json
from soma_core.wire.message import Dialect, Message

__all__ = ["Center", "write_vectors"]

Fields = dict[str, Any]
Build = Callable[[Encoder], Fields]

_X = np.array([[1.0, 2.0], [3.0, 6.0]])
_CLIENT = {"name": "vectors", "soma": "0", "python": "0", "cloudpickle": "0"}
_BLANK = {
    "pid": 0,
    "incarnation": "",
    "versions": {"soma": "", "python": "", "cloudpickle": ""},
    "codecs": [],
    "traceback": "",
}


class Center:
    """The filter of the vectors: learns a mean and subtracts it."""

    def fit(self, x: Any, y: Any = None) -> Fields:
        """The mean of each column."""
        return {"mean": np.mean(x, axis=0)}

    def forward(self, x: Any, state: Any) -> Any:
        """The distance from the mean."""
        return x - state["mean"]


# One section refuses pickles, so that the versions in its HELLO do not matter.

_PLAIN: Sequence[Build] = (
    lambda _: {"cmd": "HELLO", "id": 1, "protocol": PROTOCOL_VERSION, "client": _CLIENT},
    lambda _: {"cmd": "PING", "id": "any text"},
    lambda _: {"cmd": "LIST"},
    lambda _: {"cmd": "FORWARD", "node_id": "nobody", "data": 1},
    lambda _: {"cmd": "DANCE", "id": 2},
    lambda _: {"cmd": "FIT", "id": 3},
)

_WORKING: Sequence[Build] = (
    lambda e: {
        "cmd": "LOAD",
        "id": 1,
        "filters": [{"id": "center", "pickle_b64": e.binary(pickle.dumps(Center(), 2))}],
    },
    lambda e: {"cmd": "FIT", "id": 2, "node_id": "center", "data": e.encode(_X)},
    lambda e: {"cmd": "FORWARD", "id": 3, "node_id": "center", "data": e.encode(_X)},
    lambda e: {
        "cmd": "FORWARD",
        "id": 4,
        "node_id": "center",
        "data": e.encode(1),
        "state": e.encode({"mean": float("-inf")}),
    },
    lambda e: {"cmd": "FORWARD", "id": 5, "node_id": "center", "data": e.encode(1), "state": {}},
    lambda e: {
        "cmd": "COMPOSITE_FORWARD",
        "id": 6,
        "node_ids": ["center"],
        "data": e.encode(_X),
        "states": {"center": e.encode({"mean": 1})},
    },
    lambda e: {"cmd": "COMPOSITE_FIT", "id": 7, "node_ids": ["center"], "data": e.encode(_X)},
    lambda e: {
        "cmd": "BATCHED_FIT",
        "id": 8,
        "node_ids": ["center"],
        "data": e.encode(_X),
        "batch_size": 1,
        "collect": "all",
    },
    lambda _: {"cmd": "GET_STATE", "id": 9, "node_id": "center", "format": "value"},
    lambda e: {
        "cmd": "SET_STATE",
        "id": 10,
        "node_id": "center",
        "format": "value",
        "state_b64": e.binary(b"{}"),
        "fit_state": e.encode({"mean": 0}),
    },
    lambda _: {"cmd": "GET_GRADIENTS", "id": 11, "node_id": "center"},
    lambda e: {
        "cmd": "APPLY_GRADIENTS",
        "id": 12,
        "node_id": "center",
        "gradients_b64": e.binary(b""),
    },
    lambda _: {"cmd": "UNLOAD", "id": 13, "node_ids": ["center"]},
    lambda _: {"cmd": "SHUTDOWN", "id": 14},
)


def write_vectors(directory: Path) -> list[Path]:
    """Write one recording for each dialect, and return their paths.

    Raises:
        OSError: They cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for dialect in Dialect:
        path = directory / f"{dialect.value}.jsonl"
        path.write_bytes(b"".join(_lines(dialect)))
        written.append(path)
    return written


def _lines(dialect: Dialect) -> Iterator[bytes]:
    yield from _section("never", _PLAIN, dialect, 1)
    yield from _section("same-user", _WORKING, dialect, 2 * len(_PLAIN) + 1)


def _section(
    policy: Literal["same-user", "never"], commands: Sequence[Build], dialect: Dialect, n: int
) -> Iterator[bytes]:
    """The lines of a section whose first entry has the number ``n``."""
    told = {"soma": "", "python": "", "cloudpickle": ""}
    options = {"pickle": policy}
    yield write_section(Section(time=0.0, transport="inline", options=options, **told))
    transport = InlineTransport(TransportOptions(pickle=policy))
    channel = transport.start()
    for command in (_message(build, dialect) for build in commands):
        channel.send(command)
        reply = _blanked(channel.receive())
        yield write_entry(Entry(n, Direction.COMMAND, n, 0.0, command))
        yield write_entry(Entry(n + 1, Direction.REPLY, n, 0.0, reply))
        n += 2
    transport.stop(0.0)


def _message(build: Build, dialect: Dialect) -> Message:
    if dialect is Dialect.LINE:
        return Message(write_json(build(LineEncoder())), (), dialect)
    encoder = FrameEncoder()
    return Message(write_json(build(encoder)), encoder.buffers, dialect)


def _blanked(reply: Message) -> Message:
    fields = read_json(reply.header)
    fields |= {name: blank for name, blank in _BLANK.items() if name in fields}
    if isinstance(fields.get("filters"), list):  # what is registered in this installation
        fields["filters"] = []
    return reply._replace(header=write_json(fields))
