"""The workers of one run: one for each transport, with one thread for each numerical library."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import soma_core as soma
from soma_core.benchmarking.contestants import daemon

TRANSPORTS = ("stdio", "socket")

Connect = Callable[[], AbstractContextManager[soma.Worker]]


@contextmanager
def connections() -> Iterator[Mapping[str, Connect]]:
    """By transport, what connects to a new worker over it."""
    with ExitStack() as stack:
        made: dict[str, Connect] = {}
        for transport in TRANSPORTS:
            options: dict[str, Any] = stack.enter_context(daemon(transport))
            made[transport] = partial(soma.connect, transport, threads=1, **options)
        yield made


@contextmanager
def workers(connect: Mapping[str, Connect]) -> Iterator[dict[str, soma.Worker]]:
    """By transport, a worker."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(one()) for name, one in connect.items()}
