"""What installed plugins cost a start: ``python -m benchmarks.plugins`` adds 50 and measures both.

Every sample is a program of its own, from nothing to the first reply of a worker and its end. What
counts is the CPU time of host and worker together, which a busy machine changes least; the rounds
are interleaved. Shown are medians, and how much each is above that without plugins. The plugins
are distributions as an installer leaves them: each has a filter and a transport, and, in the last
row, a plugin module with a hook, which both processes import.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from soma_core.benchmarking import time_name

__all__ = ["install"]

CONNECTING = "import soma_core as soma\nwith soma.connect('stdio') as worker: worker.ping()"
OBSERVER = """
import soma_core as soma

@soma.hookimpl
def soma_worker_exited(transport): ...
"""
NONE = "no plugins"


def install(site: Path, count: int, module: str, *, hooks: bool = False) -> None:
    """Leave distributions in a directory, each with one module.

    Args:
        site: The directory, which goes on ``PYTHONPATH``.
        count: How many.
        module: The source of each module.
        hooks: Whether the modules take part as plugin modules.
    """
    for number in range(count):
        info = site / f"acme_{number}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: acme-{number}\nVersion: 1.0\n"
        )
        (info / "entry_points.txt").write_text(
            f"[soma.filters]\nacme{number}.Thing = acme_{number}:Thing\n"
            f"[soma.transports]\nacme{number} = acme_{number}:Wire\n"
            + f"[soma.plugins]\nacme{number} = acme_{number}\n"
            * hooks
        )
        (site / f"acme_{number}.py").write_text(module)


def _start(site: Path) -> float:
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", CONNECTING], check=True, env={**os.environ, "PYTHONPATH": path}
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(count: int, rounds: int) -> dict[str, float]:
    """The median in seconds, by what is installed."""
    with tempfile.TemporaryDirectory() as directory:
        sites = {
            NONE: Path(directory) / "none",
            f"{count} plugins": Path(directory) / "some",
            f"{count} plugins with hooks": Path(directory) / "hooks",
        }
        install(sites[f"{count} plugins"], count, "raise AssertionError('it was imported')")
        install(sites[f"{count} plugins with hooks"], count, OBSERVER, hooks=True)
        times: dict[str, list[float]] = {name: [] for name in sites}
        for _ in range(rounds + 1):
            for name, site in sites.items():
                times[name].append(_start(site))
    # The first round brings the files into memory, and compiles them.
    return {name: float(np.median(found[1:])) for name, found in times.items()}


def main() -> None:
    """Parse the arguments, measure, and print a table."""
    parser = argparse.ArgumentParser("python -m benchmarks.plugins", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--count", type=int, default=50)
    options = parser.parse_args()
    found = measure(options.count, options.rounds)
    print("| installed | CPU time of a start | more than with none |", "|---|---|---|", sep="\n")
    for name, seconds in found.items():
        added = "" if name == NONE else f"{seconds / found[NONE] - 1:+.0%}"
        print(f"| {name} | {time_name(seconds)} | {added} |")


if __name__ == "__main__":
    main()
