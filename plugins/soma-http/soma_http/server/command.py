"""``soma serve http``: reads the configuration, and serves until SIGTERM."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette

from soma_http.server.app import make_app
from soma_http.server.bounded import BoundedProtocol
from soma_http.server.checking import filter_mistakes
from soma_http.server.config import FRIGHTENING, ServerConfig, Settings
from soma_http.server.config_file import ConfigError, read_settings
from soma_http.server.direct import DirectProtocol

_log = logging.getLogger("soma.http")
_QUEUE = 1024  # clients that wait to be accepted
_PING = 20.0  # seconds between pings: what a proxy sees of a WebSocket on which nothing happens
_GONE = 60_000  # milliseconds without an answer of a client's machine, after which it is gone


def run(arguments: list[str]) -> int:
    """Parse the arguments and serve; returns the exit status."""
    options = argument_parser().parse_args(arguments)
    hangups: list[int] = []  # one that comes before the server can reload would end it
    before = signal.signal(signal.SIGHUP, lambda number, frame: hangups.append(number))
    try:
        return _run(options, lambda: bool(hangups))
    finally:
        signal.signal(signal.SIGHUP, before)


def _run(options: Namespace, is_stale: Callable[[], bool]) -> int:
    say: Callable[[str], None] = _say
    fail = say
    if not options.check:
        _log_to_stderr(options.log_format)
        if options.log_format == "json":
            say, fail = _log.info, _log.error

    def read() -> Settings:
        return read_settings(options.config, os.environ)

    try:
        if options.check:
            read_settings(options.config, os.environ, filter_mistakes)
        settings = read()
        app = make_app(settings, read=read, is_stale=is_stale)
    except (ConfigError, OSError, ValueError) as error:
        fail(str(error))
        return 1
    if options.check:
        say(f"{options.config or 'the configuration'} is valid")
        return 0
    os.environ["SOMA_DATA_FILES"] = "never"  # of this process, and of the workers of models
    if settings.server.allows_pickles:
        say(f"pickle = {FRIGHTENING!r}: whoever has a token is this user")
    try:
        listening = listen(settings.server)
    except OSError as error:
        where = f"{settings.server.host}:{settings.server.port}"
        fail(f"cannot listen at {where}: {error.strerror or error}")
        return 1
    host, port = listening.getsockname()[:2]
    scheme = "http" if settings.server.certificate is None else "https"
    say(f"listening at {scheme}://{f'[{host}]' if ':' in host else host}:{port}")
    serve(app, settings, listening)
    return 0


def serve(app: Starlette, settings: Settings, listening: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT."""
    server = settings.server
    uvicorns = make_server(
        app,
        settings.limits.body,
        log_config=None,
        access_log=False,
        lifespan="on",
        root_path=server.root_path,
        limit_concurrency=settings.limits.connections,
        timeout_graceful_shutdown=max(1, round(server.grace)),
        ws_ping_interval=_PING,
        ws_ping_timeout=None,  # a host answers when it reads, and it reads when it waits
        ssl_certfile=server.certificate,
        ssl_keyfile=server.key,
    )

    def end(signum: int, frame: FrameType | None) -> None:
        """Before uvicorn listens to signals; it sends itself the one that ended it once more."""
        if not uvicorns.should_exit:
            raise SystemExit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # who started it may have blocked some
    uvicorns.run(sockets=[listening])


def make_server(app: Starlette, body: int, **options: Any) -> uvicorn.Server:
    """uvicorn, with messages of at most so many bytes."""
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws=DirectProtocol,
        ws_max_size=body,
        ws_per_message_deflate=False,
        server_header=False,
        **options,
    )
    return uvicorn.Server(config)


def listen(server: ServerConfig) -> socket.socket:
    """Listen, so that connections of machines that are gone are noticed."""
    [family, kind, *_, address] = socket.getaddrinfo(
        server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # accepted connections inherit it
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _GONE)
        listening.bind(address)
        listening.listen(_QUEUE)
    except BaseException:
        listening.close()
        raise
    return listening


class _JsonLines(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def _log_to_stderr(form: str) -> None:
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_JsonLines() if form == "json" else text)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("soma").setLevel(logging.INFO)


def _say(text: str) -> None:
    for line in text.splitlines():
        sys.stderr.write(f"soma serve http: {line}\n")
    sys.stderr.flush()


def argument_parser() -> ArgumentParser:
    """What ``soma serve http`` takes."""
    parser = ArgumentParser(
        "soma serve http",
        description="Serve soma over HTTP: workers for hosts elsewhere, over WebSockets. Each "
        "setting of the file can also be a variable: SOMA_HTTP_SERVER__PORT=9000.",
        epilog="Example: soma serve http --config models.toml --check",
    )
    add = parser.add_argument
    add("--config", type=Path, metavar="FILE", help="the configuration, a TOML file")
    add(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="how the log is written: json has one object a line (%(default)s)",
    )
    add("--check", action="store_true", help="say what is wrong with the configuration, and end")
    return parser
