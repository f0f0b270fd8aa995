"""HttpTransport: a worker that a server has for us, reached over a WebSocket."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import ClassVar
from urllib.parse import urlencode, urlsplit

from soma_core.errors import ChannelClosed, StartFailed
from soma_core.streams import raise_error_of_handler
from soma_core.transport import (
    Channel,
    Deadline,
    ExitStatus,
    OutputPump,
    Transport,
    TransportOptions,
    close_in_forked_child,
    stop_at_exit,
)
from soma_http.client.channel import WebSocketChannel, shake_hands
from soma_http.client.control import WorkerControl
from soma_http.client.streams import open_stream
from soma_http.notices import ENDED, LARGEST_HEADER, WORKER_HEADER, exit_status
from soma_http.options import HttpOptions

_ASIDE = 0.5  # seconds for a question beside the channel
_FORCE = 3.0  # seconds for a server to end a worker, beyond the grace
_LAST_WORDS = 0.5  # seconds to wait for the end of what a worker printed


class HttpTransport(Transport):
    """Uses a worker of a server that was started before: ``soma serve http``."""

    name: ClassVar[str] = "http"
    Options: ClassVar[type[TransportOptions]] = HttpOptions
    options: HttpOptions

    def __init__(self, options: HttpOptions) -> None:
        super().__init__(options)
        self._url = urlsplit(options.url)
        self._channel: WebSocketChannel | None = None
        self._control: WorkerControl | None = None
        self._status: ExitStatus | None = None
        self._printing: io.FileIO | None = None

    @staticmethod
    def serve(arguments: list[str]) -> int:
        """Run the server: what ``soma serve http`` does. Returns the exit status."""
        from soma_http.server.command import run

        return run(arguments)

    def start(self, timeout: float | None = None) -> Channel:
        deadline = Deadline.after(timeout)
        self._status = None
        with ExitStack() as undo:
            output = OutputPump(self.options.output)
            undo.callback(output.close)
            channel, worker = self._open(deadline)
            undo.callback(channel.close)
            self._printing = io.FileIO(os.dup(output.writing), "w")
            close_in_forked_child(self._printing)
            undo.callback(self._end_printing)
            output.start(f"worker {worker[:8]}")
            self._control = WorkerControl(self._url, worker, self._headers(), self.options.ca_file)
            undo.pop_all()
        self._channel, self.output = channel, output
        stop_at_exit(self, channel)
        return channel

    def _open(self, deadline: Deadline) -> tuple[WebSocketChannel, str]:
        options, url = self.options, self._url
        scheme = "wss" if url.scheme == "https" else "ws"
        asked = {"pickle": options.pickle, "output": "true"}
        if options.threads is not None:
            asked["threads"] = str(options.threads)
        place = "workers" if options.model is None else f"models/{options.model}"
        address = f"{scheme}://{url.netloc}{url.path}/{place}?{urlencode(asked)}"
        try:
            stream = open_stream(url, options.ca_file, deadline.left())
        except OSError as error:
            raise StartFailed(
                f"no server answers at {options.url} ({error}); start one with: soma serve http "
                "--config FILE"
            ) from error
        try:
            response, came = shake_hands(
                stream, address, self._headers(), options.limits.body, deadline.at
            )
            largest = int(response.headers.get(LARGEST_HEADER, options.limits.body))
            channel = WebSocketChannel(stream, came, options.limits, largest, self._print)
        except BaseException as error:
            stream.close()
            if isinstance(error, OSError | ValueError | StartFailed | ChannelClosed):
                text = str(error) or "it does not answer in time"
                raise StartFailed(f"the server at {options.url} refused: {text}") from error
            raise
        return channel, response.headers.get(WORKER_HEADER, "")

    def _headers(self) -> dict[str, str]:
        token = self.options.token
        return {} if token is None else {"Authorization": f"Bearer {token.get_secret_value()}"}

    def _print(self, lines: Sequence[str]) -> None:
        """Hand on what the worker printed, to the pipe from which the output is read."""
        if self._printing is None:
            return
        data = "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")
        while data:
            data = data[self._printing.write(data) or 0 :]

    def _end_printing(self) -> None:
        printing, self._printing = self._printing, None
        if printing is not None:
            printing.close()

    def poll(self) -> ExitStatus | None:
        if self._status is None and self._channel is not None:
            goodbye = self._channel.goodbye
            if goodbye is not None and goodbye.code == ENDED:
                self._ended(exit_status(goodbye.reason) or ExitStatus())
            elif self._channel.closed or goodbye is not None:
                self._look()
        return self._status

    def _look(self) -> None:
        """Ask the server; if nobody is there, its workers have ended with it."""
        assert self._control is not None
        try:
            status = self._control.look(_ASIDE)
        except OSError as error:
            raise_error_of_handler(error)
            if not isinstance(error, ConnectionRefusedError):
                return  # which says nothing about the worker
            status = ExitStatus()
        if status is not None:
            self._ended(status)

    def _ended(self, status: ExitStatus) -> None:
        self._status = status
        self._end_printing()

    def interrupt(self) -> None:
        if self._control is not None and self._status is None:
            try:
                self._control.interrupt(_ASIDE)
            except OSError as error:  # the server is gone or held up; whoever waits looks again
                raise_error_of_handler(error)

    def stop(self, grace: float) -> ExitStatus | None:
        if self._channel is not None:
            self._channel.close()
        if self._status is None and self._control is not None:
            with suppress(OSError):  # the server is gone or held up: it ends the worker by itself
                self._ended(self._control.end(grace, grace + _FORCE) or ExitStatus())
        self._end_printing()
        if self.output is not None:
            self.output.finish(_LAST_WORDS)
        return self._status
