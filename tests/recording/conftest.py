"""Where recordings are, and what is in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from soma_core.client.recording.entries import Entry
from soma_core.replay.reading import read_recording


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where to record."""
    return tmp_path / "flight.jsonl"


def entries(path: Path) -> list[Entry]:
    """The entries of a recording, without its sections."""
    return [item for item in read_recording(path) if isinstance(item, Entry)]


def notes(error: BaseException) -> str:
    """What Python prints beneath an error."""
    return "\n".join(getattr(error, "__notes__", ()))
