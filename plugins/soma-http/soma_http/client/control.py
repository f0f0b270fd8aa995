"""What is asked about a worker beside its WebSocket: interrupt it, end it, how it ended."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import SplitResult

from soma_core.transport import ExitStatus
from soma_http.client.streams import tls_context
from soma_http.notices import exit_status

_LARGEST = 1 << 16


class WorkerControl:
    """Asks a server about one worker, each time over a connection of its own."""

    def __init__(
        self, url: SplitResult, worker: str, headers: dict[str, str], ca_file: Path | None
    ) -> None:
        self._path = f"{url.path}/workers/{worker}"
        self._headers = headers
        self._connect: Callable[..., http.client.HTTPConnection] = http.client.HTTPConnection
        if url.scheme == "https":
            self._connect = partial(http.client.HTTPSConnection, context=tls_context(ca_file))
        self._place = url.hostname or "", url.port

    def interrupt(self, timeout: float) -> None:
        """Interrupt the command that runs.

        Raises:
            OSError: The server does not answer.
        """
        self._ask("POST", f"{self._path}/interrupt", timeout)

    def look(self, timeout: float) -> ExitStatus | None:
        """How it ended; None if it runs, or the server has forgotten it.

        Raises:
            OSError: The server does not answer.
        """
        return exit_status(self._ask("GET", self._path, timeout))

    def end(self, grace: float, timeout: float) -> ExitStatus | None:
        """End it, if it has not by itself within the grace, and return how it ended.

        Raises:
            OSError: The server does not answer.
        """
        return exit_status(self._ask("DELETE", f"{self._path}?grace={grace:.3f}", timeout))

    def _ask(self, method: str, path: str, timeout: float) -> bytes:
        connection = self._connect(*self._place, timeout=timeout)
        try:
            connection.request(method, path, headers=self._headers)
            return connection.getresponse().read(_LARGEST)
        except http.client.HTTPException as error:
            raise ConnectionError(f"the server answered nonsense: {error}") from error
        finally:
            connection.close()
