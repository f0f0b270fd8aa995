"""Hosts and workers that note every unpickling in a file, and filters registered for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ..support import run_python, short_directory, socket_daemon
from ..support.installing import install, python_path

WATCHED = Path(__file__).parent / "watched"
FILTERS = ("Echo", "Linear", "Odd", "Version")


@pytest.fixture(scope="session")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that registers the filters of ``watched_filters``, if it is on the path."""
    site = tmp_path_factory.mktemp("site")
    targets = {f"watched.{name}": f"watched_filters:{name}" for name in FILTERS}
    install(site, "watched-filters", {"soma.filters": targets})
    return site


class Watched:
    """The notes of a host and of its workers.

    Attributes:
        environment: What they must be started with.
    """

    def __init__(self, notes: Path, site: Path) -> None:
        self._notes = notes
        path = python_path(WATCHED, site)
        self.environment = {**os.environ, "SOMA_WATCHED": str(notes), "PYTHONPATH": path}

    def _lines(self, kind: str) -> list[str]:
        lines = self._notes.read_text().splitlines()
        return [line for line in lines if line.split()[1] == kind]

    @property
    def started(self) -> list[str]:
        """One line for each interpreter: its process and its command."""
        return self._lines("started")

    @property
    def unpickled(self) -> list[str]:
        """One line for each time that something was unpickled: the process, and what."""
        return self._lines("unpickled")


@pytest.fixture
def watched(tmp_path: Path, registered: Path) -> Watched:
    return Watched(tmp_path / "notes", registered)


@contextmanager
def _options(transport: str, watched: Watched, daemon: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    if transport != "socket":
        yield {}
        return
    with (
        short_directory() as directory,
        socket_daemon(directory / "s", *daemon, env=watched.environment) as served,
    ):
        yield {"path": str(served.path)}


@pytest.fixture
def host(watched: Watched, tmp_path: Path) -> Callable[..., str]:
    """Runs a script as a host, over a transport; it connects with ``connect(**arguments)``.

    Returns:
        A function of the script, the name of the transport, and the arguments of the daemon if
        that is ``socket``; it returns what the script printed.
    """

    def run(script: str, transport: str, *daemon: str) -> str:
        with _options(transport, watched, daemon) as options:
            beginning = (
                "import functools\nimport soma_core as soma\n"
                f"connect = functools.partial(soma.connect, {transport!r}, **{options!r})\n"
            )
            return run_python(
                beginning + script, directory=tmp_path, env=watched.environment
            ).stdout

    return run
