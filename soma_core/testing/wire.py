"""Wire: a host without a Worker, which sees the messages of a channel as they are."""

from __future__ import annotations

from typing import Any

from soma_core.channel.contract import Channel
from soma_core.wire.codec import Decoder, FrameEncoder, LineEncoder
from soma_core.wire.json_text import read_json, write_json
from soma_core.wire.message import Dialect, Message
from soma_core.wire.pickles import Pickles

__all__ = ["Wire"]

_PICKLES = Pickles()
_DATA = frozenset({"data", "y", "state"})


class Wire:
    """Sends commands over a channel, and receives messages.

    Args:
        channel: A channel to an engine.
        patience: Seconds that a send or receive may take.
    """

    def __init__(self, channel: Channel, patience: float = 20.0) -> None:
        self.channel = channel
        self._patience = patience

    def send(self, cmd: str, dialect: Dialect = Dialect.FRAME, **fields: Any) -> None:
        """Send a command; data, y and state are Python objects."""
        frame = dialect is Dialect.FRAME
        encoder = FrameEncoder(pickles=_PICKLES) if frame else LineEncoder(pickles=_PICKLES)
        wire = {
            key: encoder.encode(value) if key in _DATA else value for key, value in fields.items()
        }
        header = write_json({"cmd": cmd, **wire})
        buffers = encoder.buffers if isinstance(encoder, FrameEncoder) else ()
        self.channel.send(Message(header, buffers, dialect), self._patience)

    def receive(self, timeout: float | None = None) -> Message:
        """The next message as it came."""
        message = self.channel.receive(self._patience if timeout is None else timeout)
        kind = type(message.header)
        assert kind is bytes, f"a message's header is bytes, and the channel gave a {kind.__name__}"
        return message

    def fields(self) -> dict[str, Any]:
        """The fields of the next message; a result as a Python object."""
        message = self.receive()
        fields: dict[str, Any] = read_json(message.header)
        if "result" in fields:
            decoder = Decoder(message.buffers, pickles=_PICKLES)
            fields["result"] = decoder.decode(fields["result"])
        return fields

    def ask(self, cmd: str, dialect: Dialect = Dialect.FRAME, **fields: Any) -> dict[str, Any]:
        """Send a command and return the fields of its reply."""
        self.send(cmd, dialect, **fields)
        return self.fields()

    def load(self, **objects: Any) -> None:
        """Load objects by node id."""
        encoder = LineEncoder(pickles=_PICKLES)
        specs = [
            {"id": node_id, "pickle_b64": encoder.binary(_PICKLES.dump(obj))}
            for node_id, obj in objects.items()
        ]
        reply = self.ask("LOAD", filters=specs)
        assert reply["ok"] is True, reply

    def in_step(self) -> bool:
        """Whether everything that was sent has had its one reply."""
        try:
            return self.ask("PING", id="in step").get("id") == "in step"
        except Exception:
            return False
