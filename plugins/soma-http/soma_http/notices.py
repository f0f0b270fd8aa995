"""What the server says beside the messages of soma, and how the two tell of a worker's end."""

from __future__ import annotations

import json
from collections.abc import Sequence

from soma_core.transport import ExitStatus

__all__ = [
    "ENDED",
    "OUTPUT_NOTICE",
    "WORKER_HEADER",
    "exit_status",
    "output_notice",
    "status_text",
]

WORKER_HEADER = "soma-worker"
"""The header of the answer to an upgrade that names the worker."""

ENDED = 4000
"""The close code of a WebSocket whose worker has ended; the reason says how."""

OUTPUT_NOTICE = b'{"soma":"output"'
"""How a text message starts that holds lines which the worker printed."""


def output_notice(lines: Sequence[str]) -> str:
    """The text message of lines that a worker printed."""
    return json.dumps({"soma": "output", "lines": list(lines)}, separators=(",", ":"))


def status_text(status: ExitStatus) -> str:
    """An exit status as text: the reason of a close, and the answer to who asks."""
    return json.dumps({"ended": True, "code": status.code, "signal": status.signal})


def exit_status(text: str | bytes) -> ExitStatus | None:
    """The exit status in what a server said; None if there is none in it."""
    try:
        fields = json.loads(text)
        if fields["ended"]:
            return ExitStatus(fields["code"], fields["signal"])
    except (ValueError, KeyError, TypeError):
        pass
    return None
