"""benchmarking: what a call costs here, over each transport and over ``multiprocessing.Pipe``.

``soma bench`` shows it to a user; ``benchmarks/`` in the repository adds the peers.
"""

from soma_core.benchmarking.contestants import BASELINE, Call, Contestant, Unavailable, builtin
from soma_core.benchmarking.measure import pinnable, run
from soma_core.benchmarking.outcome import Outcome, as_json, size_name, time_name

__all__ = [
    "BASELINE",
    "Call",
    "Contestant",
    "Outcome",
    "Unavailable",
    "as_json",
    "builtin",
    "pinnable",
    "run",
    "size_name",
    "time_name",
]
