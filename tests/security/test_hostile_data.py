"""A bounded slice of the hostile data of :mod:`tests.security.hostile_data`: none does harm."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..support import gate_runs, nightly
from .hostile_data.driving import Harm, Target
from .hostile_data.inputs import INPUTS

pytest.importorskip("torch")
NEEDS = {
    "training": "soma_filters_torch",
    "tables": "soma_codecs_arrow",
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


def give(target: Target, inputs: st.SearchStrategy[bytes], count: int) -> int:
    """Give some inputs to a target, and return how many of them were taken."""
    taken = 0

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def one(data: bytes) -> None:
        nonlocal taken
        taken += target.read(data) is None

    one()
    return taken


@pytest.mark.parametrize("kind", gate_runs(*(INPUTS.keys() - {"caches"}), of=list(INPUTS)))
def test_hostile_data_are_refused_or_taken_and_do_no_harm(kind: str, target: object) -> None:
    if kind in NEEDS:
        pytest.importorskip(NEEDS[kind])
    assert give(target(kind), INPUTS[kind], 60) > 0, "nothing was near enough to be taken"


@nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", INPUTS)
def test_hostile_data_by_the_thousand_do_no_harm(kind: str, target: object) -> None:
    if kind in NEEDS:
        pytest.importorskip(NEEDS[kind])
    give(target(kind), INPUTS[kind], 20_000)


def test_a_reader_that_dies_is_seen_by_its_signal(
    target: Callable[[str], Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    dying = target("nothing that there is")
    with pytest.raises(Harm, match="the reader died: status 1"):
        dying.read(b"")
