"""Wire: a host without a Worker, which sees the messages of a channel as they are."""

from __future__ import annotations

from typing import Any

from soma_core.channel.contract import Channel
from soma_core.wire.json_text import read_json, write_json
from soma_core.wire.line_codec import LineDecoder, LineEncoder
from soma_core.wire.message import Dialect, Message
from soma_core.wire.packing import pack
from soma_core.wire.pickles import Pickles
from soma_core.wire.unpacking import unpack

_PICKLES = Pickles()
_DATA = frozenset({"data", "y", "state"})


class Wire:
    """Sends commands over a channel, and receives messages."""

    def __init__(self, channel: Channel, patience: float = 20.0) -> None:
        self.channel = channel
        self._patience = patience

    def send(self, cmd: str, dialect: Dialect = Dialect.FRAME, **fields: Any) -> None:
        """Send a command; data, y and state are Python objects."""
        if dialect is Dialect.FRAME:
            header, buffers = pack({"cmd": cmd, **fields}, _PICKLES)
            message = Message(header, buffers)
        else:
            message = Message(write_json({"cmd": cmd, **_in_a_line(fields)}), (), dialect)
        self.channel.send(message, self._patience)

    def receive(self, timeout: float | None = None) -> Message:
        """The next message as it came."""
        message = self.channel.receive(self._patience if timeout is None else timeout)
        kind = type(message.header)
        named = f"a message's header is bytes, and the channel gave a {kind.__name__}"
        assert kind in (bytes, memoryview), named
        return message

    def fields(self, timeout: float | None = None) -> dict[str, Any]:
        """The fields of the next message; a result as a Python object."""
        message = self.receive(timeout)
        fields: dict[str, Any]
        if bytes(message.header[:1]) != b"{":  # whatever dialect the channel says that it is
            fields = unpack(message.header, message.buffers, _PICKLES)
        else:
            fields = read_json(message.header)
            if "result" in fields:
                fields["result"] = LineDecoder(pickles=_PICKLES).decode(fields["result"])
        return fields

    def ask(self, cmd: str, dialect: Dialect = Dialect.FRAME, **fields: Any) -> dict[str, Any]:
        """Send a command and return the fields of its reply."""
        self.send(cmd, dialect, **fields)
        return self.fields()

    def load(self, **objects: Any) -> None:
        """Load objects by node id."""
        specs = [
            {"id": node_id, "pickle_b64": _PICKLES.dump(obj)} for node_id, obj in objects.items()
        ]
        reply = self.ask("LOAD", filters=specs)
        assert reply["ok"] is True, reply

    def in_step(self) -> bool:
        """Whether everything that was sent has had its one reply."""
        try:
            return self.ask("PING", id="in step").get("id") == "in step"
        except Exception:
            return False


def _in_a_line(fields: dict[str, Any]) -> dict[str, Any]:
    encoder = LineEncoder(pickles=_PICKLES)
    return {key: encoder.encode(value) if key in _DATA else value for key, value in fields.items()}
