"""Training that is resumed equals training that never stopped, to the last bit."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import warnings
from typing import Any

import numpy as np
import pytest

import soma_core as soma

from ..support import filters as f
from ..support import nightly, wait_until

torch = pytest.importorskip("torch")

DROPOUT = {"sizes": [5, 8, 4], "dropout": 0.4, "seed": 1, "lr": 0.01}
FILTERS = {
    "scaler": ("sklearn.StandardScaler", {}),
    "body": ("torch.MLP", DROPOUT),
    "head": ("torch.MLP", {"sizes": [4, 1], "seed": 2, "lr": 0.02}),
}
CHAIN = list(FILTERS)
NAMED = {"name": "Adam", "lr": 0.03}


class Scheduled(torch.nn.Module):
    """A duck-typed module with dropout, an optimizer and a scheduler, on the global stream."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.linear = torch.nn.Linear(5, 1)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, [2, 4, 6], gamma=0.5)

    def forward(self, x: Any, state: Any = None) -> Any:
        out = self.linear(torch.nn.functional.dropout(x, 0.5, training=torch.is_grad_enabled()))
        return out + random.random() * 0.01 + np.random.random() * 0.01

    def compute_loss(self, out: Any, y: Any) -> Any:
        if self.optimizer.state:
            with warnings.catch_warnings():  # pickling takes torch's mark off optimizer.step
                warnings.simplefilter("ignore")
                self.scheduler.step()
        return torch.nn.functional.mse_loss(out, y)


def losses(worker: Any, node_ids: list[str], data: Any, steps: int, optimizer: Any) -> list[float]:
    return [worker.composite_fit(node_ids, *data, optimizer=optimizer).loss for _ in range(steps)]


@nightly
@pytest.mark.parametrize(
    "optimizer", [None, pytest.param(NAMED, marks=nightly)], ids=["own", "named"]
)
def test_a_checkpoint_resumes_in_another_worker(
    worker: Any, data: Any, optimizer: Any, tmp_path: Any, connect: Any, with_torch: Any
) -> None:
    worker.load(FILTERS)
    losses(worker, CHAIN, data, 3, optimizer)
    worker.save_checkpoint(tmp_path / "it.ckpt")
    uninterrupted = losses(worker, CHAIN, data, 4, optimizer)
    other = connect("socket", **with_torch, filters=FILTERS, pickle="never")
    other.load_checkpoint(tmp_path / "it.ckpt")
    assert losses(other, CHAIN, data, 4, optimizer) == uninterrupted
    worker.load_checkpoint(tmp_path / "it.ckpt")
    assert losses(worker, CHAIN, data, 4, optimizer) == uninterrupted
    assert [path.name for path in tmp_path.iterdir()] == ["it.ckpt"]


def test_schedulers_and_the_random_numbers_of_the_process_are_resumed(
    inline: Any, data: Any
) -> None:
    inline.load({"net": Scheduled()})
    losses(inline, ["net"], data, 3, None)
    state = inline.get_state("net", full=True)
    uninterrupted = losses(inline, ["net"], data, 5, None)
    inline.load({"net": Scheduled()})
    inline.set_state("net", state)
    assert losses(inline, ["net"], data, 5, None) == uninterrupted


def test_without_full_there_is_nothing_but_the_parameters(inline: Any) -> None:
    inline.load({"net": Scheduled()})
    assert inline.get_state("net").training is None


def test_a_training_state_that_does_not_fit_leaves_the_node_as_it_was(
    inline: Any, data: Any
) -> None:
    inline.load({"net": Scheduled(), "body": FILTERS["body"]})
    losses(inline, ["net"], data, 2, None)
    before = inline.get_state("net", full=True)
    foreign = inline.get_state("body", full=True).training
    changed = {name: value + 1 for name, value in f.loaded(before.data).items()}
    for training in (foreign, b"PK nonsense", b"{}"):
        state = dataclasses.replace(before, data=f.saved(changed), training=training)
        with pytest.raises(soma.RemoteError, match="training state") as refused:
            inline.set_state("net", state)
        assert refused.value.code == "invalid_state"
        assert inline.get_state("net", full=True) == before


class Named(soma.Filter):
    """Its fields are called as what modules own."""

    optimizer: str = "lbfgs"
    scheduler: str = "cosine"

    def fit(self, x: Any, y: Any = None) -> Any:
        return {"none": np.empty((0, 3)), "nor": np.zeros((2, 0), order="F"), "x": x}

    def forward(self, x: Any, state: Any) -> Any:
        return state


def test_arrays_of_nothing_and_fields_that_are_called_optimizer_are_saved(
    inline: Any, tmp_path: Any
) -> None:
    inline.load({"named": Named()})
    inline.composite_fit(["named"], 5, 6)
    inline.save_checkpoint(tmp_path / "it")
    inline.load({"named": Named()})
    inline.load_checkpoint(tmp_path / "it")
    state = inline.forward("named", 0)
    assert (state["none"].shape, state["nor"].shape, state["x"]) == ((0, 3), (2, 0), 5)


def test_a_checkpoint_of_other_nodes_is_refused_and_names_both(inline: Any, tmp_path: Any) -> None:
    inline.load({"body": FILTERS["body"]})
    inline.save_checkpoint(tmp_path / "body")
    inline.load({"head": FILTERS["head"]})
    with pytest.raises(ValueError, match=r"\{'body': 'torch.MLP'\}, this worker .*'head'"):
        inline.load_checkpoint(tmp_path / "body")


def test_a_checkpoint_that_fits_by_half_changes_nothing(
    inline: Any, data: Any, tmp_path: Any
) -> None:
    inline.load({"body": FILTERS["body"], "head": FILTERS["head"]})
    inline.save_checkpoint(tmp_path / "it")
    inline.load({"head": ("torch.MLP", {"sizes": [9, 1], "seed": 3})})
    inline.composite_fit(["body"], data[0], data[0][:, :4])
    before = [inline.get_state(node_id, full=True) for node_id in ("body", "head")]
    with pytest.raises(soma.RemoteError, match="the state does not fit"):
        inline.load_checkpoint(tmp_path / "it", force=True)
    assert [inline.get_state(node_id, full=True) for node_id in ("body", "head")] == before


def test_a_node_that_is_configured_otherwise_keeps_its_own_optimizer(
    inline: Any, data: Any, tmp_path: Any
) -> None:
    config = {"sizes": [5, 1], "optimizer": {"name": "SGD", "momentum": 0.9}, "lr": 0.5}
    inline.load({"net": ("torch.MLP", config)})
    inline.batched_fit(["net"], *data)
    learned = inline.get_state("net").data
    inline.save_checkpoint(tmp_path / "it")
    schedule = {"name": "StepLR", "step_size": 9}
    for other in ({"lr": 0.1}, {"optimizer": "Adam"}, {"scheduler": schedule}):
        inline.load({"net": ("torch.MLP", config | other)})
        inline.load_checkpoint(tmp_path / "it", force=True)
        assert inline.get_state("net").data == learned
        fitted = inline.batched_fit(["net"], *data, resume=True)
        assert fitted.history["lr"] == [other.get("lr", 0.5)]


def test_a_damaged_file_is_no_checkpoint(inline: Any, tmp_path: Any) -> None:
    inline.load({"body": FILTERS["body"]})
    path = tmp_path / "it"
    inline.save_checkpoint(path)
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (b"", whole[:middle], whole[:middle] + b"!!!!" + whole[middle + 4 :]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="not a checkpoint, or damaged"):
            inline.load_checkpoint(path)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    inline: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    inline.load({"body": FILTERS["body"]})
    path = tmp_path / "it"
    inline.save_checkpoint(path)
    old = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        inline.save_checkpoint(path)
    assert path.read_bytes() == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["it"]


@pytest.mark.nightly
def test_after_a_restart_training_goes_on_from_what_was_fetched(
    data: Any, connect: Any, with_torch: Any
) -> None:
    worker = connect("socket", **with_torch, filters=FILTERS, restart="on-crash")
    losses(worker, CHAIN, data, 3, NAMED)
    for node_id in CHAIN:
        worker.get_state(node_id, full=True)
    os.kill(worker.status().pid, signal.SIGKILL)
    with soma.connect("inline", filters=FILTERS) as home:
        expected = losses(home, CHAIN, data, 5, NAMED)[3:]
    wait_until(lambda: not worker.status().alive)
    assert losses(worker, CHAIN, data, 2, NAMED) == expected
