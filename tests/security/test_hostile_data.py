"""A bounded slice of the hostile data of :mod:`tests.security.hostile_data`: none does harm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from ..support import gate_runs, nightly
from .hostile_data.driving import Harm, Target
from .hostile_data.inputs import INPUTS, input_of

NEEDS = {
    "training": "soma_filters_torch",
    "tables": "soma_codecs_arrow",
    "values": "soma_codecs_arrow",
    "caches": "soma_cache",
}


@pytest.fixture
def target() -> Iterator[Callable[[str], Target]]:
    """Starts the process that reads a kind of input."""
    started: list[Target] = []

    def start(kind: str) -> Target:
        started.append(Target(kind))
        return started[-1]

    yield start
    for each in started:
        each.close()


def give(target: Target, kind: str, count: int) -> Counter[str]:
    """Give some inputs to a target, and return how many were taken, or raised what."""
    pytest.importorskip("torch")
    if kind in NEEDS:
        pytest.importorskip(NEEDS[kind])
    outcomes = Counter[str]()
    for first in range(0, count, 250):
        numbers = range(first, min(first + 250, count))
        outcomes += target.read([input_of(kind, 0, number) for number in numbers])
    return outcomes


@pytest.mark.parametrize(
    "kind", gate_runs(*(INPUTS.keys() - {"caches", "training"}), of=list(INPUTS))
)
def test_hostile_data_are_refused_or_taken_and_do_no_harm(
    kind: str, target: Callable[[str], Target]
) -> None:
    outcomes = give(target(kind), kind, 100)
    assert outcomes.total() == 100
    assert outcomes["taken"] > 0, "nothing was near enough to be taken"


@nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", INPUTS)
def test_hostile_data_by_the_thousand_do_no_harm(
    kind: str, target: Callable[[str], Target]
) -> None:
    give(target(kind), kind, 20_000)


def test_the_same_numbers_always_stand_for_the_same_input() -> None:
    assert input_of("replies", 1, 2) == input_of("replies", 1, 2) != input_of("replies", 1, 3)


@pytest.mark.parametrize(
    ("harmful", "told"),
    gate_runs(
        (b"crash", "the reader died: SIGSEGV"),
        of=[
            (b"crash", "the reader died: SIGSEGV"),
            (b"hang", "it was not read within"),
            (b"memory", "6 bytes took"),
            (b"raise", "raised KeyError"),
        ],
    ),
)
def test_each_kind_of_harm_is_seen_and_its_input_named(
    harmful: bytes, told: str, target: Callable[[str], Target]
) -> None:
    search = target("harmful")
    assert search.read([b"", b"refuse", b""]) == {"taken": 2, "ValueError": 1}
    if harmful == b"hang":
        search.patience = 0.1
    with pytest.raises(Harm, match=told) as caught:
        search.read([b"", b"refuse", harmful, b""])
    assert caught.value.data == harmful
    assert caught.value.before == [b"", b"refuse"]
    search.patience = 300.0
    assert search.read([b""]) == {"taken": 1}, "another process reads on"
