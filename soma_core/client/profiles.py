"""Profiles of calls, as files for :mod:`pstats` and the viewers that read them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from soma_core.client.calls import Call

__all__ = ["profiled"]


def profiled(path: str | os.PathLike[str], call: Call, perform: Callable[[Call], Any]) -> Any:
    """Perform a call, and write where the worker spent its time.

    Args:
        path: The file, in the format of :mod:`cProfile`.
        call: The call.
        perform: Sends it, and returns its reply.

    Raises:
        FileNotFoundError: There is no such folder; nothing was sent.
    """
    file = Path(path)
    if not file.parent.is_dir():
        raise FileNotFoundError(f"profile: there is no folder {str(file.parent)!r} for {file.name}")
    call.fields["profile"] = True
    reply = perform(call)
    file.write_bytes(reply.profile_b64)
    return reply
