"""A host without a transport: commands in, replies out, in either dialect."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from soma_core.plugins.manager import installed_plugins
from soma_core.protocol.dialects import read_fields
from soma_core.serve import Responder
from soma_core.transport import Dialect, Message
from soma_core.wire.packing import pack
from soma_core.wire.pickles import Pickles
from soma_core.wire.unpacking import unpack


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

    def __init__(self, pickle: bool = True, filters: Any = None) -> None:
        codecs = installed_plugins().known_codecs()
        self.pickles = Pickles(allowed=pickle, codecs=codecs)
        self.responder = Responder(pickle="same-user" if pickle else "never", filters=filters)
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
        self.events.append(read_fields(message))

    def ask(self, cmd: str, **fields: Any) -> dict[str, Any]:
        """The reply to a frame, decoded; an error reply is raised as Refused."""
        header, views = pack({"cmd": cmd, **fields}, self.pickles)
        buffers = [bytearray(memoryview(view)) for view in views]
        reply = self.responder.respond(Message(header, buffers), self._event)
        assert reply.dialect is Dialect.FRAME
        return self._decoded(reply)

    def _decoded(self, reply: Message) -> dict[str, Any]:
        buffers = [bytearray(memoryview(buffer)) for buffer in reply.buffers]
        fields: dict[str, Any] = unpack(reply.header, buffers, self.pickles)
        if not fields["ok"]:
            raise Refused(fields)
        return fields

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
    return base64.b64encode(Pickles().dump(obj)).decode("ascii")


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
