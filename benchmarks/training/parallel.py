"""What two workers bring: DataParallel's steps on one batch against one worker's."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

import soma_core as soma
from benchmarks.training import races
from benchmarks.training.home import Array, Home, Network

BASELINE = "one worker"
BOTH = "DataParallel over two workers"
PLAIN = "plain PyTorch here"
DDP = "torch's DistributedDataParallel over two processes"


def run(
    workers: Mapping[str, soma.Worker], network: Network, rows: int, rounds: int, *, peers: bool
) -> races.Race:
    """Steps on one batch; each contestant has one thread for each process."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(rows, network.sizes[0])).astype(np.float32)
    y = draw.integers(network.sizes[-1], size=rows)
    pair = list(workers.values())
    for worker in pair:
        worker.load({"both": network.as_filter, "alone": network.as_filter})
    parallel = soma.DataParallel(pair, ["both"])
    pids = [worker.ping().pid for worker in pair]

    def alone() -> float:
        loss = pair[0].composite_fit(["alone"], x, y, return_states=False).loss
        assert loss is not None
        return loss

    with ExitStack() as stack:
        contestants: dict[str, Callable[[], float]] = {
            BASELINE: alone,
            BOTH: lambda: parallel.step(x, y),
        }
        if peers:
            home = Home({"net": network})
            contestants[PLAIN] = lambda: home.step(x, y)
            contestants[DDP], others = stack.enter_context(_ddp(network, x, y))
            pids += others
        race = races.run(contestants, BASELINE, rounds, 1, pids)
    for worker in pair:
        worker.unload(["both", "alone"])
    return race


def _train(rank: int, connection: Any, store: str, network: Network, x: Array, y: Array) -> None:
    torch.set_num_threads(1)
    distributed = torch.distributed
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(network.build())
    optimizer = torch.optim.Adam(model.parameters(), lr=network.lr)
    rows, classes = torch.from_numpy(x), torch.from_numpy(y)
    connection.send(None)
    while connection.recv():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(rows), classes)
        loss.backward()
        optimizer.step()
        connection.send(loss.item())
    distributed.destroy_process_group()


@contextmanager
def _ddp(network: Network, x: Array, y: Array) -> Iterator[tuple[Callable[[], float], list[int]]]:
    """Two processes that keep their halves of the batch and exchange gradients over gloo."""
    context = multiprocessing.get_context("spawn")
    halves = [slice(0, len(x) // 2), slice(len(x) // 2, len(x))]
    with tempfile.TemporaryDirectory() as directory:
        pipes, processes = [], []
        for rank, half in enumerate(halves):
            ours, theirs = context.Pipe()
            arguments = (rank, theirs, f"{directory}/store", network, x[half], y[half])
            process = context.Process(target=_train, args=arguments, daemon=True)
            process.start()
            pipes.append(ours)
            processes.append(process)
        for ours in pipes:
            ours.recv()

        def step() -> float:
            for ours in pipes:
                ours.send(True)
            return float(np.mean([ours.recv() for ours in pipes]))

        try:
            yield step, [process.pid for process in processes]
        finally:
            for ours in pipes:
                ours.send(False)
            for process in processes:
                process.join()
