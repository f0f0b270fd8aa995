"""The contestants that every installation has: its transports, and ``multiprocessing.Pipe``.

A contestant starts what does the work and gives a function that does it. One that cannot be
started raises :class:`Unavailable`, and the others go on.
"""

from __future__ import annotations

import multiprocessing
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from soma_core.benchmarking.work import STATE, Work, compute
from soma_core.channel.deadline import Deadline
from soma_core.client.connect import connect
from soma_core.errors import SomaError
from soma_core.plugins.catalog import installed_transports

BASELINE = "multiprocessing.Pipe"
TimedCall = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]

_DAEMON_START = 30.0  # seconds
_POLL = 0.02


class Unavailable(Exception):
    """A contestant cannot take part here; the text is the reason."""


@dataclass(frozen=True)
class Contestant:
    """One way to have the work done.

    Attributes:
        start: Given what ``around`` gave, starts what does the work, and gives the function to
            call. From here to the first result is the cold start.
        around: What runs before and is no part of the start: a daemon, a cluster. Either may
            raise :class:`Unavailable`.
    """

    start: Callable[[Any], AbstractContextManager[TimedCall]]
    around: Callable[[], AbstractContextManager[Any]] = nullcontext


def builtin() -> dict[str, Contestant]:
    """multiprocessing.Pipe, and every installed transport.

    The pipe comes first, since it forks: best from a program without threads.
    """
    names = installed_transports().names()
    soma = {
        f"soma {name}": Contestant(partial(_worker, name), partial(daemon, name)) for name in names
    }
    return {BASELINE: Contestant(_pipe), **soma}


@contextmanager
def _worker(name: str, options: dict[str, Any]) -> Iterator[TimedCall]:
    try:
        worker = connect(name, filters={"work": Work()}, **options)
    except (SomaError, TypeError, ValueError) as error:  # it needs options that we do not know
        raise Unavailable(str(error)) from None
    with worker:
        worker.fit("work", [0.0], return_state=False)
        yield lambda x: worker.forward("work", x)


@contextmanager
def daemon(
    name: str, *arguments: str, env: Mapping[str, str] | None = None
) -> Iterator[dict[str, Any]]:
    """The options to connect with: the path of a daemon, where the transport reaches one by it."""
    try:
        transport = installed_transports().load(name)
    except SomaError as error:
        raise Unavailable(str(error)) from None
    serves = callable(getattr(transport, "serve", None))
    if not serves or "path" not in transport.Options.model_fields:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="soma-") as directory:
        path = Path(directory) / "s"
        command = [sys.executable, "-P", "-m", "soma_core.cli", "serve", name, "--path", str(path)]
        with _served([*command, *arguments], path, {**os.environ, **(env or {})}):
            yield {"path": path}


@contextmanager
def _served(command: list[str], path: Path, env: Mapping[str, str]) -> Iterator[None]:
    """Within the block, a daemon listens at a path."""
    with (
        open(path.with_name("printed"), "w+b") as printed,
        subprocess.Popen(command, stdout=printed, stderr=printed, env=env) as daemon,
    ):
        try:
            if not _appears(path, daemon):
                printed.seek(0)
                why = printed.read().decode(errors="replace").strip() or "it printed nothing"
                raise Unavailable(f"its daemon did not start ({shlex.join(command)}): {why}")
            yield
        finally:
            daemon.terminate()


def _appears(path: Path, daemon: subprocess.Popen[bytes]) -> bool:
    deadline = Deadline.after(_DAEMON_START)
    while not path.exists():
        if daemon.poll() is not None or deadline.over():
            return False
        time.sleep(_POLL)
    return True


def _answer_pipe(connection: Any) -> None:
    while True:
        connection.send(compute(connection.recv(), STATE))


@contextmanager
def _pipe(_: None) -> Iterator[TimedCall]:
    """A forked process at the other end: the least that the standard library needs."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_answer_pipe, args=(theirs,), daemon=True)
    process.start()

    def call(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        ours.send(x)
        y: np.ndarray[Any, Any] = ours.recv()
        return y

    try:
        yield call
    finally:
        process.terminate()
        process.join()
