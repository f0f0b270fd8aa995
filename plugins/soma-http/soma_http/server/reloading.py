"""Reloading: what a changed configuration changes while the server runs."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from soma_http.server.config import Settings
from soma_http.server.config_file import ConfigError
from soma_http.server.models import Models
from soma_http.server.tokens import Tokens

_log = logging.getLogger("soma.http")
_FIXED = ("server", "limits", "workers")


class Reloading:
    """Reads the configuration again at SIGHUP, and applies what can be applied.

    Models and tokens are; other changes wait for the next start, and are named in the log. A
    configuration that is not valid changes nothing, nor does one without models where there are
    some: so reads a file that somebody is writing.

    Args:
        read: Reads the configuration.
        settings: As it was read.
        is_stale: Whether SIGHUP has come since then.
    """

    def __init__(
        self,
        read: Callable[[], Settings],
        settings: Settings,
        models: Models,
        tokens: Tokens,
        is_stale: Callable[[], bool] = lambda: False,
    ) -> None:
        self._read = read
        self._is_stale = is_stale
        self._settings = settings
        self._models = models
        self._tokens = tokens
        self._wanted = asyncio.Event()

    @contextmanager
    def at_hangup(self) -> Iterator[None]:
        """Reload at SIGHUP, for the time of the context; once for all that came meanwhile.

        One that comes later means nothing.
        """
        loop = asyncio.get_running_loop()
        reloading = loop.create_task(self._whenever_wanted())
        loop.add_signal_handler(signal.SIGHUP, self._wanted.set)
        if self._is_stale():
            self._wanted.set()
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            reloading.cancel()

    async def _whenever_wanted(self) -> None:
        """A model that takes long to load holds up neither the others nor a later change."""
        async with asyncio.TaskGroup() as settling:
            while await self._wanted.wait():
                self._wanted.clear()
                settling.create_task(await self._apply())

    async def reload(self) -> None:
        """Read and apply, and return once that is done."""
        await (await self._apply())

    async def _apply(self) -> Coroutine[Any, Any, None]:
        """Read, and begin to apply; returns what waits for the end of that."""
        try:
            settings = await asyncio.to_thread(self._read)
            tokens = Tokens.of(settings.server.tokens)
            self._check_kept(settings)
        except Exception as error:
            is_mistake = isinstance(error, ConfigError | OSError | ValueError)
            _log.error(
                "the configuration is not reloaded: %s",
                error,
                exc_info=None if is_mistake else error,
            )
            return _nothing()
        if tokens.wanted == self._tokens.wanted:
            self._tokens.become(tokens)
        for table in _FIXED:
            if getattr(settings, table) != getattr(self._settings, table):
                _log.warning("[%s] has changed, which takes a restart of the server", table)
        return _say_so(self._models.become(settings.models))

    def _check_kept(self, settings: Settings) -> None:
        if not settings.models and any(self._models):
            raise ValueError(
                "it has no models any more, as a file that is being written: put a new file in its "
                "place by mv, or restart the server to serve none"
            )


async def _nothing() -> None:
    """Nothing is to be waited for."""


async def _say_so(becoming: Coroutine[Any, Any, bool]) -> None:
    if await becoming:
        _log.info("the configuration was reloaded")
