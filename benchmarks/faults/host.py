"""A host that will be killed: it starts a worker that forks, works and never ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import soma_core as soma


class Busy:
    """Leaves a child, says that it has begun, and is deep in C code for ever."""

    def fit(self, x: Any, y: Any = None) -> Any:
        import os
        import time

        import numpy

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
    """Run as ``python -m benchmarks.faults.host TRANSPORT PATH NOTE``."""
    transport, path, note = sys.argv[1:]
    options = {"path": Path(path)} if transport == "socket" else {"env": dict(os.environ)}
    soma.connect(transport, filters={"busy": Busy()}, **options).fit("busy", note)


if __name__ == "__main__":
    main()
