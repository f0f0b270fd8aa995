"""The clauses of the kit: each has a test, each test has one, and nobody can drop one silently."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable

import pytest

from soma_core.protocol.commands import COMMANDS
from soma_core.protocol.parsing import CommandParser
from soma_core.testing import Capability, FilterConformance, TransportConformance
from soma_core.testing.clauses import FILTER_CLAUSES, TRANSPORT_CLAUSES, clause_of, covers
from soma_core.testing.transports import messages as kit


def disagreements(suite: type, clauses: Iterable[str]) -> list[str]:
    """What is wrong with a suite: a clause without one test, a test without a clause."""
    known = list(clauses)
    tests = {name: getattr(suite, name) for name in dir(suite) if name.startswith("test_")}
    covered = [clause_of(test) for test in tests.values()]
    wrong = [
        f"{id}: covered by {covered.count(id)} tests" for id in known if covered.count(id) != 1
    ]
    wrong += [
        f"{name}: covers {clause_of(test)!r}, which is no clause"
        for name, test in tests.items()
        if clause_of(test) not in known
    ]
    return wrong


SUITES = [(TransportConformance, TRANSPORT_CLAUSES), (FilterConformance, FILTER_CLAUSES)]


@pytest.mark.parametrize(
    ("suite", "clauses"), SUITES, ids=lambda item: getattr(item, "__name__", "")
)
def test_every_clause_has_a_test_and_every_test_a_clause(suite, clauses):
    assert disagreements(suite, clauses) == []


def test_a_clause_without_a_test_and_a_test_without_a_clause_are_told():
    class Suite:
        def test_of_nothing(self): ...

        @covers("unheard of")
        def test_of_something_else(self): ...

    assert disagreements(Suite, ["promised"]) == [
        "promised: covered by 0 tests",
        "test_of_nothing: covers None, which is no clause",
        "test_of_something_else: covers 'unheard of', which is no clause",
    ]


def test_every_promise_is_a_sentence():
    for clause in (TRANSPORT_CLAUSES | FILTER_CLAUSES).values():
        assert clause.promise.count(" ") > 2, clause
        assert clause.promise.endswith("."), clause


def test_every_command_of_the_protocol_is_among_those_that_the_kit_sends():
    elsewhere = {"HELLO", "LOAD", "UNLOAD", "SHUTDOWN"}  # a Worker, the wire, and a clause
    assert set(kit.COMMANDS) | elsewhere == set(CommandParser(COMMANDS).models)


def test_a_test_of_a_clause_cannot_be_replaced():
    with pytest.raises(TypeError, match=r"test_a_frame_is_answered_by_a_frame.*lacks"):

        class Silent(TransportConformance):
            test_a_frame_is_answered_by_a_frame = None


@pytest.mark.parametrize(
    "lacks", [{"LINES": "no"}, {Capability.LINES: ""}, {Capability.LINES: None}], ids=str
)
def test_what_is_lacking_needs_a_capability_and_a_reason(lacks):
    with pytest.raises(TypeError, match="reason"):
        type("Vague", (TransportConformance,), {"lacks": lacks})


def test_the_fault_kit_needs_no_pytest():
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "from soma_core.testing import Capability, Fault, Echo, Mutator, inject\n"
        "try:\n    from soma_core.testing import TransportConformance\n"
        "except ImportError as error: print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert "pytest" in ran.stdout
