"""For suites: faults to inject, mutated messages, and a watch on what is left behind.

Nothing here is needed to use soma. A transport or plugin author uses it to show that an
implementation keeps soma's promises; soma's own suites and ``benchmarks.faults`` use the same.
"""

from soma_core.testing.barrage import Barrage
from soma_core.testing.faults import CallEnd, Fault, Faulty, Moment
from soma_core.testing.filters import Echo
from soma_core.testing.leftovers import Holdings, Mark
from soma_core.testing.mutations import Mutant, Mutator, preparation
from soma_core.testing.trials import GRACE, Trial, attempt, deadline_of, inject

__all__ = [
    "GRACE",
    "Barrage",
    "CallEnd",
    "Echo",
    "Fault",
    "Faulty",
    "Holdings",
    "Mark",
    "Moment",
    "Mutant",
    "Mutator",
    "Trial",
    "attempt",
    "deadline_of",
    "inject",
    "preparation",
]
