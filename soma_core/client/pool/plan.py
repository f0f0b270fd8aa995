"""PoolPlan: the arguments of a pool, checked; nothing is started yet."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from soma_core.channel.contract import ProcessOptions
from soma_core.channel.threads import available_cores
from soma_core.client.connect import PicklePolicy, transport_maker
from soma_core.client.connection import INTERRUPT_GRACE
from soma_core.client.loadable import Loadable
from soma_core.client.pool.batching import Batching
from soma_core.client.pool.blueprint import Blueprint
from soma_core.client.recording import Recording
from soma_core.client.worker_options import WorkerOptions
from soma_core.plugins.manager import PluginSet, installed_plugins


@dataclass(frozen=True)
class PoolPlan:
    """What a pool is to be.

    Attributes:
        transport: The name of the transport.
        n: How many workers it begins with.
        blueprint: How they are made, and what they hold.
        recycle_after: How many calls each of them does; None for any number.
        max_queue: How many calls may wait beyond those that run; None for any number.
        waits_for_room: Whether a call waits for room in a full queue, or is refused.
        batching: How calls are joined; None if they are not.
    """

    transport: str
    n: int
    blueprint: Blueprint
    recycle_after: int | None
    max_queue: int | None
    waits_for_room: bool
    batching: Batching | None

    def describe(self, kind: str, n: int, state: str) -> str:
        """The pool in a few words, for a repr."""
        nodes = self.blueprint.node_ids
        return f"<{kind} of {n} over {self.transport}, {state}, nodes {nodes}>"


def plan_pool(
    transport: str = "stdio",
    n: int | None = None,
    *,
    filters: Mapping[str, Loadable] | None = None,
    timeout: float | None = None,
    start_timeout: float | None = 60.0,
    stall_timeout: float | None = None,
    interrupt_grace: float = INTERRUPT_GRACE,
    pickle: PicklePolicy = "same-user",
    record: str | os.PathLike[str] | Recording | None = None,
    recycle_after: int | None = None,
    max_queue: int | None = None,
    when_full: Literal["raise", "wait"] = "raise",
    batching: Batching | None = None,
    **options: Any,
) -> PoolPlan:
    """Check the arguments of a pool, which are those of :class:`~soma_core.WorkerPool`.

    Raises:
        ValueError: A number is too small, or an option is not valid.
        PluginError, TypeError: As for :func:`~soma_core.connect`.
    """
    n = available_cores() if n is None else whole("n", n)
    for name, number, least in (("recycle_after", recycle_after, 1), ("max_queue", max_queue, 0)):
        if number is not None:
            whole(name, number, least)
    if when_full not in ("raise", "wait"):
        raise ValueError(f"when_full is 'raise' or 'wait', got {when_full!r}")
    for name in ("restart", "retries"):
        if name in options:
            raise TypeError(f"a pool replaces workers that die by itself; leave {name} out")
    if batching is not None and not isinstance(batching, Batching):
        raise TypeError(f"batching is a Batching(max_rows=…, max_delay=…), got {batching!r}")
    checked = WorkerOptions(
        timeout=timeout,
        start_timeout=start_timeout,
        stall_timeout=stall_timeout,
        interrupt_grace=interrupt_grace,
        plugins=installed_plugins().configured(options.get("plugins", {})),
    )
    make_transport = transport_maker(
        transport,
        {"pickle": pickle, **_budget(transport, n, checked.plugins), **options},
        checked.plugins,
        filters=filters,
        apart=True,
    )
    blueprint = Blueprint(make_transport, filters or {}, checked, record)
    waits = when_full == "wait"
    return PoolPlan(transport, n, blueprint, recycle_after, max_queue, waits, batching)


def _budget(transport: str, n: int, plugins: PluginSet) -> dict[str, int]:
    """The cores of one of n workers, if the transport can limit its threads."""
    if not isinstance(transport, str):
        return {}  # whoever makes the transport says what is wrong with it
    budgeted = issubclass(plugins.transports.load(transport).Options, ProcessOptions)
    return {"threads": max(1, available_cores() // n)} if budgeted else {}


def whole(name: str, number: int, least: int = 1) -> int:
    """A number that must be whole and at least so much.

    Raises:
        TypeError: It is not whole.
        ValueError: It is less.
    """
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{name} is a whole number, got {number!r}")
    if number < least:
        raise ValueError(f"{name} is at least {least}, got {number}")
    return number
