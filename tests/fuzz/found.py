"""Inputs that broke a promise, as files: a line with the cuts, then the stream."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from .inputs import Input

__all__ = ["load", "save"]


def save(given: Input, directory: Path) -> Path:
    """Write an input to a file that is named by its content."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{hashlib.sha256(given.stream).hexdigest()[:12]}.bin"
    path.write_bytes(json.dumps(given.cuts).encode() + b"\n" + given.stream)
    return path


def load(path: Path) -> Input:
    """Read what :func:`save` wrote."""
    cuts, _, stream = path.read_bytes().partition(b"\n")
    return Input(stream, tuple(json.loads(cuts)))
