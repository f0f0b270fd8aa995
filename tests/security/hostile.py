"""A transport to a worker that answers whatever a test wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from ormsgpack import packb

import soma_core as soma
from soma_core.protocol.versions import PROTOCOL_VERSION, client_info
from soma_core.transport import Channel, ExitStatus, Message, Transport, TransportOptions
from soma_core.wire.unpacking import unpack_map

__all__ = ["hostile_worker"]


class Scripted(Channel):
    """The end of a host whose worker answers HELLO, and then whatever it was told to.

    Args:
        hello: The answer to HELLO.
        answers: The answer to any other command, by its name.
        endless: Whether that is repeated without end.
    """

    def __init__(
        self, hello: dict[str, Any], answers: Callable[[str], Message], *, endless: bool
    ) -> None:
        self._hello, self._answers, self._endless = hello, answers, endless
        self._last: Message | None = None
        self._replies: list[Message] = []
        self._closed = False

    def send(self, message: Message, timeout: float | None = None) -> None:
        cmd = unpack_map(message.header)["cmd"]
        hello = Message(packb(self._hello))
        self._replies.append(hello if cmd == "HELLO" else self._answers(cmd))
        self._last = self._replies[-1] if self._endless and cmd != "HELLO" else None

    def receive(self, timeout: float | None = None) -> Message:
        if self._replies:
            return self._replies.pop(0)
        if self._last is not None:
            return self._last
        raise soma.ChannelClosed("nothing more comes")

    def close(self) -> None:
        self._closed = True

    @property
    def closed(self) -> bool:
        return self._closed


class Hostile(Transport):
    """Leads to a worker that answers what its class says."""

    name = "hostile"
    hello: ClassVar[dict[str, Any]] = {}
    answer: ClassVar[Callable[[str], Message]]
    endless: ClassVar[bool] = False

    def start(self, timeout: float | None = None) -> Channel:
        versions = client_info("worker").model_dump(exclude={"name"})
        hello = {
            "ok": True,
            "protocol": PROTOCOL_VERSION,
            "versions": versions,
            "pid": 1,
            "incarnation": "a",
            "pickle": "same-user",
        }
        answers, endless = type(self).answer, self.endless
        return Scripted({**hello, **self.hello}, answers, endless=endless)

    def poll(self) -> ExitStatus | None:
        return None

    def interrupt(self) -> None:
        pass

    def stop(self, grace: float) -> ExitStatus | None:
        return None


def hostile_worker(
    answer: Callable[[str], Message],
    *,
    policy: str = "never",
    endless: bool = False,
    **hello: Any,
) -> soma.Worker:
    """A Worker over it.

    Args:
        answer: The reply to a command, by its name.
        policy: The policy of the host.
        endless: Whether the reply is repeated without end.
        hello: What its HELLO says beside what a worker of this soma would.
    """
    attributes = {"answer": staticmethod(answer), "hello": hello, "endless": endless}
    transport = type("Answers", (Hostile,), attributes)
    options = TransportOptions(pickle=policy)  # type: ignore[arg-type]
    return soma.Worker(transport(options), interrupt_grace=0.1)
