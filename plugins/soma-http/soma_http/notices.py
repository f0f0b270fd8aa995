"""What the server says beside the messages of soma, and how the two tell of a worker's end."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

from soma_core.transport import ExitStatus

WORKER_HEADER = "soma-worker"
"""The header of the answer to an upgrade that names the worker."""

LARGEST_HEADER = "soma-largest"
"""The header of that answer that names the most bytes of a message."""

ENDED = 4000
"""The close code of a WebSocket whose worker has ended; the reason says how."""

SUBPROTOCOL = "soma"
"""What a page offers, which cannot send headers: with it, its token as a subprotocol of its own."""

_PREFIX = "soma.token."

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


def offered_token(subprotocols: Sequence[str]) -> str:
    """The header that a page would have sent, from the subprotocols that it offers.

    A browser lets a page choose nothing else of an upgrade, and writes no subprotocols into its
    history or a server's log, as it does with an address.
    """
    for offered in subprotocols:
        if offered.startswith(_PREFIX):
            coded = offered.removeprefix(_PREFIX)
            try:
                token = base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4)).decode()
            except ValueError:
                continue
            return f"Bearer {token}"
    return ""
