"""Filters that any worker can import, so that they travel by name."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

import numpy as np

from soma_core import progress
from soma_core.models.filters import Filter

_STDOUT = 1
_LIFETIME = 60  # seconds: what nobody ends does not stay for ever


class Echo(Filter):
    """Learns the last thing that it was fitted with, and returns its input."""

    def fit(self, x: Any, y: Any = None) -> Any:
        """Return the state."""
        return {"learned": x}

    def forward(self, x: Any, state: Any) -> Any:
        """Return the input."""
        return x


class Mean(Filter):
    """Learns a mean and subtracts it."""

    def fit(self, x: Any, y: Any = None) -> Any:
        """Return the state."""
        return {"mean": float(np.mean(x))}

    def forward(self, x: Any, state: Any) -> Any:
        """Subtract what was learned."""
        return np.asarray(x) - state.get("mean", 0.0)


class HashOf(Filter):
    """Returns the hash of a filter's configuration, as computed where it runs."""

    def forward(self, x: Any, state: Any) -> Any:
        """Hash it."""
        return x.config_hash()


class Actions(Filter):
    """Does to its process what its input names: ``["sleep", 3.0]``."""

    def forward(self, x: Any, state: Any) -> Any:
        """Do it, and return what it returns."""
        name, *arguments = x
        return getattr(self, f"_{name}")(*arguments)

    def _pid(self) -> int:
        return os.getpid()

    def _sleep(self, seconds: float) -> str:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.01)
        return "slept"

    def _ignore_signals_and_sleep(self, seconds: float) -> str:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        progress.report(deaf=True)
        return self._sleep(seconds)

    def _die(self, number: int, last_words: str = "") -> None:
        sys.stderr.write(last_words)
        sys.stderr.flush()
        os.kill(os.getpid(), number)
        time.sleep(60)

    def _die_later(self, seconds: float, count: int, size: int) -> list[Any]:
        """Return so many arrays of so many bytes, and be killed while they are sent."""
        killer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
        killer.daemon = True
        killer.start()
        return [np.ones(size, np.uint8) for _ in range(count)]

    def _exit(self) -> None:
        sys.exit(3)

    def _print(self, text: str) -> str:
        print(text, flush=True)  # noqa: T201 - what it is about
        os.write(_STDOUT, text.encode())
        subprocess.run(["echo", text], check=True)  # noqa: S607 - the child's output is the point
        return "printed"

    def _print_much(self, size: int) -> str:
        piece = (b"x" * 1023 + b"\n") * 64
        for _ in range(size // len(piece)):
            os.write(_STDOUT, piece)
        return "printed"

    def _at_exit(self, path: str) -> str:
        """Leave an exit handler that makes a file."""
        atexit.register(lambda: open(path, "w").close())
        return "registered"

    def _read_stdin(self) -> str:
        end = time.monotonic() + 2.0
        while True:
            try:
                return os.read(0, 100).decode()
            except BlockingIOError:  # a wire may have timeouts of its own
                if time.monotonic() > end:
                    raise

    def _start_children(self) -> list[int]:
        """Start processes: one here, one in a group of its own, one in a session of its own."""
        command = [sys.executable, "-c", f"import time; time.sleep({_LIFETIME})"]
        where: list[dict[str, Any]] = [{}, {"process_group": 0}, {"start_new_session": True}]
        return [
            subprocess.Popen(command, stdout=subprocess.DEVNULL, **options).pid for options in where
        ]

    def _lose_directory(self) -> str:
        directory = tempfile.mkdtemp()
        os.chdir(directory)
        os.rmdir(directory)
        return "lost"

    def _overwrite(self, array: Any) -> bool:
        array[...] = 0
        return True

    def _report(self, count: int) -> str:
        for number in range(count):
            progress.report(number=number)
        return "reported"
