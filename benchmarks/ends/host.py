"""A host that does not survive the end: it starts a worker that holds much, and ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import soma_core as soma
from benchmarks.ends.holding import Holds


def main() -> None:
    """Run as ``python -m benchmarks.ends.host TRANSPORT PATH NOTE THEN NAMES HOW``.

    HOW says how it ends: ``returns``, ``raises`` or ``exits`` (at once, without any handler),
    unless a signal does it during the call.
    """
    transport, path, note, then, names, how = sys.argv[1:]
    options = {"path": Path(path)} if transport == "socket" else {}
    worker = soma.connect(transport, filters={"holds": Holds()}, output="devnull", **options)
    worker.forward("holds", {"note": note, "then": then, "names": names, "pool": False})
    if how == "raises":
        raise RuntimeError("the end of the script")
    if how == "exits":
        os._exit(0)


if __name__ == "__main__":
    main()
