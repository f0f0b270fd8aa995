"""For suites: faults to inject, what they may come to, and a watch on what they leave behind.

Nothing here is needed to use soma. A transport or plugin author uses it to show that an
implementation keeps soma's promises; soma's own suites and ``benchmarks.faults`` use the same.
"""

from soma_core.testing.faults import CallEnd, Fault, Faulty, Moment
from soma_core.testing.leftovers import Holdings, Mark
from soma_core.testing.trials import GRACE, Trial, attempt, deadline_of, inject

__all__ = [
    "GRACE",
    "CallEnd",
    "Fault",
    "Faulty",
    "Holdings",
    "Mark",
    "Moment",
    "Trial",
    "attempt",
    "deadline_of",
    "inject",
]
