"""Golden vectors: every command with a reply, in both dialects, in the format of a recording.

They are for authors of hosts and workers in other languages. What belongs to a process or an
installation is blank in them; replayed, they give the same replies otherwise.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ormsgpack import packb

from soma_core.client.recording.entries import Direction, Entry, Section, write_entry, write_section
from soma_core.engine.inline import InlineOptions, InlineTransport
from soma_core.protocol.commands import COMMANDS, Command
from soma_core.protocol.dialects import codecs_for, read_fields
from soma_core.protocol.parsing import name_of_command
from soma_core.protocol.versions import PROTOCOL_VERSION
from soma_core.wire.json_text import write_json
from soma_core.wire.message import Dialect, Message
from soma_core.wire.pickles import Pickles

Fields = dict[str, Any]

_X = np.array([[1.0, 2.0], [3.0, 6.0]])
_CLIENT = {"name": "vectors", "soma": "0", "python": "0", "cloudpickle": "0"}
_BLANK = {
    "pid": 0,
    "incarnation": "",
    "versions": {"soma": "", "python": "", "cloudpickle": ""},
    "codecs": [],
    "traceback": "",
}


# A pickle of soma_core.testing.Mean(), which its public name is enough to read.
_MEAN = base64.b64encode(b"csoma_core.testing\nMean\n)\x81.").decode("ascii")
_MODELS = {name_of_command(model): model for model in COMMANDS}

# One section refuses pickles, so that the versions in its HELLO do not matter.

_PLAIN: Sequence[Fields] = (
    {"cmd": "HELLO", "id": 1, "protocol": PROTOCOL_VERSION, "client": _CLIENT},
    {"cmd": "PING", "id": "any text"},
    {"cmd": "INTERRUPT", "id": "too late", "command": 1},
    {"cmd": "LIST"},
    {"cmd": "FORWARD", "node_id": "nobody", "data": 1},
    {"cmd": "DANCE", "id": 2},
    {"cmd": "FIT", "id": 3},
)

_WORKING: Sequence[Fields] = (
    {
        "cmd": "LOAD",
        "id": 1,
        "filters": [{"id": "mean", "pickle_b64": _MEAN}],
    },
    {"cmd": "FIT", "id": 2, "node_id": "mean", "data": _X},
    {"cmd": "FORWARD", "id": 3, "node_id": "mean", "data": _X},
    {
        "cmd": "FORWARD",
        "id": 4,
        "node_id": "mean",
        "data": 1,
        "state": {"mean": float("-inf")},
    },
    {"cmd": "FORWARD", "id": 5, "node_id": "mean", "data": 1, "state": {}},
    {
        "cmd": "FORWARD",
        "id": "a list of tuples",
        "node_id": "mean",
        "data": [(1, 2.0), (3, 4.0), (5, 6.0), (7, 8.0)],
        "state": {},
    },
    {
        "cmd": "PING",
        "id": "lists that a frame packs at once",
        "meta": {
            "records": [{"id": n, "box": (n, 2.5)} for n in range(3)],
            "ragged": [(1, 2), (), (3,)],
            "by name": {"a": (1, 2), "b": (3, 4)},
        },
    },
    {"cmd": "CALL_METHOD", "id": "score", "node_id": "mean", "method": "score", "data": _X},
    {
        "cmd": "COMPOSITE_FORWARD",
        "id": 6,
        "node_ids": ["mean"],
        "data": _X,
        "states": {"mean": {"mean": 1}},
    },
    {"cmd": "COMPOSITE_FIT", "id": 7, "node_ids": ["mean"], "data": _X},
    {
        "cmd": "BATCHED_FIT",
        "id": 8,
        "node_ids": ["mean"],
        "data": _X,
        "batch_size": 1,
        "collect": "all",
    },
    {
        "cmd": "BATCHED_FIT",
        "id": "two epochs",
        "node_ids": ["mean"],
        "data": _X,
        "epochs": 2,
        "pause": "epoch",
    },
    {"cmd": "CONTINUE_FIT", "id": "the second", "node_ids": ["mean"], "fit_id": "fit-1"},
    {"cmd": "PARTIAL_FIT", "id": "it cannot", "node_id": "mean", "data": _X},
    {"cmd": "GET_STATE", "id": 9, "node_id": "mean", "format": "value"},
    {
        "cmd": "SET_STATE",
        "id": 10,
        "node_id": "mean",
        "format": "value",
        "state_b64": b"{}",
        "fit_state": {"mean": 0},
    },
    {"cmd": "GET_GRADIENTS", "id": 11, "node_id": "mean"},
    {
        "cmd": "APPLY_GRADIENTS",
        "id": 12,
        "node_id": "mean",
        "gradients_b64": b"",
    },
    {"cmd": "UNLOAD", "id": 13, "node_ids": ["mean"]},
    {"cmd": "SHUTDOWN", "id": 14},
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
        plain = _section("never", _PLAIN, dialect, 1)
        working = _section("same-user", _WORKING, dialect, 2 * len(_PLAIN) + 1)
        path.write_bytes(b"".join([*plain, *working]))
        written.append(path)
    return written


def _section(
    policy: Literal["same-user", "never"], commands: Sequence[Fields], dialect: Dialect, n: int
) -> Iterator[bytes]:
    """The lines of a section whose first entry has the number ``n``."""
    versions = {"soma": "", "python": "", "cloudpickle": ""}
    options = {"pickle": policy}
    yield write_section(Section(time=0.0, transport="inline", options=options, **versions))
    transport = InlineTransport(InlineOptions(pickle=policy))
    channel = transport.start()
    codec = codecs_for(Pickles())[dialect]
    for fields in commands:
        command = codec.write(dict(fields), _MODELS.get(fields["cmd"], Command))
        channel.send(command)
        reply = _blanked(channel.receive())
        yield write_entry(Entry(n, Direction.COMMAND, n, 0.0, command))
        yield write_entry(Entry(n + 1, Direction.REPLY, n, 0.0, reply))
        n += 2
    transport.stop(0.0)


def _blanked(reply: Message) -> Message:
    """A reply without what belongs to a process or an installation."""
    fields = read_fields(reply)
    fields |= {name: blank for name, blank in _BLANK.items() if name in fields}
    if isinstance(fields.get("filters"), list):  # what is registered in this installation
        fields["filters"] = []
    is_frame = reply.dialect is Dialect.FRAME
    return reply._replace(header=packb(fields) if is_frame else write_json(fields))
