"""Profiles: where a command spent its time."""

from __future__ import annotations

import cProfile
import marshal
from collections.abc import Callable

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.protocol.commands import Command
from soma_core.protocol.replies import Reply


def profiled(execute: Callable[[Command], Reply], command: Command) -> Reply:
    """Execute a command under Python's profiler; its reply brings the profile.

    Raises:
        ProtocolError: ``invalid_command``: another profiler is at work in this process.
    """
    profile = cProfile.Profile()
    try:
        profile.enable()
    except ValueError as error:
        raise ProtocolError(ErrorCode.INVALID_COMMAND, f"profile: {error}") from None
    try:
        reply = execute(command)
    finally:
        profile.disable()
    profile.create_stats()
    reply.profile_b64 = marshal.dumps(profile.stats)
    return reply
