"""What training in a worker costs: the digits' network, a step for each 64 rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from soma_filters_torch.filters import MLP

import soma_core as soma
from benchmarks.training import pipe, races
from benchmarks.training.home import BATCH, Array, Home, Network, batches

NETWORK = Network((64, 256, 10), seed=0)
BASELINE = "plain PyTorch here"
FILTER = "the filter in a loop here"
PIPE = "multiprocessing.Pipe, a message per batch"
Epoch = Callable[[Array, Array], float]


def per_batch(transport: str) -> str:
    """The name of a worker that is sent each batch."""
    return f"soma {transport}, COMPOSITE_FIT per batch"


def at_once(transport: str) -> str:
    """The name of a worker that is sent all data."""
    return f"soma {transport}, one BATCHED_FIT"


def run(workers: Mapping[str, soma.Worker], data: tuple[Array, Array], rounds: int) -> races.Race:
    """Everybody trains the same network on the same batches; a round is an epoch."""
    with pipe.peer(NETWORK) as (ask, pid):
        epochs: dict[str, Epoch] = {
            BASELINE: Home({"net": NETWORK}).epoch,
            FILTER: partial(_filter_epoch, MLP(**NETWORK.config)),
            PIPE: lambda x, y: _epoch(lambda *batch: ask("step", *batch), x, y),
        }
        for transport, worker in workers.items():
            worker.load({"stepwise": NETWORK.as_filter, "batched": NETWORK.as_filter})
            epochs[per_batch(transport)] = partial(_composite_epoch, worker)
            epochs[at_once(transport)] = partial(_batched_epoch, worker)
        contestants = {name: partial(epoch, *data) for name, epoch in epochs.items()}
        pids = [worker.ping().pid for worker in workers.values()]
        steps = -(-len(data[0]) // BATCH)
        race = races.run(contestants, BASELINE, rounds, steps, [pid, *pids])
    for worker in workers.values():
        worker.unload(["stepwise", "batched"])
    return race


def _epoch(step: Callable[[Array, Array], float], x: Array, y: Array) -> float:
    total = 0.0
    for rows in batches(len(x)):
        batch = x[rows], y[rows]
        total += len(batch[0]) * step(*batch)
    return total / len(x)


def _filter_epoch(network: MLP, x: Array, y: Array) -> float:
    def step(rows: Array, classes: Array) -> float:
        optimizer = network.optimizer
        assert optimizer is not None
        optimizer.zero_grad()
        out = network.forward(torch.from_numpy(rows), {})
        loss = network.compute_loss(out, torch.from_numpy(classes))
        loss.backward()
        optimizer.step()
        return loss.item()

    return _epoch(step, x, y)


def _composite_epoch(worker: soma.Worker, x: Array, y: Array) -> float:
    def step(rows: Array, classes: Array) -> float:
        loss = worker.composite_fit(["stepwise"], rows, classes, return_states=False).loss
        assert loss is not None
        return loss

    return _epoch(step, x, y)


def _batched_epoch(worker: soma.Worker, x: Array, y: Array) -> float:
    options = {"batch_size": BATCH, "return_states": False}
    return worker.batched_fit(["batched"], x, y, resume=True, **options).losses[0]
