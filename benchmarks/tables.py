"""Tables: ``python -m benchmarks.tables`` compares soma-codecs-arrow with pickles, over stdio.

The same DataFrames go to a worker and back, once by the plugin's codec and once as pickles of
protocol 5 with their arrays beside them, as they travel without the plugin. Rounds are interleaved,
and the medians are compared.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

import soma_core as soma
from benchmarks.cache import measure
from soma_core.benchmarking import size_name


class Same(soma.Filter):
    """Returns its input."""

    def forward(self, x: Any, state: Any) -> Any:
        return x


def frames(size: int) -> dict[str, Any]:
    """DataFrames of about so many bytes."""
    import pandas as pd

    rows = size // 64
    numbers = {f"c{number}": np.random.default_rng(number).random(rows) for number in range(8)}
    texts = np.char.mod("text %d", np.arange(rows // 4) % 1000)
    return {
        "numbers": pd.DataFrame(numbers),
        "texts": pd.DataFrame({"t": pd.array(texts.tolist(), dtype="string[pyarrow]")}),
        "categories": pd.DataFrame({"c": pd.Categorical(texts)}),
    }


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser("python -m benchmarks.tables", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", type=int, default=64 << 20, help="bytes of the numbers")
    options = parser.parse_args()
    missing = [name for name in ("pandas", "soma_codecs_arrow") if find_spec(name) is None]
    if missing:
        sys.exit(f"this measures soma-codecs-arrow with pandas; not installed: {missing}")
    with ExitStack() as running:
        workers = {
            name: running.enter_context(soma.connect("stdio", filters={"same": Same()}, env=env))
            for name, env in (("arrow", {}), ("pickle", {"SOMA_DISABLE_PLUGIN_AUTOLOAD": "1"}))
        }
        calls = {}
        for kind, frame in frames(options.size).items():
            for name, worker in workers.items():
                call = partial(worker.forward, "same", frame)
                assert call().equals(frame)
                calls[f"{kind} {name}"] = call
        medians = measure(calls, options.rounds)
    print(f"| numbers of {size_name(options.size)} | ms as pickles | ms by the codec | ratio |")
    print("|---|---|---|---|")
    for kind in dict.fromkeys(name.partition(" ")[0] for name in medians):
        codec, pickled = medians[f"{kind} arrow"], medians[f"{kind} pickle"]
        print(f"| {kind} | {pickled * 1e3:.1f} | {codec * 1e3:.1f} | {codec / pickled:.2f} |")


if __name__ == "__main__":
    main()
