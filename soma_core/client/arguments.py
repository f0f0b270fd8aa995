"""Arguments of calls that no model of a command checks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import Enum
from inspect import iscoroutinefunction
from typing import Any, Final, Literal


class _Default(Enum):
    """Stands for the worker's own timeout where a call names none."""

    TIMEOUT = "the worker's timeout"


DEFAULT: Final = _Default.TIMEOUT
Timeout = float | None | Literal[_Default.TIMEOUT]
"""How many seconds a call may take."""

Meta = Mapping[str, Any] | None
"""What goes along with a call for the hooks of plugins."""


def as_node_ids(node_ids: Iterable[str], *, in_order: bool = True) -> list[str]:
    """Node ids as a list.

    Args:
        in_order: Whether their order means something, as in a chain.

    Raises:
        TypeError: It is no list, or a text, which would be read as one id for each letter, or a set
            where the order means something.
    """
    if in_order and isinstance(node_ids, (set, frozenset)):
        raise TypeError(f"node_ids is a list of node ids, got {node_ids}; a set has no order")
    if isinstance(node_ids, str):
        raise TypeError(
            f"node_ids is a list of node ids, got the text {node_ids!r}; give [{node_ids!r}]"
        )
    if not isinstance(node_ids, Iterable):
        raise TypeError(f"node_ids is a list of node ids, got {node_ids!r}")
    return list(node_ids)


def fields_of(cmd: str, fields: Mapping[str, Any] | None) -> tuple[dict[str, Any], list[str]]:
    """All fields of a command, and the nodes that they name.

    Args:
        cmd: Its name.
        fields: The others; None for none.

    Raises:
        TypeError: They are no dict, or it is no name.
    """
    if not isinstance(cmd, str):
        raise TypeError(f"cmd is the name of a command, got {cmd!r}")
    if fields is not None and not isinstance(fields, Mapping):
        raise TypeError(f"fields is a dict of the fields of {cmd} by name, got {fields!r}")
    given = {**(fields or {}), "cmd": cmd}
    chain, node_id = given.get("node_ids"), given.get("node_id")
    named = [*chain] if isinstance(chain, list | tuple) else []
    return given, named if node_id is None else [*named, node_id]


def check_seconds(name: str, seconds: Any) -> None:
    """Make sure that a time limit is one.

    Raises:
        TypeError: It is no number.
        ValueError: It is a negative number or none.
    """
    if seconds is None:
        return
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{name} is a number of seconds or None, got {seconds!r}")
    if math.isnan(seconds) or seconds < 0:
        raise ValueError(f"{name} is a number of seconds from 0 on or None, got {seconds!r}")


def check_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What goes along with a call, as a dict of its own.

    Raises:
        TypeError: It is no mapping of names.
    """
    if not isinstance(meta, Mapping) or not all(isinstance(name, str) for name in meta):
        raise TypeError(
            "meta is a dict of data by name, for the hooks of plugins, such as "
            f'{{"tenant": "a"}}; got {meta!r:.200}'
        )
    return dict(meta)


def check_listener(name: str, listener: Any, of: str) -> None:
    """Make sure that something can be called with what happens.

    Args:
        of: What it is called with.

    Raises:
        TypeError: It is no function, or one whose calls somebody would have to await.
    """
    if not callable(listener):
        raise TypeError(f"{name} is a function of {of}, got {listener!r}")
    if iscoroutinefunction(listener):
        raise TypeError(
            f"{name} is called and not awaited: an ordinary function of {of} is expected, got "
            f"{listener.__qualname__}, which is an async def"
        )


def check_bytes(name: str, content: Any, source: str) -> None:
    """Make sure that something is bytes.

    Raises:
        TypeError: It is not.
    """
    if not isinstance(content, (bytes, bytearray, memoryview)):
        kind = type(content).__name__
        raise TypeError(f"{name} is bytes, as {source} returns, got a {kind}")
