"""Types of the standard library that travel in frames without a pickle."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from itertools import chain
from pathlib import PosixPath, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from soma_core.wire.hashes import hashable


class Unwritable(Exception):
    """An object of such a type that holds what cannot be written: it travels as a pickle."""


class StdlibType(NamedTuple):
    """How one type travels.

    Attributes:
        name: What the wire calls it.
        write: Gives the content of an object: what a frame can hold.
        read: Gives the object back; raises TypeError or ValueError for other content.
    """

    name: str
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


def _write_zone(zone: tzinfo | None) -> Any:
    if zone is None:
        return None
    if type(zone) is timezone and zone == timezone(zone.utcoffset(None)):
        name = zone.tzname(None)
        if name == timezone(zone.utcoffset(None)).tzname(None):
            return _write_timedelta(zone.utcoffset(None))
    if type(zone) is ZoneInfo and zone.key is not None:
        return zone.key
    raise Unwritable(f"the time zone {zone!r} has no name that others know")


def _read_zone(content: Any) -> tzinfo | None:
    if content is None:
        return None
    if isinstance(content, str):
        return _zone_named(content)
    offset = _read_timedelta(content)
    return timezone(offset) if offset else UTC


def _zone_named(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except OSError as error:  # a directory, or a name that is too long
        raise ValueError(f"there is no time zone {name!r:.80}: {error.strerror}") from None


def _write_timedelta(span: timedelta) -> list[int]:
    return [span.days, span.seconds, span.microseconds]


def _read_timedelta(content: Any) -> timedelta:
    days, seconds, microseconds = content
    return timedelta(days=days, seconds=seconds, microseconds=microseconds)


def _write_time(moment: time | datetime) -> list[Any]:
    parts = [moment.hour, moment.minute, moment.second, moment.microsecond]
    return [*parts, moment.fold, _write_zone(moment.tzinfo)]


def _read_time(content: Any) -> time:
    hour, minute, second, microsecond, fold, zone = content
    return time(hour, minute, second, microsecond, _read_zone(zone), fold=fold)


def _write_datetime(moment: datetime) -> list[Any]:
    return [moment.year, moment.month, moment.day, *_write_time(moment)]


def _read_datetime(content: Any) -> datetime:
    year, month, day, hour, minute, second, microsecond, fold, zone = content
    return datetime(
        year, month, day, hour, minute, second, microsecond, _read_zone(zone), fold=fold
    )


def _read_date(content: Any) -> date:
    year, month, day = content  # of one argument, date makes what its pickles hold
    return date(year, month, day)


def _read_uuid(content: Any) -> UUID:
    if type(content) is not bytes:  # of a number, bytes makes so many zeros
        raise TypeError(f"16 bytes are expected, got {type(content).__name__}")
    return UUID(bytes=content)


def _read_decimal(content: Any) -> Decimal:
    if type(content) is not str:
        raise TypeError(f"a text is expected, got {type(content).__name__}")
    return Decimal(content)


def _read_fraction(content: Any) -> Fraction:
    numerator, denominator = content
    if not type(numerator) is type(denominator) is int:  # a text may name 10**1000000000
        raise TypeError("two whole numbers are expected")
    return Fraction(numerator, denominator)


def _write_ordered(items: OrderedDict[Any, Any]) -> list[Any]:
    return [*chain.from_iterable(items.items())]


def _read_ordered(content: Any) -> OrderedDict[Any, Any]:
    return OrderedDict(zip(hashable(content[::2]), content[1::2], strict=True))


BY_TYPE: dict[type[Any], StdlibType] = {
    set: StdlibType("set", list, lambda items: set(hashable(items))),
    frozenset: StdlibType("frozenset", list, lambda items: frozenset(hashable(items))),
    OrderedDict: StdlibType("OrderedDict", _write_ordered, _read_ordered),
    range: StdlibType("range", lambda r: [r.start, r.stop, r.step], lambda c: range(*c)),
    datetime: StdlibType("datetime", _write_datetime, _read_datetime),
    date: StdlibType("date", lambda d: [d.year, d.month, d.day], _read_date),
    time: StdlibType("time", _write_time, _read_time),
    timedelta: StdlibType("timedelta", _write_timedelta, _read_timedelta),
    UUID: StdlibType("UUID", lambda uuid: uuid.bytes, _read_uuid),
    Decimal: StdlibType("Decimal", str, _read_decimal),
    Fraction: StdlibType("Fraction", lambda f: [f.numerator, f.denominator], _read_fraction),
    PosixPath: StdlibType("PosixPath", str, PosixPath),
    PurePosixPath: StdlibType("PurePosixPath", str, PurePosixPath),
    PureWindowsPath: StdlibType("PureWindowsPath", str, PureWindowsPath),
}
"""How an object of exactly a type travels."""

BY_NAME = {item.name: item for item in BY_TYPE.values()}
"""The same by the name on the wire."""
