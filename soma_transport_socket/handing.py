"""Handing over: a message with descriptors, from one process to another."""

from __future__ import annotations

import os
import socket

__all__ = ["receive"]

_LONGEST = 1 << 16
_DESCRIPTORS = 8  # more than ever come at once


def receive(source: socket.socket, size: int = _LONGEST) -> tuple[bytes, list[int]]:
    """Receive one message, and the descriptors that came with it, owned by the caller.

    The descriptors are not inherited by children, which ``recv_fds`` itself does not see to.

    Raises:
        OSError: Nothing could be received.
    """
    data, descriptors, _, _ = socket.recv_fds(source, size, _DESCRIPTORS)
    for fd in descriptors:
        os.set_inheritable(fd, False)
    return data, descriptors
