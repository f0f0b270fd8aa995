"""For suites: conformance kits, faults to inject, mutated messages, and a watch on what is left.

Nothing here is needed to use soma. A transport or plugin author uses it to show that an
implementation keeps soma's promises; soma's own suites and ``benchmarks.faults`` use the same.

Each name is imported when it is first used: only the conformance suites need pytest.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soma_core.testing.barrage import Barrage
    from soma_core.testing.clauses import Capability, Clause
    from soma_core.testing.faults import CallEnd, Fault, Faulty, Moment
    from soma_core.testing.filter_suite import FilterConformance
    from soma_core.testing.filters import Deeds, Echo, Mean
    from soma_core.testing.leftovers import Holdings, Mark
    from soma_core.testing.mutations import Mutant, Mutator, preparation
    from soma_core.testing.transport_suite import TransportConformance
    from soma_core.testing.trials import GRACE, Trial, attempt, deadline_of, inject

__all__ = [
    "GRACE",
    "Barrage",
    "CallEnd",
    "Capability",
    "Clause",
    "Deeds",
    "Echo",
    "Fault",
    "Faulty",
    "FilterConformance",
    "Holdings",
    "Mark",
    "Mean",
    "Moment",
    "Mutant",
    "Mutator",
    "TransportConformance",
    "Trial",
    "attempt",
    "deadline_of",
    "inject",
    "preparation",
]

_MODULES = {
    "barrage": ("Barrage",),
    "clauses": ("Capability", "Clause"),
    "faults": ("CallEnd", "Fault", "Faulty", "Moment"),
    "filter_suite": ("FilterConformance",),
    "filters": ("Deeds", "Echo", "Mean"),
    "leftovers": ("Holdings", "Mark"),
    "mutations": ("Mutant", "Mutator", "preparation"),
    "transport_suite": ("TransportConformance",),
    "trials": ("GRACE", "Trial", "attempt", "deadline_of", "inject"),
}
_HOMES = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}
_ASSERTING = tuple(
    f"{__name__}.{module}" for module in ("filter_suite", "suite", "transport_suite", "wire")
)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name.endswith("Conformance"):
        _rewrite_assertions()
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def _rewrite_assertions() -> None:
    """Let the assertions of the suites say what they compared, as those of test modules do."""
    if find_spec("pytest") is None:
        raise ModuleNotFoundError("the conformance suites need pytest: pip install pytest")
    import_module("pytest").register_assert_rewrite(*_ASSERTING)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
