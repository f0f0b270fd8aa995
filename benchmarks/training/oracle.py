"""The oracle: training in a worker against plain PyTorch here, compared to the last bit."""

from __future__ import annotations

import io
import itertools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler

import soma_core as soma
from benchmarks.training.home import BATCH, Array, Home, Network, batches
from benchmarks.training.workers import Connect

BODY = Network((64, 96, 32), seed=1, lr=0.002, dropout=0.3)
HEAD = Network((32, 10), seed=2, lr=0.001)
NETWORKS = {"body": BODY, "head": HEAD}
CHAIN = list(NETWORKS)
FILTERS = {name: network.as_filter for name, network in NETWORKS.items()}
NAMED = {"name": "AdamW", "lr": 0.002, "weight_decay": 0.1}
Losses = list[float]


@dataclass(frozen=True)
class Pair:
    """One kind of training over one transport, beside the same at home.

    Attributes:
        case: What was trained, and how.
        transport: Over which transport.
        steps: How many optimizer steps each of the two made.
        difference: The largest between any two numbers; None if all are equal to the last bit.
    """

    case: str
    transport: str
    steps: int
    difference: float | None


@dataclass
class Trial:
    """What the cases share: where to train, and on what."""

    worker: soma.Worker
    connect: Connect
    x: Array
    y: Array
    epochs: int

    @property
    def steps(self) -> int:
        """Batches in all epochs."""
        return self.epochs * -(-len(self.x) // BATCH)


def composite(trial: Trial) -> tuple[Losses, Losses, Home]:
    """COMPOSITE_FIT batch by batch: two networks, an Adam each, dropout."""
    home = Home(NETWORKS)
    cuts = list(batches(len(trial.x))) * trial.epochs
    ours = [_step(trial.worker, CHAIN, trial.x[rows], trial.y[rows]) for rows in cuts]
    return ours, [home.step(trial.x[rows], trial.y[rows]) for rows in cuts], home


def named(trial: Trial) -> tuple[Losses, Losses, Home]:
    """COMPOSITE_FIT with one optimizer that the command names over the chain."""
    home = Home(NETWORKS, NAMED)
    cuts = list(batches(len(trial.x))) * trial.epochs
    ours = [
        _step(trial.worker, CHAIN, trial.x[rows], trial.y[rows], optimizer=NAMED) for rows in cuts
    ]
    return ours, [home.step(trial.x[rows], trial.y[rows]) for rows in cuts], home


def batched(trial: Trial) -> tuple[Losses, Losses, Home]:
    """BATCHED_FIT over shuffled epochs."""
    home = Home(NETWORKS)
    return _shuffled(trial, trial.worker, 3), _shuffled_at_home(trial, home, 3), home


def resumed(trial: Trial) -> tuple[Losses, Losses, Home]:
    """BATCHED_FIT, a checkpoint, and on in another worker; at home nothing stops."""
    home = Home(NETWORKS)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "it.ckpt"
        ours = _shuffled(trial, trial.worker, 3)
        trial.worker.save_checkpoint(path)
        with trial.connect() as other:
            other.load(FILTERS)
            other.load_checkpoint(path)
            ours += _shuffled(trial, other, 4, resume=True)
            other.save_checkpoint(path)
        trial.worker.load_checkpoint(path)
    theirs = _shuffled_at_home(trial, home, 3) + _shuffled_at_home(trial, home, 4)
    return ours, theirs, home


def mixed(trial: Trial) -> tuple[Losses, Losses, Home]:
    """COMPOSITE_FIT over scikit-learn's scaler and two networks, all rows in a step."""
    home, chain = Home(NETWORKS), ["scale", *CHAIN]
    trial.worker.load({"scale": ("sklearn.StandardScaler", {})})
    scaled = StandardScaler().fit_transform(trial.x).astype(np.float32)
    ours = [_step(trial.worker, chain, trial.x, trial.y) for _ in range(trial.steps)]
    return ours, [home.step(scaled, trial.y) for _ in range(trial.steps)], home


CASES: dict[str, Callable[[Trial], tuple[Losses, Losses, Home]]] = {
    "composite: a step for each batch": composite,
    "composite, a named optimizer": named,
    "batched: shuffled epochs": batched,
    "resumed in another worker": resumed,
    "mixed chain: scaler, then networks": mixed,
}


def run(
    workers: Mapping[str, soma.Worker],
    connect: Mapping[str, Connect],
    data: tuple[Array, Array],
    epochs: int,
) -> list[Pair]:
    """All cases over all transports."""
    pairs = []
    for (case, train), (transport, worker) in itertools.product(CASES.items(), workers.items()):
        worker.load(FILTERS)
        trial = Trial(worker, connect[transport], *data, epochs)
        ours, theirs, home = train(trial)
        ours += _parameters({name: worker.get_state(name, format="torch") for name in CHAIN})
        theirs += [value for part in home.parts.values() for value in _numbers(part.state_dict())]
        steps = trial.steps * (2 if train is resumed else 1)
        pairs.append(Pair(case, transport, steps, _difference(ours, theirs)))
        worker.unload(worker.node_ids)
    return pairs


def _step(worker: soma.Worker, chain: list[str], x: Array, y: Array, **more: Any) -> float:
    loss = worker.composite_fit(chain, x, y, return_states=False, **more).loss
    assert loss is not None
    return loss


def _shuffled(trial: Trial, worker: soma.Worker, seed: int, *, resume: bool = False) -> Losses:
    options = {"batch_size": BATCH, "epochs": trial.epochs, "shuffle": True, "seed": seed}
    return worker.batched_fit(CHAIN, trial.x, trial.y, resume=resume, **options).losses


def _shuffled_at_home(trial: Trial, home: Home, seed: int) -> Losses:
    draw = np.random.default_rng(seed)
    return [
        home.epoch(trial.x, trial.y, draw.permutation(len(trial.x))) for _ in range(trial.epochs)
    ]


def _parameters(states: Mapping[str, soma.NodeState]) -> list[float]:
    return [
        value
        for state in states.values()
        for value in _numbers(torch.load(io.BytesIO(state.data), weights_only=True))
    ]


def _numbers(state: Mapping[str, torch.Tensor]) -> list[float]:
    return [value for tensor in state.values() for value in tensor.flatten().tolist()]


def _difference(ours: list[float], theirs: list[float]) -> float | None:
    """The largest difference; None if there is none, not even that of two zeros of unlike sign."""
    here, there = np.array(ours), np.array(theirs)
    if here.tobytes() == there.tobytes():
        return None
    return float(np.abs(here - there).max()) if here.shape == there.shape else float("inf")


def markdown(pairs: list[Pair]) -> list[str]:
    """A row for each case and a column for each transport."""
    transports = list(dict.fromkeys(pair.transport for pair in pairs))
    lines = [
        f"| in a worker against plain PyTorch here | {' | '.join(transports)} |",
        f"|{'---|' * (len(transports) + 1)}",
    ]
    for case in dict.fromkeys(pair.case for pair in pairs):
        cells = [_cell(pair) for pair in pairs if pair.case == case]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return lines


def _cell(pair: Pair) -> str:
    if pair.difference is None:
        return f"equal after {pair.steps} steps"
    return f"**differs by {pair.difference:.3g}** after {pair.steps} steps"
