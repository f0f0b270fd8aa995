"""Recordings of workers over each transport."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import soma_core as soma
from soma_core.recording.entries import Entry
from soma_core.recording.reading import read_recording


@pytest.fixture
def connect(request) -> Callable[..., soma.Worker]:
    """Like ``soma.connect``; the workers are closed at the end of the test."""
    workers = []

    def start(transport: str, **arguments: Any) -> soma.Worker:
        if transport == "socket":
            arguments["path"] = request.getfixturevalue("shared_socket_daemon").path
        workers.append(soma.connect(transport, **arguments))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


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
