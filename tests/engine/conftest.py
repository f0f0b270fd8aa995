"""A host without a transport: commands in, replies out, in either dialect."""

from __future__ import annotations

import base64
import json
from typing import Any

import cloudpickle
import pytest
from pydantic_core import to_json

from soma_core.serve import Responder
from soma_core.transport import Dialect, Message
from soma_core.wire.codec import Decoder, FrameEncoder
from soma_core.wire.json_text import read_json
from soma_core.wire.pickles import Pickles

_DATA = {"data", "y", "state", "fit_state"}
_EACH = {"states"}


def refuse_constant(name: str) -> Any:
    raise AssertionError(f"a bare {name} in a line is not JSON")


class Refused(Exception):
    """An error reply, its fields as attributes."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(fields["error"])
        self.fields = fields
        self.code = fields["code"]
        self.node_id = fields.get("node_id")
        self.type = fields.get("type")


class Host:
    """Drives a Responder; every reply is checked to be one message of strict JSON."""

    def __init__(self, pickle: bool = True) -> None:
        self.pickles = Pickles(allowed=pickle)
        self.responder = Responder(pickles=self.pickles)
        self.events: list[dict[str, Any]] = []

    def line(self, text: bytes | str | dict[str, Any]) -> dict[str, Any]:
        """The reply to a line, as the JSON that a host in another language reads."""
        if isinstance(text, dict):
            text = json.dumps(text)
        header = text.encode() if isinstance(text, str) else text
        reply = self.responder.respond(Message(header, (), Dialect.LINE), self._event)
        assert reply.dialect is Dialect.LINE
        assert not reply.buffers
        assert b"\n" not in reply.header
        fields = json.loads(reply.header, parse_constant=refuse_constant)
        assert fields["ok"] in (True, False)
        return fields

    def _event(self, message: Message) -> None:
        self.events.append(json.loads(message.header, parse_constant=refuse_constant))

    def ask(self, cmd: str, **fields: Any) -> dict[str, Any]:
        """The reply to a frame, decoded; an error reply is raised as Refused."""
        encoder = FrameEncoder(pickles=self.pickles)
        for name in _DATA & fields.keys():
            fields[name] = encoder.encode(fields[name])
        for name in _EACH & fields.keys():
            fields[name] = {key: encoder.encode(state) for key, state in fields[name].items()}
        header = to_json({"cmd": cmd, **fields}, inf_nan_mode="constants")
        buffers = [bytearray(buffer) for buffer in encoder.buffers]
        reply = self.responder.respond(Message(header, buffers), self._event)
        assert reply.dialect is Dialect.FRAME
        return self._decoded(reply)

    def _decoded(self, reply: Message) -> dict[str, Any]:
        parsed = read_json(reply.header)
        if not parsed["ok"]:
            raise Refused(parsed)
        decoder = Decoder([bytearray(buffer) for buffer in reply.buffers], pickles=self.pickles)
        return {name: decoder.decode(field) for name, field in parsed.items()}

    def load(self, trainable: bool = True, **objects: Any) -> dict[str, Any]:
        """Load pickled objects by id."""
        specs = [
            {"id": node_id, "trainable": trainable, "pickle_b64": pickled(obj)}
            for node_id, obj in objects.items()
        ]
        return self.ask("LOAD", filters=specs)["filters"]

    def put(self, trainable: bool = True, **objects: Any) -> None:
        """Load objects and make the nodes hold these very objects, for tests to look into."""
        self.load(trainable, **objects)
        for node_id, obj in objects.items():
            self.node(node_id).obj = obj

    def node(self, node_id: str) -> Any:
        return self.responder.engine.nodes.get(node_id)

    @property
    def node_ids(self) -> list[str]:
        return [node.node_id for node in self.responder.engine.nodes]


def pickled(obj: Any) -> str:
    return base64.b64encode(cloudpickle.dumps(obj)).decode("ascii")


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def host_without_pickle() -> Host:
    return Host(pickle=False)


@pytest.fixture
def refused() -> type[Refused]:
    return Refused


@pytest.fixture(name="pickled")
def _pickled() -> Any:
    return pickled
