"""connect: starts or reaches a worker by the name of a transport, and loads filters into it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from inspect import signature
from typing import Any, Literal

from pydantic import ValidationError

from soma_core.channel.contract import Transport
from soma_core.client.connection import INTERRUPT_GRACE
from soma_core.client.handle import Handle
from soma_core.client.loadable import Loadable, check_filters, distributions
from soma_core.client.recording import Recorder, Recording
from soma_core.client.signatures import takes_arguments_of
from soma_core.client.worker import Worker, drive
from soma_core.client.worker_options import WorkerOptions
from soma_core.errors import PluginNotFound
from soma_core.models.validation_errors import describe
from soma_core.plugins.manager import PluginSet, installed_plugins

PicklePolicy = Literal["same-user", "never"]

_PLUGINS_HINT = (
    "it does not start its workers, and whoever does gives their plugins options, in the "
    "environment variable SOMA_PLUGIN_OPTIONS"
)


@dataclass(frozen=True)
class Start:
    """A worker to start: the checked arguments of :func:`connect`.

    Attributes:
        transport: How it is reached; not started yet.
        filters: What it is to load.
        options: How it is started and asked.
    """

    transport: Transport
    filters: Mapping[str, Loadable]
    options: WorkerOptions


def prepared(
    transport: str = "stdio",
    *,
    filters: Mapping[str, Loadable] | None = None,
    pickle: PicklePolicy = "same-user",
    record: str | os.PathLike[str] | Recording | None = None,
    timeout: float | None = None,
    start_timeout: float | None = 60.0,
    stall_timeout: float | None = None,
    restart: Literal["never", "on-crash"] = "never",
    retries: int = 0,
    interrupt_grace: float = INTERRUPT_GRACE,
    **options: Any,
) -> Start:
    """Check the arguments of :func:`connect`; nothing is started yet."""
    checked = WorkerOptions(
        timeout=timeout,
        start_timeout=start_timeout,
        stall_timeout=stall_timeout,
        restart=restart,
        retries=retries,
        interrupt_grace=interrupt_grace,
        plugins=installed_plugins().configured(options.get("plugins", {})),
    )
    options = {"pickle": pickle, **options}
    made = transport_maker(transport, options, checked.plugins, filters=filters)()
    if record is not None:
        checked = replace(checked, recorder=Recorder(record, transport, made.options))
    return Start(made, filters or {}, checked)


@takes_arguments_of(prepared)
def connect(*arguments: Any, **options: Any) -> Worker:
    """Start or reach a worker, and load filters into it.

    Args:
        transport: The name of an installed transport (``soma transports`` lists them).
        filters: What to load, by node id: a :class:`~soma_core.Filter`, any object with ``fit``
            and ``forward``, or a registered filter as ``(name, config)``.
        timeout: Seconds that each call may take, unless it names its own; None for ever.
        start_timeout: Seconds in which the worker must answer its first message.
        stall_timeout: Seconds that a call may take without reporting progress; None for ever.
            Of use where filters report it: ``soma_core.progress``, and BATCHED_FIT by itself.
        restart: What to do when the worker dies: ``"never"`` leaves that to the caller,
            ``"on-crash"`` starts another one for the next call, with the same filters and the
            newest states that the host holds (:doc:`reliability`).
        retries: How often a ``forward`` or ``composite_forward`` is repeated after the worker
            died under it; 0 is never. Needs ``restart="on-crash"``.
        pickle: ``"never"`` lets only typed values and registered filters travel.
        record: The file to which every command and reply is written, for ``soma replay``; a
            :class:`~soma_core.Recording` says more, such as to write only when something fails.
        interrupt_grace: Seconds that a call may take to end once it was interrupted, at its
            deadline or by Ctrl-C; then the worker is ended.
        options: The options of the transport. Those that start workers have ``plugins``: options of
            plugins, by plugin.

    Raises:
        PluginError: The transport is not installed, ambiguous or broken.
        TypeError: The transport has no such option, or an object is not a filter.
        ValueError: An option or argument is not valid, or ``record`` cannot be written.
        StartFailed: The worker did not come up.
        IncompatibleWorker: Its versions do not fit this host's.
        RemoteError: A filter could not be loaded; the worker is stopped again.
    """
    start = prepared(*arguments, **options)
    worker = drive(Handle(start.transport, start.options))
    try:
        if start.filters:
            worker.load(start.filters, timeout=start.options.start_timeout)
    except BaseException:
        worker.close()
        raise
    return worker


def transport_maker(
    name: str,
    options: dict[str, Any],
    plugins: PluginSet,
    *,
    filters: Mapping[str, Loadable] | None = None,
    apart: bool = False,
) -> Callable[[], Transport]:
    """Check the options of a transport; each call of what is returned makes one to start.

    Args:
        name: The name of an installed transport.
        options: Its options.
        plugins: What is installed; also adapts the filters, and is notified of each start.
        filters: What will be loaded: says where to run it, to a transport that chooses that.
        apart: Whether each must reach an engine of its own.

    Raises:
        PluginError, TypeError, ValueError: As for :func:`connect`.
    """
    _check_name(name)
    if filters is not None:
        check_filters(filters)
    _check_not_being_imported()
    transport_class = plugins.transports.load(name)
    checked = _options(name, transport_class, options, plugins)
    checked = checked.placed(distributions(filters or {}, plugins))
    if apart and checked.shared:
        raise ValueError(
            f"the transport {name!r} would share one worker with these options (a session); "
            "leave that out to get several"
        )

    def make() -> Transport:
        plugins.notify("soma_worker_starting", transport=name, options=checked)
        made = transport_class(checked)
        made.alone = not apart
        return made

    return make


def _meant(unknown: Iterable[str], known: Iterable[str]) -> str:
    close = [match for name in unknown for match in get_close_matches(name, known, 1)]
    return f" (did you mean {', '.join(close)}?)" if close else ""


def _check_name(name: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(
            f"the first argument is the name of a transport, such as 'stdio'; got a "
            f"{type(name).__name__}. Filters are given by name: connect('stdio', filters=…)"
        )
    if "://" in name:
        raise PluginNotFound(
            f"the first argument is the name of a transport, such as 'http'; got {name!r}. An "
            f"address is given by name: connect('http', url={name!r})"
        )


def _check_not_being_imported() -> None:
    """Refuse to start workers while a child process imports the script that starts it.

    Each would run the script again, and so on without end.
    """
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing and getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            "a process that multiprocessing starts imports the script anew, and the script "
            "starts workers as it is imported: put that under `if __name__ == '__main__':`"
        )


def _options(
    name: str, transport_class: type[Transport], options: dict[str, Any], plugins: PluginSet
) -> Any:
    known = transport_class.Options.model_fields
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        near = [*known, *(each for each in signature(connect).parameters if each != "options")]
        hint = f"; {_PLUGINS_HINT}" if "plugins" in unknown else ""
        raise TypeError(
            f"the transport {name!r} has no option {', '.join(unknown)}{_meant(unknown, near)}; "
            f"its options: {', '.join(known)}{hint}; {plugins.transports.origin(name)}"
        )
    try:
        return transport_class.Options(**options)
    except ValidationError as error:
        raise ValueError(f"the transport {name!r}: {describe(error)}") from None
