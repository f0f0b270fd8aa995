"""Clients in other languages: ``python -m benchmarks.hosts`` times them beside the Python client.

Each sends an array to a worker of its own over stdio and gets it back; the round trips of a run
have one median, and the rounds are interleaved. Needs cargo, node and npm; without some of them
the others are measured.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from soma_core.benchmarking import size_name, time_name

ROOT = Path(__file__).resolve().parents[1]
SIZES = (80, 1 << 20)
ROUNDS = 5
PYTHON = """
import statistics, sys, time
import numpy as np
import soma_core as soma

with soma.connect("stdio", filters={"echo": ("host.Echo", {})}, pickle="never") as worker:
    for size in map(int, sys.argv[1:]):
        array, seconds, end = np.full(size // 8, 0.5), [], time.perf_counter() + 2.0
        while len(seconds) < 20 or time.perf_counter() < end:
            begun = time.perf_counter()
            result = worker.forward("echo", array)
            seconds.append(time.perf_counter() - begun)
            assert result[0] == 0.5
        print(statistics.median(seconds))
"""


@contextmanager
def clients() -> Iterator[dict[str, list[str]]]:
    """The command of each client, built in a folder of its own, and the filter registered."""
    with TemporaryDirectory(prefix="soma-hosts-") as name:
        root = Path(name)
        for folder in ("examples/hosts", "schemas"):
            left_out = shutil.ignore_patterns("node_modules", "build", "target")
            shutil.copytree(ROOT / folder, root / folder, ignore=left_out)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(_register(root)), str(ROOT)])
        os.environ["PYTHON"] = sys.executable
        found = {"Python": [sys.executable, "-c", PYTHON]}
        if shutil.which("cargo"):
            found["Rust"] = [_rust(root / "examples" / "hosts" / "rust")]
        if shutil.which("node") and shutil.which("npx"):
            found["TypeScript"] = ["node", _typescript(root / "examples" / "hosts" / "typescript")]
        yield found


def _register(root: Path) -> Path:
    """A folder for ``PYTHONPATH`` that registers a filter that returns its input."""
    info = root / "site" / "host-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: host\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[soma.filters]\nhost.Echo = soma_core.testing:Echo\n")
    return info.parent


def _rust(folder: Path) -> str:
    command = ["cargo", "build", "--quiet", "--release", "--offline", "--example", "price"]
    subprocess.run(command, cwd=folder, check=True)
    return str(folder / "target" / "release" / "examples" / "price")


def _typescript(folder: Path) -> str:
    for command in (["npm", "ci", "--silent", "--ignore-scripts"], ["npx", "tsc"]):
        subprocess.run(command, cwd=folder, check=True)
    return str(folder / "build" / "price.js")


def main() -> None:
    """Measure, and print a table."""
    with clients() as commands:
        rounds = [
            {name: _seconds(command) for name, command in commands.items()} for _ in range(ROUNDS)
        ]
    print(f"| median round trip over stdio | {' | '.join(map(size_name, SIZES))} |")
    print("|---|" + "---|" * len(SIZES))
    for name in commands:
        print(f"| {name} | {' | '.join(_cells(rounds, name))} |")


def _seconds(command: list[str]) -> list[float]:
    ended = subprocess.run([*command, *map(str, SIZES)], check=True, capture_output=True, text=True)
    return [float(line) for line in ended.stdout.split()]


def _cells(rounds: list[dict[str, list[float]]], name: str) -> Iterator[str]:
    for column in range(len(SIZES)):
        median = statistics.median(one[name][column] for one in rounds)
        ratio = statistics.median(one[name][column] / one["Python"][column] for one in rounds)
        yield f"{time_name(median)} ({ratio:.2f})"


if __name__ == "__main__":
    main()
