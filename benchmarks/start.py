"""Cold starts: ``python -m benchmarks.start`` times imports, and connections up to a first result.

Every sample is a process of its own, and the rounds are interleaved. What counts is the median;
the ratios are to the import that the same run measured.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np

from soma_core.benchmarking import time_name
from soma_core.benchmarking.contestants import daemon

Sample = Callable[[], float]

NUMPY = "python -c 'import numpy'"
BOTH = "python -c 'import pydantic, numpy'"
MODEL = "python -c 'import numpy', and one pydantic model"
ONE_MODEL = """
import numpy
from pydantic import BaseModel
class Ping(BaseModel):
    id: int = 0
"""
CONNECTING = """
import sys, time
import soma_core as soma
soma.Worker  # the package imports its parts on use; this host has imported what it calls
name, path, node = sys.argv[1:]
options = {"path": path} if path else {}
x = [[1.0], [2.0]]
begun = time.perf_counter()
worker = soma.connect(name, **options)
if node:
    worker.load({"node": (node, {"sizes": [1, 1]} if node == "torch.MLP" else {})})
    worker.fit("node", x, x)
worker.ping()
print(time.perf_counter() - begun)
worker.close()
"""
PRELOADED = ("torch", "sklearn")
FITTED = ("sklearn.StandardScaler", "torch.MLP")


def _python(code: str) -> Sample:
    """From nothing to the end of a program."""

    def sample() -> float:
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - begun

    return sample


def _connection(name: str, path: object = "", node: str = "") -> Sample:
    """From ``soma.connect()`` in a host that has imported soma to the first reply, or fit."""
    command = [sys.executable, "-c", CONNECTING, name, str(path), node]
    return lambda: float(subprocess.run(command, check=True, capture_output=True).stdout)


def preload() -> list[str]:
    """The arguments of a daemon whose workers have imported libraries already, where they are."""
    found = [module for module in PRELOADED if find_spec(module)]
    return ["--preload", ",".join(found)] if found else []


def measure(rounds: int) -> dict[str, tuple[float, str]]:
    """The median of each sample in seconds, and the sample that it is compared to."""
    with daemon("socket") as options, daemon("socket", *preload()) as warm:
        samples: dict[str, tuple[Sample, str]] = {
            NUMPY: (_python("import numpy"), NUMPY),
            BOTH: (_python("import pydantic, numpy"), BOTH),
            MODEL: (_python(ONE_MODEL), BOTH),  # no worker that validates a message starts sooner
            "import soma_core": (_python("import soma_core"), BOTH),
            "import soma_core, with connect": (
                _python("import soma_core; soma_core.connect"),
                BOTH,
            ),
            "stdio, connect to first reply": (_connection("stdio"), MODEL),
            "socket, connect to first reply": (_connection("socket", options["path"]), MODEL),
        }
        warmed = " ".join(["socket", *preload()])
        samples[f"{warmed}, connect to first reply"] = (_connection("socket", warm["path"]), MODEL)
        for node in FITTED:
            if find_spec(f"soma_filters_{node.split('.')[0]}") and preload():
                sample = _connection("socket", warm["path"], node)
                samples[f"{warmed}, connect to first fit of {node}"] = (sample, MODEL)
        times: dict[str, list[float]] = {name: [] for name in samples}
        for _ in range(rounds + 1):
            for name, (sample, _baseline) in samples.items():
                times[name].append(sample())
    # The first round brings the files into memory.
    return {
        name: (float(np.median(times[name][1:])), baseline)
        for name, (_, baseline) in samples.items()
    }


def main() -> None:
    """Parse the arguments, measure, and print a table."""
    parser = argparse.ArgumentParser("python -m benchmarks.start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    found = measure(parser.parse_args().rounds)
    print("| | median | compared |", "|---|---|---|", sep="\n")
    for name, (seconds, baseline) in found.items():
        ratio = "" if name == baseline else f"{seconds / found[baseline][0]:.2f} times {baseline}"
        print(f"| {name} | {time_name(seconds)} | {ratio} |")


if __name__ == "__main__":
    main()
