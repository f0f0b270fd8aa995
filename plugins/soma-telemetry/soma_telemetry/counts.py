"""Counts: sums that a call adds to at the price of an addition, and that are read when exported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.metrics import CallbackOptions, Meter, Observation

_DEPTH = 4  # of lists and dicts that are looked into
_ITEMS = 64  # of each of them; the rest is taken to be like those
_NUMBERS = frozenset({bool, int, float})


class Counts:
    """Counters of a meter, by their name.

    A counter of OpenTelemetry takes some microseconds to add to, of which a call has none to spare.
    """

    def __init__(self, meter: Meter, described: Mapping[str, tuple[str, str]]) -> None:
        self._sums: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
        for name, (unit, meaning) in described.items():
            self._sums[name] = {}
            meter.create_observable_counter(name, [self._reader(name)], unit, meaning)

    def add(self, name: str, number: float, attributes: Mapping[str, str]) -> None:
        """Add to a counter; one thread at a time."""
        sums, key = self._sums[name], tuple(attributes.items())
        sums[key] = sums.get(key, 0) + number

    def _reader(self, name: str) -> Any:
        def read(options: CallbackOptions) -> Iterable[Observation]:
            return [Observation(total, dict(key)) for key, total in list(self._sums[name].items())]

        return read


def payload_size(value: Any, depth: int = _DEPTH) -> int:
    """About how many bytes the arrays, bytes, texts and numbers in a value have."""
    if value is None:
        return 0
    if type(value) in _NUMBERS:
        return 8
    size = getattr(value, "nbytes", None)
    if isinstance(size, int):
        return size
    if isinstance(value, str | bytes | bytearray):
        return len(value)
    if isinstance(value, dict):
        value = list(value.values()) if len(value) <= _ITEMS else list(value.values())[:_ITEMS]
    if isinstance(value, list | tuple):
        if not value or not depth:
            return 0
        some = value[:_ITEMS]
        return sum(payload_size(item, depth - 1) for item in some) * len(value) // len(some)
    return 0
