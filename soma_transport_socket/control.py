"""What the supervisor says to the worker of a session: who comes, and whose command must end."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from soma_transport_socket.handing import receive

__all__ = ["Said", "hear", "pair", "say"]


@dataclass(frozen=True)
class Said:
    """One message of the supervisor's.

    Attributes:
        what: ``join``: a client comes, and its connection with it. ``interrupt``: the client
            wants its command given up. ``gone``: the client has hung up. ``finish``: nobody
            comes any more, and the session ends when the last client has left.
        client: Its number; 0 stands for whichever client's command runs.
    """

    what: Literal["join", "interrupt", "gone", "finish"]
    client: int


def pair() -> tuple[socket.socket, socket.socket]:
    """The supervisor's end and the worker's.

    Raises:
        OSError: It cannot be made, or this system has no such sockets.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


def say(control: socket.socket, said: Said, descriptors: Sequence[int] = ()) -> None:
    """Say something, without waiting.

    Raises:
        OSError: The worker is gone, or has not listened for so long that no more fits.
    """
    socket.send_fds(control, [json.dumps(asdict(said)).encode()], descriptors)


def hear(control: socket.socket) -> tuple[Said | None, list[int]]:
    """What was said next, with what came along; None at the end.

    Raises:
        BlockingIOError: Nothing was said.
    """
    text, descriptors = receive(control)
    return (Said(**json.loads(text)) if text else None), descriptors
