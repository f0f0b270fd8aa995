"""benchmarking: what a call costs here, over each transport and over ``multiprocessing.Pipe``.

``soma bench`` shows it to a user; ``benchmarks/`` in the repository adds the peers.
"""

from soma_core.benchmarking.contestants import BASELINE, Contestant, TimedCall, Unavailable, builtin
from soma_core.benchmarking.measure import pinnable, run
from soma_core.benchmarking.measurements import Measurements, as_json, size_name, time_name

__all__ = [
    "BASELINE",
    "Contestant",
    "Measurements",
    "TimedCall",
    "Unavailable",
    "as_json",
    "builtin",
    "pinnable",
    "run",
    "size_name",
    "time_name",
]
