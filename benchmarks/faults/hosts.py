"""The host is killed while its worker fits: how soon the whole tree of the worker is gone."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.faults.sites import TRANSPORTS, Site, site
from benchmarks.table import Row, none_of, percentiles

_START = 60.0
_LIMIT = 2.0
_GIVEN_UP = 20.0


def run(count: int) -> list[Row]:
    """Kill so many hosts over each transport."""
    rows = []
    for transport in TRANSPORTS:
        with site() as place:
            found = [_kill(place, transport, deaf=bool(n % 2)) for n in range(count)]
            left = place.leftovers() + place.stop()
        asked = f"host SIGKILLed during FIT over {transport}: the worker's whole tree gone"
        size = f"{count} hosts; each worker in C code, with a forked child, every other one deaf"
        rows.append(Row(asked, "< 2 s", percentiles(found), size, max(found, default=0.0) < _LIMIT))
        rows.append(none_of("processes, descriptors, files left after them", left, size))
    return rows


def _kill(place: Site, transport: str, *, deaf: bool) -> float:
    """Seconds from the death of a host until nothing of its worker runs."""
    with tempfile.TemporaryDirectory() as directory:
        note = Path(directory) / "begun"
        kind = "deaf" if deaf else "ordinary"
        command = [sys.executable, "-m", "benchmarks.faults.host", transport]
        host = subprocess.Popen([*command, str(place.path), str(note), kind], env=place.environment)
        deadline = time.monotonic() + _START
        while not note.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        host.kill()
        killed = time.monotonic()
        host.wait()
        left = place.mark.wait_until_gone(_GIVEN_UP, but={place.daemon.pid})
        return float("inf") if left else time.monotonic() - killed
