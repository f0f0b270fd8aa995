"""The end of this process: workers that nobody stopped are given the time to end cleanly."""

from __future__ import annotations

import atexit
import os
from typing import NamedTuple
from weakref import WeakKeyDictionary

from soma_core.channel.contract import Channel, Transport
from soma_core.channel.deadline import Deadline

_GRACE = 2.0  # seconds for all of them together, before they are made to end


class _Started(NamedTuple):
    channel: Channel
    owner: int


_started: WeakKeyDictionary[Transport, _Started] = WeakKeyDictionary()


def stop_at_exit(transport: Transport, channel: Channel) -> None:
    """Stop a transport at the exit of this process, if it was not stopped before.

    Called by a transport at the end of its ``start``. Its worker is then unloaded and its files
    are flushed at the end of a script that closes nothing, as after ``Worker.close``.

    Args:
        transport: The transport, which has started.
        channel: What ``start`` returns.
    """
    _started[transport] = _Started(channel, os.getpid())


def _stop_all() -> None:
    ours = [(one, entry) for one, entry in _started.items() if entry.owner == os.getpid()]
    for transport, entry in ours:
        if not entry.channel.closed:
            transport.interrupt()
            entry.channel.close()
    deadline = Deadline.after(_GRACE)
    for transport, _ in ours:
        transport.stop(deadline.left() or 0.0)


atexit.register(_stop_all)
