"""``soma console``: the console for this machine, over any transport."""

from __future__ import annotations

import json
import secrets
import sys
import webbrowser
from argparse import ArgumentParser, ArgumentTypeError
from contextlib import suppress
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Route

from soma_core.errors import TransportError
from soma_core.streams import StreamLimits
from soma_core.tooling import installed_plugins, installed_transports, transport_maker
from soma_http.server import openapi
from soma_http.server.app import guarded
from soma_http.server.command import listen, make_server
from soma_http.server.config import LimitsConfig, ServerConfig
from soma_http.server.console import ConsoleRoutes
from soma_http.server.models import Models
from soma_http.server.pages import DOCUMENTATION
from soma_http.server.quotas import Quotas
from soma_http.server.sessions import WebSocketSessions
from soma_http.server.tokens import Tokens
from soma_http.server.transports import open_through
from soma_http.server.workbench import WorkbenchRoutes
from soma_http.server.workers import WorkerRoutes

_MOST = 16  # workers at once
_GRACE = 3.0
_LARGEST_PORT = 65535


def make_console(transport: str, options: dict[str, Any], token: str) -> Starlette:
    """The application of a console.

    Raises:
        PluginError: There is no such transport.
        TypeError, ValueError: It does not take these options.
    """
    given = {"pickle": "never", **options}
    new_transport = transport_maker(transport, given, installed_plugins())
    found = installed_transports().load(transport)
    limits = StreamLimits()
    sessions, models = WebSocketSessions(_MOST, 0), Models({})
    body = LimitsConfig().body
    workers = WorkerRoutes(open_through(new_transport, limits), sessions, models, limits, _GRACE)
    routes = [
        *workers.routes(),
        Route("/openapi.json", openapi.show),
        *DOCUMENTATION.routes(),
        *ConsoleRoutes(models, sessions, partial(_daemon, found, options.get("path"))).routes(),
        *WorkbenchRoutes(new_transport, sessions, body).routes(),
    ]
    return guarded(routes, Tokens([token]), Quotas(None, None), body)


def _daemon(transport: Any, path: Any) -> dict[str, Any] | None:
    """The daemon of a transport, if it has one that answers, with its workers."""
    ask = getattr(transport, "status", None)
    if not callable(ask):
        return None
    try:
        found = ask(path)
    except (TransportError, OSError):
        return None
    return {**found._asdict(), "workers": [one._asdict() for one in found.workers]}


def run(arguments: list[str]) -> int:
    """Open a console: a page for the workers of any transport, on this machine alone."""
    parser = argument_parser()
    given = parser.parse_args(arguments)
    token = secrets.token_urlsafe()
    try:
        app = make_console(given.transport, dict(given.option), token)
        listening = listen(ServerConfig(port=given.port))
    except (TypeError, ValueError, OSError) as error:
        parser.error(str(error))
    port = listening.getsockname()[1]
    url = f"http://127.0.0.1:{port}/console/#{token}"
    sys.stderr.write(f"soma console: {url}\n")
    sys.stderr.flush()
    if given.open:
        webbrowser.open(url)
    body = LimitsConfig().body
    with suppress(KeyboardInterrupt):  # uvicorn has ended already, and raises it once more
        server = make_server(app, body, log_level="warning", timeout_graceful_shutdown=1)
        server.run(sockets=[listening])
    return 0


def argument_parser() -> ArgumentParser:
    """What ``soma console`` takes."""
    parser = ArgumentParser(
        "soma console",
        description="Open a console: a page on this machine alone, which tries filters, sends "
        "commands and runs recordings again, in workers that a transport reaches. The address "
        "holds a token; pickles are neither read nor made.",
        epilog="Example: soma console socket --option session=lab",
    )
    add = parser.add_argument
    add("transport", nargs="?", default="stdio", help="'soma transports' lists them (%(default)s)")
    add(
        "--option",
        action="append",
        default=[],
        type=_option,
        metavar="KEY=VALUE",
        help="an option of the transport, such as session=lab",
    )
    add("--port", type=_port, default=0, help="where to listen; any that is free without it")
    add("--open", action="store_true", help="open the page in a browser")
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > _LARGEST_PORT:
        raise ArgumentTypeError(f"a number from 0 to {_LARGEST_PORT} is expected, got {text!r}")
    return int(text)


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ArgumentTypeError(f"KEY=VALUE is expected, got {text!r}")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
