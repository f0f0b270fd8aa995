"""Daemon: a socket daemon for as long as the demo needs one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from soma_core.cli.console import CommandFailed

__all__ = ["socket_daemon"]

_PATIENCE = 10.0  # seconds that it may take to end


@contextmanager
def socket_daemon(env: Mapping[str, str]) -> Iterator[Path]:
    """Within the block, a daemon listens at the path.

    Args:
        env: Variables to add to its environment, which its workers inherit.

    Raises:
        CommandFailed: It did not start.
    """
    with tempfile.TemporaryDirectory(prefix="soma-demo-") as directory:
        path = Path(directory) / "soma.sock"
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "soma_transport_socket", "--path", str(path)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, **env},
        )
        with process:
            try:
                _wait_until_it_listens(process)
                yield path
            finally:
                _end(process)


def _wait_until_it_listens(process: subprocess.Popen[bytes]) -> None:
    assert process.stderr is not None
    first = process.stderr.readline()
    if b"listening" not in first:
        printed = (first + process.stderr.read()).decode(errors="replace").strip()
        raise CommandFailed(f"the socket daemon did not start: {printed or 'it printed nothing'}")
    # What its workers write is not for this demo, but it must not fill the pipe either.
    threading.Thread(target=process.stderr.read, daemon=True).start()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
