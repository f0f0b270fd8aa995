"""What systemd gives to a daemon, a socket, and what it hears from it: how far it is."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

_FIRST = 3  # the descriptor of the first socket that is handed over


def handed_listener() -> socket.socket | None:
    """The Unix socket that systemd listens at for us; None if it does not.

    Raises:
        ValueError: What was handed over is something else, or more than that.
    """
    ours = os.environ.pop("LISTEN_PID", "") == str(os.getpid())
    count = os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if not ours or not count:
        return None
    if count != "1":
        raise ValueError(f"systemd handed over {count} sockets; give the unit one ListenStream=")
    with suppress(OSError):  # it is no socket
        listening = socket.socket(fileno=_FIRST)
        listening.set_inheritable(False)
        of_a_path = listening.family == socket.AF_UNIX and isinstance(listening.getsockname(), str)
        if of_a_path and listening.type == socket.SOCK_STREAM:
            return listening
    raise ValueError("systemd handed over no Unix stream socket; use ListenStream=/a/path")


def notify(state: str) -> None:
    """Tell systemd how far this daemon is, if it asked for that (``Type=notify``).

    Args:
        state: ``"READY=1"`` or ``"STOPPING=1"``.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
        sending.sendto(state.encode(), address)
