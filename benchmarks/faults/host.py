"""A host that will be killed: it starts a worker that forks, works and never ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import soma_core as soma
from soma_core.testing import Fault


class Busy:
    """Leaves a child, says that it has begun, and is deep in C code for ever.

    Args:
        deaf: Whether it ignores every signal that can be ignored, as its child then does.
    """

    def __init__(self, deaf: bool) -> None:
        self._deaf = deaf

    def fit(self, x: Any, y: Any = None) -> Any:
        import os
        import time

        import numpy

        if self._deaf:
            Fault.CHANGE_SIGNALS.happen()
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)
        open(x, "w").close()
        numbers = numpy.random.default_rng(0).random(5_000_000)
        while True:
            numpy.sort(numbers)

    def forward(self, x: Any, state: Any) -> Any:
        return x


def main() -> None:
    """Run as ``python -m benchmarks.faults.host TRANSPORT PATH NOTE (deaf | ordinary)``."""
    transport, path, note, kind = sys.argv[1:]
    busy = Busy(deaf=kind == "deaf")
    options = {"path": Path(path)} if transport == "socket" else {"env": dict(os.environ)}
    soma.connect(transport, filters={"busy": busy}, **options).fit("busy", note)


if __name__ == "__main__":
    main()
