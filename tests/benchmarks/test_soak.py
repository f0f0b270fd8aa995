"""The soak tells what grows from what is flat, and looks at every result."""

from __future__ import annotations

import pytest

from benchmarks.soak import Held, row, soak

from ..support import PROCESSES, gate_runs, nightly

MIB = 1 << 20


@pytest.mark.parametrize(
    ("last", "flat"),
    [
        (Held(100 * MIB, 20, 300), True),
        (Held(103 * MIB, 21, 305), True),
        (Held(115 * MIB, 20, 300), False),
        (Held(100 * MIB, 30, 300), False),
        (Held(100 * MIB, 20, 400), False),
    ],
)
def test_growth_of_anything_is_told(last: Held, flat: bool) -> None:
    first = Held(100 * MIB, 20, 300)
    text, verdict = row("worker", [first] * 10 + [last] * 10)
    assert verdict is flat
    assert ("**no**" in text) is not flat


@nightly
@pytest.mark.parametrize("transport", gate_runs("stdio", of=PROCESSES))
def test_values_of_mixed_sizes_come_back_as_they_were_while_the_host_holds_others(
    transport: str,
) -> None:
    held = soak(transport, 200, seed=3, warm_up=0)
    assert {name: len(samples) for name, samples in held.items()} == {"host": 200, "worker": 200}
