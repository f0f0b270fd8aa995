"""WorkerOptions: how a worker is started and asked, checked when it is said."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypedDict

from soma_core.client.arguments import check_seconds
from soma_core.client.connection import INTERRUPT_GRACE
from soma_core.client.recording import Recorder
from soma_core.plugins.manager import PluginSet, installed_plugins

Restart = Literal["never", "on-crash"]


class WorkerArguments(TypedDict, total=False):
    """The options by name, as a Worker takes them."""

    timeout: float | None
    start_timeout: float | None
    stall_timeout: float | None
    restart: Restart
    retries: int
    interrupt_grace: float
    recorder: Recorder | None


@dataclass(frozen=True)
class WorkerOptions:
    """The arguments of a :class:`~soma_core.Worker`, but for its transport.

    Raises:
        TypeError, ValueError: One is not valid, or they do not go together.
    """

    timeout: float | None = None
    start_timeout: float | None = 60.0
    stall_timeout: float | None = None
    restart: Restart = "never"
    retries: int = 0
    interrupt_grace: float = INTERRUPT_GRACE
    recorder: Recorder | None = None
    plugins: PluginSet = field(default_factory=installed_plugins)

    def __post_init__(self) -> None:
        restart, retries = self.restart, self.retries
        if restart not in ("never", "on-crash"):
            raise ValueError(f"restart is 'never' or 'on-crash', got {restart!r}")
        if type(retries) is not int or retries < 0:
            raise ValueError(f"retries is a whole number from 0 on, got {retries!r}")
        if retries and restart == "never":
            raise ValueError(
                "retries needs restart='on-crash': a dead worker answers no second time"
            )
        for name in ("timeout", "start_timeout", "stall_timeout", "interrupt_grace"):
            check_seconds(name, getattr(self, name))
        if self.interrupt_grace is None:
            raise TypeError("interrupt_grace is a number of seconds, got None")
