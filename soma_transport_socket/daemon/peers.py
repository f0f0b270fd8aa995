"""Which users a daemon serves, how far it trusts them, and how it says no."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable

from soma_transport_socket import address
from soma_transport_socket.messages import PicklePolicy


class ClientRefused(Exception):
    """A client does not get what it asked for; the text says why, and what to do."""


class Peers:
    """The users that a daemon serves: its own, and others that its operator named.

    Args:
        let_in: The other users, by uid. Pickles, which are code, are never read from them.
    """

    def __init__(self, let_in: Iterable[int] = ()) -> None:
        self._own = os.getuid()
        self.others = frozenset(let_in) - {self._own}

    def serves(self, connection: socket.socket) -> bool:
        """Whether the user at the other end may connect, as the kernel knows it."""
        try:
            return address.peer_uid(connection) in self.others | {self._own}
        except OSError:  # macOS: it is gone already
            return False

    def policy(self, connection: socket.socket, wanted: Iterable[PicklePolicy]) -> PicklePolicy:
        """What holds for a connection: the strictest of what is wanted; never for other users."""
        trusted = address.peer_uid(connection) == self._own
        return "same-user" if trusted and "never" not in wanted else "never"

    def __str__(self) -> str:
        others = "".join(f", and user {uid}, without pickles" for uid in sorted(self.others))
        return f"user {self._own}{others}" if others else "the user who started it"
