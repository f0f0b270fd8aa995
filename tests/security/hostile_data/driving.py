"""Driving: gives inputs to the target process, and says which of them did harm."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from typing import Any

from .target import LENGTH

__all__ = ["Harm", "Target"]

TIMES, BESIDE = 10, 64 << 20  # of an input's length, and beside it: the memory that it may take
PATIENCE = 300.0  # seconds for one input; the machine may have other work


class Harm(AssertionError):
    """An input crashed its reader, hung it, took too much memory, or raised what is no refusal."""


class Target:
    """A process that reads one kind of input, and another one after it has died."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._process: subprocess.Popen[bytes] | None = None
        self._files: tempfile.TemporaryDirectory[str] | None = None

    def read(self, data: bytes) -> str | None:
        """Have an input read.

        Returns:
            The name of what it raised, or None if it was taken.

        Raises:
            Harm: It did harm.
        """
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(LENGTH.pack(len(data)) + data)
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died, as its answer will show
        told = self._answer(process)
        if not told["sound"]:
            raise Harm(f"raised {told['raised']}")
        if told["taken"] > TIMES * len(data) + BESIDE:
            self.close()
            raise Harm(f"{len(data):,} bytes took {told['taken']:,}")
        found: str | None = told["raised"]
        return found

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._files = tempfile.TemporaryDirectory(prefix="soma-hostile-")
            command = [sys.executable, "-m", f"{__package__}.target", self._kind]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": self._files.name},
            )
        return self._process

    def _answer(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        assert process.stdout is not None
        poller = select.poll()
        poller.register(process.stdout, select.POLLIN)
        if not poller.poll(PATIENCE * 1000):
            self.close()
            raise Harm(f"it was not read within {PATIENCE:g} s")
        line = process.stdout.readline()
        if not line:
            status = process.wait()
            self.close()
            name = signal.Signals(-status).name if status < 0 else f"status {status}"
            raise Harm(f"the reader died: {name}")
        told: dict[str, Any] = json.loads(line)
        return told

    def close(self) -> None:
        """End the process, and remove the files that it made."""
        process, self._process = self._process, None
        files, self._files = self._files, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
        if files is not None:
            files.cleanup()
