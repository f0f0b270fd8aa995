"""What conformance suites have in common: clauses that do not apply are skipped with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import pytest

from soma_core.testing.clauses import Capability, Clause, clause_of
from soma_core.testing.trials import outcome_within

T = TypeVar("T")


class ConformanceSuite:
    """A class of tests, one for each clause.

    Attributes:
        clauses: The clauses, by id.
        lacks: What the implementation does without, with the reason.
    """

    clauses: ClassVar[Mapping[str, Clause]]
    lacks: ClassVar[Mapping[Capability, str]] = {}

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        for capability, reason in cls.lacks.items():
            if not isinstance(capability, Capability) or not (reason and isinstance(reason, str)):
                raise TypeError(
                    f"{cls.__name__}.lacks maps a Capability to the reason as text, "
                    f"got {capability!r}: {reason!r}"
                )
        replaced = [
            name
            for name in vars(cls)
            if clause_of(getattr(super(cls, cls), name, None)) is not None
        ]
        if replaced:
            raise TypeError(
                f"{cls.__name__} replaces {', '.join(replaced)}, which cover clauses; use lacks "
                "for what is missing"
            )

    @pytest.fixture(autouse=True)
    def _clause(self, request: pytest.FixtureRequest) -> None:
        """Show the clause with a failure, and skip what does not apply."""
        clause_id = clause_of(request.function)
        if clause_id is None:
            return
        clause = self.clauses[clause_id]
        request.node.user_properties.append(("clause", clause.id))
        request.node.add_report_section("setup", "clause", f"{clause.id}: {clause.promise}")
        for capability in sorted(clause.needs & self.lacks.keys(), key=lambda item: item.name):
            pytest.skip(f"{clause.id}: lacks {capability.name}: {self.lacks[capability]}")


def within(seconds: float, call: Callable[[], T], what: str) -> T:
    """Make a call on a thread of its own, so that one that never returns fails its clause.

    What the call raises is raised here.

    Raises:
        AssertionError: It did not return in time.
    """
    outcome = outcome_within(seconds, call)
    assert outcome.done(), f"{what} did not return within {seconds:g} s"
    return outcome.result()
