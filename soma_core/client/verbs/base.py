"""VerbsBase: what every method of a worker needs to make its calls."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from soma_core.channel.contract import Transport
from soma_core.client.arguments import DEFAULT, Meta, Timeout, check_meta, check_seconds
from soma_core.client.calls import Call, Progress
from soma_core.client.engines import RemoteEngine
from soma_core.client.missing_modules import missing_module
from soma_core.client.steps import Steps
from soma_core.client.worker_options import WorkerOptions
from soma_core.errors import RemoteError, SomaError
from soma_core.models.filters import FilterMeta
from soma_core.protocol import commands as c
from soma_core.protocol.fields import set_fields
from soma_core.wire.pickles import Pickles


class VerbsBase:
    """Makes the calls of one worker.

    Args:
        transport: How the worker is reached.
        engine: The engine behind it.
        pickles: Whether and how objects travel.
        options: Those of the worker.

    Attributes:
        metas: What is known of the worker's nodes, by id.
        registered: The nodes that were loaded by a registered name.
    """

    def __init__(
        self,
        transport: Transport,
        engine: RemoteEngine,
        pickles: Pickles,
        options: WorkerOptions,
    ) -> None:
        self._transport = transport
        self._engine = engine
        self._pickles = pickles
        self._recorder = options.recorder
        self._timeout, self._stall_timeout = options.timeout, options.stall_timeout
        self.metas: dict[str, FilterMeta] = {}
        self.registered: set[str] = set()
        self._unsettled: set[object] = set()  # changes of nodes of which nobody knows the end

    def remedy(self, call: Call, error: BaseException) -> list[Call] | None:
        """What to send before a call that failed is sent again; None if that would not help.

        It helps if the call came to nothing because the worker lacks a module of this program.
        """
        module = missing_module(error) if isinstance(error, RemoteError) else None
        if module is None or module in self._pickles.by_value:
            if self._recorder is not None and isinstance(error, SomaError):
                self._recorder.keep()
            return None
        hello = self._engine.changed_path(call.deadline.left())
        if hello is None:
            self._pickles.by_value |= {module}
        if call.rebuild is not None:
            call.fields |= call.rebuild()
        return [] if hello is None else [hello]

    def _seconds(self, timeout: Timeout) -> float | None:
        if timeout is DEFAULT:
            return self._timeout
        check_seconds("timeout", timeout)
        return timeout

    def _call(
        self,
        command: c.Command,
        timeout: Timeout,
        meta: Meta = None,
        uses: Iterable[str] = (),
        progress: Progress | None = None,
    ) -> Call:
        """The call of a command."""
        seconds = self._timeout if timeout is DEFAULT else self._seconds(timeout)
        fields = set_fields(command)
        if meta is not None:
            fields["meta"] = check_meta(meta)
        return Call(type(command), fields, seconds, uses, progress, self._stall_timeout)

    def _profiled(self, call: Call, profile: str | os.PathLike[str] | None) -> Steps[Any]:
        """Send a call; where a file is named, write where the worker spent its time.

        Raises:
            FileNotFoundError: There is no such folder; nothing was sent.
            IsADirectoryError: It is a folder; nothing was sent.
        """
        if profile is None:
            return (yield call)
        file = Path(profile)
        if not file.parent.is_dir():
            raise FileNotFoundError(
                f"profile: there is no folder {str(file.parent)!r} for {file.name}"
            )
        if file.is_dir():
            raise IsADirectoryError(f"profile: {str(file)!r} is a folder; name a file in it")
        call.fields["profile"] = True
        reply = yield call
        file.write_bytes(reply.profile_b64)
        return reply


def given(**arguments: Any) -> dict[str, Any]:
    """Those of some arguments that were given; mappings as dicts."""
    return {
        name: dict(value) if isinstance(value, Mapping) else value
        for name, value in arguments.items()
        if value is not None
    }
