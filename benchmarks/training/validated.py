"""What validation, patience and the best epoch cost in a worker, beside the same loop here."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial

import torch
from torch import nn

import soma_core as soma
from benchmarks.training import races
from benchmarks.training.home import BATCH, Array, Home, Network
from benchmarks.training.workers import connections, workers
from soma_core.cli.demo.digits import load_digits

NETWORK = Network((64, 512, 512, 10), seed=0)
BASELINE = "plain PyTorch here, with validation"
PATIENCE = 100
EPOCHS = 5

Data = tuple[Array, Array]


def name_of(transport: str) -> str:
    """The name of a worker."""
    return f"soma {transport}, BATCHED_FIT with validation"


def run(launches: int, rounds: int) -> races.Race:
    """The rounds of several launches: where memory lies differs from process to process."""
    race = races.Race(BASELINE)
    for _ in range(launches):
        command = [sys.executable, "-m", "benchmarks.training.validated", str(rounds)]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        race.extend(races.Race(**json.loads(printed)))
    return race


def launch(workers: Mapping[str, soma.Worker], data: Data, rounds: int) -> races.Race:
    """Everybody trains a new network in each round, and keeps the best of its epochs."""
    x, y = data
    cut = len(x) * 3 // 4
    training, validation = (x[:cut], y[:cut]), (x[cut:], y[cut:])
    contestants = {BASELINE: partial(_at_home, training, validation)}
    for transport, worker in workers.items():
        worker.load({"validated": NETWORK.as_filter})
        contestants[name_of(transport)] = partial(_in_worker, worker, training, validation)
    pids = [worker.ping().pid for worker in workers.values()]
    return races.run(contestants, BASELINE, rounds, EPOCHS, pids)


def _accuracy(y: Array, out: Array) -> float:
    return float((out.argmax(axis=1) == y).mean())


def _in_worker(worker: soma.Worker, training: Data, validation: Data) -> float:
    fitted = worker.batched_fit(
        ["validated"],
        *training,
        batch_size=BATCH,
        epochs=EPOCHS,
        validation=validation,
        metrics={"accuracy": _accuracy},
        patience=PATIENCE,
        restore_best=True,
        return_states=False,
    )
    return min(fitted.history["validation_loss"])


def _at_home(training: Data, validation: Data) -> float:
    home = Home({"net": NETWORK})
    net = home.parts["net"]
    x, y = map(torch.from_numpy, validation)
    best, kept, waited = float("inf"), net.state_dict(), 0
    for _ in range(EPOCHS):
        home.epoch(*training)
        net.eval()
        with torch.no_grad():
            out = net(x)
            loss = nn.functional.cross_entropy(out, y).item()
        net.train()
        _accuracy(validation[1], out.numpy())
        waited += 1
        if loss < best:
            best, kept, waited = loss, copy.deepcopy(net.state_dict()), 0
        if waited >= PATIENCE:
            break
    net.load_state_dict(kept)
    return best


def main() -> None:
    """One launch: print its race as JSON."""
    torch.set_num_threads(1)
    digits = load_digits()
    with connections() as connect, workers(connect) as here:
        race = launch(here, (digits.x_train, digits.y_train), int(sys.argv[1]))
    print(json.dumps(asdict(race)))


if __name__ == "__main__":
    main()
