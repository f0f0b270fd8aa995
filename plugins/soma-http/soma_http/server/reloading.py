"""Reloading: what a changed configuration changes while the server runs."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from soma_http.server.config import Settings
from soma_http.server.config_file import ConfigError
from soma_http.server.models import Models
from soma_http.server.tokens import Tokens

__all__ = ["Reloading"]

_log = logging.getLogger("soma.http")
_FIXED = ("server", "limits", "workers")


class Reloading:
    """Reads the configuration again at SIGHUP, and applies what can be applied.

    Models and tokens are; other changes wait for the next start, and are named in the log. A
    configuration that is not valid changes nothing.
    """

    def __init__(
        self, read: Callable[[], Settings], settings: Settings, models: Models, tokens: Tokens
    ) -> None:
        self._read = read
        self._settings = settings
        self._models = models
        self._tokens = tokens
        self._turn = asyncio.Lock()
        self._running: set[asyncio.Task[None]] = set()

    @contextmanager
    def at_hangup(self) -> Iterator[None]:
        """Reload at each SIGHUP, for the time of the context."""
        loop = asyncio.get_running_loop()

        def begin() -> None:
            task = loop.create_task(self.reload())
            self._running.add(task)
            task.add_done_callback(self._running.discard)

        loop.add_signal_handler(signal.SIGHUP, begin)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            for task in self._running:
                task.cancel()

    async def reload(self) -> None:
        """Read and apply; one at a time."""
        async with self._turn:
            try:
                settings = await asyncio.to_thread(self._read)
                tokens = Tokens.of(settings.server.tokens)
            except (ConfigError, OSError, ValueError) as error:
                _log.error("the configuration is not reloaded: %s", error)
                return
            if tokens.wanted == self._tokens.wanted:
                self._tokens.become(tokens)
            for table in _FIXED:
                if getattr(settings, table) != getattr(self._settings, table):
                    _log.warning("[%s] has changed, which takes a restart of the server", table)
            await self._models.become(settings.models)
            _log.info("the configuration was reloaded")
