"""The daemon's log, on its stderr: as text, or as one JSON object a line."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, Literal

_log = logging.getLogger("soma.daemon")
Format = Literal["text", "json"]


def log(event: str, **facts: Any) -> None:
    """Log what has happened, and what is known of it as plain data; None is left out."""
    known = {name: fact for name, fact in facts.items() if fact is not None}
    _log.info(event, extra={"facts": known})


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = "".join(f" {name}={fact}" for name, fact in getattr(record, "facts", {}).items())
        return f"soma serve socket: {record.getMessage()}{facts}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        level = record.levelname.lower()
        fields = {"time": moment, "level": level, "event": record.getMessage()}
        return json.dumps({**fields, **getattr(record, "facts", {})}, default=str)


def log_to_stderr(form: Format, level: str) -> None:
    """Write the log of this process to its stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if form == "json" else _Text())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    _log.setLevel(level.upper())
