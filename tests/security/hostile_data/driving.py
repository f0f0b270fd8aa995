"""Driving: gives inputs to the target process, and says which of them did harm."""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import ormsgpack

from .target import LENGTH, POSITION

__all__ = ["Harm", "Target"]

PATIENCE = 300.0  # seconds for one input; the machine may have other work
_LOOK = 10.0  # seconds between looks at whether a batch goes on


class Harm(AssertionError):
    """An input crashed its reader, hung it, took too much memory, or raised what is no refusal.

    Attributes:
        data: The input.
        before: Those that the same process had read before, of the same batch.
    """

    def __init__(self, what: str, data: bytes, before: list[bytes]) -> None:
        super().__init__(what)
        self.data, self.before = data, before


class Target:
    """A process that reads one kind of input, and another one after it has died.

    Args:
        kind: The kind of input.

    Attributes:
        patience: Seconds that an input may take.
    """

    def __init__(self, kind: str) -> None:
        self._kind, self.patience = kind, PATIENCE
        self._process: subprocess.Popen[bytes] | None = None
        self._batch: list[bytes] = []

    def read(self, batch: list[bytes]) -> Counter[str]:
        """Have inputs read, one after the other.

        Returns:
            How many were taken, and how many raised which error.

        Raises:
            Harm: One did harm; those after it were not read.
        """
        self.give(batch)
        return self.answer()

    def give(self, batch: list[bytes]) -> None:
        """Have inputs read meanwhile: :meth:`answer` says what came of them."""
        process, packed = self._running(), ormsgpack.packb(batch)
        self._batch = batch
        POSITION.pack_into(self._at, 0, 0)
        assert process.stdin is not None
        try:
            process.stdin.write(LENGTH.pack(len(packed)) + packed)
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died, as its answer will show

    def answer(self) -> Counter[str]:
        """What came of the inputs that were given last."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        if not self._answers(process):
            raise self._harm(f"it was not read within {self.patience:g} s")
        line = process.stdout.readline()
        if not line:
            status = process.wait()
            name = signal.Signals(-status).name if status < 0 else f"status {status}"
            raise self._harm(f"the reader died: {name}")
        told: dict[str, Any] = json.loads(line)
        if told["harm"]:
            raise self._harm(told["harm"])
        return Counter(told["outcomes"])

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait for an answer as long as inputs are read."""
        poller = select.poll()
        poller.register(process.stdout, select.POLLIN)  # type: ignore[arg-type]
        at, since = self._position(), time.monotonic()
        while not poller.poll(min(_LOOK, self.patience) * 1000):
            if self._position() != at:
                at, since = self._position(), time.monotonic()
            elif time.monotonic() - since >= self.patience:
                return False
        return True

    def _position(self) -> int:
        found: int = POSITION.unpack_from(self._at, 0)[0]
        return found

    def _harm(self, what: str) -> Harm:
        at = self._position()
        self.close()
        return Harm(what, self._batch[at], self._batch[:at])

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._files = tempfile.TemporaryDirectory(prefix="hostile-data-")
            place = Path(self._files.name, "position")
            place.write_bytes(bytes(POSITION.size))
            with open(place, "r+b") as file:
                self._at = mmap.mmap(file.fileno(), POSITION.size)
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.target", self._kind, str(place)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": self._files.name},
            )
        return self._process

    def close(self) -> None:
        """End the process, and remove the files that it made."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        self._at.close()
        self._files.cleanup()
