"""The peer: a process at the end of ``multiprocessing.Pipe`` that trains what it is sent."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.training.home import Home, Network

Ask = Callable[..., float]


def _answer(connection: Any, network: Network) -> None:
    torch.set_num_threads(1)
    home = Home({"net": network})
    methods = {"step": home.step, "epoch": home.epoch}
    connection.send(None)
    while True:
        method, x, y = connection.recv()
        connection.send(methods[method](x, y))


@contextmanager
def peer(network: Network) -> Iterator[tuple[Ask, int]]:
    """What trains in another process by hand, ``ask(method, x, y) -> loss``, and its pid."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_answer, args=(theirs, network), daemon=True)
    process.start()
    ours.recv()

    def ask(method: str, x: Any, y: Any) -> float:
        ours.send((method, x, y))
        loss: float = ours.recv()
        return loss

    try:
        assert process.pid is not None
        yield ask, process.pid
    finally:
        process.terminate()
        process.join()
